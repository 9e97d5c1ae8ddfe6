"""Maps in lanes: brought in and out, shuffled, padded; pooled; combined element by element; averaged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from attar.compiler.ir import C_TYPES, Array, Buffer, Lanes, Op, constant, lanes
from attar.compiler.kernels.second import SECOND

__all__ = [
    "RUN",
    "ByTiles",
    "Line",
    "MapLanes",
    "Mean",
    "Move",
    "Part",
    "Pool",
    "channel_stride",
    "clean",
    "from_lanes",
    "mover",
    "pixel_by_pixel",
    "pointer",
    "share_tiles",
    "tile_loop",
]

Pointer = Callable[[Buffer], str]


@dataclass(frozen=True)
class Line:
    """Along one dimension: element `start + j * step` is written from element `source + j * source_step`, for `count` values of j."""

    count: int
    source: int = 0
    source_step: int = 1
    start: int = 0
    step: int = 1


@dataclass(frozen=True)
class Part:
    """A block of channels to move: `lines` say which pixels, a line for each dimension but the channels'."""

    channels: int
    lines: tuple[Line, ...]
    source: int = 0
    start: int = 0


@dataclass(frozen=True, eq=False)
class Move(Op):
    """Copies pixels between maps of any layout; in a planar output, all that is no pixel becomes `fill`."""

    parts: tuple[Part, ...]
    fill: float | None = 0.0

    verb: ClassVar[str] = "move"  # begins the names of its C functions
    kind: ClassVar[str] = "float"  # C's type of what is copied

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Parts, by number, of which the first reads the even and the other the odd pixels of the same rows: copied in one go."""
        x = self.inputs[0]
        if isinstance(x, Array) and x.strides[-1] != 1:
            return []
        every = itertools.permutations(range(len(self.parts)), 2)
        return [(even, odd) for even, odd in every if _side_by_side(self.parts[even], self.parts[odd])]

    @cached_property
    def runs(self) -> dict[int, tuple[int, int, Array]]:
        """For each part of no pair (step read, step written, an array of runs: offset read, offset written, length), for one channel."""
        paired = set(itertools.chain(*self.pairs))
        return {n: _runs(self.inputs[0], self.output, part.lines) for n, part in enumerate(self.parts) if n not in paired}

    @cached_property
    def twins(self) -> dict[tuple[int, int], Array]:
        """For each pair an array of runs in twos: of even pixels, and of the odd ones right of them."""
        return {pair: _twins(self.inputs[0], self.output, *(self.parts[n].lines for n in pair)) for pair in self.pairs}

    @cached_property
    def gaps(self) -> dict[tuple[int, int], Array]:
        """(first channel, channels) written -> runs (offset, length) that no part writes there, up to the next channel."""
        if self.fill is None or not isinstance(self.output, Lanes):
            return {}
        y, found = self.output, {}
        for block in {(part.start, part.channels) for part in self.parts}:
            lines = [part.lines for part in self.parts if (part.start, part.channels) == block]
            written = np.concatenate([_addresses(y, [(line.start, line.step, line.count) for line in one]) for one in lines])
            found[block] = y.outside(written)[0]
        return found

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        tables = (*(runs for _, _, runs in self.runs.values()), *self.twins.values(), *self.gaps.values())
        return tuple(table.buffer for table in tables)

    def functions(self) -> dict[str, str]:
        return {"run": RUN, "clean": CLEAN} | self._movers()

    def _movers(self) -> dict[str, str]:
        """The C functions that copy."""
        steps = {(step, out_step) for step, out_step, _ in self.runs.values()}
        found = {self._name(*one): self._text(*one) for one in sorted(steps)}
        if self.pairs:
            found[self._name("even", "odd")] = self._pair_text()
        return {"second": SECOND} | found if self.pairs or (2, 1) in steps else found

    def source(self, at: Pointer) -> str:
        return f"{self.moved(at)}\n{self.filled(at)}"

    def moved(self, at: Pointer) -> str:
        """C that copies the pixels."""
        return "\n".join([*(self._call(at, number) for number in self.runs), *(self._pair_call(at, pair) for pair in self.pairs)])

    def filled(self, at: Pointer) -> str:
        """C that fills what is no pixel."""
        y, lines = self.output, []
        clean, fill = self._cleaner
        for number, ((first, channels), runs) in enumerate(self.gaps.items()):
            share = f"{channels} * part / parts, {channels} * (part + 1) / parts"
            start = pointer(y, at, first * y.channel_stride)
            lines.append(f"{clean}({start}, {y.channel_stride}, {at(runs.buffer)}, 0, {runs.shape[0]}, {share}, {fill});")
            if number == 0 and not y.buffer.tiled and y.space.before:
                begin = pointer(y, at, -y.space.before)
                lines.append(f"if (part == 0) {clean}_row({begin}, {y.space.before}, {fill});")
        return "\n".join(lines)

    @property
    def _cleaner(self) -> tuple[str, str]:
        """The C function that fills, and with what."""
        return "clean", "0" if self.fill is None else _number(self.fill)

    def _name(self, step: int | str, out_step: int | str) -> str:
        return f"{self.verb}_{step}_{out_step}".replace("-", "m")

    def _text(self, step: int, out_step: int) -> str:
        """A C function that copies runs of one part."""
        copy = "second((const word *)a, (word *)b, n);"
        if (step, out_step) != (2, 1):
            copy = f"for (long i = 0; i < n; i++) b[i * {out_step}] = a[i * {step}];"
        return mover(
            f"copies runs of pixels, which lie {step} apart where they are read and {out_step} where they are written",
            f"{self._name(step, out_step)}(\n"
            f"    const {self.kind} *x, long x_channel, {self.kind} *y, long y_channel, const run *table, long runs, long channels",
            f"""const {self.kind} *restrict a = x + c * x_channel + table[r].from;
            {self.kind} *restrict b = y + c * y_channel + table[r].to;
            const long n = table[r].length;
            {_AHEAD.format(f"{step} * n") if step in (1, 2) else ""}
            {copy}""",
        )

    def _pair_text(self) -> str:
        """A C function that copies runs of two parts, in one go where they lie side by side."""
        return mover(
            "copies runs of even pixels to y and of the odd ones right of them to z",
            f"{self._name('even', 'odd')}(\n"
            f"    const {self.kind} *x, long x_channel, {self.kind} *y, {self.kind} *z, long y_channel,"
            " const run *table, long runs, long channels",
            f"""const run even = table[2 * r], odd = table[2 * r + 1];
            const {self.kind} *a = x + c * x_channel + even.from, *right = x + c * x_channel + odd.from;
            {self.kind} *b = y + c * y_channel + even.to, *d = z + c * y_channel + odd.to;
            const long n = odd.from == even.from + 1 ? odd.length : 0;
            {_AHEAD.format("2 * even.length")}
            even_odd((const word *)a, (word *)b, (word *)d, n);
            for (long i = n; i < even.length; i++) b[i] = a[2 * i];
            for (long i = n; i < odd.length; i++) d[i] = right[2 * i];""",
        )

    def _call(self, at: Pointer, number: int) -> str:
        """C that moves one part."""
        step, out_step, runs = self.runs[number]
        x, y, part = self.inputs[0], self.output, self.parts[number]
        a = f"{pointer(x, at, part.source * channel_stride(x))}, {channel_stride(x)}"
        b = f"{pointer(y, at, part.start * channel_stride(y))}, {channel_stride(y)}"
        numbers = "".join(f", {number}" for number in self._numbers(number))
        return f"{self._name(step, out_step)}({a}, {b}, (const run *){at(runs.buffer)}, {runs.shape[0]}{numbers}, part, parts);"

    def _pair_call(self, at: Pointer, pair: tuple[int, int]) -> str:
        """C that moves two parts."""
        x, y, runs = self.inputs[0], self.output, self.twins[pair]
        even, odd = (self.parts[n] for n in pair)
        a = f"{pointer(x, at, even.source * channel_stride(x))}, {channel_stride(x)}"
        b = ", ".join(pointer(y, at, part.start * channel_stride(y)) for part in (even, odd))
        table = f"(const run *){at(runs.buffer)}, {runs.shape[0] // 2}"
        return f"{self._name('even', 'odd')}({a}, {b}, {channel_stride(y)}, {table}, {even.channels}, part, parts);"

    def _numbers(self, part: int) -> tuple:
        """What is given to the C function of one part besides places and runs."""
        return (self.parts[part].channels,)


def from_lanes(value: Lanes, output: Array) -> Move:
    """`value` copied to a dense array of its shape."""
    return Move(output, (value,), (Part(value.channels, tuple(Line(n) for n in value.sizes)),), None)


def channel_stride(value: Array | Lanes) -> int:
    return value.channel_stride if isinstance(value, Lanes) else value.strides[1]


def _addresses(value: Array | Lanes, lines: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Offsets of the pixels (start, step, count along each dimension) of one channel, in row-major order."""
    steps = value.space.steps if isinstance(value, Lanes) else (value.strides[0], *value.strides[2:])
    numbers = np.zeros((), np.int64)
    for (start, step, count), distance in zip(lines, steps, strict=True):
        numbers = numbers[..., None] + (start + np.arange(count) * step) * distance
    return (value.at(numbers) if isinstance(value, Lanes) else numbers).reshape(-1)


def _runs(source: Array | Lanes, output: Array | Lanes, lines: Sequence[Line]) -> tuple[int, int, Array]:
    a = _addresses(source, [(line.source, line.source_step, line.count) for line in lines])
    b = _addresses(output, [(line.start, line.step, line.count) for line in lines])
    step, out_step = _usual(a), _usual(b)
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(a) != step) | (np.diff(b) != out_step)])) if a.size else np.empty(0, np.int64)
    lengths = np.diff(np.concatenate([starts, [a.size]]))
    table = np.stack([a[starts], b[starts], lengths], 1).astype(np.int32)
    return step, out_step, constant(table)


def _side_by_side(even: Part, odd: Part) -> bool:
    """Whether of two parts one reads the even and the other the odd pixels of the same rows, and both write pixels in a row."""
    (*rows, first), (*others, second) = even.lines, odd.lines
    right = replace(first, source=first.source + 1, count=second.count)
    same = (even.channels, even.source, rows, right) == (odd.channels, odd.source, others, second)
    some = all(line.count for line in (*even.lines, *odd.lines))
    return same and some and first.source_step == 2 and first.step == 1 and second.count <= first.count


def _twins(source: Array | Lanes, output: Array | Lanes, even: Sequence[Line], odd: Sequence[Line]) -> Array:
    """The runs of two parts that lie side by side, in twos; the last even pixels of rows of an odd length have none right of them."""
    (a, b), (c, d) = (
        (
            _addresses(source, [(line.source, line.source_step, line.count) for line in lines]),
            _addresses(output, [(line.start, line.step, line.count) for line in lines]),
        )
        for lines in (even, odd)
    )
    paired = np.arange(a.size) % even[-1].count < odd[-1].count
    right, to = a + 1, b.copy()
    right[paired], to[paired] = c, d
    starts = np.flatnonzero(
        np.concatenate([[True], (np.diff(a) != 2) | (np.diff(right) != 2) | (np.diff(b) != 1) | (np.diff(to) != 1) | np.diff(paired)])
    )
    ends = np.append(starts[1:], a.size)
    lengths, before = ends - starts, np.concatenate([[0], np.cumsum(paired)])
    table = np.stack([a[starts], b[starts], lengths, right[starts], to[starts], before[ends] - before[starts]], 1)
    return constant(table.reshape(-1, 3).astype(np.int32))


def _usual(offsets: np.ndarray) -> int:
    """The commonest distance of neighbours."""
    if offsets.size < 2:
        return 1
    values, counts = np.unique(np.diff(offsets), return_counts=True)
    return int(values[counts.argmax()])


# the next channel's run, which in a tiled map lies next to this one; processors do not guess it, as runs of a channel lie far apart
_AHEAD = "for (long i = 0; i < {}; i += 64 / sizeof *a) __builtin_prefetch(a + x_channel + i);"

RUN = "\n// pixels that lie evenly where they are read and where they are written\ntypedef struct { int32_t from, to, length; } run;\n"


def mover(about: str, head: str, body: str) -> str:
    """A C function that does `body` for each run r of each channel c.

    Channels come one after the other, in tiled maps too: what a channel's runs leave of a line of the cache the next runs take.
    """
    return f"""
// {about}, in each channel
static __attribute__((noinline)) void {head}, long part, long parts) {{
    const long few = channels < parts;  // fewer channels than threads: they share runs instead
    const long first = few ? runs * part / parts : 0, last = few ? runs * (part + 1) / parts : runs;
    const long end = few ? channels : channels * (part + 1) / parts;
    for (long c = few ? 0 : channels * part / parts; c < end; c++)
        for (long r = first; r < last; r++) {{
            {body}
        }}
}}
"""


# ---- padding

CLEAN = """
static inline void clean_row(float *restrict y, long n, float value) {
    if (n < 5) {  // as between rows, mostly
        y[0] = y[n - 1] = value;
        if (n > 2) y[1] = y[n - 2] = value;
        return;
    }
    for (long i = 0; i < n; i++) y[i] = value;
}
// sets what is no pixel to `value`, in runs [first, last) of (offset, length) from a channel's start, in channels [lo, hi)
static __attribute__((noinline)) void clean(
    float *y, long channel, const int32_t *runs, long first, long last, long lo, long hi, float value) {
    for (long c = lo; c < hi; c++)
        for (long r = first; r < last; r++) clean_row(y + c * channel + runs[2 * r], runs[2 * r + 1], value);
}
"""


def clean(value: Lanes, at: Pointer, channels: str) -> str:
    """C that makes the padding of one tile zero, for channels "from, to"."""
    runs, index = value.padding
    which = f"({at(index.buffer)})[tile], ({at(index.buffer)})[tile + 1]"
    text = f"clean({pointer(value, at)}, {value.channel_stride}, {at(runs.buffer)}, {which}, {channels}, 0);"
    if value.buffer.tiled or not value.space.before:
        return text
    lo, hi = channels.split(", ")
    return f"{text} if (tile == 0 && {lo} == 0 && {hi} > 0) clean_row({pointer(value, at, -value.space.before)}, {value.space.before}, 0);"


def pointer(value: Array | Lanes, at: Pointer, extra: int = 0) -> str:
    """A C expression: a pointer to the first pixel of the first channel, `extra` elements on."""
    offset = value.offset + extra
    return f"{at(value.buffer)} + {offset}" if offset else at(value.buffer)


def _number(value: float) -> str:
    if value == float("-inf"):
        return "-INFINITY"
    return f"{value!r}f"


def share_tiles(tiles: int, what: str) -> str:
    """C: the tiles [first, end) of this thread, and which part p of n of the rest, `what`, is its own."""
    return f"""const long few = {tiles} < parts;  // fewer tiles than threads: they share {what} instead
const long first = few ? 0 : {tiles} * part / parts, end = few ? {tiles} : {tiles} * (part + 1) / parts;
const long p = few ? part : 0, n = few ? parts : 1;"""


class ByTiles(Op):
    """An op that makes its output tile by tile, each of what its inputs have at the tile's pixels, or near them where it is shifted."""

    shares = "channels"  # what threads share where there are fewer tiles than threads

    def source(self, at: Pointer) -> str:
        return f"{share_tiles(self.output.space.tiles, self.shares)}\n{self.over_tiles(at)}"

    def over_tiles(self, at: Pointer) -> str:
        """C that makes the tiles [first, end), of them part `p` of `n` of `shares`."""
        raise NotImplementedError


def tile_loop(value: Lanes, inside: str) -> str:
    """C that runs `inside` for each of the tiles [first, end), and channels from..to, part `p` of `n`, of `value`."""
    return f"""const long from = {value.channels} * p / n, to = {value.channels} * (p + 1) / n;
for (long tile = first; tile < end; tile++) {{
{inside}
}}"""


def pixel_by_pixel(inputs: Sequence[Array | Lanes], shape: tuple[int, ...]) -> tuple[Lanes, tuple[Array | Lanes, ...]] | None:
    """The output and inputs of a map over lanes; None unless each input is lanes of this shape, or has one value for each channel."""
    maps = [value for value in inputs if isinstance(value, Lanes)]
    if not maps or any(value.shape != shape for value in maps):
        return None
    channels = [(1,) * (d == 0) + (shape[1],) + (1,) * (len(shape) - 2) for d in (0, 1)]
    fixed = [value for value in inputs if isinstance(value, Array)]
    if any(value.shape not in channels and not set(value.shape) <= {1} for value in fixed):
        return None
    for value in maps[1:]:
        maps[0].space.merge(value.space)
    given = tuple(_by_channel(value, len(shape)) if isinstance(value, Array) else value for value in inputs)
    return lanes(shape[1], maps[0].sizes, maps[0].space), given


def _by_channel(value: Array, dims: int) -> Array:
    lead = dims - len(value.shape)
    return Array(value.buffer, (1,) * lead + value.shape, (0,) * lead + value.strides, value.offset)


@dataclass(frozen=True, eq=False)
class MapLanes(ByTiles):
    """`output = expression(inputs)`, pixel by pixel: C in which {0}, {1} ... are Lanes of the output's space, or arrays of one
    value, or of one for each channel."""

    expression: str

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        return tuple(value.buffer for value in self.output.padding) if self.output.buffer.clean else ()

    def functions(self) -> dict[str, str]:
        return {"clean": CLEAN} if self.output.buffer.clean else {}

    def over_tiles(self, at: Pointer) -> str:
        y = self.output
        rows, values = [], []
        for i, x in enumerate(self.inputs):
            kind = C_TYPES[x.dtype]
            if isinstance(x, Lanes):
                rows.append(f"const float *restrict x{i} = {pointer(x, at)} + tile * {x.tile_stride} + c * {x.channel_stride};")
                values.append(f"x{i}[i]")
            else:
                stride = x.strides[1] if x.size > 1 else 0
                rows.append(f"const {kind} x{i} = ({at(x.buffer)})[{x.offset}{f' + c * {stride}' if stride else ''}];")
                values.append(f"x{i}")
        rows.append(f"float *y = {pointer(y, at)} + tile * {y.tile_stride} + c * {y.channel_stride};")
        body = "\n            ".join(rows)
        inside = f"""    for (long c = from; c < to; c++) {{
            {body}
            for (long i = 0; i < {y.space.tile}; i++) y[i] = {self.expression.format(*values)};
    }}"""
        if y.buffer.clean:
            inside += "\n    " + clean(y, at, "from, to")
        return tile_loop(y, inside)


@dataclass(frozen=True, eq=False)
class Pool(ByTiles):
    """The largest, or the mean, of the pixels at `shifts` from each pixel, in each channel.

    `shifts` has for each term its block of channels (a phase of a strided pooling) and its distance along each dimension;
    what pads the input changes no result. `counts` has the size of each window along each dimension, for means. Where `apart`,
    the input holds the phases of one channel only, that which is computed.
    """

    kind: str
    shifts: tuple[tuple[int, ...], ...]
    counts: tuple[np.ndarray, ...] = ()
    apart: bool = field(default=False, kw_only=True)

    @cached_property
    def scale(self) -> Array | float:
        """What a sum is multiplied by: a number, or where windows differ a constant for each pixel."""
        if all((count == count[0]).all() for count in self.counts):
            return 1.0 / float(np.prod([count[0] for count in self.counts]))
        plane, whole = np.zeros(self.output.space.tiles * self.output.space.tile, np.float32), np.ones(1)
        for count in self.counts:
            whole = np.multiply.outer(whole, count)
        plane[self.output.pixels()] = 1.0 / whole
        return constant(plane)

    @property
    def shifted(self) -> bool:
        return True

    @property
    def offsets(self) -> list[int]:
        """Where each term lies, from the pixel that is written."""
        x, steps = self.inputs[0], self.inputs[0].space.steps
        pixels = [sum(s * step for s, step in zip(shift, steps, strict=True)) for _, *shift in self.shifts]
        channels = 1 if self.apart else self.output.channels
        return [block * channels * x.channel_stride + pixel for (block, *_), pixel in zip(self.shifts, pixels, strict=True)]

    @property
    def reads(self) -> tuple[int, int]:
        x = self.inputs[0]
        return min(self.offsets), max(self.offsets) + (self.output.channels - 1) * x.channel_stride

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        padding = self.output.padding if self.output.buffer.clean else ()
        scale = (self.scale,) if self.counts and isinstance(self.scale, Array) else ()
        return tuple(value.buffer for value in (*padding, *scale))

    def functions(self) -> dict[str, str]:
        return {"clean": CLEAN} if self.output.buffer.clean else {}

    def over_tiles(self, at: Pointer) -> str:
        x, y = self.inputs[0], self.output
        terms = [f"x[i{f' + {o}' if o > 0 else f' - {-o}' if o else ''}]" for o in self.offsets]
        if self.kind == "max":
            value = terms[0]
            lines = [f"float v = {value};"] + [f"{{ const float w = {t}; v = w > v || w != w ? w : v; }}" for t in terms[1:]]
        else:
            scale = f"({at(self.scale.buffer)})[tile * {x.space.tile} + i]" if isinstance(self.scale, Array) else f"{self.scale!r}f"
            lines = [f"const float v = ({' + '.join(terms)}) * {scale};"]
        body = "\n                ".join(lines)
        inside = f"""    for (long c = from; c < to; c++) {{
            const float *x = {pointer(x, at)} + tile * {x.tile_stride}{"" if self.apart else f" + c * {x.channel_stride}"};
            float *restrict y = {pointer(y, at)} + tile * {y.tile_stride} + c * {y.channel_stride};
            for (long i = 0; i < {y.space.tile}; i++) {{
                {body}
                y[i] = v;
            }}
    }}"""
        if y.buffer.clean:
            inside += "\n    " + clean(y, at, "from, to")
        return tile_loop(y, inside)


@dataclass(frozen=True, eq=False)
class Mean(Op):
    """The mean of each channel over its pixels, of one sample: from a clean map, whose padding adds nothing, to an array (1, C, ...)."""

    @property
    def reads_padding(self) -> bool:
        return True

    def source(self, at: Pointer) -> str:
        x, y = self.inputs[0], self.output
        number = 1.0 / float(np.prod(x.sizes))
        return f"""SPLIT(lo, hi, {x.channels})
for (long c = lo; c < hi; c++) {{
    float sums[4] = {{0}};
    for (long tile = 0; tile < {x.space.tiles}; tile++) {{
        const float *x = {pointer(x, at)} + tile * {x.tile_stride} + c * {x.channel_stride};
        for (long i = 0; i < {x.space.tile // 4 * 4}; i += 4)
            for (long j = 0; j < 4; j++) sums[j] += x[i + j];
    }}
    float sum = 0;
    for (long j = 0; j < 4; j++) sum += sums[j];
    ({at(y.buffer)})[{y.offset} + c] = sum * {number!r}f;
}}"""
