"""Sums, products, extrema and truth over some dimensions, of an expression of the operands; and where an extremum lies.

Where a dimension that goes lies contiguous, neighbours go to sums of their own (lanes), which are joined at the end; where one
that stays lies contiguous, a strip of results is made at a time. Both leave loops that a C compiler vectorises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attar.compiler.ir import C_TYPES, Buffer, Op
from attar.compiler.kernels.loops import BATCH_ENOUGH, index, nest, pointer, unsigned
from attar.compiler.kernels.map import merge

__all__ = ["ArgExtremum", "Reduce", "lowest", "share"]

_STRIP = 64  # results, or sums of one result, at a time
_LONG = 1024  # float additions one after the other, beyond which a double keeps the sum

# kind -> C of the next sum from the last, {a}, and a value, {v}; in floats a NaN stays in an extremum, as in PyTorch
_STEPS = {
    "sum": "{a} + {v}",
    "prod": "{a} * {v}",
    "amax": "{v} > {a} ? {v} : {a}",
    "amin": "{v} < {a} ? {v} : {a}",
    "any": "{a} | ({v} != 0)",
    "all": "{a} & ({v} != 0)",
}
_FLOAT = {"amax": "({v} > {a} || {v} != {v}) ? {v} : {a}", "amin": "({v} < {a} || {v} != {v}) ? {v} : {a}"}


@dataclass(frozen=True, eq=False)
class Reduce(Op):
    """`output[kept] = finish(kind over the axes of expression(inputs))`, the inputs all of one shape.

    kind is sum, prod, amax, amin, any or all; axes are dimensions of the inputs, which the output lacks; the expression has the
    type `values`. In `finish`, {0} is the result.
    """

    kind: str
    axes: tuple[int, ...]
    values: str
    expression: str = "{0}"
    finish: str = "{0}"

    def source(self, at: Callable[[Buffer], str]) -> str:
        kept, gone, strides = _sides(self)
        if 0 in self.output.shape:
            return "// no elements\n"
        lines = [pointer("y", self.output, at, write=True)]
        lines += [pointer(f"x{i}", x, at) for i, x in enumerate(self.inputs)]
        column = _contiguous(kept, [s for s, _ in strides[1:]])
        row = _contiguous(gone, [s for _, s in strides[1:]])
        if column is not None and (row is None or gone[row] < 8):
            return "\n".join(lines + self._strips(kept, gone, strides, column)) + "\n"
        return "\n".join(lines + self._rows(kept, gone, strides, row)) + "\n"

    def _rows(self, kept: list[int], gone: list[int], strides: _Strides, inner: int | None) -> list[str]:
        """One result at a time, by sums of neighbours along the dimension `inner` of those that go."""
        order = [d for d in range(len(gone)) if d != inner] + ([] if inner is None else [inner])
        n = gone[order[-1]] if order else 1
        lanes = min(_STRIP, 2 ** int(math.log2(n))) if n > 1 else 1
        names, outer = [f"i{d}" for d in range(len(kept))], [f"j{d}" for d in order[:-1]]

        def step(last: str) -> str:
            places = [index([*names, *outer, last], [*s, *(g[d] for d in order)]) if order else index(names, s) for s, g in strides[1:]]
            return f"sum[l] = {self._step('sum[l]', places)};"

        kind = self._kind(math.prod(gone) // lanes)
        whole, rest = n - n % lanes, n % lanes
        work = []
        if whole:
            blocks = [
                f"for (long j = 0; j < {whole}; j += {lanes}) {{",
                *("    " + t for t in nest([("l", "0", str(lanes))], [step("(j + l)")])),
                "}",
            ]
            work += blocks if whole > lanes else nest([("l", "0", str(lanes))], [step("l")])
        if rest:
            work += nest([("l", "0", str(rest))], [step(f"({whole} + l)")])
        body = [f"{kind} sum[{lanes}];", *nest([("l", "0", str(lanes))], [f"sum[l] = {self._first};"])]
        body += nest([(v, "0", str(gone[d])) for v, d in zip(outer, order[:-1], strict=True)], work)
        if lanes > 1:
            join = nest([("l", "0", "h")], [f"sum[l] = {self._next.format(a='sum[l]', v='sum[l + h]')};"])
            body += [f'_Pragma("GCC unroll 8") for (long h = {lanes // 2}; h > 0; h /= 2) {{', *("    " + t for t in join), "}"]
        body.append(f"y[{index(names, strides[0][0])}] = {self.finish.format('sum[0]')};")
        head, loops = share(names, kept)
        return [*head, *nest(loops, body), *(["}"] if not kept else [])]

    def _strips(self, kept: list[int], gone: list[int], strides: _Strides, column: int) -> list[str]:
        """A strip of results at a time, along the dimension `column` of those that stay."""
        names, outer = [f"i{d}" for d in range(len(kept))], [f"j{d}" for d in range(len(gone))]
        inside = ["(s + l)" if d == column else v for d, v in enumerate(names)]
        places = [index([*inside, *outer], [*s, *g]) for s, g in strides[1:]]
        add = nest([("l", "0", "wide")], [f"sum[l] = {self._step('sum[l]', places)};"])
        n = kept[column]
        strip = min(n, _STRIP)
        body = (
            [f"const long s = i{column} * {strip}, wide = {n} - s < {strip} ? {n} - s : {strip};"]
            if n > strip
            else [f"enum {{ s = 0, wide = {n} }};"]
        )
        body += [f"{self._kind(math.prod(gone))} sum[{strip}];", *nest([("l", "0", "wide")], [f"sum[l] = {self._first};"])]
        body += nest([(v, "0", str(z)) for v, z in zip(outer, gone, strict=True)], add)
        body += nest([("l", "0", "wide")], [f"y[{index(inside, strides[0][0])}] = {self.finish.format('sum[l]')};"])
        rounds = [-(-n // strip) if d == column else z for d, z in enumerate(kept)]
        head, loops = share(names, rounds)
        return [*head, *nest(loops, body)]

    def _step(self, total: str, places: Sequence[str]) -> str:
        value = self.expression.format(*(f"x{i}[{place}]" for i, place in enumerate(places)))
        kind = unsigned(self.values) if self.kind in ("sum", "prod") else C_TYPES[self.values]
        return self._next.format(a=total, v=f"({kind})({value})")

    @property
    def _next(self) -> str:
        return (_FLOAT if self.values.startswith("float") else {}).get(self.kind, _STEPS[self.kind])

    def _kind(self, additions: int) -> str:
        """The C type of a sum."""
        if self.kind == "sum" and self.values == "float32" and additions > _LONG:
            return "double"
        return unsigned(self.values) if self.kind in ("sum", "prod") else C_TYPES[self.values]

    @property
    def _first(self) -> str:
        """The result over no elements."""
        return {"sum": "0", "prod": "1", "any": "0", "all": "1"}.get(self.kind) or lowest(
            self.values, sign=1 if self.kind == "amax" else -1
        )


@dataclass(frozen=True, eq=False)
class ArgExtremum(Op):
    """`output[kept]` = the position along `axis`, int64, of the greatest element, or of the least; the first of equals, or of NaNs."""

    axis: int
    greatest: bool = True

    @property
    def axes(self) -> tuple[int, ...]:
        return (self.axis,)

    def source(self, at: Callable[[Buffer], str]) -> str:
        x = self.inputs[0]
        kept, _, strides = _sides(self)
        if 0 in self.output.shape:
            return "// no elements\n"
        lines = [pointer("y", self.output, at, write=True), pointer("x", x, at)]
        step, n, kind = x.strides[self.axis], x.shape[self.axis], C_TYPES[x.dtype]
        names = [f"i{d}" for d in range(len(kept))]
        column = _contiguous(kept, [strides[1][0]])
        sign, nan = ">" if self.greatest else "<", x.dtype.startswith("float")
        if column is None or kept[column] < 8:
            place = index([*names, "j"], [*strides[1][0], step])
            test = f"if (v {sign} best{' || (v != v && best == best)' if nan else ''}) best = v, where = j;"
            body = [f"{kind} best = x[{index(names, strides[1][0])}];", "long where = 0;"]
            body += [*nest([("j", "1", str(n))], [f"const {kind} v = x[{place}];", test]), f"y[{index(names, strides[0][0])}] = where;"]
            head, loops = share(names, kept)
            return "\n".join([*lines, *head, *nest(loops, body), *(["}"] if not kept else [])]) + "\n"
        inside = ["(s + l)" if d == column else v for d, v in enumerate(names)]
        strip = min(_STRIP, kept[column])
        body = [f"const long s = i{column} * {strip}, wide = {kept[column]} - s < {strip} ? {kept[column]} - s : {strip};"]
        body += [f"{kind} best[{strip}];", f"int64_t where[{strip}];"]
        body += nest([("l", "0", "wide")], [f"best[l] = x[{index(inside, strides[1][0])}], where[l] = 0;"])
        better = [
            f"const {kind} v = x[{index([*inside, 'j'], [*strides[1][0], step])}];",
            f"const int wins = (v {sign} best[l]){' | ((v != v) & (best[l] == best[l]))' if nan else ''};",
            "best[l] = wins ? v : best[l];",
            "where[l] = wins ? j : where[l];",
        ]
        body += nest([("j", "1", str(n)), ("l", "0", "wide")], better)
        body += nest([("l", "0", "wide")], [f"y[{index(inside, strides[0][0])}] = where[l];"])
        head, loops = share(names, [-(-z // strip) if d == column else z for d, z in enumerate(kept)])
        return "\n".join([*lines, *head, *nest(loops, body)]) + "\n"


_Strides = list[tuple[list[int], list[int]]]


def _sides(op: Reduce | ArgExtremum) -> tuple[list[int], list[int], _Strides]:
    """Sizes of the merged dimensions that stay and that go; then strides along both, of the output (none go) and of each input."""
    shape = op.inputs[0].shape
    stay = [d for d in range(len(shape)) if d not in op.axes]
    kept, steps = merge([shape[d] for d in stay], [op.output.strides, *([x.strides[d] for d in stay] for x in op.inputs)])
    gone, falls = merge([shape[d] for d in op.axes], [[x.strides[d] for d in op.axes] for x in op.inputs])
    return kept, gone, [(steps[0], []), *zip(steps[1:], falls, strict=True)]


def _contiguous(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> int | None:
    """The longest dimension along which the first operand that moves at all is contiguous."""
    found = [d for d in range(len(sizes)) if abs(strides[0][d]) == 1]
    return max(found, key=lambda d: sizes[d], default=None)


def share(names: Sequence[str], sizes: Sequence[int]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Loops over `sizes` shared by threads: the line that splits one, and the loops. Without loops, the first thread does the work.

    >>> share(["i", "j"], [2, 9])
    (['SPLIT(lo, hi, 9)'], [('i', '0', '2'), ('j', 'lo', 'hi')])
    """
    if not sizes:
        return ["if (part == 0) {"], []
    shared = next((d for d, n in enumerate(sizes) if n >= BATCH_ENOUGH), sizes.index(max(sizes)))
    bounds = [("lo", "hi") if d == shared else ("0", str(n)) for d, n in enumerate(sizes)]
    return [f"SPLIT(lo, hi, {sizes[shared]})"], [(v, *b) for v, b in zip(names, bounds, strict=True)]


def lowest(dtype: str, sign: int = 1) -> str:
    """C of the least number of a type; of the greatest with sign -1.

    >>> lowest("float32"), lowest("int64", -1), lowest("bool")
    ('-INFINITY', 'INT64_MAX', '0')
    """
    if dtype.startswith("float"):
        return "-INFINITY" if sign > 0 else "INFINITY"
    if dtype in ("bool", "uint8"):
        return "0" if sign > 0 else "1" if dtype == "bool" else "UINT8_MAX"
    return f"{dtype.upper()}_{'MIN' if sign > 0 else 'MAX'}"
