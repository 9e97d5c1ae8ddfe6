"""How each ATen op becomes steps: one table from the op's name to its rule, gathered from the files of this folder.

A rule gets the `Builder` and the call's arguments, tensors as `Array` or `Lanes`, and returns the value, or several.
It may return NotImplemented for a call that it cannot say. To support an op, add a line to its file's RULES.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attar.compiler.ops import (
    contraction,
    convolution,
    elementwise,
    indexing,
    movement,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
)
from attar.errors import AttarError

__all__ = ["RULES", "TAKES_LANES"]

_FILES = (elementwise, movement, indexing, convolution, pooling, contraction, reduction, normalization, resize, recurrent)


def _gathered() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for file in _FILES:
        twice = found.keys() & file.RULES.keys()
        if twice:
            raise AttarError(f"{file.__name__} has a second rule for {', '.join(sorted(twice))}: keep one")
        found |= file.RULES
    return found


RULES: dict[str, Callable[..., Any]] = _gathered()

# rules that take a map in lanes as it is; to the others it comes as an array
TAKES_LANES: frozenset[str] = frozenset().union(*(file.LANES for file in _FILES))
