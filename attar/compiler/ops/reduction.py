"""Over some dimensions: sums, means, variances, norms, extrema, truth; running sums; order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from attar.compiler.builder import Builder, broadcast, converted, literal
from attar.compiler.ir import Array, contiguous
from attar.compiler.kernels.reduce import ArgExtremum, Reduce
from attar.compiler.kernels.scan import Order, Scan
from attar.compiler.ops.indexing import gather
from attar.compiler.ops.movement import reshape

__all__ = ["LANES", "RULES", "reduced"]

Rule = Callable[..., Any]
Dims = int | Sequence[int] | None


def reduced(
    b: Builder,
    kind: str,
    inputs: Array | Sequence[Array],
    dims: Dims,
    *,
    dtype: str,
    keep: bool = False,
    expression: str = "{0}",
    finish: str = "{0}",
) -> Array:
    """`finish(kind over dims of expression(inputs))`, of the type `dtype`. No dims are all. The inputs broadcast to the first."""
    x, *others = [inputs] if isinstance(inputs, Array) else inputs
    axes = _axes(x, dims)
    output = b.empty([n for d, n in enumerate(x.shape) if d not in axes], dtype)
    values = "bool" if kind in ("any", "all") else dtype
    b.add(Reduce(output, (x, *(broadcast(other, x.shape) for other in others)), kind, axes, values, expression, finish))
    shape = tuple(1 if d in axes else n for d, n in enumerate(x.shape)) if keep else output.shape
    return _seen(output, shape)


def _axes(x: Array, dims: Dims) -> tuple[int, ...]:
    """Dimensions as PyTorch names them: one, several, negative; none for all. A number has none."""
    count = len(x.shape)
    if not count:
        return ()
    given = [dims] if isinstance(dims, int) else list(dims or range(count))
    return tuple(sorted({d % count for d in given}))


def _seen(fresh: Array, shape: Sequence[int]) -> Array:
    """A fresh dense array with sizes of 1 put in."""
    return Array(fresh.buffer, tuple(shape), contiguous(tuple(shape)), fresh.offset)


def _simple(kind: str) -> Rule:
    """A kind over dimensions, or over all where none are given, of values converted to the result's type."""

    def rule(b: Builder, x: Array, dims: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
        del dtype  # the result has it
        return reduced(b, kind, x, dims, dtype=b.dtype, keep=keepdim, expression=converted("{0}", x.dtype, b.dtype))

    return rule


def _truth(kind: str) -> Rule:
    def rule(b: Builder, x: Array, dims: Dims = None, keepdim: bool = False) -> Array:
        if isinstance(dims, Sequence) and not dims:  # no dimension goes
            return b.map("{0} != 0", [x], b.dtype)
        return reduced(b, kind, x, dims, dtype=b.dtype, keep=keepdim, expression="{0} != 0")

    return rule


def mean(b: Builder, x: Array, dims: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    del dtype
    count = math.prod(x.shape[d] for d in _axes(x, dims))
    expression = converted("{0}", x.dtype, b.dtype)
    return reduced(b, "sum", x, dims, dtype=b.dtype, keep=keepdim, expression=expression, finish=f"{{0}} / {literal(count, b.dtype)}")


def variance(b: Builder, x: Array, dims: Dims, correction: float, keep: bool, *, root: bool = False) -> tuple[Array, Array]:
    """Variance, or its root, and mean: the mean first, then the squares of what differs from it."""
    count = math.prod(x.shape[d] for d in _axes(x, dims))
    middle = reduced(b, "sum", x, dims, dtype=x.dtype, keep=True, finish=f"{{0}} / {literal(count, x.dtype)}")
    finish = f"{{0}} / {literal(max(0, count - correction), x.dtype)}"
    if root:
        finish = f"sqrt{'f' if x.dtype == 'float32' else ''}({finish})"
    wide = "({0} - {1}) * ({0} - {1})"
    spread = reduced(b, "sum", (x, middle), dims, dtype=x.dtype, keep=keep, expression=wide, finish=finish)
    return spread, _seen(middle, spread.shape)


def _spread(*, root: bool = False, both: bool = False) -> Rule:
    """var, std, var_mean, std_mean in each of their forms: (dims, unbiased, keepdim) or (dims, correction=, keepdim=)."""

    def rule(
        b: Builder, x: Array, dims: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: float | None = None
    ) -> Any:
        if isinstance(dims, bool):  # over all, with or without Bessel's correction
            dims, unbiased = None, dims
        if unbiased is not None:
            correction = int(unbiased)
        result = variance(b, x, dims, 1 if correction is None else correction, keepdim, root=root)
        return result if both else result[0]

    return rule


def norm(b: Builder, x: Array, order: float = 2, dims: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    """linalg.vector_norm: the p-th root of the sum of p-th powers; the extrema for p infinite, the count of nonzeros for 0."""
    del dtype
    end = "f" if b.dtype == "float32" else ""
    size = f"fabs{end}({converted('{0}', x.dtype, b.dtype)})"
    kind, expression, finish = "sum", size, "{0}"
    if math.isinf(order):
        kind = "amax" if order > 0 else "amin"
    elif order == 0:
        expression = "{0} != 0"
    elif order == 2:
        expression, finish = f"{size} * {size}", f"sqrt{end}({{0}})"
    elif order != 1:
        power, root = literal(order, b.dtype), literal(1 / order, b.dtype)
        expression, finish = f"pow{end}({size}, {power})", f"pow{end}({{0}}, {root})"
    return reduced(b, kind, x, dims, dtype=b.dtype, keep=keepdim, expression=expression, finish=finish)


def old_norm(b: Builder, x: Array, p: float | None = 2, dims: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    return norm(b, x, 2 if p is None else p, dims, keepdim, dtype=dtype)


def logsumexp(b: Builder, x: Array, dims: Dims, keepdim: bool = False) -> Array:
    """The greatest is taken out of the exponents, unless it is infinite."""
    del keepdim  # the result's sizes say it
    float32 = b.dtype == "float32"
    exp, log = ("attar_expf", "attar_logf") if float32 else ("exp", "log")
    x = b.cast(x, b.dtype)
    most = reduced(b, "amax", x, dims, dtype=b.dtype, keep=True)
    most = b.map("{0} == INFINITY || {0} == -INFINITY ? 0 : {0}", [most], b.dtype)
    sums = reduced(b, "sum", (x, most), dims, dtype=b.dtype, keep=True, expression=f"{exp}({{0}} - {{1}})")
    return _seen(b.map(f"{log}({{0}}) + {{1}}", [sums, most], b.dtype), b.shape)


def _extremum(kind: str) -> Rule:
    """amax, amin, and max and min of all."""
    return lambda b, x, dims=None, keepdim=False: reduced(b, kind, x, dims, dtype=b.dtype, keep=keepdim)


def _extremum_with_place(greatest: bool) -> Rule:
    """max.dim and min.dim: the values, and where they lie."""

    def rule(b: Builder, x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
        values = reduced(b, "amax" if greatest else "amin", x, dim, dtype=x.dtype, keep=keepdim)
        return values, _place(b, x, dim, keepdim, greatest)

    return rule


def _place(b: Builder, x: Array, dim: int, keep: bool, greatest: bool) -> Array:
    if not x.shape:
        return b.constant(np.zeros((), np.int64))
    axis = dim % len(x.shape)
    output = b.empty([n for d, n in enumerate(x.shape) if d != axis], "int64")
    b.add(ArgExtremum(output, (x,), axis, greatest))
    return _seen(output, tuple(1 if d == axis else n for d, n in enumerate(x.shape)) if keep else output.shape)


def _arg(greatest: bool) -> Rule:
    """argmax and argmin; without a dimension, over all elements in row-major order."""

    def rule(b: Builder, x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
        if dim is None:
            return _seen(_place(b, reshape(b, x, (x.size,)), 0, False, greatest), b.shape)
        return _place(b, x, dim, keepdim, greatest)

    return rule


def aminmax(b: Builder, x: Array, *, dim: int | None = None, keepdim: bool = False) -> tuple[Array, Array]:
    low, high = (reduced(b, kind, x, dim, dtype=x.dtype, keep=keepdim) for kind in ("amin", "amax"))
    return low, high


def _running(kind: str) -> Rule:
    """cumsum and cumprod: integers and truth values run as int64, unless a type is given."""

    def rule(b: Builder, x: Array, dim: int, *, dtype: Any = None) -> Array:
        del dtype
        x = b.cast(x, b.dtype)
        return x if not x.shape else b.add(Scan(b.empty(x.shape, x.dtype), (x,), kind, dim % len(x.shape)))

    return rule


def _running_extremum(kind: str) -> Rule:
    """cummax and cummin: the values, and where each was met last."""

    def rule(b: Builder, x: Array, dim: int) -> tuple[Array, Array]:
        if not x.shape:
            return x, b.constant(np.zeros((), np.int64))
        axis = dim % len(x.shape)
        values = b.add(Scan(b.empty(x.shape, x.dtype), (x,), kind, axis))
        return values, b.add(Scan(b.empty(x.shape, "int64"), (x,), kind, axis, where=True))

    return rule


def ranked(b: Builder, x: Array, dim: int, count: int, descending: bool) -> tuple[Array, Array]:
    """The first `count` along a dimension in order, and where they lie; equals in the order in which they come."""
    if not x.shape:
        return x, b.constant(np.zeros((), np.int64))
    axis = dim % len(x.shape)
    order = [*(d for d in range(len(x.shape)) if d != axis), axis]
    row = Array(x.buffer, tuple(x.shape[d] for d in order), tuple(x.strides[d] for d in order), x.offset)
    places = b.add(Order(b.empty((*row.shape[:-1], count), "int64"), (row,), descending))
    back = [order.index(d) for d in range(len(order))]
    places = Array(places.buffer, tuple(places.shape[d] for d in back), tuple(places.strides[d] for d in back), places.offset)
    return gather(b, x, axis, places), places


def topk(b: Builder, x: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Array, Array]:
    del sorted  # sorted is one of the orders that are allowed
    return ranked(b, x, dim, k, largest)


def sort(b: Builder, x: Array, dim: int = -1, descending: bool = False) -> tuple[Array, Array]:
    return ranked(b, x, dim, x.shape[dim] if x.shape else 1, descending)


def stable_sort(b: Builder, x: Array, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Array, Array]:
    del stable
    return sort(b, x, dim, descending)


def argsort(b: Builder, x: Array, dim: int = -1, descending: bool = False) -> Array:
    return sort(b, x, dim, descending)[1]


def histc(b: Builder, x: Array, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements fall in each of equal bins from min to max; those outside count nowhere."""
    if not min < max or not x.size:
        return NotImplemented
    low, high = literal(min, "float64"), literal(max, "float64")
    spot = f"(long)(((double){{0}} - {low}) * {bins} / ({high} - {low}))"
    inside = f"(double){{0}} >= {low} && (double){{0}} <= {high}"
    expression = f"{inside} && {{1}} == ({spot} < {bins} ? {spot} : {bins - 1})"
    row = reshape(b, x, (x.size,))
    wide, number = broadcast(row, (bins, x.size)), b.constant(np.arange(bins))
    number = Array(number.buffer, (bins, x.size), (1, 0), number.offset)
    return reduced(b, "sum", (wide, number), 1, dtype=b.dtype, expression=expression)


def cosine_similarity(b: Builder, x: Array, y: Array, dim: int = 1, eps: float = 1e-8) -> Array:
    """The product of two vectors over that of their lengths, each at least eps."""
    shape = torch.broadcast_shapes(x.shape, y.shape)
    x, y = broadcast(x, shape), broadcast(y, shape)
    lengths = [norm(b, value, 2, dim) for value in (x, y)]
    dot = reduced(b, "sum", (x, y), dim, dtype=b.dtype, expression="{0} * {1}")
    least = literal(eps, b.dtype)
    return b.map(f"{{0}} / (({{1}} < {least} ? {least} : {{1}}) * ({{2}} < {least} ? {least} : {{2}}))", [dot, *lengths], b.dtype)


def count_nonzero(b: Builder, x: Array, dims: Dims = None) -> Array:
    return reduced(b, "sum", x, dims, dtype="int64", expression="{0} != 0")


def _forms(name: str, rule: Rule, forms: str) -> dict[str, Rule]:
    return {f"aten.{name}.{form}": rule for form in forms.split()}


RULES: dict[str, Rule] = {
    **_forms("sum", _simple("sum"), "default dim_IntList"),
    **_forms("prod", _simple("prod"), "default dim_int"),
    **_forms("mean", mean, "default dim"),
    **_forms("var", _spread(), "default dim correction"),
    **_forms("std", _spread(root=True), "default dim correction"),
    **_forms("var_mean", _spread(both=True), "default dim correction"),
    **_forms("std_mean", _spread(root=True, both=True), "default dim correction"),
    "aten.linalg_vector_norm.default": norm,
    "aten.cosine_similarity.default": cosine_similarity,
    **_forms("norm", old_norm, "Scalar ScalarOpt_dim ScalarOpt_dtype ScalarOpt_dim_dtype"),
    "aten.logsumexp.default": logsumexp,
    "aten.amax.default": _extremum("amax"),
    "aten.amin.default": _extremum("amin"),
    "aten.max.default": _extremum("amax"),
    "aten.min.default": _extremum("amin"),
    "aten.max.dim": _extremum_with_place(True),
    "aten.min.dim": _extremum_with_place(False),
    "aten.argmax.default": _arg(True),
    "aten.argmin.default": _arg(False),
    "aten.aminmax.default": aminmax,
    **_forms("any", _truth("any"), "default dim dims"),
    **_forms("all", _truth("all"), "default dim dims"),
    "aten.cumsum.default": _running("sum"),
    "aten.cumprod.default": _running("prod"),
    "aten.cummax.default": _running_extremum("max"),
    "aten.cummin.default": _running_extremum("min"),
    "aten.topk.default": topk,
    "aten.sort.default": sort,
    "aten.sort.stable": stable_sort,
    "aten.argsort.default": argsort,
    "aten.histc.default": histc,
    **_forms("count_nonzero", count_nonzero, "default dim_IntList"),
}
LANES: frozenset[str] = frozenset()
