"""Elements chosen by index: embedding, index, index_select, gather, and their inverses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from attar.compiler.builder import Builder, broadcast, converted
from attar.compiler.ir import Array
from attar.compiler.kernels.gather import Bag, Gather, Scatter
from attar.compiler.kernels.map import Map
from attar.compiler.ops.elementwise import where
from attar.compiler.ops.movement import reshape

__all__ = ["LANES", "RULES"]

Rule = Callable[..., Any]


def taken(b: Builder, x: Array, indices: Sequence[Array | None], shape: Sequence[int]) -> Array:
    """`x[indices]`: one index, or None for all, for each dimension; indices broadcast together."""
    dims = [d for d, one in enumerate(indices) if one is not None]
    places = [one for one in indices if one is not None]
    source, wide = _aligned(x, dims, places)
    output = b.empty(shape, x.dtype)
    steps = tuple((x.shape[d], x.strides[d]) for d in dims)
    return b.add(Gather(output, (source, *wide), steps))


def _aligned(x: Array, dims: Sequence[int], places: Sequence[Array]) -> tuple[Array, list[Array]]:
    """The array without the dimensions that are indexed, and the indices, over the shape of the result.

    The indices' own shape stands where the first indexed dimension was, or first where other dimensions lie between.
    """
    joint = torch.broadcast_shapes(*(one.shape for one in places))
    first = dims[0] if list(dims) == list(range(dims[0], dims[0] + len(dims))) else 0
    rest = [d for d in range(len(x.shape)) if d not in dims]
    before = sum(d < first for d in rest)
    head, tail = rest[:before], rest[before:]
    shape = (*(x.shape[d] for d in head), *joint, *(x.shape[d] for d in tail))
    strides = (*(x.strides[d] for d in head), *[0] * len(joint), *(x.strides[d] for d in tail))
    wide = []
    for one in places:
        one = broadcast(one, joint)
        wide.append(Array(one.buffer, shape, (*[0] * len(head), *one.strides, *[0] * len(tail)), one.offset))
    return Array(x.buffer, shape, strides, x.offset), wide


def _masked(indices: Sequence[Array | None]) -> bool:
    """Whether a mask says where: how many places it has is not known. Masks that are known come as the places where they hold."""
    return any(one is not None and one.dtype in ("bool", "uint8") for one in indices)


def index(b: Builder, x: Array, indices: Sequence[Array | None]) -> Any:
    return NotImplemented if _masked(indices) else taken(b, x, indices, b.shape)


def index_select(b: Builder, x: Array, dim: int, places: Array) -> Array:
    if not x.shape:
        return x
    return taken(b, x, [None] * (dim % len(x.shape)) + [reshape(b, places, (places.size,))], b.shape)


def embedding(b: Builder, weight: Array, places: Array, *ignored: Any) -> Array:  # noqa: ARG001
    """Rows of the weight; what the other arguments say is for training."""
    return taken(b, weight, [places], b.shape)


def embedding_bag(
    b: Builder,
    weight: Array,
    places: Array,
    starts: Array,
    scale_grad_by_freq: bool = False,  # noqa: ARG001
    mode: int = 0,
    sparse: bool = False,  # noqa: ARG001
    per_sample_weights: Array | None = None,
    include_last_offset: bool = False,  # noqa: ARG001
    padding_idx: int | None = None,
) -> Any:
    """Sums, means or maxima of rows; the other three results are for training. The result's sizes say whether the last start is an end."""
    if 0 in (*weight.shape, *b.shape) or len(places.shape) != 1:
        return NotImplemented
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]
    inputs = (weight, places, starts) + (() if per_sample_weights is None else (per_sample_weights,))
    made = b.add(Bag(b.empty(b.shape, b.dtype), inputs, ("sum", "mean", "max")[mode], padding))
    return made, None, None, None


def gather(b: Builder, x: Array, dim: int, places: Array, **ignored: Any) -> Array:  # noqa: ARG001
    """`x[i][places[i][j]]`: along one dimension the index says the place, along the others the position does."""
    if not x.shape:
        return broadcast(x, b.shape)
    d = dim % len(x.shape)
    strides = tuple(0 if k == d else s for k, s in enumerate(x.strides))
    source = Array(x.buffer, b.shape, strides, x.offset)
    return b.add(Gather(b.empty(b.shape, x.dtype), (source, broadcast(places, b.shape)), ((x.shape[d], x.strides[d]),)))


def take_along_dim(b: Builder, x: Array, places: Array, dim: int | None = None) -> Array:
    if dim is None:
        return gather(b, reshape(b, x, (x.size,)), 0, reshape(b, places, (places.size,)))
    d = dim % len(x.shape)
    joint = torch.broadcast_shapes((*x.shape[:d], 1, *x.shape[d + 1 :]), (*places.shape[:d], 1, *places.shape[d + 1 :]))
    wide = [(*joint[:d], one.shape[d], *joint[d + 1 :]) for one in (x, places)]
    return gather(b, broadcast(x, wide[0]), d, broadcast(places, wide[1]))


def _copied(b: Builder, x: Array) -> Array:
    output = b.empty(x.shape, x.dtype)
    b.add(Map(output, (x,), "{0}"))
    return output


_COMBINE = {"sum": "{0} + {1}", "add": "{0} + {1}", "multiply": "{0} * {1}", "prod": "{0} * {1}"}
_COMBINE |= {"amax": "{1} > {0} || {1} != {1} ? {1} : {0}", "amin": "{1} < {0} || {1} != {1} ? {1} : {0}"}


def _scatter(combine: str | None) -> Rule:
    """Along one dimension, each element of the source goes to where its index says; `combine` with what is there, None to replace."""

    def rule(b: Builder, x: Array, dim: int, places: Array, source: Any, reduce: str | None = None, *, include_self: bool = True) -> Any:
        if not x.shape or not include_self or reduce == "mean":
            return NotImplemented
        d = dim % len(x.shape)
        output = _copied(b, x)
        source = _source(b, source, places.shape, x.dtype)
        to = tuple(0 if k == d else s for k, s in enumerate(output.strides))
        text = _COMBINE[reduce] if reduce else combine or "{1}"
        return b.add(Scatter(output, (source, places), ((x.shape[d], output.strides[d]),), to, text))

    return rule


def _source(b: Builder, source: Any, shape: Sequence[int], dtype: str) -> Array:
    """What is put in place, in the type and shape of where it goes."""
    if not isinstance(source, Array):
        return broadcast(b.constant(np.array(source, dtype)), shape)
    if source.dtype != dtype:
        source = b.map(converted("{0}", source.dtype, dtype), [source], dtype)
    shape = tuple(shape)
    return (
        Array(source.buffer, shape, source.strides, source.offset)
        if len(source.shape) == len(shape) and source.size > 1
        else broadcast(source, shape)
    )


def index_put(b: Builder, x: Array, indices: Sequence[Array | None], values: Array, accumulate: bool = False, unsafe: bool = False) -> Any:  # noqa: ARG001
    if _masked(indices):
        mask = indices[0]
        if len(indices) != 1 or mask is None or values.size != 1 or accumulate:
            return NotImplemented
        lead = (1,) * (len(x.shape) - len(mask.shape))
        return where(b, reshape(b, mask, mask.shape + lead), reshape(b, values, ()), x)
    output = _copied(b, x)
    dims = [d for d, one in enumerate(indices) if one is not None]
    there, wide = _aligned(output, dims, [one for one in indices if one is not None])
    source = b.cast(values, x.dtype)
    steps = tuple((x.shape[d], output.strides[d]) for d in dims)
    text = _COMBINE["sum"] if accumulate else "{1}"
    return b.add(Scatter(output, (broadcast(source, there.shape), *wide), steps, there.strides, text))


def _index_along(combine: str | None) -> Rule:
    """`index_add` and `index_copy`: slices along one dimension go to where the index says."""

    def rule(b: Builder, x: Array, dim: int, places: Array, source: Array, *, alpha: float = 1) -> Any:
        if not x.shape:
            return NotImplemented
        d = dim % len(x.shape)
        output = _copied(b, x)
        there, wide = _aligned(output, [d], [reshape(b, places, (places.size,))])
        if alpha != 1:
            source = b.map(f"{{0}} * {alpha!r}", [source], x.dtype)
        steps = ((x.shape[d], output.strides[d]),)
        return b.add(Scatter(output, (broadcast(source, there.shape), *wide), steps, there.strides, combine or "{1}"))

    return rule


def index_fill(b: Builder, x: Array, dim: int, places: Array, value: Any) -> Any:
    if not x.shape:
        return NotImplemented
    d = dim % len(x.shape)
    output = _copied(b, x)
    there, wide = _aligned(output, [d], [reshape(b, places, (places.size,))])
    source = _source(b, value, there.shape, x.dtype)
    return b.add(Scatter(output, (source, *wide), ((x.shape[d], output.strides[d]),), there.strides))


RULES: dict[str, Rule] = {
    "aten.index.Tensor": index,
    "aten._unsafe_index.Tensor": index,
    "aten.index_select.default": index_select,
    "aten.embedding.default": embedding,
    "aten.embedding_bag.default": embedding_bag,
    "aten.embedding_bag.padding_idx": embedding_bag,
    "aten.gather.default": gather,
    "aten.take_along_dim.default": take_along_dim,
    **{f"aten.scatter.{kind}": _scatter(None) for kind in ("src", "value", "reduce", "value_reduce")},
    "aten.scatter_add.default": _scatter("{0} + {1}"),
    "aten.scatter_reduce.two": _scatter(None),
    "aten.index_put.default": index_put,
    "aten._unsafe_index_put.default": index_put,
    "aten.index_add.default": _index_along("{0} + {1}"),
    "aten.index_copy.default": _index_along(None),
    **{f"aten.index_fill.int_{kind}": index_fill for kind in ("Scalar", "Tensor")},
}

LANES: frozenset[str] = frozenset()
