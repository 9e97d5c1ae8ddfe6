"""A product with a constant matrix of which most elements are zero: for one row by gathering, for many with rows as lanes.

With many rows, `a` is turned into tiles in which the same column of up to 64 rows lies together. For each output, its nonzero
weights are multiplied with those columns, sums in registers, some columns of `a` at a time, as many as the first cache holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from attar.compiler.ir import Array, Buffer, Op, array, constant
from attar.compiler.kernels.loops import BATCH_ENOUGH, index, nest, pointer
from attar.compiler.kernels.matmul import Matmul

__all__ = ["GatherRows", "SparseTiles", "Tiles", "Untile", "sparse", "sparse_alternative"]

_NEAR = 96  # columns of `a` at a time: with 64 rows, 24 KB
_OUTPUTS = 640  # whose sums stay in the second cache beside them


@dataclass(frozen=True, eq=False)
class GatherRows(Op):
    """`output = expression(a @ weight, *others)`; inputs are (a (m, k), values, columns, starts, *others), best for one row.

    The nonzero weights of output n are `values[starts[n]:starts[n + 1]]`, their places in k are `columns`, int16 or int32.
    """

    expression: str = "{0}"
    weight: Array | None = None

    def source(self, at: Callable[[Buffer], str]) -> str:
        a, values, columns, starts, *others = self.inputs
        m, n = self.output.shape
        lines = [pointer("y", self.output, at, write=True), pointer("a", a, at), pointer("values", values, at)]
        lines += [pointer("columns", columns, at), pointer("starts", starts, at)]
        lines += [pointer(f"x{i}", x, at) for i, x in enumerate(others)]
        row = index(["m"], [a.strides[0]])
        x = f"from[{index(['columns[i]'], [a.strides[1]])}]".replace("columns[i]", "columns[i + {0}]")
        places = [index(["m", "n"], x.strides) for x in (self.output, *others)]
        result = self.expression.format("v", *(f"x{i}[{place}]" for i, place in enumerate(places[1:])))
        body = [
            f"const float *restrict from = a + {row};",
            "float sum[4] = {0};",
            "long i = starts[n];",
            "for (; i + 4 <= starts[n + 1]; i += 4) {",
            *(f"    sum[{u}] += values[i + {u}] * {x.format(u)};" for u in range(4)),
            "}",
            f"for (; i < starts[n + 1]; i++) sum[0] += values[i] * {x.format(0)};",
            "const float v = (sum[0] + sum[1]) + (sum[2] + sum[3]);",
            f"y[{places[0]}] = {result};",
        ]
        return "\n".join([*lines, f"SPLIT(lo, hi, {n})", *nest([("m", "0", str(m)), ("n", "lo", "hi")], body)]) + "\n"


@dataclass(frozen=True, eq=False)
class Tiles(Op):
    """`output[t, k, l] = a[t * L + l, k]`, 0 past the last row: the rows of a (m, k) as lanes of tiles (t, k, L)."""

    def source(self, at: Callable[[Buffer], str]) -> str:
        a = self.inputs[0]
        m, depth = a.shape
        count, _, lanes = self.output.shape
        # 8 rows by 16 columns: rows may all lie in one set of the cache, which holds 8 lines
        blocks = -(-depth // 16)
        lines = [pointer("y", self.output, at, write=True), pointer("a", a, at), f"SPLIT(lo, hi, {blocks})"]
        copy = [f"const long end = j + 8 < rows ? j + 8 : rows, last = c * 16 + 16 < {depth} ? c * 16 + 16 : {depth};"]
        copy += nest([("l", "j", "end"), ("k", "c * 16", "last")], [f"to[k * {lanes} + l] = from[{index(['l', 'k'], a.strides)}];"])
        body = [
            f"const long rows = {m} - t * {lanes} < {lanes} ? {m} - t * {lanes} : {lanes};",
            f"float *restrict to = y + t * {depth * lanes};",
            f"const float *restrict from = a + t * {lanes * a.strides[0]};",
            "for (long j = 0; j < rows; j += 8) {",
            *("    " + line for line in copy),
            "}",
        ]
        if m % lanes:
            body.append(f"const long last = c * 16 + 16 < {depth} ? c * 16 + 16 : {depth};")
            body += nest([("k", "c * 16", "last"), ("l", "rows", str(lanes))], [f"to[k * {lanes} + l] = 0;"])
        return "\n".join(lines + nest([("t", "0", str(count)), ("c", "lo", "hi")], body)) + "\n"


@dataclass(frozen=True, eq=False)
class SparseTiles(Op):
    """`output[t, n, :] = sum over k of weight[k, n] * x[t, k, :]`; inputs are (x (t, k, L), values, offsets, starts).

    Columns of x come `near` at a time: the nonzero weights of output n among columns c * near to (c + 1) * near are
    `values[starts[c * outputs + n]:starts[c * outputs + n + 1]]`, and `offsets` are L times their places among those columns.
    """

    near: int

    def source(self, at: Callable[[Buffer], str]) -> str:
        x, values, offsets, starts = self.inputs
        count, depth, lanes = x.shape
        n = self.output.shape[1]
        lines = [pointer("y", self.output, at, write=True), pointer("x", x, at), pointer("values", values, at)]
        lines += [pointer("offsets", offsets, at), pointer("starts", starts, at)]
        lines.append(f"enum {{ T = VL == 4 ? 4 : {lanes} / VL }};  // vectors whose sums stay in registers")
        tiles, groups = ("t", "0", str(count)), ("g", "0", str(-(-n // _OUTPUTS)))
        outputs = ("n", f"g * {_OUTPUTS}", f"(g * {_OUTPUTS} + {_OUTPUTS} < {n} ? g * {_OUTPUTS} + {_OUTPUTS} : {n})")
        if count >= BATCH_ENOUGH:
            lines.append(f"SPLIT(lo, hi, {count})")
            tiles = ("t", "lo", "hi")
        else:
            lines.append(f"SPLIT(lo, hi, {n})")
            groups, outputs = ("g", "0", "1"), ("n", "lo", "hi")
        unroll = '_Pragma("GCC unroll 16") for (long v = 0; v < T; v++)'
        body = [
            f"const float *restrict from = x + t * {depth * lanes} + c * {self.near * lanes} + part_of_tile;",
            f"float *restrict to = y + t * {n * lanes} + n * {lanes} + part_of_tile;",
            f"const long first = starts[c * {n} + n], last = starts[c * {n} + n + 1];",
            "vf sum[T];",
            f"{unroll} sum[v] = c ? *(const vf *)(to + v * VL) : (vf){{}};",
            "for (long i = first; i < last; i++) {",
            "    const float *restrict column = from + offsets[i];",
            "    const vf w = values[i] - (vf){};",
            f"    {unroll} sum[v] += w * *(const vf *)(column + v * VL);",
            "}",
            f"{unroll} *(vf *)(to + v * VL) = sum[v];",
        ]
        halves = f"for (long part_of_tile = 0; part_of_tile < {lanes}; part_of_tile += T * VL) {{"
        inner = nest([outputs], [halves, *("    " + line for line in body), "}"])
        return "\n".join(lines + nest([tiles, groups, ("c", "0", str(-(-depth // self.near)))], inner)) + "\n"


@dataclass(frozen=True, eq=False)
class Untile(Op):
    """`output[t * L + l, n] = expression(x[t, n, l], *others)`: tiles back to rows (m, n); inputs are (x (t, n, L), *others).

    `weight` is the matrix of the product that this ends.
    """

    expression: str = "{0}"
    weight: Array | None = None

    def source(self, at: Callable[[Buffer], str]) -> str:
        x, *others = self.inputs
        m, n = self.output.shape
        _, _, lanes = x.shape
        lines = [pointer("y", self.output, at, write=True), pointer("x", x, at)]
        lines += [pointer(f"x{i}", other, at) for i, other in enumerate(others)]
        places = [index(["m", "n"], value.strides) for value in (self.output, *others)]
        result = self.expression.format("v", *(f"x{i}[{place}]" for i, place in enumerate(places[1:])))
        body = [f"const float v = x[m / {lanes} * {n * lanes} + n * {lanes} + m % {lanes}];", f"y[{places[0]}] = {result};"]
        # squares of 16, whose lines stay in the cache both ways
        square = [f"const long end = block + 16 < {n} ? block + 16 : {n}, below = near + 16 < {m} ? near + 16 : {m};"]
        square += nest([("m", "near", "below"), ("n", "block", "end")], body)
        blocks = [f"for (long block = 0; block < {n}; block += 16) {{", *("    " + line for line in square), "}"]
        rows = [
            f"SPLIT(lo, hi, {-(-m // 16)})",
            "for (long near = lo * 16; near < hi * 16; near += 16) {",
            *("    " + line for line in blocks),
            "}",
        ]
        return "\n".join(lines + rows) + "\n"


def sparse(a: Array, weight: Array, output: Array, *, others: Sequence[Array] = (), expression: str = "{0}") -> list[Op]:
    """The steps of `output = expression(a @ weight, *others)` for a (m, k) and a constant weight (k, n), both float32.

    The last of them has the fields `expression` and `weight` that `Matmul` has.
    """
    m, depth = a.shape
    dense = np.asarray(weight.data).T  # (n, k): one output's weights together
    if m == 1:
        rows, columns = np.nonzero(dense)
        starts = np.searchsorted(rows, np.arange(dense.shape[0] + 1))
        kind = np.int16 if depth <= 2**15 else np.int32
        parts = (constant(dense[rows, columns]), constant(columns.astype(kind)), constant(starts.astype(np.int32)))
        return [GatherRows(output, (a, *parts, *others), expression, weight)]
    lanes = min((16, 32, 48, 64), key=lambda z: (-(-m // z) * (z // 8 + 2), -z))
    n, chunks = dense.shape[0], -(-depth // _NEAR)
    padded = np.zeros((n, chunks * _NEAR), dense.dtype)
    padded[:, :depth] = dense
    by_chunk = padded.reshape(n, chunks, _NEAR).transpose(1, 0, 2).reshape(chunks * n, _NEAR)
    rows, columns = np.nonzero(by_chunk)
    starts = np.searchsorted(rows, np.arange(chunks * n + 1)).astype(np.int32)
    parts = (constant(by_chunk[rows, columns]), constant((columns * lanes).astype(np.int16)), constant(starts))
    tiles = array((-(-m // lanes), depth, lanes), "float32")
    sums = array((tiles.shape[0], n, lanes), "float32")
    return [Tiles(tiles, (a,)), SparseTiles(sums, (tiles, *parts), _NEAR), Untile(output, (sums, *others), expression, weight)]


def sparse_alternative(op: Matmul) -> list[Op] | None:
    """The steps that do what a dense product with a constant does; None where it is not one of two float32 matrices."""
    a, _, *others = op.inputs
    if op.weight is None or len(op.output.shape) != 2 or a.dtype != "float32":
        return None
    return sparse(a, op.weight, op.output, others=others, expression=op.expression)
