"""What a compressed weight is: the contract of every form."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

__all__ = ["Form", "Numbers", "Part", "Symbols", "Work"]


@dataclass(frozen=True)
class Symbols:
    """Integers in [0, alphabet), to be packed or entropy-coded."""

    values: Tensor
    alphabet: int


@dataclass(frozen=True)
class Numbers:
    """An array that is stored as it is, of any dtype."""

    values: Tensor


@dataclass(frozen=True)
class Work:
    """What applying a weight costs; a multiply-accumulate is one multiplication and one addition."""

    multiplications: int
    additions: int

    def __add__(self, other: Work) -> Work:
        return Work(self.multiplications + other.multiplications, self.additions + other.additions)


class Form(nn.Module, abc.ABC):
    """What a weight has become: a module that owns what must be stored and can be trained.

    Values, centroids, scales and factors are Parameters (in nested `Dense` forms); masks and indices are buffers.
    The keys of `parts()` are the arguments of the constructor, so that a form is taken apart and put together
    without anyone knowing which form it is.
    """

    number: ClassVar[int]
    """The form's number in a file; append-only (coding/FORMAT.md)."""

    @abc.abstractmethod
    def forward(self) -> Tensor:
        """The dense weight, differentiable in the form's parameters."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense weight."""

    @abc.abstractmethod
    def parts(self) -> dict[str, Part]:
        """The arrays to store; coding sees nothing else."""

    @classmethod
    def from_parts(cls, parts: Mapping[str, Part]) -> Self:
        """The inverse of `parts`; raises ValueError where the parts do not fit together (they may come from a hostile file)."""
        return cls(**{name: part if isinstance(part, Form) else part.values for name, part in parts.items()})

    @abc.abstractmethod
    def work(self, positions: int) -> Work:
        """What it costs to apply the weight at that many output positions; counting sees nothing else."""

    def nonzeros(self) -> int:
        """How many elements of the dense weight are not structurally zero."""
        return int(torch.Size(self.shape).numel())


Part = Symbols | Numbers | Form
