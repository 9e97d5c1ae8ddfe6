"""What a program in bytes gives, in NumPy's integers: every map as bytes or float32 on its own pixels, no layout, no words."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from attar.compiler.ir import Array, Op, Program
from attar.compiler.kernels.convolution8 import Convolution8
from attar.compiler.kernels.lanes import Move
from attar.compiler.kernels.taps import linear
from attar.compiler.kernels.words import MoveWords, Pack, PoolWords, Unpack

__all__ = ["EPILOGUES", "reference"]

# (what the epilogue does, in NumPy) for those that are not a sum between bounds
EPILOGUES: dict[str, Callable[..., Any]] = {}

_f = np.float32


def reference(program: Program, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs; a map is (channels, samples, ...), of bytes four for each word."""
    held: dict[int, np.ndarray] = {id(a.buffer): x for a, x in zip(program.inputs, inputs, strict=True)}
    outside: dict[int, int] = {}
    for op in program.ops:
        held[id(op.output.buffer)] = _step(op, held, outside)
    return [held[id(a.buffer)] for a in program.outputs]


def _step(op: Op, held: Mapping[int, np.ndarray], outside: dict[int, int]) -> np.ndarray:
    x = held[id(op.inputs[0].buffer)]
    if isinstance(op, Convolution8):
        outside[id(op.output.buffer)] = 0 if op.affine is None else op.affine.zero
        return _convolution(op, held, outside[id(op.inputs[0].buffer)])
    if isinstance(op, PoolWords):
        outside[id(op.output.buffer)] = op.fill & 255
        return _pool(op, x, outside[id(op.inputs[0].buffer)])
    assert isinstance(op, Move), f"the reference has no {op}"
    if isinstance(op.inputs[0], Array):
        x = np.moveaxis(x, 1, 0)
    if isinstance(op, MoveWords):
        outside[id(op.output.buffer)] = int(op.fill or 0) & 255
    result = _move(op, x)
    return np.moveaxis(result, 0, 1) if isinstance(op.output, Array) else result


def _move(op: Move, x: np.ndarray) -> np.ndarray:
    y, each = op.output, 4 if isinstance(op, MoveWords) else 1
    dtype = np.uint8 if isinstance(op, MoveWords) else np.float32
    channels, sizes = y.shape[1], (y.shape[0], *y.shape[2:])
    result = np.full((each * channels, *sizes), int(op.fill or 0) & 255 if dtype is np.uint8 else op.fill or 0, dtype)
    for number, part in enumerate(op.parts):
        source = tuple(slice(s.source, s.source + s.count * s.source_step, s.source_step) for s in part.lines)
        target = tuple(slice(s.start, s.start + s.count * s.step, s.step) for s in part.lines)
        if isinstance(op, Pack):
            values = op.affine.bytes(x[part.source : part.source + op.counts[number]][:, *source])
        elif isinstance(op, Unpack):
            values = op.affine.real(x[4 * part.source : 4 * part.source + part.channels][:, *source])
        else:
            values = x[each * part.source : each * (part.source + part.channels)][:, *source]
        result[each * part.start : each * part.start + len(values)][:, *target] = values
    return result


def _shifted(x: np.ndarray, shift: tuple[int, ...], sizes: tuple[int, ...], outside: int) -> np.ndarray:
    """One channel's pixels at p + shift, for p of `sizes`."""
    index = np.ix_(*(np.arange(n) + s for n, s in zip(sizes, shift, strict=True)))
    inside = np.ones(sizes, bool)
    for place, n in zip(index, x.shape, strict=True):
        inside &= (place >= 0) & (place < n)
    return np.where(inside, x[tuple(np.clip(place, 0, n - 1) for place, n in zip(index, x.shape, strict=True))], outside)


def _pool(op: PoolWords, x: np.ndarray, outside: int) -> np.ndarray:
    channels, sizes = 4 * op.output.channels, op.output.sizes
    result = np.zeros((channels, *sizes), np.uint8)
    for (block, *shift), c in itertools.product(op.shifts, range(channels)):
        result[c] = np.maximum(result[c], _shifted(x[block * channels + c], tuple(shift), sizes, outside))
    return result


def _convolution(op: Convolution8, held: Mapping[int, np.ndarray], outside: int) -> np.ndarray:
    x, y = held[id(op.inputs[0].buffer)].astype(np.int64), op.output
    sums = np.zeros((len(op.weight), *y.sizes), np.int64) + op.begin.astype(np.int64).reshape(-1, *(1 for _ in y.sizes))
    for o, k in zip(*np.nonzero((op.weight != 0).any(-1)), strict=True):
        g = op.group[o]
        for i in range(4):
            sums[o] += int(op.weight[o, k, i]) * _shifted(x[4 * op.word[g, k] + i], tuple(op.shift[g, k]), y.sizes, outside)
    assert np.abs(sums).max(initial=0) < 2**31
    sides = [
        (held[id(v.buffer)][: len(op.weight)][:, *(slice(n) for n in y.sizes)], a) for v, a in zip(op.inputs[1:], op.sides, strict=True)
    ]
    bounds = linear(op.epilogue, len(op.sides))
    scale = op.scale.reshape(-1, *(1 for _ in y.sizes))
    if bounds is None or op.affine is None:
        value = sums.astype(_f) * scale
        given = [v if a is None else a.real(v) for v, a in sides]
        value = EPILOGUES[op.epilogue](value, *given) if bounds is None else np.clip(sum(given, value), *(_f(b) for b in bounds))
        assert value.dtype == np.float32
        return value if op.affine is None else _to_words(op.affine.bytes(value))
    inverse = _f(1) / _f(op.affine.scale)
    value = sums.astype(_f) * (scale * inverse)
    for v, a in sides:
        value = value + (v * inverse if a is None else (v.astype(_f) - _f(a.zero)) * (_f(a.scale) * inverse))
    low, high = (np.clip(np.rint(b / op.affine.scale) + op.affine.zero, 0, 255) for b in bounds)
    return _to_words(np.clip(np.rint(value) + _f(op.affine.zero), low, high).astype(np.uint8))


def _to_words(values: np.ndarray) -> np.ndarray:
    """With channels that fill the last word, which nobody may read."""
    return np.concatenate([values, np.full((-len(values) % 4, *values.shape[1:]), 0, np.uint8)])
