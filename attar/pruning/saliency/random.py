"""No criterion at all: the baseline that every other must beat."""

import torch
from torch import Tensor

__all__ = ["random"]


def random(weight: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform scores that depend on the shape and the seed only, never on the values.

    Every element has the same chance to stay, whatever the budget. Drawn in float64 on the CPU: no ties, and the
    same scores on every device.

    >>> import torch
    >>> torch.equal(random(torch.zeros(3), seed=1), random(torch.ones(3), seed=1))
    True
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(weight.shape, dtype=torch.float64, generator=generator).to(weight.device)
