"""Tensors moved: views, which cost nothing; joins, pads, rolls and shuffles, which are copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attar.compiler.builder import Builder, Value, broadcast, converted, literal
from attar.compiler.ir import Array, Lanes, Space, lanes
from attar.compiler.kernels.join import Join
from attar.compiler.kernels.lanes import Line, Move, Part, from_lanes
from attar.compiler.kernels.map import Map
from attar.compiler.ops.convolution import to_lanes
from attar.compiler.ops.elementwise import where

__all__ = ["LANES", "RULES", "cat", "cut", "flipped", "permuted", "reshape", "stack"]

Rule = Callable[..., Any]
aten = torch.ops.aten


def seen(value: Array, result: Tensor) -> Array:
    """`value`'s buffer as `result`, a view of `_meta(value)`, sees it."""
    return Array(value.buffer, tuple(result.shape), tuple(result.stride()), int(result.storage_offset()))


def _meta(b: Builder, value: Array) -> tuple[Array, Tensor]:
    """The array as a tensor without memory, on which PyTorch's own views work; strides below zero, which it has not, are copied."""
    if any(s < 0 for s in value.strides):
        value = b.map("{0}", [value], value.dtype)
    return value, torch.empty(value.buffer.size, device="meta").as_strided(value.shape, value.strides, value.offset)


def strided(op: Any) -> Rule:
    """The rule of an op whose results are always views of its first argument: whatever PyTorch makes of the strides."""

    def rule(b: Builder, x: Array, *args: Any, **kwargs: Any) -> Any:
        x, meta = _meta(b, x)
        result = op(meta, *args, **kwargs)
        return seen(x, result) if isinstance(result, Tensor) else [seen(x, one) for one in result]

    return rule


def reshape(b: Builder, x: Array, shape: Sequence[int]) -> Array:
    """The elements in row-major order with other sizes: a view where the strides allow it, else a copy."""
    x, meta = _meta(b, x)
    try:
        return seen(x, meta.view(tuple(shape)))
    except RuntimeError:
        x = b.dense(x)
        return seen(x, _meta(b, x)[1].view(tuple(shape)))


def _reshaped(b: Builder, x: Array, *args: Any, **kwargs: Any) -> Array:  # noqa: ARG001
    return reshape(b, x, b.shape)


def cut(x: Array, dim: int, start: int, end: int) -> Array:
    """Elements start to end along one dimension."""
    dim %= len(x.shape)
    shape = (*x.shape[:dim], end - start, *x.shape[dim + 1 :])
    return Array(x.buffer, shape, x.strides, x.offset + start * x.strides[dim] if end > start else x.offset)


def flipped(x: Array, dims: Sequence[int]) -> Array:
    """Back to front along `dims`: strides below zero."""
    turned = {d % len(x.shape) for d in dims} if x.shape else set()
    strides = tuple(-s if d in turned else s for d, s in enumerate(x.strides))
    offset = x.offset + sum((x.shape[d] - 1) * x.strides[d] for d in turned) if x.size else x.offset
    return Array(x.buffer, x.shape, strides, offset)


def cat(b: Builder, parts: Sequence[Value], dim: int = 0) -> Any:
    """Parts one after another along a dimension; each is written where it belongs. An empty part of one dimension is nothing.

    Channels most of which are maps in lanes become a map in lanes.
    """
    parts = [part for part in parts if part.shape != (0,)] or list(parts[:1])
    dim %= len(parts[0].shape)
    maps = [part for part in parts if dim == 1 and 0 not in part.shape]
    if 0 < sum(x.shape[1] for x in maps) <= 2 * sum(x.shape[1] for x in maps if isinstance(x, Lanes)) and b.dtype == "float32":
        return _joined(b, [to_lanes(b, b.cast(x, "float32")) for x in maps])
    sizes = [part.shape[dim] for part in parts]
    output = b.empty((*parts[0].shape[:dim], sum(sizes), *parts[0].shape[dim + 1 :]), b.dtype)
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        place = cut(output, dim, start, start + size)
        if isinstance(part, Lanes) and part.dtype == b.dtype:
            b.add(from_lanes(part, place))
        else:
            _copy(b, b.plain(part), place)
        start += size
    return output


def _joined(b: Builder, maps: Sequence[Lanes]) -> Lanes:
    """The channels of maps one after another, in one space."""
    if len(maps) == 1:
        return maps[0]
    for one in maps[1:]:
        maps[0].space.merge(one.space)
    return b.add(Join(lanes(sum(one.channels for one in maps), maps[0].sizes, maps[0].space), tuple(maps)))


def _copy(b: Builder, value: Array, place: Array) -> None:
    """Write the value, converted, to a part of a fresh array."""
    b.add(Map(place, (broadcast(value, place.shape),), converted("{0}", value.dtype, place.dtype)))


def stack(b: Builder, parts: Sequence[Array], dim: int = 0) -> Array:
    dim %= len(parts[0].shape) + 1

    def thicker(x: Array) -> Array:
        return Array(x.buffer, (*x.shape[:dim], 1, *x.shape[dim:]), (*x.strides[:dim], 0, *x.strides[dim:]), x.offset)

    return cat(b, [thicker(part) for part in parts], dim)


def _trimmed(x: Array, widths: Sequence[tuple[int, int]]) -> tuple[Array, list[tuple[int, int]]]:
    """What pads below zero leave of the array, and the pads that are left."""
    for d, (low, high) in enumerate(widths):
        x = cut(x, d, max(0, -low), x.shape[d] + min(0, high))
    return x, [(max(0, low), max(0, high)) for low, high in widths]


def _widths(pad: Sequence[int], dims: int) -> list[tuple[int, int]]:
    """PyTorch's pads, last dimension first, as (before, after) of each dimension in order."""
    pairs = [(int(pad[2 * i]), int(pad[2 * i + 1])) for i in range(len(pad) // 2)]
    return [(0, 0)] * (dims - len(pairs)) + pairs[::-1]


def constant_pad(b: Builder, x: Value, pad: Sequence[int], value: float = 0) -> Value:
    """The inside is copied, and around it one slab before and after along each dimension is filled: nothing is written twice.

    A convolution that reads a map with zeros around it can as well read the map: it is told where to find it.
    """
    widths = _widths(pad, len(x.shape))
    around = not value and x.dtype == "float32" and len(widths) > 2 and min(map(min, widths)) >= 0 and not any(map(any, widths[:2]))
    if around and isinstance(x, Lanes):
        sizes = (x.shape[0], *b.shape[2:])
        lines = (Line(x.shape[0]), *(Line(n, start=low) for n, (low, _) in zip(x.shape[2:], widths[2:], strict=True)))
        output = b.add(Move(lanes(x.shape[1], sizes, Space(sizes)), (x,), (Part(x.shape[1], lines),)))
    else:
        output = _slabs(b, b.plain(x), widths, value)
    if around:
        b.padded[output] = (x, tuple(low for low, _ in widths[2:]))
    return output


def _slabs(b: Builder, x: Array, widths: Sequence[tuple[int, int]], value: float) -> Array:
    inner, widths = _trimmed(x, widths)
    output = b.empty(b.shape, x.dtype)
    place = output
    for d, (low, high) in enumerate(widths):
        size = place.shape[d]
        for start, end in ((0, low), (size - high, size)):
            slab = cut(place, d, start, end)
            if slab.size:
                b.add(Map(slab, (), literal(value or 0, x.dtype)))
        place = cut(place, d, low, size - high)
    _copy(b, inner, place)
    return output


def _padded(around: Callable[[Builder, Array, int, int, int], tuple[Array | None, Array | None]]) -> Rule:
    """Pads made of the array's own elements: along each dimension, what `around` gives is put before and after."""

    def rule(b: Builder, x: Array, pad: Sequence[int], *ignored: Any) -> Array:  # noqa: ARG001
        x, widths = _trimmed(x, _widths(pad, len(x.shape)))
        for d, (low, high) in enumerate(widths):
            if low or high:
                before, after = around(b, x, d, low, high)
                x = cat(b, [part for part in (before, x, after) if part is not None and part.shape[d]], d)
        return x

    return rule


def _reflection(b: Builder, x: Array, d: int, low: int, high: int) -> tuple[Array, Array]:  # noqa: ARG001
    n = x.shape[d]
    return flipped(cut(x, d, 1, low + 1), [d]), flipped(cut(x, d, n - 1 - high, n - 1), [d])


def _replication(b: Builder, x: Array, d: int, low: int, high: int) -> tuple[Array, Array]:  # noqa: ARG001
    n = x.shape[d]
    wide = [broadcast(cut(x, d, *edge), (*x.shape[:d], size, *x.shape[d + 1 :])) for edge, size in (((0, 1), low), ((n - 1, n), high))]
    return wide[0], wide[1]


def _circular(b: Builder, x: Array, d: int, low: int, high: int) -> tuple[Array, Array]:  # noqa: ARG001
    return cut(x, d, x.shape[d] - low, x.shape[d]), cut(x, d, 0, high)


_reflect, _replicate, _wrap = _padded(_reflection), _padded(_replication), _padded(_circular)


def pad(b: Builder, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    rules: dict[str, Rule] = {"reflect": _reflect, "replicate": _replicate, "circular": _wrap}
    return constant_pad(b, x, pad, value or 0) if mode == "constant" else rules[mode](b, b.plain(x), pad)


def roll(b: Builder, x: Array, shifts: int | Sequence[int], dims: int | Sequence[int] = ()) -> Array:
    """Moved along dimensions, what falls out at the end coming in at the start; without dimensions, as one row."""
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = [dims] if isinstance(dims, int) else list(dims)
    if not x.size:
        return x
    if not dims:
        row = roll(b, reshape(b, x, (x.size,)), shifts, [0])
        return reshape(b, row, x.shape)
    for shift, d in zip(shifts, dims, strict=True):
        n = x.shape[d % len(x.shape)]
        if shift % n:
            x = cat(b, [cut(x, d, n - shift % n, n), cut(x, d, 0, n - shift % n)], d)
    return x


def repeat(b: Builder, x: Array, times: Sequence[int]) -> Array:
    """The array, tiled: seen as (times, 1) x (1, sizes), then joined."""
    lead = len(times) - len(x.shape)
    sizes, strides = (1,) * lead + x.shape, (0,) * lead + x.strides
    wide = Array(
        x.buffer,
        tuple(n for pair in zip(times, sizes, strict=True) for n in pair),
        tuple(s for stride in strides for s in (0, stride)),
        x.offset,
    )
    return reshape(b, wide, b.shape)


def tile(b: Builder, x: Array, times: Sequence[int]) -> Array:
    return repeat(b, x, [1] * (len(x.shape) - len(times)) + list(times))


def repeat_interleave(b: Builder, x: Array, times: int, dim: int | None = None, **ignored: Any) -> Array:  # noqa: ARG001
    """Each element along a dimension several times over."""
    x = reshape(b, x, (x.size,)) if dim is None else x
    d = (dim or 0) % len(x.shape) + 1
    wide = Array(x.buffer, (*x.shape[:d], times, *x.shape[d:]), (*x.strides[:d], 0, *x.strides[d:]), x.offset)
    return reshape(b, wide, b.shape)


def pixel_shuffle(b: Builder, x: Array, factor: int) -> Array:
    *lead, c, h, w = x.shape
    parts = reshape(b, x, (math.prod(lead), c // factor**2, factor, factor, h, w))
    return reshape(b, permuted(parts, (0, 1, 4, 2, 5, 3)), b.shape)


def pixel_unshuffle(b: Builder, x: Array, factor: int) -> Array:
    *lead, c, h, w = x.shape
    parts = reshape(b, x, (math.prod(lead), c, h // factor, factor, w // factor, factor))
    return reshape(b, permuted(parts, (0, 1, 3, 5, 2, 4)), b.shape)


def channel_shuffle(b: Builder, x: Array, groups: int) -> Array:
    n, c, *rest = x.shape
    parts = reshape(b, x, (n, groups, c // groups, *rest))
    return reshape(b, permuted(parts, (0, 2, 1, *range(3, len(parts.shape)))), b.shape)


def permuted(x: Array, order: Sequence[int]) -> Array:
    """Dimensions in another order."""
    return Array(x.buffer, tuple(x.shape[d] for d in order), tuple(x.strides[d] for d in order), x.offset)


def im2col(b: Builder, x: Array, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]) -> Array:
    """Windows as columns: a view of the padded map with two strides for each dimension, then one copy."""
    shape = b.shape
    if any(padding):
        ph, pw = padding
        *lead, h, w = x.shape
        wide = b.empty((*lead, h + 2 * ph, w + 2 * pw), x.dtype)
        b.add(Map(wide, (), "0"))
        _copy(b, x, cut(cut(wide, -2, ph, ph + h), -1, pw, pw + w))
        x = wide
    *lead, h, w = x.shape
    sy, sx = x.strides[-2:]
    out = [(n - d * (k - 1) - 1) // s + 1 for n, k, d, s in zip((h, w), kernel, dilation, stride, strict=True)]
    windows = Array(
        x.buffer,
        (*lead, *kernel, *out),
        (*x.strides[:-2], dilation[0] * sy, dilation[1] * sx, stride[0] * sy, stride[1] * sx),
        x.offset,
    )
    return reshape(b, windows, shape)


def _triangle(keep: Callable[[Tensor, int], Tensor]) -> Rule:
    def rule(b: Builder, x: Array, diagonal: int = 0) -> Array:
        mask = keep(torch.ones(x.shape[-2:], dtype=torch.bool), diagonal)
        return where(b, b.constant(mask), x, 0)

    return rule


def _scattered(part: Callable[..., Array]) -> Rule:
    """A copy of the first array with the second in place of a part of it."""

    def rule(b: Builder, x: Array, source: Array, *args: Any, **kwargs: Any) -> Array:
        output = b.empty(x.shape, x.dtype)
        _copy(b, x, output)
        _copy(b, source, part(b, output, *args, **kwargs))
        return output

    return rule


def _expanded(b: Builder, x: Array, other: Array) -> Array:  # noqa: ARG001
    return broadcast(x, b.shape)


def _filled_with(b: Builder, x: Array, source: Array, non_blocking: bool = False) -> Array:  # noqa: ARG001
    """What `x` is once `source` was copied into it: the source, in x's type and sizes."""
    return broadcast(b.cast(source, b.dtype), b.shape)


def _size(b: Builder, x: Array, d: int | None = None) -> int:  # noqa: ARG001
    return math.prod(x.shape) if d is None else x.shape[d]


def _flip(b: Builder, x: Array, dims: Sequence[int]) -> Array:  # noqa: ARG001
    return flipped(x, dims)


def _together(b: Builder, *parts: Any, **ignored: Any) -> list[Array]:  # noqa: ARG001
    shape = torch.broadcast_shapes(*(part.shape for part in parts[0]))
    return [broadcast(part, shape) for part in parts[0]]


_VIEWS = "permute transpose.int t numpy_T mT adjoint movedim.int movedim.intlist moveaxis.int moveaxis.intlist swapaxes swapdims"
_VIEWS += " unsqueeze squeeze squeeze.dim squeeze.dims expand broadcast_to slice.Tensor narrow select.int unbind.int diagonal unfold"
_VIEWS += " as_strided split.Tensor split.sizes split_with_sizes chunk unsafe_split.Tensor unsafe_split_with_sizes unsafe_chunk"
_VIEWS += " tensor_split.indices tensor_split.sections t_copy permute_copy transpose_copy.int expand_copy select_copy.int unbind_copy.int"
_VIEWS += " slice_copy.Tensor unsqueeze_copy squeeze_copy squeeze_copy.dim squeeze_copy.dims split_with_sizes_copy"
_RESHAPES = "view _unsafe_view reshape flatten.using_ints unflatten.int view_as reshape_as ravel view_copy _reshape_alias"


def _full(name: str) -> str:
    return f"aten.{name}" if "." in name else f"aten.{name}.default"


def _overload(name: str) -> tuple[str, Any]:
    packet, _, overload = _full(name).removeprefix("aten.").partition(".")
    return f"aten.{packet}.{overload}", getattr(getattr(aten, packet.removesuffix("_copy")), overload)


RULES: dict[str, Rule] = {
    **{name: strided(op) for name, op in map(_overload, _VIEWS.split())},
    **{_full(name): _reshaped for name in _RESHAPES.split()},
    "aten.expand_as.default": _expanded,
    "aten.copy.default": _filled_with,
    "aten.broadcast_tensors.default": _together,
    "aten.sym_size.int": _size,
    "aten.sym_numel.default": _size,
    "aten.cat.default": cat,
    "aten.concat.default": cat,
    "aten.concatenate.default": cat,
    "aten.stack.default": stack,
    "aten.constant_pad_nd.default": constant_pad,
    "aten.pad.default": pad,
    **{f"aten.reflection_pad{n}d.default": _reflect for n in (1, 2, 3)},
    **{f"aten.replication_pad{n}d.default": _replicate for n in (1, 2, 3)},
    "aten.flip.default": _flip,
    "aten.roll.default": roll,
    "aten.repeat.default": repeat,
    "aten.tile.default": tile,
    "aten.repeat_interleave.self_int": repeat_interleave,
    "aten.pixel_shuffle.default": pixel_shuffle,
    "aten.pixel_unshuffle.default": pixel_unshuffle,
    "aten.channel_shuffle.default": channel_shuffle,
    "aten.native_channel_shuffle.default": channel_shuffle,
    "aten.im2col.default": im2col,
    "aten.triu.default": _triangle(torch.triu),
    "aten.tril.default": _triangle(torch.tril),
    "aten.slice_scatter.default": _scattered(strided(aten.slice.Tensor)),
    "aten.select_scatter.default": _scattered(strided(aten.select.int)),
    "aten.diagonal_scatter.default": _scattered(strided(aten.diagonal.default)),
}

LANES: frozenset[str] = frozenset({"aten.sym_size.int", "aten.sym_numel.default", "aten.constant_pad_nd.default", "aten.pad.default"})
LANES |= {f"aten.{name}.default" for name in ("cat", "concat", "concatenate")}
