"""The magnitude of a weight."""

from torch import Tensor

__all__ = ["magnitude"]


def magnitude(weight: Tensor) -> Tensor:
    """The absolute value: what is kept by it is the best approximation of the weight with that many nonzeros.

    `score = |weight|`, in the shape of the weight.

    Reference: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", 2015.

    >>> import torch
    >>> magnitude(torch.tensor([2.0, -3.0])).tolist()
    [2.0, 3.0]
    """
    return weight.abs()
