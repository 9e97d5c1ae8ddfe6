"""Dense convolutions of small maps, whose lanes are outputs: a vector of weights times one pixel, for a few pixels at a time.

Where rows are short, vectors of pixels hold much padding (a 7x7 map fills 77 % of its lanes) and the weights pass once for few
pixels. Here every lane is an output: for each column, a few vectors of weights meet the pixels of a row or two, each of which
is broadcast (an outer product). The sums are turned at the end, so that the map lies as for every other kernel.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attar.compiler.ir import Array, Buffer, Lanes, constant
from attar.compiler.kernels.convolution import Convolution, InPlaceOf, runs
from attar.compiler.kernels.lanes import CLEAN, clean, pointer
from attar.compiler.kernels.taps import TERM

__all__ = ["OuterConvolution", "outer"]

_VECTORS = 2  # of outputs
_PIXELS = {16: 6, 32: 14}  # by vector registers: the sums of all, a vector of weights for each, and a pixel fit
_PATTERNS = 8  # at most, of which each is a function: more come where rows meet the ends of tiles in many ways
_FULL = 0.9  # of the lanes that are pixels, from which vectors of pixels are as good
_DENSE = 0.5  # of the weights that are not zero, below which kernels that skip zeros win
_AHEAD = 16 << 10  # bytes of weights that are fetched in time: they are read once for a few pixels, and processors stop at pages
_WASTE = 1.3  # outputs with those that fill the vectors, to outputs


@dataclass(frozen=True, eq=False)
class OuterConvolution(InPlaceOf):
    """`convolution` with `blocks` of outputs (first, count) in lanes, for `pixels`: chunks of a pattern, one row for each.

    A row has the pattern's number and, for each map, where the chunk's first pixel lies from the map's first.
    """

    convolution: Convolution
    blocks: tuple[tuple[int, int], ...]
    patterns: tuple[tuple[int, ...], ...]
    pixels: np.ndarray

    kernel = "outer"

    @cached_property
    def _tables(self) -> tuple[Array, Array, Array]:
        """Where each column of each group lies; the weights, column by column of each block; the bias of each block's lanes."""
        op, lanes = self.convolution, self._lanes
        weight = np.zeros((len(self.blocks), op.weight.shape[1], lanes), np.float32)
        bias = np.zeros((len(self.blocks), lanes), np.float32)
        given = np.ascontiguousarray(self.inputs[1].known).reshape(-1)
        for number, (first, count) in enumerate(self.blocks):
            weight[number, :, :count] = op.weight[first : first + count].T
            bias[number, :count] = given[first : first + count]
        return constant(op.offsets.astype(np.int32)), constant(weight), constant(bias)

    @property
    def _lanes(self) -> int:
        return _VECTORS * self.output.space.lanes

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        padding = self.output.padding if self.output.buffer.clean else ()
        return tuple(value.buffer for value in (*self._tables, *padding))

    def functions(self) -> dict[str, str]:
        found = {"clean": CLEAN, "term": TERM, "turn": _turn(self.output.space.lanes)}
        for pattern in self.patterns:
            found[self._name(pattern)] = _kernel(self._name(pattern), pattern, self.convolution.epilogue, len(self.inputs) - 2)
        return found

    def _name(self, pattern: tuple[int, ...]) -> str:
        about = f"{pattern} {self.convolution.epilogue} {len(self.inputs)}"
        return f"outer_{len(pattern)}_{hashlib.sha256(about.encode()).hexdigest()[:8]}"

    def source(self, at: Callable[[Buffer], str]) -> str:
        op, y = self.convolution, self.output
        x, _, *others = self.inputs
        offsets, weight, bias = self._tables
        columns, lanes = op.weight.shape[1], self._lanes
        chunks = ", ".join("{" + ", ".join(map(str, row)) + "}" for row in self.pixels.tolist())
        blocks = ", ".join(f"{{{first}, {count}, {op.group[first]}}}" for first, count in self.blocks)
        arguments = [
            f"{pointer(x, at)} + c[1]",
            f"{pointer(y, at)} + c[2] + b[0] * {y.channel_stride}, {y.channel_stride}",
            f"{at(bias.buffer)} + block * {lanes}",
            f"{at(offsets.buffer)} + b[2] * {columns}",
            f"{at(weight.buffer)} + block * {lanes * columns}",
            f"{columns}, b[1]",
            *(f"{pointer(r, at)} + c[{n}] + b[0] * {r.channel_stride}, {r.channel_stride}" for n, r in enumerate(others, 3)),
        ]
        call = ", ".join(arguments)
        cases = "\n".join(f"        case {n}: {self._name(pattern)}({call}); break;" for n, pattern in enumerate(self.patterns))
        cleaned = ""
        if y.buffer.clean:
            share = f"{y.channels} * part / parts, {y.channels} * (part + 1) / parts"
            cleaned = f"\nfor (long tile = 0; tile < {y.space.tiles}; tile++) {{ {clean(y, at, share)} }}"
        return f"""static const int32_t chunks[][{self.pixels.shape[1]}] = {{{chunks}}};  // pattern, place in each map
static const int32_t blocks[][3] = {{{blocks}}};  // first output, outputs, group
SPLIT(lo, hi, {len(self.blocks) * len(self.pixels)})
for (long i = lo; i < hi; i++) {{
    const long block = i / {len(self.pixels)};  // its weights stay in the second cache for all chunks
    const int32_t *c = chunks[i % {len(self.pixels)}], *b = blocks[block];
    switch (c[0]) {{
{cases}
    }}
}}{cleaned}"""


def outer(op: Convolution) -> OuterConvolution | None:
    """The convolution with outputs in lanes, for a program that is laid out; None where that can gain nothing."""
    x, bias, *others = op.inputs
    y, space = op.output, op.output.space
    if bias.data is None or not all(isinstance(r, Lanes) for r in others):
        return None
    lanes = _VECTORS * space.lanes
    blocks = tuple(_blocks(op.group, lanes))
    pixels = y.pixels()
    if np.count_nonzero(op.weight) < _DENSE * op.weight.size or len(blocks) * lanes > _WASTE * len(op.weight):
        return None
    if pixels.size > _FULL * space.tiles * space.tile:
        return None
    maps, most = [x, y, *others], min(_PIXELS[space.registers], space.lanes)  # squares of sums are turned
    chunks = _chunks(pixels.reshape(-1, pixels.shape[-1]), most, space.tile if any(m.buffer.tiled for m in maps) else 0)
    patterns = tuple(dict.fromkeys(tuple((chunk - chunk[0]).tolist()) for chunk in chunks))
    if len(patterns) > _PATTERNS:
        return None
    rows = [
        (patterns.index(tuple((chunk - chunk[0]).tolist())), *(int(m.at(chunk[0]) if m.buffer.tiled else chunk[0]) for m in maps))
        for chunk in chunks
    ]
    return OuterConvolution(y, op.inputs, op, blocks, patterns, np.array(rows))


def _blocks(group: np.ndarray, lanes: int) -> list[tuple[int, int]]:
    """(first output, outputs) of each block, none of two groups."""
    return [(first, min(lanes, b - first)) for a, b in runs(group) for first in range(a, b, lanes)]


def _chunks(rows: np.ndarray, most: int, tile: int) -> list[np.ndarray]:
    """The numbers of pixels that are computed together: whole rows or even parts of one, in one tile where `tile` is not 0.

    >>> [len(c) for c in _chunks(np.arange(3)[:, None] * 8 + np.arange(7), 14, 0)]
    [14, 7]
    >>> [len(c) for c in _chunks(np.arange(28)[None], 14, 16)]
    [14, 2, 12]
    """
    width = rows.shape[1]
    if width > most:
        found = [part for row in rows for part in np.array_split(row, -(-width // most))]
    else:
        found = [rows[a : a + most // width].reshape(-1) for a in range(0, len(rows), most // width)]
    if tile:
        found = [part for chunk in found for part in np.split(chunk, np.flatnonzero(np.diff(chunk // tile)) + 1)]
    return found


def _turn(lanes: int) -> str:
    """C that turns a square of values in registers; each step swaps squares of half the size."""
    steps = []
    for step in (2**n for n in range(lanes.bit_length() - 1)):
        low = ", ".join(str(lane if not lane & step else lanes + lane - step) for lane in range(lanes))
        high = ", ".join(str(lane + step if not lane & step else lanes + lane) for lane in range(lanes))
        steps.append(
            f"""    _Pragma("GCC unroll 16") for (long i = 0; i < VL; i++)
        if (!(i & {step})) {{
            const vf a = r[i], b = r[i + {step}];
            r[i] = PICK(vi, a, b, {low});
            r[i + {step}] = PICK(vi, a, b, {high});
        }}"""
        )
    body = "\n".join(steps)
    return f"""
// r[i][j] becomes r[j][i]
static inline void turn(vf r[VL]) {{
{body}
}}
"""


def _kernel(name: str, pattern: Sequence[int], epilogue: str, others: int) -> str:
    """A function for pixels at these distances from the first."""
    rests = range(1, others + 1)
    arguments = "".join(f", const float *r{i}, long r{i}_channel" for i in rests)
    finish = []
    for start, stop in _runs(pattern):
        place = f"o * y_channel + {pattern[start]} + j"
        value = epilogue.format(f"sums[o % VL][{start} + j]", *(f"r{i}[o * r{i}_channel + {pattern[start]} + j]" for i in rests))
        finish.append(f'            _Pragma("GCC ivdep") for (long j = 0; j < {stop - start}; j++) y[{place}] = {value};')
    body = "\n".join(finish)
    ends = [pattern[end] for start, stop in _runs(pattern) for end in (start, stop - 1)]
    ahead = "\n".join(f"        __builtin_prefetch(y + o * y_channel + {at}, 1);" for at in ends)
    products = "\n".join(f"        {{ const vf c = every(p[{at}]); OUTPUTS a[v][{j}] += w[v] * c; }}" for j, at in enumerate(pattern))
    return f"""
#define OUTPUTS _Pragma("GCC unroll 16") for (long v = 0; v < {_VECTORS}; v++)
// {len(pattern)} pixels of {_VECTORS} vectors of outputs, of which `outputs` are there
static __attribute__((noinline)) void {name}(const float *restrict x, float *y, long y_channel, const float *bias,
    const int32_t *offsets, const float *restrict weights, long columns, long outputs{arguments}) {{
    vf a[{_VECTORS}][{len(pattern)}];
    for (long o = 0; o < outputs; o++) {{  // what will be written, far from one output to the next
{ahead}
    }}
    OUTPUTS _Pragma("GCC unroll 16") for (long j = 0; j < {len(pattern)}; j++) a[v][j] = load(bias + v * VL);
    for (long k = 0; k < columns; k++, weights += {_VECTORS} * VL) {{
        const float *p = x + offsets[k];
        vf w[{_VECTORS}];
        OUTPUTS w[v] = load(weights + v * VL);
        OUTPUTS __builtin_prefetch((const char *)(weights + v * VL) + {_AHEAD}, 0, 2);
{products}
    }}
    _Pragma("GCC unroll 16") for (long v = 0; v < {_VECTORS}; v++) {{
        vf rows[VL] = {{{{0}}}};
        float sums[VL][VL];
        _Pragma("GCC unroll 16") for (long j = 0; j < {len(pattern)}; j++) rows[j] = a[v][j];
        turn(rows);
        memcpy(sums, rows, sizeof sums);
        const long stop = outputs < (v + 1) * VL ? outputs : (v + 1) * VL;
        for (long o = v * VL; o < stop; o++) {{
{body}
        }}
    }}
}}
#undef OUTPUTS
"""


def _runs(pattern: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges of neighbours that lie side by side.

    >>> _runs((0, 1, 2, 8, 9))
    [(0, 3), (3, 5)]
    """
    cuts = [0, *(np.flatnonzero(np.diff(pattern) != 1) + 1).tolist(), len(pattern)]
    return list(itertools.pairwise(cuts))
