"""Resizing of maps: nearest, linear and cubic, with and without antialiasing, one dimension after another.

Positions and weights are computed now, in float32 and in PyTorch's order of operations, so that each falls on the same pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attar.compiler.builder import Builder
from attar.compiler.ir import Array
from attar.compiler.kernels.resample import Resample

__all__ = ["LANES", "RULES", "resized"]

Rule = Callable[..., Any]
Taps = tuple[np.ndarray, np.ndarray | None]  # positions (outputs, taps), weights alike or None for 1
_F = np.float32


def _ratio(n: int, out: int, scale: float | None, align: bool = False) -> np.float32:
    """Input pixels for each output pixel."""
    if align:
        return _F((n - 1) / (out - 1)) if out > 1 else _F(0)
    return _F(1.0 / scale) if scale else _F(n) / _F(out)


def _nearest(n: int, out: int, scale: float | None, *, exact: bool) -> Taps:
    centre = _F(0.5) if exact else _F(0)
    places = np.floor((np.arange(out, dtype=_F) + centre) * _ratio(n, out, scale)).astype(np.int64)
    return np.minimum(places, n - 1)[:, None], None


def _sources(n: int, out: int, scale: float | None, align: bool) -> np.ndarray:
    """Where the centre of each output pixel lies among the inputs."""
    ratio = _ratio(n, out, scale, align)
    numbers = np.arange(out, dtype=_F)
    return ratio * numbers if align else ratio * (numbers + _F(0.5)) - _F(0.5)


def _linear(n: int, out: int, scale: float | None, align: bool) -> Taps:
    if n == out:
        return _nearest(n, out, None, exact=False)
    source = np.maximum(_sources(n, out, scale, align), _F(0))
    low = np.minimum(source.astype(np.int64), n - 1)
    part = np.clip(source - low.astype(_F), _F(0), _F(1))
    return np.stack([low, np.minimum(low + 1, n - 1)], 1), np.stack([_F(1) - part, part], 1)


def _cubic(n: int, out: int, scale: float | None, align: bool) -> Taps:
    source = _sources(n, out, scale, align)
    low = np.floor(source)
    t = source - low
    a = _F(-0.75)

    def near(x: np.ndarray) -> np.ndarray:
        return ((a + _F(2)) * x - (a + _F(3))) * x * x + _F(1)

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - _F(5) * a) * x + _F(8) * a) * x - _F(4) * a

    places = np.clip(low.astype(np.int64)[:, None] + np.arange(-1, 3), 0, n - 1)
    return places, np.stack([far(t + _F(1)), near(t), near(_F(1) - t), far(_F(2) - t)], 1)


def _antialiased(n: int, out: int, scale: float | None, align: bool, *, cubic: bool) -> Taps:
    """A filter as wide as the output's pixels: a triangle, or Keys' cubic with a = -0.5."""
    ratio = _ratio(n, out, scale, align)
    shrink = max(ratio, _F(1))
    support = _F(2 if cubic else 1) * shrink
    centre = ratio * (np.arange(out, dtype=_F) + _F(0.5))
    first = np.maximum((centre - support + _F(0.5)).astype(np.int64), 0)
    count = np.minimum((centre + support + _F(0.5)).astype(np.int64), n) - first
    places = first[:, None] + np.arange(max(1, count.max()))
    x = np.abs((places.astype(_F) - centre[:, None] + _F(0.5)) / shrink)
    if cubic:
        a = _F(-0.5)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        weight = np.where(x < 1, near, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * a, 0))
    else:
        weight = np.maximum(1 - x, 0)
    weight = np.where(np.arange(places.shape[1]) < count[:, None], weight, 0).astype(_F)
    total = weight.sum(1, keepdims=True)
    return np.minimum(places, n - 1), weight / np.where(total == 0, 1, total)


def resized(
    b: Builder, x: Array, sizes: Sequence[int], taps: Callable[[int, int, float | None], Taps], scales: Sequence[float | None]
) -> Array:
    """The last dimensions of x brought to `sizes`, those first that grow least."""
    first = len(x.shape) - len(sizes)
    plan = sorted(range(len(sizes)), key=lambda d: (sizes[d] / x.shape[first + d], -d))
    for d in plan:
        axis, out = first + d, sizes[d]
        places, weight = taps(x.shape[axis], out, scales[d])
        if places.shape[1] == 1 and np.array_equal(places[:, 0], np.arange(x.shape[axis])):
            continue
        constants = [b.constant(places.astype(np.int32))] + ([] if weight is None else [b.constant(weight.astype(x.dtype))])
        output = b.empty((*x.shape[:axis], out, *x.shape[axis + 1 :]), x.dtype)
        x = b.add(Resample(output, (x, *constants), axis))
    return x


def _upsample(taps: Callable[..., Taps], *, aligns: bool, floats: bool) -> Rule:
    """The rule of an upsampling op: (x, sizes, [align_corners], scales), the scales one list or one for each dimension."""

    def rule(b: Builder, x: Array, sizes: Sequence[int] | None, *rest: Any, **named: Any) -> Any:
        if (floats and not x.dtype.startswith("float")) or not x.size:
            return NotImplemented
        values = [*rest, *named.values()]
        align = bool(values.pop(0)) if aligns else False
        sizes = b.shape[2:]
        given = values[0] if values and isinstance(values[0], Sequence) else values
        scales = [float(s) if s else None for s in given] + [None] * len(sizes)

        def one(n: int, out: int, scale: float | None) -> Taps:
            return taps(n, out, scale, align) if aligns else taps(n, out, scale)

        return resized(b, x, sizes, one, scales)

    return rule


def _with(taps: Callable[..., Taps], **fixed: bool) -> Callable[..., Taps]:
    return lambda *args: taps(*args, **fixed)


_KINDS: dict[str, Rule] = {
    **{f"upsample_nearest{d}d": _upsample(_with(_nearest, exact=False), aligns=False, floats=False) for d in (1, 2, 3)},
    **{f"_upsample_nearest_exact{d}d": _upsample(_with(_nearest, exact=True), aligns=False, floats=False) for d in (1, 2, 3)},
    **{f"upsample_{name}": _upsample(_linear, aligns=True, floats=True) for name in ("linear1d", "bilinear2d", "trilinear3d")},
    "upsample_bicubic2d": _upsample(_cubic, aligns=True, floats=True),
    "_upsample_bilinear2d_aa": _upsample(_with(_antialiased, cubic=False), aligns=True, floats=True),
    "_upsample_bicubic2d_aa": _upsample(_with(_antialiased, cubic=True), aligns=True, floats=True),
}
RULES: dict[str, Rule] = {f"aten.{name}.{form}": rule for name, rule in _KINDS.items() for form in ("default", "vec")}
LANES: frozenset[str] = frozenset()
