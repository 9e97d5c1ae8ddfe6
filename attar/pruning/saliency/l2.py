"""The squared L2 norm, as filters are scored by it."""

from torch import Tensor

__all__ = ["l2"]


def l2(weight: Tensor) -> Tensor:
    """The square: summed over a filter it is its squared L2 norm, `sum w^2`; for single weights it orders as the magnitude does.

    Reference: H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets", 2017,
    section 4.4, which finds it to do as well as the L1 norm.

    >>> import torch
    >>> l2(torch.tensor([[1.0, -2.0], [0.5, 0.5]])).sum(1).tolist()
    [5.0, 0.5]
    """
    return weight.square()
