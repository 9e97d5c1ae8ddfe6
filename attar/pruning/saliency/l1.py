"""The L1 norm, as filters are scored by it."""

from torch import Tensor

__all__ = ["l1"]


def l1(weight: Tensor) -> Tensor:
    """The absolute value: summed over a filter it is the filter's L1 norm, `sum |w|`; for single weights it is the magnitude.

    Reference: H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets", 2017.

    >>> import torch
    >>> l1(torch.tensor([[1.0, -2.0], [0.5, 0.5]])).sum(1).tolist()
    [3.0, 1.0]
    """
    return weight.abs()
