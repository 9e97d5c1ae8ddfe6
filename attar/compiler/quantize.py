"""Inference in bytes: which values of a program are int8, by what scales, and the program that computes with them.

`observe` runs the float32 program on calibration samples and notes the range of each map. `quantize` gives each convolution
that gains from it weights of 8 bits, by output channel, and an input of bytes; what lies between such convolutions stays
bytes. All else stays float32, and the program's notes say why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.compiler.gains import losers
from attar.compiler.ir import Array, LaneBuffer, Lanes, Op, Program, live
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.convolution8 import Convolution8
from attar.compiler.kernels.depthwise8 import Depthwise8, excess, order
from attar.compiler.kernels.lanes import Line, Move, Part, Pool
from attar.compiler.kernels.taps8 import PAIR, pairs
from attar.compiler.kernels.words import Affine, MoveWords, Pack, PoolWords, Unpack
from attar.compiler.run import Engine
from attar.compiler.target import Target
from attar.errors import AttarError

__all__ = ["Ranges", "observe", "quantize"]

Ranges = Mapping[LaneBuffer, tuple[float, float]]

_FEW = 8  # pixels: a convolution of fewer gains nothing


def observe(program: Program, engine: Engine, arguments: Sequence[Any], *, percentile: float = 100.0) -> Ranges:
    """The range of every map over the samples: the smallest and largest of its pixels' values.

    `engine` is what `program`, as it was planned, was built to; `arguments` are the network's input tensors, samples along their
    first size. With a `percentile` p below 100, a sample's range holds all but the outer 100 - p percent of its values at
    either end, lest one stray value make all steps coarse; the samples' outermost ranges count.

    Raises AttarError for a percentile outside (50, 100], or values that are not finite.
    """
    if not 50 < percentile <= 100:
        raise AttarError(f"percentile must be in (50, 100], got {percentile}: it is the share of values that a range holds, 100 for all")
    maps = {step: op.output for step, op in enumerate(program.ops) if isinstance(op.output, Lanes) and op.output.dtype == "float32"}
    places = {step: value.at(value.pixels().reshape(-1)) for step, value in maps.items()}
    ranges: dict[LaneBuffer, tuple[float, float]] = {}

    def seen(step: int, arena: np.ndarray) -> None:
        if step not in maps:
            return
        value = maps[step]
        memory = arena[value.buffer.place :][: value.buffer.bytes].view(np.float32)
        rows = value.offset + np.arange(value.channels) * value.channel_stride
        values = memory[rows[:, None] + places[step]]
        values = values[values != -np.inf]  # the padding of a pooling
        if not np.isfinite(values).all():
            raise AttarError(f"a value of the calibration samples is not finite after {program.ops[step]}: int8 has no range for it")
        low, high = _range(values, percentile)
        before = ranges.get(value.buffer, (0.0, 0.0))
        ranges[value.buffer] = min(before[0], low), max(before[1], high)

    engine.watch(arguments, seen)
    return ranges


def _range(values: np.ndarray, percentile: float) -> tuple[float, float]:
    if not values.size:
        return 0.0, 0.0
    if percentile == 100:
        return float(values.min()), float(values.max())
    low, high = np.percentile(values, [100 - percentile, percentile])
    return float(low), float(high)


def quantize(program: Program, ranges: Ranges, target: Target, *, weigh: bool = True) -> Program:
    """The program in bytes where that gains by the costs of `gains`, float32 elsewhere; to be laid out anew.

    A map is bytes by its range, zero among them exactly; weights are symmetric, by output channel, of 8 bits, for AVX2
    as large as neighbouring products can be added in 16 bits. Without `weigh` all is bytes that can be.
    """
    return _Quantizer(program, ranges, target, weigh=weigh).program


@dataclass(frozen=True, eq=False)
class _Coded:
    """A map in words: its numbers, and its runs of channels (first channel, channels, first word)."""

    buffer: LaneBuffer
    affine: Affine
    blocks: tuple[tuple[int, int, int], ...]

    def slots(self) -> np.ndarray:
        """Where each channel is: 4 * word + byte."""
        return np.concatenate([4 * word + np.arange(count) for _, count, word in self.blocks])

    def words(self, parts: Sequence[Part]) -> list[int] | None:
        """The words at which the sources of these parts begin; None unless each begins with a word."""
        found = [self.word(part.source, part.channels) for part in parts]
        known = [word for word in found if word is not None]
        return known if len(known) == len(found) else None

    def word(self, first: int, channels: int) -> int | None:
        """The word at which these channels begin, where they lie one after the other from its first byte."""
        for start, count, word in self.blocks:
            if start <= first and first + channels <= start + count and (first - start) % 4 == 0:
                return word + (first - start) // 4
        return None


class _Quantizer:
    def __init__(self, program: Program, ranges: Ranges, target: Target, *, weigh: bool) -> None:
        self.source, self.ranges, self.target = program, ranges, target
        self.ops: list[Op] = []
        self.notes: list[str] = []
        self.coded: dict[LaneBuffer, _Coded] = {}
        self.real = {a.buffer for op in program.ops for a in op.inputs if a.buffer.data is not None} | {a.buffer for a in program.inputs}
        writers: dict[Any, int] = {}
        for op in program.ops:
            writers[op.output.buffer] = writers.get(op.output.buffer, 0) + 1
        self.once = {buffer for buffer, count in writers.items() if count == 1}
        self.made = {op.output.buffer: op for op in program.ops}
        self.whole = {op: self.reason(op) for op in program.ops if isinstance(op, Convolution)}
        if weigh:
            self.whole |= losers(program, {op: self.products(op) for op, why in self.whole.items() if why is None}, target)
        self.wanted = self.wants()
        for op in program.ops:
            self.step(op)
        self.program = dataclasses.replace(program, ops=live(self.ops, program.outputs), notes=[*program.notes, *self.notes])

    def reason(self, op: Convolution) -> str | None:
        """Why a convolution stays float32; None where it becomes int8."""
        x, y = op.inputs[0], op.output
        if not all(_whole(value) for value in (x, y, *op.inputs[2:])) or {x.buffer, y.buffer} - self.once:
            return "it reads or writes a part of a map"
        if {x.buffer, y.buffer} - set(self.ranges):
            return "no range of its values was observed"
        if np.prod(y.sizes) < _FEW:
            return "it has few pixels"
        if op.inputs[1].data is None:
            return "its bias is computed"
        if _own_bytes(op, self.slots(x)):
            return None
        if op.weight.shape[1] < 2 * _columns(op, self.slots(x))[1].shape[1]:
            return "a group reads one channel of a word" if len(op.channel) > 1 else "it reads one channel"
        return None

    def products(self, op: Convolution) -> int:
        """Columns of words in which an output has a weight, over all outputs; none for depthwise ones."""
        slots = self.slots(op.inputs[0])
        if _own_bytes(op, slots):
            return 0
        columns = _columns(op, slots)
        return int(np.count_nonzero(_by_word(op, columns).any(-1)))

    def slots(self, value: Lanes) -> np.ndarray:
        """Where each channel of a map will be in words."""
        made = self.made.get(value.buffer)
        blocks = _blocks(made.parts) if type(made) is Move else None
        return _Coded(value.buffer, Affine(1.0, 0), blocks or ((0, value.channels, 0),)).slots()

    def wants(self) -> set[LaneBuffer]:
        """Maps that somebody reads as bytes."""
        wanted: set[LaneBuffer] = set()
        for op in reversed(self.source.ops):
            if op in self.whole and self.whole[op] is None:
                wanted.add(op.inputs[0].buffer)
                wanted |= {side.buffer for side in op.inputs[2:] if isinstance(self.made[side.buffer], Convolution)}
            elif op.output.buffer in wanted and (_is_max(op) or type(op) is Move) and isinstance(op.inputs[0], Lanes):
                wanted.add(op.inputs[0].buffer)
        return wanted

    # ---- one op

    def step(self, op: Op) -> None:
        if op in self.whole:
            if self.whole[op] is None and self.convolution(op):
                return
            self.notes.append(f"float32: {op}: {self.whole[op]}")
        elif (isinstance(op, Pool) and self.pool(op)) or (type(op) is Move and self.move(op)):
            return
        for value in op.inputs:
            if isinstance(value, Lanes):
                self.as_real(value)
        self.add(dataclasses.replace(op, output=_fresh(op.output), inputs=tuple(_fresh(v) for v in op.inputs)))

    def add(self, op: Op) -> None:
        self.ops.append(op)
        if not isinstance(op.output, Lanes) or op.output.dtype == "float32":
            self.real.add(op.output.buffer)

    def convolution(self, op: Convolution) -> bool:
        x, _, *others = op.inputs
        coded = self.as_bytes(x)
        made = _depthwise if _own_bytes(op, coded.slots()) else _dense
        weight, scale, begin, about = made(op, coded, self.target)
        most = 255 * np.abs(weight.astype(np.int64)).sum((1, 2)) + np.abs(begin)
        if most.max(initial=0) >= 2**31:
            self.whole[op] = "its sums may not fit 32 bits"
            return False
        sides, maps = [], []
        for side in others:
            one = self.coded.get(side.buffer)
            sides.append(None if one is None else one.affine)
            maps.append(self.as_real(side) if one is None else _words(one, side))
        y, affine = op.output, None
        if y.buffer in self.wanted:
            affine = Affine.between(*self.ranges[y.buffer])
            output = _words(self.code(y, affine), y)
        else:
            output = _fresh(y)
        inputs, begin = (_words(coded, x), *maps), begin.astype(np.int32)
        kind = Depthwise8 if made is _depthwise else Convolution8
        self.add(kind(output, inputs, weight, *about, begin, scale, affine, tuple(sides), op.epilogue))
        return True

    def pool(self, op: Pool) -> bool:
        """The largest of bytes is a byte of the same numbers; False where float32 is at hand or asked for."""
        x, y = op.inputs[0], op.output
        if not _is_max(op) or not (_whole(x) and _whole(y)) or y.buffer not in self.once:
            return False
        if not (x.buffer in self.coded or y.buffer in self.wanted):
            return False
        if x.buffer not in self.coded and x.buffer not in self.ranges:
            return False
        coded = self.as_bytes(x)
        blocks = 1 + max(block for block, *_ in op.shifts)
        if len(coded.blocks) != blocks and any(coded.word(n * y.channels, y.channels) != n * -(-y.channels // 4) for n in range(blocks)):
            return False
        made = self.code(y, coded.affine)
        self.add(PoolWords(_words(made, y), (_words(coded, x),), op.kind, op.shifts, op.counts, made.affine.word))
        return True

    def move(self, op: Move) -> bool:
        x, y = op.inputs[0], op.output
        coded = self.coded.get(x.buffer) if isinstance(x, Lanes) and _whole(x) else None
        if isinstance(y, Array):
            return coded is not None and self.unpack(op, coded)
        if not _whole(y) or y.buffer not in self.once or y.buffer not in self.wanted:
            return False
        blocks = _blocks(op.parts)
        if blocks is None:
            return False
        start = {first: word for first, _, word in blocks}
        if coded is not None:
            found = coded.words(op.parts)
            if found is None:
                return False
            parts = tuple(Part(-(-p.channels // 4), p.lines, word, start[p.start]) for p, word in zip(op.parts, found, strict=True))
            made = self.code(y, coded.affine, blocks)
            self.add(MoveWords(_words(made, y), (_words(coded, x),), parts, _fill(op, made.affine)))
            return True
        if y.buffer not in self.ranges:
            return False
        made = self.code(y, Affine.between(*self.ranges[y.buffer]), blocks)
        value = self.as_real(x) if isinstance(x, Lanes) else x
        parts = tuple(Part(-(-p.channels // 4), p.lines, p.source, start[p.start]) for p in op.parts)
        counts = tuple(p.channels for p in op.parts)
        self.add(Pack(_words(made, y), (value,), parts, _fill(op, made.affine), made.affine, counts))
        return True

    def unpack(self, op: Move, coded: _Coded) -> bool:
        found = coded.words(op.parts)
        if found is None:
            return False
        parts = tuple(dataclasses.replace(part, source=word) for part, word in zip(op.parts, found, strict=True))
        self.add(Unpack(op.output, (_words(coded, op.inputs[0]),), parts, op.fill, coded.affine))
        return True

    # ---- a value in the form that is asked for

    def code(self, value: Lanes, affine: Affine, blocks: tuple[tuple[int, int, int], ...] = ()) -> _Coded:
        """Words for a map, in its space."""
        blocks = blocks or ((0, value.buffer.channels, 0),)
        words = max(word + -(-count // 4) for _, count, word in blocks)
        made = _Coded(LaneBuffer("int32", 0, channels=words, space=value.buffer.space), affine, blocks)
        self.coded[value.buffer] = made
        return made

    def as_bytes(self, value: Lanes) -> _Coded:
        """The map in words, packed here where nobody has."""
        if value.buffer not in self.coded:
            made = self.code(value, Affine.between(*self.ranges[value.buffer]))
            parts = (Part(made.buffer.channels, tuple(Line(n) for n in value.sizes)),)
            real = _fresh(value)
            self.add(Pack(_words(made, value), (real,), parts, made.affine.word, made.affine, (value.channels,)))
        return self.coded[value.buffer]

    def as_real(self, value: Lanes) -> Lanes:
        """The map in float32, unpacked here where nobody has."""
        if value.buffer not in self.real:
            coded = self.coded[value.buffer]
            whole = Lanes(value.buffer, value.buffer.channels, value.sizes)
            lines = tuple(Line(n) for n in value.sizes)
            parts = tuple(Part(count, lines, word, first) for first, count, word in coded.blocks)
            self.add(Unpack(whole, (_words(coded, value),), parts, 0.0, coded.affine))
        return _fresh(value)


def _whole(value: Any) -> bool:
    return isinstance(value, Lanes) and value.first == 0 and value.channels == value.buffer.channels and value.dtype == "float32"


def _is_max(op: Op) -> bool:
    return type(op) is Pool and op.kind == "max"


def _fresh(value: Any) -> Any:
    """The value without what was derived from its layout, which will be another."""
    return Lanes(value.buffer, value.channels, value.sizes, value.first) if isinstance(value, Lanes) else value


def _words(coded: _Coded, value: Lanes) -> Lanes:
    return Lanes(coded.buffer, coded.buffer.channels, value.sizes)


def _fill(op: Move, affine: Affine) -> int:
    """What pads words: the bytes for the smallest value, or for zero."""
    return 0 if op.fill == float("-inf") else affine.word


def _blocks(parts: Sequence[Part]) -> tuple[tuple[int, int, int], ...] | None:
    """(first channel, channels, first word) of what the parts write, each block from a word of its own; None where blocks overlap."""
    spans = sorted({(part.start, part.channels) for part in parts})
    found, word, end = [], 0, 0
    for start, channels in spans:
        if start != end:
            return None
        found.append((start, channels, word))
        word, end = word + -(-channels // 4), start + channels
    return tuple(found)


def _columns(op: Convolution, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of channels as columns of words: for each group and column, column of words * 4 + byte; words; shifts.

    Groups may read different numbers of words: the shorter ones repeat their first, without weights.
    """
    _, tap = np.unique(op.shift, axis=0, return_inverse=True)
    taps = int(tap.max(initial=0)) + 1
    place = slots[op.channel]
    key = (place // 4) * taps + tap.reshape(-1)
    lists = [np.unique(row) for row in key]
    columns = max(len(one) for one in lists)
    held = np.stack([np.pad(one, (0, columns - len(one)), mode="constant", constant_values=one[0]) for one in lists])
    into = np.stack([np.searchsorted(one, row) for one, row in zip(lists, key, strict=True)]) * 4 + place % 4
    shifts = np.unique(op.shift, axis=0)
    return into, held // taps, shifts[held % taps]


def _own_bytes(op: Convolution, slots: np.ndarray) -> bool:
    """Whether each output sums one channel's taps, which lie in the byte that it will be itself, in words as far on as its own."""
    outputs = np.arange(len(op.weight))
    place = slots[op.channel]
    if len(op.channel) != len(outputs) or (op.group != outputs).any() or (place % 4 != outputs[:, None] % 4).any():
        return False
    return bool((place // 4 - outputs[:, None] // 4 == place[0] // 4).all())


# weights (outputs, columns of words, 4) of 8 bits; what a sum of each output counts in; the sums' first values; words, shifts, groups
Made = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]


def _dense(op: Convolution, coded: _Coded, target: Target) -> Made:
    columns = _columns(op, coded.slots())
    real = _by_word(op, columns)
    # both of a pair are rounded up at most: one more
    limit = pairs(real).max((1, 2)) / (PAIR - 1) if target.name == "avx2" else np.zeros(len(real))
    return *_whole_weights(op, real, limit, coded.affine), (*columns[1:], op.group)


def _by_word(op: Convolution, found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Weights (outputs, columns of words, 4)."""
    into, word, _ = found
    outputs, columns = len(op.weight), word.shape[1]
    where = into[op.group] + np.arange(outputs)[:, None] * (4 * columns)  # taps of a transposed convolution may meet at one place
    return np.bincount(where.reshape(-1), op.weight.reshape(-1), minlength=outputs * columns * 4).reshape(outputs, columns, 4)


def _depthwise(op: Convolution, coded: _Coded, target: Target) -> Made:
    outputs, byte = len(op.weight), np.arange(len(op.weight)) % 4
    taps = order(op.weight)
    real = np.zeros((outputs, len(taps), 4))
    real[np.arange(outputs), :, byte] = op.weight[:, taps]
    limit = excess(op.weight[:, taps].astype(np.float64), 0.5) if target.name == "avx2" else np.zeros(outputs)
    first = coded.slots()[op.channel[::4]][:, taps] // 4
    shift = np.broadcast_to(op.shift[taps], (*first.shape, op.shift.shape[1]))
    return *_whole_weights(op, real, limit, coded.affine), (first, shift, np.arange(outputs) // 4)


def _whole_weights(op: Convolution, real: np.ndarray, limit: np.ndarray, affine: Affine) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of at most 127, in steps of `limit` at least, and what follows from them."""
    largest = np.maximum(np.abs(real).max((1, 2)) / 127, limit)
    bias = op.inputs[1].data.reshape(-1).astype(np.float64)
    largest = np.maximum(largest, np.abs(bias) / (affine.scale * 2.0**30))
    step = np.where(largest > 0, largest, 1.0)
    weight = np.rint(real / step[:, None, None]).astype(np.int8)
    scale = (step * affine.scale).astype(np.float32)
    begin = np.rint(bias / scale.astype(np.float64)).astype(np.int64) - affine.zero * weight.astype(np.int64).sum((1, 2))
    return weight, scale, begin
