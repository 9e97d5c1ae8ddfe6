"""Pooling over lanes: the largest, or the mean, of shifted pixels; strides by phases, as convolutions have them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attar.compiler.builder import Builder, Value
from attar.compiler.ir import Lanes, lanes
from attar.compiler.kernels.lanes import Mean, Pool
from attar.compiler.ops.convolution import each, phases, reach
from attar.compiler.ops.resize import resized

__all__ = ["LANES", "RULES"]


def _max(dims: int, *, places: bool = False) -> Any:
    def rule(b: Builder, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False) -> Any:
        del ceil_mode  # it is in the result's sizes already
        kernel = each(kernel, dims)
        value = _pool(b, x, "max", kernel, each(stride or kernel, dims), each(padding, dims), each(dilation, dims), float("-inf"))
        return _unplaced(value) if places else value

    return rule


def _unplaced(value: Any) -> Any:
    """The largest values without their places (None), which hardly any network reads; one that does is left to PyTorch."""
    return value if value is NotImplemented else (value, None)


def _average(dims: int) -> Any:
    def rule(
        b: Builder,
        x: Value,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        del ceil_mode
        kernel = each(kernel, dims)
        stride, padding = each(stride or kernel, dims), each(padding, dims)
        counts = []
        for size, out, k, s, p in zip(x.shape[2:], b.shape[2:], kernel, stride, padding, strict=True):
            start = np.arange(out) * s - p
            edge = (start, np.minimum(start + k, size + p)) if count_include_pad else (np.maximum(start, 0), np.minimum(start + k, size))
            counts.append(edge[1] - edge[0])
        if divisor_override:
            counts = [np.full(out, divisor_override if d == 0 else 1) for d, out in enumerate(b.shape[2:])]
        return _pool(b, x, "sum", kernel, stride, padding, (1,) * dims, 0.0, tuple(counts))

    return rule


def _adaptive(dims: int, kind: str) -> Any:
    def rule(b: Builder, x: Value, size: Any = None) -> Any:
        del size  # the result's sizes say it
        inside, outside = x.shape[2:], b.shape[2:]
        if len(x.shape) != dims + 2 or 0 in (*inside, *outside):
            return NotImplemented
        if any(i % o for i, o in zip(inside, outside, strict=True)):
            return NotImplemented if kind == "max" else resized(b, b.plain(x), outside, _windows, [None] * dims)
        if kind == "sum" and set(outside) == {1} and isinstance(x, Lanes) and x.shape[0] == 1:
            return b.add(Mean(b.empty(b.shape), (x,)))
        kernel = tuple(i // o for i, o in zip(inside, outside, strict=True))
        if kind == "max":
            return _unplaced(_pool(b, x, "max", kernel, kernel, (0,) * dims, (1,) * dims, float("-inf")))
        counts = tuple(np.full(o, k) for o, k in zip(outside, kernel, strict=True))
        return _pool(b, x, "sum", kernel, kernel, (0,) * dims, (1,) * dims, 0.0, counts)

    return rule


def _windows(size: int, out: int, scale: float | None) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that each mean is over, and their weights: windows whose lengths differ by one."""
    del scale
    start, end = np.arange(out) * size // out, -(-(np.arange(out) + 1) * size // out)
    length = (end - start)[:, None]
    term = np.arange(length.max())
    return np.minimum(start[:, None] + term, size - 1), np.where(term < length, 1.0 / length, 0.0)


RULES = {
    **{f"aten.max_pool{d}d.default": _max(d) for d in (1, 2, 3)},
    **{f"aten.max_pool{d}d_with_indices.default": _max(d, places=True) for d in (2, 3)},
    **{f"aten.avg_pool{d}d.default": _average(d) for d in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{d}d.default": _adaptive(d, "sum") for d in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{d}d.default": _adaptive(d, "max") for d in (1, 2, 3)},
    **{f"aten._adaptive_avg_pool{d}d.default": _adaptive(d, "sum") for d in (2, 3)},
}
LANES = frozenset(RULES)


def _pool(
    b: Builder,
    x: Value,
    kind: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    fill: float,
    counts: tuple[np.ndarray, ...] = (),
) -> Any:
    if len(x.shape) != len(kernel) + 2 or x.dtype != "float32" or 0 in (*x.shape, *b.shape) or math.prod(kernel) > 1024:
        return NotImplemented
    places = [[y * d - p for y, d, p in zip(tap, dilation, padding, strict=True)] for tap in itertools.product(*map(range, kernel))]
    rests = [tuple(v % s for v, s in zip(place, stride, strict=True)) for place in places]
    source, used = phases(b, x, stride, rests, fill)
    shift = np.array([(0, *(v // s for v, s in zip(place, stride, strict=True))) for place in places])
    reach(source, b.shape[2:], shift)
    output = lanes(x.shape[1], (x.shape[0], *b.shape[2:]), source.space)
    shifts = tuple((used.index(rest), *map(int, row)) for rest, row in zip(rests, shift, strict=True))
    return b.add(Pool(output, (source,), kind, shifts, counts))
