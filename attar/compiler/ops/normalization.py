"""Softmax, and normalisation over layers, groups, batches and root mean squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from attar.compiler.builder import Builder, Value, literal
from attar.compiler.ir import Array, contiguous
from attar.compiler.kernels.rows import Normalize, Softmax
from attar.compiler.ops.reduction import variance

__all__ = ["LANES", "RULES"]

Rule = Callable[..., Any]


def _softmax(*, log: bool = False, safe: bool = False) -> Rule:
    def rule(b: Builder, x: Array, dim: int, dtype: Any = None) -> Array:
        del dtype
        x = b.cast(x, b.dtype)
        if not x.shape:
            x = Array(x.buffer, (1,), (1,), x.offset)
        made = b.add(Softmax(b.empty(x.shape, x.dtype), (x,), dim % len(x.shape), log, safe))
        return Array(made.buffer, b.shape, made.strides[: len(b.shape)], made.offset)

    return rule


def _normalized(
    b: Builder,
    x: Array,
    sizes: tuple[int, int],
    weight: Array | None,
    bias: Array | None,
    eps: float,
    *,
    groups: int = 1,
    center: bool = True,
) -> Array:
    """x, row-major, of sizes (rows, channels of a row), normalised row by row."""
    rows, channels = sizes
    x = b.dense(x)
    pixels = x.size // (rows * channels)
    view = Array(x.buffer, (rows, channels, pixels), (channels * pixels, pixels, 1), x.offset)
    size = groups * channels
    if weight is None and bias is not None:
        weight = b.constant(torch.ones(size, dtype=getattr(torch, x.dtype)))
    affine = tuple(Array(a.buffer, (size,), (1,), a.offset) for a in (b.dense(a) for a in (weight, bias) if a is not None))
    output = b.empty(x.shape, x.dtype)
    b.add(Normalize(Array(output.buffer, view.shape, view.strides, 0), (view, *affine), eps, groups, center))
    return output


def _statistics(b: Builder, x: Array, axes: Sequence[int], eps: float) -> tuple[Array, Array]:
    """The mean, and one over the root of variance and eps, with sizes of 1 where the dimensions were."""
    spread, middle = variance(b, x, axes, 0, True)
    root = "sqrtf" if x.dtype == "float32" else "sqrt"
    return middle, b.map(f"1 / {root}({{0}} + {literal(eps, x.dtype)})", [spread], x.dtype)


def layer_norm(
    b: Builder, x: Array, shape: Sequence[int], weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5, *_: Any
) -> Any:
    size = math.prod(shape)
    return _normalized(b, x, (x.size // size, size), weight, bias, eps) if x.size else x


def native_layer_norm(b: Builder, x: Array, shape: Sequence[int], weight: Array | None, bias: Array | None, eps: float) -> Any:
    axes = range(len(x.shape) - len(shape), len(x.shape))
    return (layer_norm(b, x, shape, weight, bias, eps), *_statistics(b, x, axes, eps))


def rms_norm(b: Builder, x: Array, shape: Sequence[int], weight: Array | None = None, eps: float | None = None) -> Any:
    size = math.prod(shape)
    eps = torch.finfo(getattr(torch, x.dtype)).eps if eps is None else eps
    return _normalized(b, x, (x.size // size, size), weight, None, eps, center=False) if x.size else x


def group_norm(
    b: Builder, x: Array, groups: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5, *_: Any
) -> Any:
    if not x.size:
        return x
    return _normalized(b, x, (x.shape[0] * groups, x.shape[1] // groups), weight, bias, eps, groups=groups)


def native_group_norm(
    b: Builder, x: Array, weight: Array | None, bias: Array | None, samples: int, channels: int, pixels: int, groups: int, eps: float
) -> Any:
    x = b.dense(x)
    whole = Array(
        x.buffer, (samples, groups, channels // groups * pixels), contiguous((samples, groups, channels // groups * pixels)), x.offset
    )
    middle, scale = _statistics(b, whole, [2], eps)
    seen = (Array(s.buffer, (samples, groups), (groups, 1), s.offset) for s in (middle, scale))
    return (group_norm(b, x, groups, weight, bias, eps), *seen)


def instance_norm(
    b: Builder,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """Each channel of each sample by its own statistics, or by those that were kept."""
    del momentum
    if not use_input_stats:
        return _by_channel(b, x, weight, bias, running_mean, running_var, eps)
    return group_norm(b, x, x.shape[1], weight, bias, eps)


def _by_channel(b: Builder, x: Value, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Any:
    """x * scale + shift, numbers for each channel that are known now where all four are."""
    parts = [p for p in (weight, bias, mean, var) if p is not None]
    wide = (-1, *[1] * (len(x.shape) - 2))
    if all(p.data is not None for p in parts):
        w, shift, middle, spread = (
            np.float64(d) if p is None else np.asarray(p.data, np.float64)
            for p, d in zip((weight, bias, mean, var), (1, 0, 0, 1), strict=True)
        )
        scale = w / np.sqrt(spread + eps)
        shift = shift - middle * scale
        return b.map("{0} * {1} + {2}", [x, *(b.constant(s.astype(x.dtype).reshape(wide)) for s in (scale, shift))], x.dtype)
    root = "sqrtf" if x.dtype == "float32" else "sqrt"
    text, operands = f"({{0}} - {{1}}) / {root}({{2}} + {literal(eps, x.dtype)})", [x, mean, var]
    for sign, part in (("*", weight), ("+", bias)):
        if part is not None:
            text, operands = f"({text}) {sign} {{{len(operands)}}}", [*operands, part]
    lead = len(x.shape) - 2
    operands[1:] = [Array(p.buffer, (*p.shape, *[1] * lead), (*p.strides, *[0] * lead), p.offset) for p in operands[1:]]
    return b.map(text, operands, x.dtype)


def batch_norm(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """By the statistics that were kept, or, with none or in training, by those of the channel over all samples."""
    del momentum
    if not training and mean is not None:
        return _by_channel(b, x, weight, bias, mean, var, eps)
    x = b.plain(x)
    if not x.size:
        return x
    samples, channels = x.shape[:2]
    order = [1, 0, *range(2, len(x.shape))]
    turned = Array(x.buffer, tuple(x.shape[d] for d in order), tuple(x.strides[d] for d in order), x.offset)
    if samples == 1:
        turned = x
    made = _normalized(b, turned, (channels, 1), weight, bias, eps, groups=channels)
    if samples == 1:
        return made
    return Array(made.buffer, x.shape, tuple(made.strides[d] for d in order), made.offset)


def native_batch_norm(
    b: Builder, x: Value, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    """Result, mean and one over the root of the variance; the last two are empty where kept statistics serve."""
    result = batch_norm(b, x, weight, bias, mean, var, training, momentum, eps)
    if not training:
        empty = torch.empty(0, dtype=getattr(torch, x.dtype))
        return result, empty, empty
    x = b.plain(x)
    middle, scale = _statistics(b, x, [d for d in range(len(x.shape)) if d != 1], eps)
    return (result, *(Array(s.buffer, (x.shape[1],), (1,), s.offset) for s in (middle, scale)))


def no_training(b: Builder, x: Value, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return native_batch_norm(b, x, weight, bias, mean, var, False, momentum, eps)


RULES: dict[str, Rule] = {
    **{f"aten.{name}": _softmax() for name in ("softmax.int", "_softmax.default")},
    **{f"aten.{name}": _softmax(log=True) for name in ("log_softmax.int", "_log_softmax.default")},
    "aten._safe_softmax.default": _softmax(safe=True),
    "aten.layer_norm.default": layer_norm,
    "aten.native_layer_norm.default": native_layer_norm,
    "aten.rms_norm.default": rms_norm,
    "aten.group_norm.default": group_norm,
    "aten.native_group_norm.default": native_group_norm,
    "aten.instance_norm.default": instance_norm,
    "aten.batch_norm.default": batch_norm,
    "aten.native_batch_norm.default": native_batch_norm,
    "aten._native_batch_norm_legit.default": native_batch_norm,
    "aten._native_batch_norm_legit_no_training.default": no_training,
}
LANES: frozenset[str] = frozenset(name for name in RULES if "batch_norm" in name)
