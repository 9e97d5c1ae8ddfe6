"""Products of one vector with a constant of few values, which is kept as indices: a value is looked up when it is multiplied.

Dense: indices of 1, 2, 4 or 8 bits in panels of 16 columns, 64 bytes at a time. On x86 a table of 16 values is four vectors,
one for each byte of a float, and a shuffle looks up a byte of 32 or 64 weights. Sums are those of `Matmul`, in its order.

Sparse: the inputs of an output are ordered by the value that they are multiplied with. Four of one value are a run, added before
they are multiplied; what is left over has a value each. A run takes 9 bytes, a single weight 3, where `GatherRows` has 6 for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attar.compiler.ir import Array, Buffer, Op, constant
from attar.compiler.kernels.loops import index, nest, pointer
from attar.compiler.kernels.matmul import Matmul

__all__ = ["LookUp", "LookUpRuns", "codebook_alternatives", "few", "pack", "runs"]

_MOST = 256  # values that an index of a byte tells apart
_PART = 1 << 16  # elements looked at together: the first part of a weight that is no codebook tells that it is none
_LARGE = 1 << 17  # elements, 512 KB: what is smaller stays in a cache as it is
_RUNS = 0.5  # part that is not zero up to which runs are offered
_GATHERED = 40  # looking up all weights, of `bits` each, is offered where more than bits / 40 of them are not zero

_ROW = r"""
#if BITS <= 6 && (VL == 16 && defined(__AVX512BW__) || VL == 8 && defined(__AVX2__))
#include <immintrin.h>
#if VL == 16
#define BYTES(name) _mm512_##name
typedef __m512i codebook_BITS_bytes;
#else
#define BYTES(name) _mm256_##name
typedef __m256i codebook_BITS_bytes;
#endif
typedef uint16_t codebook_BITS_pairs __attribute__((vector_size(4 * VL), aligned(2), may_alias));

// byte b of the floats 16 * q to 16 * q + 15, repeated: plane[4 * q + b]
typedef struct { codebook_BITS_bytes plane[4 * TABLES]; } codebook_BITS_table;

static inline codebook_BITS_table codebook_BITS_planes(const float *book) {
    codebook_BITS_table table;
    for (long i = 0; i < 4 * TABLES; i++) {
        uint8_t bytes[4 * VL];
        for (long e = 0; e < 4 * VL; e++) bytes[e] = (uint8_t)((uint32_t)attar_bits(book[i / 4 * 16 + e % 16]) >> 8 * (i % 4));
        memcpy(&table.plane[i], bytes, sizeof bytes);
    }
    return table;
}

// out[j * V + v] = the weights of input 4 * s + j for outputs v * VL to v * VL + VL - 1, from a block laid out by `pack`
static inline __attribute__((always_inline)) void codebook_BITS_decode(const uint8_t *p, const long s, const codebook_BITS_table *table,
                                                                      vf *out) {
    enum { V = 16 / VL };
    _Pragma("GCC unroll 4") for (long v = 0; v < V; v++) {
        codebook_BITS_pairs word = *(const codebook_BITS_pairs *)(p + v * 4 * VL);
        if (FIELD < 8) word = word >> (uint16_t)(FIELD * s) & (uint16_t)(MASK * 0x101);
        codebook_BITS_bytes byte[4];
        _Pragma("GCC unroll 4") for (long q = 0; q < TABLES; q++) {
            // a shuffle gives 0 where the highest bit of an index is set: that of all indices but 16 * q to 16 * q + 15
            const codebook_BITS_bytes other = (codebook_BITS_bytes)(word ^ (uint16_t)(16 * q * 0x101));
            const codebook_BITS_bytes which = TABLES > 1 ? BYTES(adds_epu8)(other, BYTES(set1_epi8)(0x70)) : other;
            _Pragma("GCC unroll 4") for (long b = 0; b < 4; b++) {
                const codebook_BITS_bytes some = BYTES(shuffle_epi8)(table->plane[4 * q + b], which);
                byte[b] = q ? (codebook_BITS_bytes)(byte[b] | some) : some;
            }
        }
        const codebook_BITS_bytes low = BYTES(unpacklo_epi8)(byte[0], byte[1]), low2 = BYTES(unpacklo_epi8)(byte[2], byte[3]);
        const codebook_BITS_bytes high = BYTES(unpackhi_epi8)(byte[0], byte[1]), high2 = BYTES(unpackhi_epi8)(byte[2], byte[3]);
        out[v] = (vf)BYTES(unpacklo_epi16)(low, low2);
        out[V + v] = (vf)BYTES(unpackhi_epi16)(low, low2);
        out[2 * V + v] = (vf)BYTES(unpacklo_epi16)(high, high2);
        out[3 * V + v] = (vf)BYTES(unpackhi_epi16)(high, high2);
    }
}
#undef BYTES
#else
typedef struct { const float *book; } codebook_BITS_table;

static inline codebook_BITS_table codebook_BITS_planes(const float *book) { return (codebook_BITS_table){book}; }

static inline __attribute__((always_inline)) void codebook_BITS_decode(const uint8_t *p, const long s, const codebook_BITS_table *table,
                                                                      vf *out) {
    enum { V = 16 / VL };
    const float *const book = table->book;
    _Pragma("GCC unroll 4") for (long v = 0; v < V; v++)
        _Pragma("GCC unroll 4") for (long j = 0; j < 4; j++) {
            uint32_t word[VL / 4];  // four outputs each
            _Pragma("GCC unroll 4") for (long g = 0; g < VL / 4; g++) memcpy(&word[g], p + v * 4 * VL + 16 * g + 4 * j, 4);
            vf some;
            _Pragma("GCC unroll 16") for (long l = 0; l < VL; l++) some[l] = book[word[l / 4] >> (8 * (l % 4) + FIELD * s) & MASK];
            out[j * V + v] = some;
        }
}
#endif

// out[c] = sum over k of a[k * step] * weight[k][c], for the 16 outputs of a panel; sums in the order of a dense product
static __attribute__((noinline)) void codebook_BITS_panel(const long depth, const float *a, const long step, const uint8_t *b,
                                                         const codebook_BITS_table *table, float *out) {
    enum { V = 16 / VL, TURNS = 8 / V, ROWS = 32 / FIELD, AT_ONCE = ROWS < TURNS ? TURNS : ROWS };
    vf sum[8], some[4 * V];
    _Pragma("GCC unroll 8") for (long i = 0; i < 8; i++) sum[i] = (vf){};
    long k = 0;
    for (; k + AT_ONCE <= depth; k += AT_ONCE, b += 64 * AT_ONCE / ROWS)
        _Pragma("GCC unroll 8") for (long s = 0; s < AT_ONCE / 4; s++) {
            codebook_BITS_decode(b + s / (ROWS / 4) * 64, s % (ROWS / 4), table, some);
            _Pragma("GCC unroll 4") for (long j = 0; j < 4; j++) {
                const vf x = a[(k + 4 * s + j) * step] - (vf){};
                _Pragma("GCC unroll 4") for (long v = 0; v < V; v++) sum[(4 * s + j) % TURNS * V + v] += x * some[j * V + v];
            }
        }
    if (k < depth) {
        vf rest[AT_ONCE * V], *row = rest;
        for (long s = 0; s < AT_ONCE / 4; s++) codebook_BITS_decode(b + s / (ROWS / 4) * 64, s % (ROWS / 4), table, rest + 4 * V * s);
        for (; k + TURNS <= depth; k += TURNS)
            _Pragma("GCC unroll 8") for (long u = 0; u < TURNS; u++)
                _Pragma("GCC unroll 4") for (long v = 0; v < V; v++) sum[u * V + v] += (a[(k + u) * step] - (vf){}) * *row++;
        for (; k < depth; k++)
            _Pragma("GCC unroll 4") for (long v = 0; v < V; v++) sum[v] += (a[k * step] - (vf){}) * *row++;
    }
    _Pragma("GCC unroll 8") for (long u = 1; u < TURNS; u++)
        _Pragma("GCC unroll 4") for (long v = 0; v < V; v++) sum[v] += sum[u * V + v];
    _Pragma("GCC unroll 4") for (long v = 0; v < V; v++) *(vf *)(out + v * VL) = sum[v];
}
"""


@dataclass(frozen=True, eq=False)
class LookUp(Op):
    """`output = expression(a @ weight, *others)` for one row a (1, k); inputs are (a, panels, book, *others).

    Each weight is an element of `book`, its index of `bits` bits in panels made by `pack`.
    """

    bits: int
    expression: str = "{0}"

    def functions(self) -> dict[str, str]:
        field = _field(self.bits)
        names = {"TABLES": max(1, 1 << self.bits >> 4), "MASK": (1 << field) - 1, "FIELD": field, "BITS": self.bits}
        text = _ROW
        for name, value in names.items():
            text = text.replace(name, str(value))
        return {f"codebook_{self.bits}": text}

    def source(self, at: Callable[[Buffer], str]) -> str:
        a, panels, book, *others = self.inputs
        n, kernel = self.output.shape[1], f"codebook_{self.bits}"
        lines = [pointer("y", self.output, at, write=True), pointer("a", a, at), pointer("b", panels, at), pointer("book", book, at)]
        lines += [pointer(f"x{i}", x, at) for i, x in enumerate(others)]
        lines += [f"SPLIT(lo, hi, {panels.shape[0]})", f"const {kernel}_table table = {kernel}_planes(book);"]
        body = [
            "float t16[16];",
            f"{kernel}_panel({a.shape[1]}, a, {a.strides[1]}, b + p * {panels.strides[0]}, &table, t16);",
            f"const long wide = {n} - p * 16 < 16 ? {n} - p * 16 : 16;",
            *nest([("c", "0", "wide")], _stored(self, others, "t16[c]", ["p", "c"], [16, 1])),
        ]
        return "\n".join(lines + nest([("p", "lo", "hi")], body)) + "\n"


@dataclass(frozen=True, eq=False)
class LookUpRuns(Op):
    """`output = expression(a @ weight, *others)` for one row a (1, k); inputs are (a, book, places, which, starts, *others).

    The weights of output n that are not zero: `starts[n]` and `starts[n + 1]` have the runs and the single weights before it and
    after it; its `places` in k are four for each run, then one for each single weight, and `which` has the index in the book of each.
    """

    expression: str = "{0}"

    def source(self, at: Callable[[Buffer], str]) -> str:
        a, book, places, which, starts, *others = self.inputs
        n = self.output.shape[1]
        kind = "uint16_t" if places.dtype == "int16" else "int32_t"
        lines = [pointer("y", self.output, at, write=True), pointer("a", a, at), pointer("book", book, at)]
        lines += [pointer("places", places, at, kind=kind), pointer("which", which, at), pointer("starts", starts, at)]
        lines += [pointer(f"x{i}", x, at) for i, x in enumerate(others)]

        def run(u: int) -> str:
            x = [f"a[{index([f'place[{4 * u + i}]'], [a.strides[1]])}]" for i in range(4)]
            return f"sum[{u}] += book[index[{u}]] * (({x[0]} + {x[1]}) + ({x[2]} + {x[3]}));"

        def single(u: int) -> str:
            return f"sum[{u}] += book[index[{u}]] * a[{index([f'place[{u}]'], [a.strides[1]])}];"

        body = [
            "const long runs = starts[2 * n + 2] - starts[2 * n], singles = starts[2 * n + 3] - starts[2 * n + 1];",
            f"const {kind} *place = places + 4l * starts[2 * n] + starts[2 * n + 1];",
            "const uint8_t *index = which + starts[2 * n] + starts[2 * n + 1];",
            "float sum[2] = {0};",
            "long i = 0;",
            f"for (; i + 2 <= runs; i += 2, place += 8, index += 2) {{ {run(0)} {run(1)} }}",
            f"if (i < runs) {{ {run(0)} place += 4, index += 1; }}",
            f"for (i = 0; i + 2 <= singles; i += 2, place += 2, index += 2) {{ {single(0)} {single(1)} }}",
            f"if (i < singles) {single(0)}",
            *_stored(self, others, "sum[0] + sum[1]", ["n"], [1]),
        ]
        return "\n".join([*lines, f"SPLIT(lo, hi, {n})", *nest([("n", "lo", "hi")], body)]) + "\n"


def _stored(op: LookUp | LookUpRuns, others: list[Array], value: str, names: list[str], steps: list[int]) -> list[str]:
    """C that writes one column of the output."""
    places = [index(names, [x.strides[1] * step for step in steps]) for x in (op.output, *others)]
    result = op.expression.format("v", *(f"x{i}[{place}]" for i, place in enumerate(places[1:])))
    return [f"const float v = {value};", f"y[{places[0]}] = {result};"]


def few(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The values of a float32 array, told apart by their bits, and the index of each element's; None beyond 256, or for NaN and infinity.

    >>> values, indices = few(np.array([[0.5, 0.0], [-1.0, 0.5]], np.float32))
    >>> values.tolist(), indices.tolist()
    ([0.5, 0.0, -1.0], [[0, 1], [2, 0]])
    """
    bits = np.ascontiguousarray(weight).reshape(-1).view(np.uint32)
    indices = np.zeros(bits.size, np.uint8)
    values = bits[:1]
    slots, factor = _slots(values)
    for start in range(0, bits.size, _PART):
        part = bits[start : start + _PART]
        found = slots[(part * factor) >> 16]
        new = values[found] != part
        if new.any():
            values = np.concatenate([values, np.unique(part[new])])
            if len(values) > _MOST:
                return None
            slots, factor = _slots(values)
            found = slots[(part * factor) >> 16]
        indices[start : start + _PART] = found
    known = values.view(np.float32)
    return (known, indices.reshape(weight.shape)) if np.isfinite(known).all() else None


def _slots(values: np.ndarray) -> tuple[np.ndarray, np.uint32]:
    """A factor by which the upper half of each value's product is another, and the number of the value for each such half."""
    random = np.random.default_rng(0)
    while True:
        factor = np.uint32(random.integers(2**31) * 2 + 1)
        places = (values * factor) >> 16
        if len(np.unique(places)) == len(values):
            slots = np.zeros(1 << 16, np.uint8)
            slots[places] = np.arange(len(values))
            return slots, factor


def _field(bits: int) -> int:
    """The bits that an index takes, so that none lies in two bytes."""
    return 1 << (bits - 1).bit_length()


def pack(indices: np.ndarray, bits: int) -> np.ndarray:
    """Indices (n, k) of up to `bits` bits in panels of 16 outputs, (ceil(n / 16), bytes), filled up with index 0.

    A block of 64 bytes has 4 inputs of k, or 8, 16, 32 where an index takes less than a byte: the index for input 4 * s + j
    and output c is in byte 16 * (c / 4) + 4 * j + c % 4, from bit field * s on.
    """
    n, depth = indices.shape
    field = _field(bits)
    fields = 8 // field
    blocks = -(-depth // max(8, 4 * fields)) * max(1, 2 // fields)  # kernels take 8 inputs at a time, even where a block has 4
    panels = np.zeros((-(-n // 16), blocks, 4, 4, 4), np.uint8)
    full = np.zeros((16, blocks * fields * 4), np.uint8)
    for p, panel in enumerate(panels):
        part = indices[16 * p : 16 * p + 16]
        full[: len(part), :depth] = part
        full[len(part) :] = 0
        for s, some in enumerate(full.reshape(4, 4, blocks, fields, 4).transpose(3, 2, 0, 4, 1)):
            panel |= some << (field * s)
    return panels.reshape(len(panels), blocks * 64)


def runs(indices: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The places, indices and starts of `LookUpRuns`, for the elements of indices (n, k) that are `kept`."""
    n, depth = indices.shape
    starts = np.zeros((n + 1, 2), np.int64)
    kind = np.uint16 if depth <= 1 << 16 else np.int32
    places, which = [np.zeros(0, kind)], [np.zeros(0, np.uint8)]
    for row in range(n):
        columns = np.flatnonzero(kept[row])
        found = indices[row, columns]
        order = np.argsort(found, kind="stable")
        columns, found = columns[order].astype(kind), found[order]
        counts = np.bincount(found, minlength=1)
        before = np.cumsum(counts) - counts
        in_run = np.arange(len(found)) - before[found] < (counts & ~3)[found]
        places += columns[in_run], columns[~in_run]
        which += found[in_run][::4], found[~in_run]
        starts[row + 1] = len(which[-2]), len(which[-1])
    joined = np.concatenate(places)
    # the compiler's own types have no uint16
    return joined.view(f"int{8 * joined.itemsize}"), np.concatenate(which), np.cumsum(starts, 0).astype(np.int32)


def codebook_alternatives(op: Matmul) -> dict[str, Op]:
    """The steps that do what a dense product of one row with a large constant does, where that has few values; by their names.

    What other steps do in less time, as far as is known before they are timed, is left out.
    """
    a, _, *others = op.inputs
    if op.weight is None or len(op.output.shape) != 2 or len(a.shape) != 2 or a.shape[0] != 1 or a.dtype != "float32":
        return {}
    weight = op.weight.known.T
    known = few(weight) if weight.size >= _LARGE else None
    if known is None:
        return {}
    values, indices = known
    bits = max(1, math.ceil(math.log2(len(values))))
    book = np.zeros(max(16, 1 << bits), np.float32)
    book[: len(values)] = values
    kept = weight != 0
    density = np.count_nonzero(kept) / kept.size
    found: dict[str, Op] = {}
    if density > bits / _GATHERED:
        found[f"codebook{bits}"] = LookUp(op.output, (a, constant(pack(indices, bits)), constant(book), *others), bits, op.expression)
    if density <= _RUNS:
        parts = (constant(part) for part in runs(indices, kept))
        found[f"codebook{bits}-sparse"] = LookUpRuns(op.output, (a, constant(book), *parts, *others), op.expression)
    return found
