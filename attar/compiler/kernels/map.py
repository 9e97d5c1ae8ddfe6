"""Element by element: one loop nest over the output, an expression of its operands inside; copies and casts are maps too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attar.compiler.ir import C_TYPES, Buffer, Op
from attar.compiler.kernels.loops import numbered, pointer

__all__ = ["Map", "merge"]

_TILE = 16  # a transposing copy goes by squares of so many elements, whose lines stay in the cache
_ENOUGH = 16  # rounds of a loop that threads share evenly


@dataclass(frozen=True, eq=False)
class Map(Op):
    """`output[i] = expression(inputs[i])`: C in which {0}, {1}, ... are the operands, each of the output's shape (stride 0 repeats)."""

    expression: str

    def source(self, at: Callable[[Buffer], str]) -> str:
        operands = [self.output, *self.inputs]
        shape, strides = merge(self.output.shape, [a.strides for a in operands])
        if 0 in shape:
            return "// no elements\n"
        lines = [pointer(f"x{i}", a, at) for i, a in enumerate(self.inputs)]
        lines.append(pointer("y", self.output, at, write=True))
        loops, order = _loops(shape, strides)
        lines += loops
        names = [f"x{i}[{numbered(strides[i + 1])}]" for i in range(len(self.inputs))]
        values = " ".join(f"const {C_TYPES[a.dtype]} v{i} = {n};" for i, (a, n) in enumerate(zip(self.inputs, names, strict=True)))
        inside = self.expression.format(*(f"v{i}" for i in range(len(self.inputs))))
        pad = "    " * order
        if values:
            lines.append(f"{pad}{values}")
        lines.append(f"{pad}y[{numbered(strides[0])}] = {inside};")
        lines += ["    " * d + "}" for d in range(order - 1, -1, -1)]
        return "\n".join(lines) + "\n"


def merge(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The fewest loops over `shape`: sizes of 1 dropped, neighbours joined where every operand's strides allow it.

    >>> merge((2, 1, 3, 4), [(12, 12, 4, 1), (0, 0, 4, 1)])
    ([2, 12], [[12, 1], [0, 1]])
    """
    kept = sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: -abs(strides[0][d]))
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for d in kept:
        if sizes and all(s[-1] == operand[d] * shape[d] for s, operand in zip(steps, strides, strict=True)):
            sizes[-1] *= shape[d]
            for s, operand in zip(steps, strides, strict=True):
                s[-1] = operand[d]
        else:
            sizes.append(shape[d])
            for s, operand in zip(steps, strides, strict=True):
                s.append(operand[d])
    return sizes, steps


def _loops(shape: list[int], strides: list[list[int]]) -> tuple[list[str], int]:
    """The lines that open the loops, the innermost last, and how many loops there are."""
    if not shape:
        return ["if (part == 0) {"], 1
    last = len(shape) - 1
    across = _transposed(shape, strides)
    shared = next((d for d, n in enumerate(shape) if n >= _ENOUGH), shape.index(max(shape)))
    lines, depth = [f"SPLIT(lo, hi, {shape[shared]})"], 0

    def open_loop(variable: str, start: str, end: str, step: str) -> None:
        nonlocal depth
        lines.append("    " * depth + f"for (long {variable} = {start}; {variable} < {end}; {variable}{step}) {{")
        depth += 1

    bounds = [("lo", "hi") if d == shared else ("0", str(n)) for d, n in enumerate(shape)]
    if across is None:
        for d in range(len(shape)):
            open_loop(f"i{d}", *bounds[d], "++")
        return lines, depth
    for d in range(last):
        if d != across:
            open_loop(f"i{d}", *bounds[d], "++")
    for d in (across, last):
        open_loop(f"t{d}", *bounds[d], f" += {_TILE}")
    for d in (across, last):
        end = bounds[d][1]
        whole = d != shared and shape[d] % _TILE == 0
        open_loop(f"i{d}", f"t{d}", f"t{d} + {_TILE}" if whole else f"(t{d} + {_TILE} < {end} ? t{d} + {_TILE} : {end})", "++")
    return lines, depth


def _transposed(shape: list[int], strides: list[list[int]]) -> int | None:
    """The loop along which some operand is contiguous while the output is contiguous along the last: worth tiles, where both are long."""
    last = len(shape) - 1
    for operand in strides[1:]:
        for d in range(last):
            if (
                abs(operand[d]) == 1
                and abs(operand[last]) >= _TILE
                and min(shape[d], shape[last]) >= _TILE // 2
                and math.prod(shape) > 4 * _TILE**2
            ):
                return d
    return None
