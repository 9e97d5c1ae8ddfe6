"""A part of a program that PyTorch runs: an op for which there is no rule."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attar.compiler.ir import Buffer, Op

__all__ = ["Torch"]


@dataclass(frozen=True, eq=False)
class Torch(Op):
    """`output = function(*inputs)`, on tensors; `name` is the ATen op. The C of the program stops before it and goes on after it."""

    function: Callable[..., Tensor]
    name: str

    def source(self, at: Callable[[Buffer], str]) -> str:  # noqa: ARG002
        return f"// PyTorch runs {self.name}\n"
