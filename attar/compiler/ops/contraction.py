"""Sums of products: matrix products of every kind, linear layers, attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from attar.compiler.builder import Builder, broadcast, literal
from attar.compiler.ir import C_TYPES, Array, contiguous
from attar.compiler.kernels.loops import unsigned
from attar.compiler.kernels.matmul import product
from attar.compiler.kernels.reduce import Reduce
from attar.compiler.kernels.rows import Softmax
from attar.compiler.ops.movement import reshape

__all__ = ["LANES", "RULES", "multiply"]

Rule = Callable[..., Any]


def multiply(b: Builder, x: Array, y: Array, *, others: Sequence[Array] = (), expression: str = "{0}", dtype: str | None = None) -> Array:
    """`expression(x @ y, *others)` for x (..., m, k) and y (..., k, n); leading sizes and the others broadcast."""
    batch = tuple(torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]))
    m, n = x.shape[-2], y.shape[-1]
    output = b.empty((*batch, m, n), dtype or x.dtype)
    others = [broadcast(other, output.shape) for other in others]
    x, y = broadcast(x, (*batch, *x.shape[-2:])), broadcast(y, (*batch, *y.shape[-2:]))
    result = output
    if batch and not any(s for s, z in zip(y.strides, batch, strict=False) if z > 1):  # one y for all: their rows are rows of one matrix
        y = Array(y.buffer, y.shape[-2:], y.strides[-2:], y.offset)
        if m < 8 and _rows(x) is None:
            x = b.dense(x)
        flat = [rows for rows in map(_rows, (x, output, *others)) if rows is not None]
        if len(flat) == 2 + len(others):
            x, output, *others = flat
        else:
            y = broadcast(y, (*batch, *y.shape))
    for op in product(x, y, output, others=others, expression=expression):
        b.add(op)
    return result


def _rows(value: Array) -> Array | None:
    """(..., m, n) as (rows, n), where the strides allow it."""
    steps = [(z, s) for z, s in zip(value.shape[:-1], value.strides[:-1], strict=True) if z != 1]
    if any(s != inner * z for (_, s), (z, inner) in pairwise(steps)):
        return None
    step = steps[-1][1] if steps else 0
    return Array(value.buffer, (math.prod(value.shape[:-1]), value.shape[-1]), (step, value.strides[-1]), value.offset)


def _turned(x: Array) -> Array:
    """The last two dimensions changed for one another."""
    return Array(x.buffer, (*x.shape[:-2], x.shape[-1], x.shape[-2]), (*x.strides[:-2], x.strides[-1], x.strides[-2]), x.offset)


def _with(x: Array, dim: int) -> Array:
    """A dimension of size 1 put in before `dim`."""
    return Array(x.buffer, (*x.shape[:dim], 1, *x.shape[dim:]), (*x.strides[:dim], 0, *x.strides[dim:]), x.offset)


def _as(x: Array, shape: Sequence[int]) -> Array:
    """A fresh result with sizes of 1 put in or left out."""
    return Array(x.buffer, tuple(shape), contiguous(tuple(shape)), x.offset)


def matmul(b: Builder, x: Array, y: Array) -> Array:
    """torch.matmul: a vector on the left is a row, on the right a column, and leaves no dimension."""
    first = _with(x, 0) if len(x.shape) == 1 else x
    second = _with(y, 1) if len(y.shape) == 1 else y
    return _as(multiply(b, first, second), b.shape)


def linear(b: Builder, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x @ weight.T + bias."""
    first = _with(x, 0) if len(x.shape) == 1 else x
    second = _turned(weight) if len(weight.shape) == 2 else _with(weight, 1)
    if bias is None:
        return _as(multiply(b, first, second), b.shape)
    return _as(multiply(b, first, second, others=[bias], expression=_sum("{0}", "{1}", x.dtype)), b.shape)


def _sum(a: str, c: str, dtype: str) -> str:
    """C of a sum; integers wrap."""
    wide = unsigned(dtype)
    return f"{a} + {c}" if wide == C_TYPES[dtype] else f"({C_TYPES[dtype]})(({wide}){a} + ({wide}){c})"


def _scaled(value: str, factor: Any, dtype: str) -> str:
    if factor == 1:
        return value
    wide = unsigned(dtype)
    factor = literal(factor, dtype)
    return f"{value} * {factor}" if wide == C_TYPES[dtype] else f"({C_TYPES[dtype]})(({wide}){value} * ({wide}){factor})"


def addmm(b: Builder, c: Array, x: Array, y: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    """beta * c + alpha * (x @ y), of matrices or batches of them."""
    value = _scaled("{0}", alpha, x.dtype)
    if beta == 0:
        return multiply(b, x, y, expression=value)
    return multiply(b, x, y, others=[c], expression=_sum(value, _scaled("{1}", beta, x.dtype), x.dtype))


def addmv(b: Builder, c: Array, x: Array, y: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    """beta * c + alpha * (x @ y), of a matrix and vectors."""
    return _as(addmm(b, _with(c, len(c.shape)), x, _with(y, 1), beta=beta, alpha=alpha), b.shape)


def addbmm(b: Builder, c: Array, x: Array, y: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    """beta * c + alpha * the sum over the batch of x @ y: one product, the batch and k together."""
    batch, m, k = x.shape
    wide = reshape(b, Array(x.buffer, (m, batch, k), (x.strides[1], x.strides[0], x.strides[2]), x.offset), (m, batch * k))
    return addmm(b, c, wide, reshape(b, y, (batch * k, y.shape[-1])), beta=beta, alpha=alpha)


def outer(b: Builder, x: Array, y: Array) -> Array:
    return multiply(b, _with(x, 1), _with(y, 0))


def trilinear(
    b: Builder,
    x: Array,
    y: Array,
    z: Array,
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    unroll_dim: int = 1,
) -> Array:
    """The sum over `sumdim` of the product of three tensors, each with sizes of 1 put in at its `expand`."""
    del unroll_dim
    parts = []
    for value, dims in ((x, expand1), (y, expand2), (z, expand3)):
        for d in sorted(dims):
            value = _with(value, d)
        parts.append(value)
    shape = torch.broadcast_shapes(*(part.shape for part in parts))
    parts = [broadcast(part, shape) for part in parts]
    kept = [d for d in range(len(shape)) if d not in sumdim]
    output = b.empty([shape[d] for d in kept], x.dtype)
    return _as(b.add(Reduce(output, tuple(parts), "sum", tuple(sumdim), x.dtype, "{0} * {1} * {2}")), b.shape)


def attention(
    b: Builder,
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(query @ key.T * scale + mask) @ value; a query that may look nowhere gives zeros."""
    if dropout_p or not query.dtype.startswith("float") or not query.size or not key.size:
        return NotImplemented
    groups = query.shape[-3] // key.shape[-3] if enable_gqa else 1
    if groups > 1:
        if key.shape[-3] != value.shape[-3]:
            return NotImplemented
        query, key, value = _split(query, groups), _split(key, 1), _split(value, 1)
        if attn_mask is not None and len(attn_mask.shape) > 2:
            attn_mask = _split(attn_mask, groups if attn_mask.shape[-3] > 1 else 1)
    factor = literal(1 / math.sqrt(query.shape[-1]) if scale is None else scale, query.dtype)
    expression, others = f"{{0}} * {factor}", []
    if is_causal:
        seen = np.tril(np.ones((query.shape[-2], key.shape[-2]), np.bool_))
        attn_mask = b.constant(seen)
    if attn_mask is not None:
        others = [attn_mask]
        expression = f"{{1}} ? {expression} : -INFINITY" if attn_mask.dtype == "bool" else f"{expression} + {{1}}"
    scores = multiply(b, query, _turned(key), others=others, expression=expression)
    weights = b.add(Softmax(b.empty(scores.shape, scores.dtype), (scores,), len(scores.shape) - 1, safe=attn_mask is not None))
    return _as(multiply(b, weights, value), b.shape)


def _split(x: Array, groups: int) -> Array:
    """(..., heads, s, d) as (..., heads / groups, groups, s, d): neighbours share a key."""
    *batch, heads, s, d = x.shape
    step = x.strides[-3]
    return Array(x.buffer, (*batch, heads // groups, groups, s, d), (*x.strides[:-3], step * groups, step, *x.strides[-2:]), x.offset)


RULES: dict[str, Rule] = {
    "aten.mm.default": matmul,
    "aten.bmm.default": matmul,
    "aten.mv.default": matmul,
    "aten.dot.default": matmul,
    "aten.vdot.default": matmul,
    "aten.inner.default": lambda b, x, y: linear(b, x, y) if x.shape and y.shape and len(y.shape) <= 2 else NotImplemented,
    "aten.matmul.default": matmul,
    "aten.linalg_matmul.default": matmul,
    "aten.linear.default": linear,
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": addmm,
    "aten.addmv.default": addmv,
    "aten.addbmm.default": addbmm,
    "aten.outer.default": outer,
    "aten.ger.default": outer,
    "aten._trilinear.default": trilinear,
    "aten.scaled_dot_product_attention.default": attention,
}
LANES: frozenset[str] = frozenset()
