"""Matrix products, dense: `a` as it lies, `b` in panels of 16 columns, sums in registers; and products with one vector.

A panel holds 64 bytes of each of b's rows, one row after the other, so one row is 2 vectors on AVX2 and 1 on AVX-512: the same
packing serves every target. A tile is as many rows of `a` as the registers hold sums of. Constants are packed when the
program is built, other matrices by a step of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from attar.compiler.ir import C_TYPES, Array, Buffer, Op, array
from attar.compiler.kernels.loops import BATCH_ENOUGH, index, nest, plus, pointer, unsigned
from attar.compiler.kernels.map import merge

__all__ = ["Dot", "Matmul", "Pack", "packed", "panels", "product", "width"]

_NEAR = 2**18  # elements of `a` that are used for all columns before the next ones: what the second cache holds

_TILE = r"""// rows of a tile: their sums must stay in registers
#ifndef MATMUL_ROWS
#define MATMUL_ROWS (VL == 16 ? 12 : VL == 8 ? 6 : 3)
#endif
typedef TYPE matmul_TYPE __attribute__((vector_size(4 * VL), aligned(sizeof(TYPE)), may_alias));

// out[r] = sum over k of a[r * am + k * ak] * b[k], for `rows` rows and a panel's columns; rows is a constant where it is called
static inline __attribute__((always_inline)) void matmul_tile_TYPE(const long rows, const long depth, const TYPE *restrict a,
                                                                  const long am, const long ak, const TYPE *restrict b,
                                                                  TYPE *restrict out, const long om) {
    enum { V = 16 / VL, L = 4 * VL / sizeof(TYPE), ALL = MATMUL_ROWS * V > 8 ? MATMUL_ROWS * V : 8 };
    const long turns = rows * V < 8 ? 8 / (rows * V) : 1;  // sums apart from one another, so that additions need not wait
    matmul_TYPE sum[ALL];
    _Pragma("GCC unroll 64") for (long i = 0; i < ALL; i++) sum[i] = (matmul_TYPE){};
    long k = 0;
    for (; k + turns <= depth; k += turns)
        _Pragma("GCC unroll 16") for (long u = 0; u < turns; u++)
            _Pragma("GCC unroll 16") for (long r = 0; r < rows; r++) {
                const matmul_TYPE x = a[r * am + (k + u) * ak] - (matmul_TYPE){};
                _Pragma("GCC unroll 16") for (long v = 0; v < V; v++)
                    sum[(u * rows + r) * V + v] += x * *(const matmul_TYPE *)(b + ((k + u) * V + v) * L);
            }
    for (; k < depth; k++)
        _Pragma("GCC unroll 16") for (long r = 0; r < rows; r++)
            _Pragma("GCC unroll 16") for (long v = 0; v < V; v++)
                sum[r * V + v] += (a[r * am + k * ak] - (matmul_TYPE){}) * *(const matmul_TYPE *)(b + (k * V + v) * L);
    _Pragma("GCC unroll 16") for (long u = 1; u < turns; u++)
        _Pragma("GCC unroll 16") for (long i = 0; i < rows * V; i++) sum[i] += sum[u * rows * V + i];
    _Pragma("GCC unroll 16") for (long r = 0; r < rows; r++)
        _Pragma("GCC unroll 16") for (long v = 0; v < V; v++) *(matmul_TYPE *)(out + r * om + v * L) = sum[r * V + v];
}
"""

_DOT = r"""typedef TYPE matmul_TYPE __attribute__((vector_size(4 * VL), aligned(sizeof(TYPE)), may_alias));

// sum over k of a[k] * b[k]
static inline TYPE matmul_dot_TYPE(const long depth, const TYPE *restrict a, const TYPE *restrict b) {
    enum { L = 4 * VL / sizeof(TYPE) };
    matmul_TYPE sum[4] = {};
    long k = 0;
    for (; k + 4 * L <= depth; k += 4 * L)
        _Pragma("GCC unroll 4") for (long u = 0; u < 4; u++)
            sum[u] += *(const matmul_TYPE *)(a + k + u * L) * *(const matmul_TYPE *)(b + k + u * L);
    for (; k + L <= depth; k += L) sum[0] += *(const matmul_TYPE *)(a + k) * *(const matmul_TYPE *)(b + k);
    sum[0] += sum[1] + (sum[2] + sum[3]);
    TYPE total = 0;
    for (long i = 0; i < L; i++) total += sum[0][i];
    for (; k < depth; k++) total += a[k] * b[k];
    return total;
}
"""


@dataclass(frozen=True, eq=False)
class Matmul(Op):
    """`output = expression(a @ b, *others)`; inputs are (a, b in panels, *others).

    a is (..., m, k) of any strides, b (..., panels, k, width) made by `panels` or `Pack`, the others have the output's shape.
    {0} in the expression is the product, {1}, {2}, ... the others. `weight` is b (k, n) itself, where it is a constant.
    """

    expression: str = "{0}"
    weight: Array | None = None

    def functions(self) -> dict[str, str]:
        kind = unsigned(self.inputs[0].dtype)
        return {f"matmul_tile_{kind}": _TILE.replace("TYPE", kind)}

    def source(self, at: Callable[[Buffer], str]) -> str:
        a, b, *others = self.inputs
        *_, m, n = self.output.shape
        if 0 in self.output.shape:
            return "// no elements\n"
        kind = unsigned(a.dtype)
        count, wide = b.shape[-3], b.shape[-1]
        batch, steps = merge(
            self.output.shape[:-2], [x.strides[:-2] for x in (self.output, a)] + [b.strides[:-3]] + [x.strides[:-2] for x in others]
        )
        names = [f"n{d}" for d in range(len(batch))]
        plain = self.expression == "{0}" and self.output.strides[-1] == 1 and n % wide == 0 and unsigned(self.output.dtype) == kind
        lines = [
            pointer("y", self.output, at, write=True, kind=kind if plain else ""),
            pointer("a", a, at, kind=kind),
            pointer("b", b, at, kind=kind),
        ]
        lines += [pointer(f"x{i}", x, at) for i, x in enumerate(others)]
        lines.append(
            f"enum {{ TILES = ({m} + MATMUL_ROWS - 1) / MATMUL_ROWS, ROWS = ({m} + TILES - 1) / TILES, LARGE = {m} - TILES * (ROWS - 1) }};"
        )
        loops = [(name, "0", str(size)) for name, size in zip(names, batch, strict=True)]
        tiles, columns = ("0", "TILES"), ("0", str(count))
        if batch and max(batch) >= BATCH_ENOUGH:
            d = batch.index(max(batch))
            lines.append(f"SPLIT(lo, hi, {batch[d]})")
            loops[d] = (names[d], "lo", "hi")
        elif count * 6 >= m:
            lines.append(f"SPLIT(lo, hi, {count})")
            columns = ("lo", "hi")
        else:
            lines.append("SPLIT(lo, hi, TILES)")
            tiles = ("lo", "hi")
        tile = self._tile(index(names, steps[1]), index(names, steps[2]), kind, plain, [index(names, s) for s in (steps[0], *steps[3:])])
        near = max(8, _NEAR // max(1, 6 * a.shape[-1]))
        if near * 3 >= m:  # all of a is near, whatever the target's tile
            return "\n".join(lines + nest([*loops, ("p", *columns), ("t", *tiles)], tile)) + "\n"
        inner = [
            f"const long end = near + {near} < {tiles[1]} ? near + {near} : {tiles[1]};",
            *nest([("p", *columns), ("t", "near", "end")], tile),
        ]
        inner = [f"for (long near = {tiles[0]}; near < {tiles[1]}; near += {near}) {{", *("    " + line for line in inner), "}"]
        return "\n".join(lines + nest(loops, inner)) + "\n"

    def _tile(self, a_at: str, b_at: str, kind: str, plain: bool, at: list[str]) -> list[str]:
        """One tile: its sums, and what is made of them; `at` are the places of the batch in the output and in the others."""
        a, b, *others = self.inputs
        *_, m, n = self.output.shape
        depth, wide = b.shape[-2:]
        y = (self.output.strides[-2], self.output.strides[-1])
        target, step = ("y + " + index([at[0], "row", "p"], [at[0] != "0", y[0], wide]), y[0]) if plain else ("t16", wide)
        first = index([a_at, "row"], [a_at != "0", a.strides[-2]])
        panel = index([b_at, "p"], [b_at != "0", depth * wide])
        call = f"{depth}, {plus('a', first)}, {a.strides[-2]}, {a.strides[-1]}, {plus('b', panel)}, {target}, {step});"
        lines = (
            ["const long rows = t < LARGE ? ROWS : ROWS - 1, row = t < LARGE ? t * ROWS : t * (ROWS - 1) + LARGE;"]
            if m > 1
            else ["const long row = t;"]
        )
        if plain:
            lines = ["const long row = t < LARGE ? t * ROWS : t * (ROWS - 1) + LARGE;"] if m > 1 else ["const long row = t;"]
        if not plain:
            lines.append(f"{kind} t16[ROWS * {wide}];")
        if m > 1:
            lines += [f"if (t < LARGE) matmul_tile_{kind}(ROWS, {call}", f"else matmul_tile_{kind}(ROWS - 1, {call}"]
        else:
            lines.append(f"matmul_tile_{kind}(1, {call}")
        if plain:
            return lines
        places = [
            index([s, "row", "r", "p", "c"], [s != "0", x.strides[-2], x.strides[-2], x.strides[-1] * wide, x.strides[-1]])
            for s, x in zip(at, (self.output, *others), strict=True)
        ]
        product = f"({C_TYPES[a.dtype]})t16[r * {wide} + c]"
        value = f"const {C_TYPES[a.dtype]} v = {product};"
        result = self.expression.format("v", *(f"x{i}[{place}]" for i, place in enumerate(places[1:])))
        rows = ("r", "0", "rows" if m > 1 else "1")

        def store(columns: int) -> list[str]:
            return nest([rows, ("c", "0", str(columns))], [value, f"y[{places[0]}] = {result};"])

        if n % wide == 0:
            return lines + store(wide)
        if n < wide:
            return lines + store(n)
        return [
            *lines,
            f"if (p < {n // wide}) {{",
            *("    " + line for line in store(wide)),
            "} else {",
            *("    " + line for line in store(n % wide)),
            "}",
        ]


@dataclass(frozen=True, eq=False)
class Pack(Op):
    """`output[..., p, k, c] = input[..., k, p * width + c]`, and 0 past the last column: a matrix in panels, for `Matmul`."""

    def source(self, at: Callable[[Buffer], str]) -> str:
        b = self.inputs[0]
        *_, depth, n = b.shape
        count, wide = self.output.shape[-3], self.output.shape[-1]
        if 0 in self.output.shape:
            return "// no elements\n"
        batch, steps = merge(b.shape[:-2], [self.output.strides[:-3], b.strides[:-2]])
        names = [f"n{d}" for d in range(len(batch))]
        target, origin = index(names, steps[0]), index(names, steps[1])
        lines = [pointer("y", self.output, at, write=True), pointer("x", b, at)]
        loops = [(name, "0", str(size)) for name, size in zip(names, batch, strict=True)]
        columns = ("p", "0", str(count))
        if batch and max(batch) >= BATCH_ENOUGH:
            d = batch.index(max(batch))
            lines.append(f"SPLIT(lo, hi, {batch[d]})")
            loops[d] = (names[d], "lo", "hi")
        else:
            lines.append(f"SPLIT(lo, hi, {count})")
            columns = ("p", "lo", "hi")
        to = plus("y", index([target, "p"], [target != "0", depth * wide]))
        of = plus("x", index([origin, "p"], [origin != "0", wide * b.strides[-1]]))
        copy = f"to[k * {wide} + c] = of[{index(['k', 'c'], b.strides[-2:])}];"
        inner = [f"{C_TYPES[b.dtype]} *restrict to = {to};", f"const {C_TYPES[b.dtype]} *restrict of = {of};"]

        def fill(columns: int) -> list[str]:
            zero = [] if columns == wide else nest([("k", "0", str(depth)), ("c", str(columns), str(wide))], [f"to[k * {wide} + c] = 0;"])
            return nest([("k", "0", str(depth)), ("c", "0", str(columns))], [copy]) + zero

        full, rest = fill(wide), fill(n % wide)
        if n % wide == 0:
            inner += full
        elif n < wide:
            inner += rest
        else:
            inner += [f"if (p < {n // wide}) {{", *("    " + line for line in full), "} else {", *("    " + line for line in rest), "}"]
        return "\n".join(lines + nest([*loops, columns], inner)) + "\n"


@dataclass(frozen=True, eq=False)
class Dot(Op):
    """`output[..., j] = expression(sum over k of a[..., k] * b[..., k, j], *others)`: a vector times a matrix as it lies."""

    expression: str = "{0}"

    def functions(self) -> dict[str, str]:
        kind = unsigned(self.inputs[0].dtype)
        return {f"matmul_dot_{kind}": _DOT.replace("TYPE", kind)} if self._along_depth else {}

    @property
    def _along_depth(self) -> bool:
        a, b = self.inputs[:2]
        return a.strides[-1] == 1 and b.strides[-2] == 1

    def source(self, at: Callable[[Buffer], str]) -> str:
        a, b, *others = self.inputs
        depth, n = b.shape[-2:]
        if 0 in self.output.shape:
            return "// no elements\n"
        kind = unsigned(a.dtype)
        operands = [x.strides[:-1] for x in (self.output, a)] + [b.strides[:-2]] + [x.strides[:-1] for x in others]
        batch, steps = merge(self.output.shape[:-1], operands)
        names = [f"n{d}" for d in range(len(batch))]
        places = [index(names, s) for s in steps]
        lines = [pointer("y", self.output, at, write=True), pointer("a", a, at, kind=kind), pointer("b", b, at, kind=kind)]
        lines += [pointer(f"x{i}", x, at) for i, x in enumerate(others)]
        loops = [(name, "0", str(size)) for name, size in zip(names, batch, strict=True)]
        strip = 1 if self._along_depth else 64
        columns = ("s", "0", str(-(-n // strip)))
        if batch and max(batch) >= BATCH_ENOUGH:
            d = batch.index(max(batch))
            lines.append(f"SPLIT(lo, hi, {batch[d]})")
            loops[d] = (names[d], "lo", "hi")
        else:
            lines.append(f"SPLIT(lo, hi, {columns[2]})")
            columns = ("s", "lo", "hi")
        outer = [places[0], *places[3:]]
        j = "s" if strip == 1 else f"(s * {strip} + c)"
        spots = [index([p, j], [p != "0", x.strides[-1]]) for p, x in zip(outer, (self.output, *others), strict=True)]
        value = self.expression.format(
            f"({C_TYPES[a.dtype]})sum{'' if strip == 1 else '[c]'}", *(f"x{i}[{spot}]" for i, spot in enumerate(spots[1:]))
        )
        store = f"y[{spots[0]}] = {value};"
        if strip == 1:
            column = index([places[2], "s"], [places[2] != "0", b.strides[-1]])
            inner = [f"const {kind} sum = matmul_dot_{kind}({depth}, {plus('a', places[1])}, {plus('b', column)});", store]
        else:
            factor = f"a[{index([places[1], 'k'], [places[1] != '0', a.strides[-1]])}]"
            other = f"b[{index([places[2], 'k', 's', 'c'], [places[2] != '0', b.strides[-2], strip * b.strides[-1], b.strides[-1]])}]"
            inner = [f"{kind} sum[{strip}] = {{0}};"]
            add = nest([("k", "0", str(depth))], [f"const {kind} f = {factor};", *nest([("c", "0", "wide")], [f"sum[c] += f * {other};"])])
            inner += [
                f"const long wide = {n} - s * {strip} < {strip} ? {n} - s * {strip} : {strip};",
                *add,
                *nest([("c", "0", "wide")], [store]),
            ]
        return "\n".join(lines + nest([*loops, columns], inner)) + "\n"


def width(dtype: str) -> int:
    """Columns of a panel: 64 bytes of them.

    >>> width("float32"), width("float64")
    (16, 8)
    """
    return 64 // np.dtype(dtype).itemsize


def panels(weight: np.ndarray) -> np.ndarray:
    """A matrix (..., k, n) in panels (..., ceil(n / width), k, width), filled up with zeros."""
    *batch, depth, n = weight.shape
    wide = width(weight.dtype.name)
    count = math.ceil(n / wide)
    full = np.zeros((*batch, depth, count * wide), weight.dtype)
    full[..., :n] = weight
    return np.ascontiguousarray(np.moveaxis(full.reshape(*batch, depth, count, wide), -2, -3))


def packed(b: Array) -> tuple[list[Op], Array]:
    """b (..., k, n) in panels, and the steps that make it so: none where b is a constant. What repeats is packed once."""
    *batch, depth, n = b.shape
    once = Array(b.buffer, (*(1 if s == 0 else z for z, s in zip(batch, b.strides, strict=False)), depth, n), b.strides, b.offset)
    if b.data is not None:
        data = panels(np.asarray(once.data))
        made = array(data.shape, b.dtype, data=data)
        ops: list[Op] = []
    else:
        wide = width(b.dtype)
        made = array((*once.shape[:-2], math.ceil(n / wide), depth, wide), b.dtype)
        ops = [Pack(made, (once,))]
    strides = tuple(0 if z == 1 else s for z, s in zip(once.shape[:-2], made.strides, strict=False))
    return ops, Array(made.buffer, (*batch, *made.shape[-3:]), (*strides, *made.strides[-3:]))


def product(a: Array, b: Array, output: Array, *, others: Sequence[Array] = (), expression: str = "{0}") -> list[Op]:
    """The steps of `output = expression(a @ b, *others)` for a (..., m, k), b (..., k, n) and others of the output's shape."""
    *batch, m, n = output.shape
    if b.data is None and m == 1:
        return [Dot(_row(output), (_row(a), b, *map(_row, others)), expression)]
    if b.data is None and n == 1:
        turned = Array(a.buffer, (*batch, a.shape[-1], m), (*a.strides[:-2], a.strides[-1], a.strides[-2]), a.offset)
        return [Dot(_column(output), (_column(b), turned, *map(_column, others)), expression)]
    ops, panel = packed(b)
    return [*ops, Matmul(output, (a, panel, *others), expression, b if b.data is not None and b.buffer.data is not None else None)]


def _row(value: Array) -> Array:
    """(..., 1, n) as (..., n)."""
    return Array(value.buffer, (*value.shape[:-2], value.shape[-1]), (*value.strides[:-2], value.strides[-1]), value.offset)


def _column(value: Array) -> Array:
    """(..., m, 1) as (..., m)."""
    return Array(value.buffer, value.shape[:-1], value.strides[:-1], value.offset)
