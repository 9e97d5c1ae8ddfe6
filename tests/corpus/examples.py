"""The inputs of the corpus: each a batch of two, the same in every process."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TOKENS", "Example", "Table", "image", "noise", "ramp", "tokens"]

Example = tuple | Mapping[str, Any]
Table = dict[str, tuple[Callable[[], nn.Module], Example]]

TOKENS = torch.arange(16).reshape(2, 8) % 11


def ramp(*shape: int) -> tuple[Tensor]:
    """Evenly spaced values from -1 to 1."""
    return (torch.linspace(-1, 1, int(torch.Size(shape).numel())).reshape(shape),)


def image(size: int, channels: int = 3) -> tuple[Tensor]:
    return ramp(2, channels, size, size)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal values, which tell channels and places apart where a ramp would not."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(length: int, vocabulary: int, *, seed: int = 0) -> Tensor:
    return torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(seed))
