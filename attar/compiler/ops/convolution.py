"""Convolutions of every kind, strided, dilated, grouped, transposed, in any number of dimensions, as sums of shifted lanes.

A strided convolution reads phases: pixel s * u + r of the map is pixel u of phase r, a map of its own. A transposed one
writes phases. So every kernel has stride 1, and pixel p of the output reads pixels p + shift.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from attar.compiler.builder import Builder, Value
from attar.compiler.ir import Array, Lanes, Space, lanes
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.lanes import Line, Move, Part

__all__ = ["LANES", "RULES", "each", "phases", "reach", "to_lanes"]


def convolution(
    b: Builder,
    x: Value,
    weight: Array,
    bias: Array | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    """aten.convolution; `output_padding` is in the result's sizes already."""
    del output_padding
    dims = len(weight.shape) - 2
    known = weight.data is not None and weight.dtype == "float32" and x.dtype == "float32"
    if not known or len(x.shape) != dims + 2 or 0 in (*x.shape, *b.shape):
        return NotImplemented
    stride, dilation = each(stride, dims), each(dilation, dims)
    if transposed:
        return _transposed(b, x, weight, bias, stride, each(padding, dims), dilation, groups)
    before = _before(padding, weight.shape[2:], dilation)
    return _forward(b, x, weight, bias, stride, before, dilation, groups)


def conv(
    b: Builder, x: Value, weight: Array, bias: Array | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """aten.conv1d, conv2d, conv3d."""
    return convolution(b, x, weight, bias, stride, padding, dilation, False, 0, groups)


def conv_transpose(
    b: Builder,
    x: Value,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """aten.conv_transpose1d, conv_transpose2d, conv_transpose3d."""
    return convolution(b, x, weight, bias, stride, padding, dilation, True, output_padding, groups)


RULES = {
    "aten.convolution.default": convolution,
    "aten.conv1d.default": conv,
    "aten.conv2d.default": conv,
    "aten.conv3d.default": conv,
    "aten.conv1d.padding": conv,
    "aten.conv2d.padding": conv,
    "aten.conv3d.padding": conv,
    "aten.conv_transpose1d.default": conv_transpose,
    "aten.conv_transpose2d.input": conv_transpose,
    "aten.conv_transpose3d.input": conv_transpose,
}
LANES = frozenset(RULES)


def each(value: Any, dims: int) -> tuple[int, ...]:
    """One number for each dimension, of which a call may give one for all."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * dims if len(values) == 1 else values


def _before(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """The padding before the first pixel; "same" puts the odd one after the last."""
    if padding == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return (0,) * len(kernel) if padding == "valid" else each(padding, len(kernel))


def _forward(
    b: Builder,
    x: Value,
    weight: Array,
    bias: Array | None,
    stride: Sequence[int],
    before: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Lanes:
    outputs, inside, *kernel = weight.shape
    taps = list(itertools.product(*(range(k) for k in kernel)))
    if x in b.padded:
        x, zeros = b.padded[x]
        before = [p + more for p, more in zip(before, zeros, strict=True)]
    at = [[y * d - p for y, d, p in zip(tap, dilation, before, strict=True)] for tap in taps]
    source, used = phases(b, x, stride, [tuple(v % s for v, s in zip(place, stride, strict=True)) for place in at])
    shift = np.array([(0, *(v // s for v, s in zip(place, stride, strict=True))) for place in at])
    phase = np.array([used.index(tuple(v % s for v, s in zip(place, stride, strict=True))) for place in at])
    whole = x.shape[1]
    channel = np.arange(groups)[:, None, None] * inside + np.arange(inside)[:, None] + phase * whole
    group = np.repeat(np.arange(groups), outputs // groups)
    return _add(
        b,
        source,
        weight.known.reshape(outputs, -1),
        bias,
        channel.reshape(groups, -1),
        np.tile(shift, (inside, 1)),
        len(taps),
        group,
        b.shape[2:],
    )


def _transposed(
    b: Builder,
    x: Value,
    weight: Array,
    bias: Array | None,
    stride: Sequence[int],
    before: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Lanes:
    """Phase r of the output is a convolution by the taps that reach it: output s * v + r reads input v + (r + padding - tap) / s."""
    data = weight.known
    inputs, inside, *kernel = data.shape
    outputs = inside * groups
    taps = list(itertools.product(*(range(k) for k in kernel)))
    reach = [[y * d - p for y, d, p in zip(tap, dilation, before, strict=True)] for tap in taps]
    rests = [tuple(v % s for v, s in zip(place, stride, strict=True)) for place in reach]
    shift = np.array(
        [(0, *((r - v) // s for r, v, s in zip(rest, place, stride, strict=True))) for rest, place in zip(rests, reach, strict=True)]
    )
    every = list(itertools.product(*(range(s) for s in stride)))
    each = inputs // groups
    matrix = np.zeros((len(every), groups, inside, each, len(taps)), np.float32)
    grouped = data.reshape(groups, each, inside, len(taps)).transpose(0, 2, 1, 3)
    for tap, rest in enumerate(rests):
        matrix[every.index(rest), ..., tap] = grouped[..., tap]
    channel = np.repeat(np.arange(inputs).reshape(groups, each), len(taps), axis=1)
    group = np.tile(np.repeat(np.arange(groups), inside), len(every))
    biases = None if bias is None else b.constant(np.tile(bias.known, len(every)))
    sizes = [-(-n // s) for n, s in zip(b.shape[2:], stride, strict=True)]
    source = to_lanes(b, x)
    many = _add(b, source, matrix.reshape(len(every) * outputs, -1), biases, channel, np.tile(shift, (each, 1)), len(taps), group, sizes)
    if len(every) == 1:
        return many
    output = lanes(outputs, (x.shape[0], *b.shape[2:]), Space((x.shape[0], *b.shape[2:])))
    parts = []
    for number, rest in enumerate(every):
        lines = [Line(-(-(n - r) // s), 0, 1, r, s) for n, r, s in zip(b.shape[2:], rest, stride, strict=True)]
        parts.append(Part(outputs, (Line(x.shape[0]), *lines), number * outputs, 0))
    return b.add(Move(output, (many,), tuple(parts)))


def phases(
    b: Builder, x: Value, stride: Sequence[int], wanted: Sequence[tuple[int, ...]], fill: float = 0.0
) -> tuple[Lanes, list[tuple[int, ...]]]:
    """The phases of a map, one after the other as channels, and which they are; the map itself where the stride is 1."""
    used = sorted(set(wanted))
    if all(s == 1 for s in stride) and fill == 0:
        return to_lanes(b, x), used
    samples, channels, *sizes = x.shape
    planes = tuple(-(-n // s) for n, s in zip(sizes, stride, strict=True))
    output = lanes(channels * len(used), (samples, *planes), Space((samples, *planes)))
    parts = []
    for number, rest in enumerate(used):
        lines = [Line(max(0, -(-(n - r) // s)), r, s) for n, r, s in zip(sizes, rest, stride, strict=True)]
        parts.append(Part(channels, (Line(samples), *lines), 0, number * channels))
    return b.add(Move(output, (x,), tuple(parts), fill)), used


def to_lanes(b: Builder, x: Value) -> Lanes:
    """The map in lanes, copied where it is an array."""
    if isinstance(x, Lanes):
        return x
    samples, channels, *sizes = x.shape
    output = lanes(channels, (samples, *sizes), Space((samples, *sizes)))
    return b.add(Move(output, (x,), (Part(channels, tuple(Line(n) for n in (samples, *sizes))),)))


def reach(source: Lanes, sizes: Sequence[int], shift: np.ndarray) -> None:
    """Tell the space of `source` that an output of these sizes reads it at these shifts."""
    space = source.space
    low, high = shift.min(0), shift.max(0)
    space.reach.append(tuple(zip(source.sizes, (source.sizes[0], *sizes), low.tolist(), high.tolist(), strict=True)))
    space.sizes = tuple(max(a, z) for a, z in zip(space.sizes, (source.sizes[0], *sizes), strict=True))


def _add(
    b: Builder,
    source: Lanes,
    weight: np.ndarray,
    bias: Array | None,
    channel: np.ndarray,
    shift: np.ndarray,
    taps: int,
    group: np.ndarray,
    sizes: Sequence[int],
) -> Lanes:
    outputs = len(weight)
    reach(source, sizes, shift)
    output = lanes(outputs, (source.sizes[0], *sizes), source.space)
    biases = b.constant(np.zeros(outputs, np.float32)) if bias is None else b.dense(bias)
    return b.add(Convolution(output, (source, biases), np.ascontiguousarray(weight), channel, shift, group, taps))
