"""Running sums, products and extrema along a dimension; and order: the positions of a row's elements, sorted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attar.compiler.ir import C_TYPES, Buffer, Op
from attar.compiler.kernels.loops import index, nest, pointer, unsigned
from attar.compiler.kernels.map import merge
from attar.compiler.kernels.reduce import share

__all__ = ["Order", "Scan"]

_STRIP = 64  # rows side by side

# the next result from the last one, {a}, and a value, {v}
_STEPS = {
    "sum": "{a} + {v}",
    "prod": "{a} * {v}",
    "max": "{a} > {v} ? {a} : {v}",
    "min": "{a} < {v} ? {a} : {v}",
}


@dataclass(frozen=True, eq=False)
class Scan(Op):
    """`output[i] = output[i - 1] kind x[i]` along `axis`, from `output[0] = x[0]`; kind is sum, prod, max or min.

    Floats are summed and multiplied as doubles, as PyTorch does. The extrema are where a position is kept: with `where`, the output
    is that of the element which is the greatest so far, the last of equals.
    """

    kind: str
    axis: int
    where: bool = False

    def source(self, at: Callable[[Buffer], str]) -> str:
        x, y = self.inputs[0], self.output
        if 0 in x.shape:
            return "// no elements\n"
        others = [d for d in range(len(x.shape)) if d != self.axis]
        outer, (ys, xs) = merge([x.shape[d] for d in others], [[a.strides[d] for d in others] for a in (y, x)])
        names = [f"n{d}" for d in range(len(outer))]
        n, along, across = x.shape[self.axis], x.strides[self.axis], y.strides[self.axis]
        extremum = self.kind in ("max", "min")
        kind = C_TYPES[x.dtype] if extremum else "double" if y.dtype.startswith("float") else unsigned(y.dtype)
        lines = [pointer("y", y, at, write=True), pointer("x", x, at)]
        column = next((d for d in range(len(outer)) if xs[d] == ys[d] == 1 and outer[d] >= 8), None)
        strip = 1 if column is None else min(_STRIP, outer[column])
        inside = ["(s + l)" if d == column else v for d, v in enumerate(names)]
        of, to = index([*inside, "i"], [*xs, along]), index([*inside, "i"], [*ys, across])
        rounds = [-(-z // strip) if d == column else z for d, z in enumerate(outer)]
        body = [f"{kind} sum[{strip}];"] + ([f"{C_TYPES[y.dtype]} place[{strip}];"] if self.where else [])
        if column is not None:
            body.insert(0, f"const long s = n{column} * {strip}, wide = {outer[column]} - s < {strip} ? {outer[column]} - s : {strip};")
        lanes = ("l", "0", "1" if column is None else "wide")
        first = [f"sum[l] = ({kind})x[{index(inside, xs)}];", f"y[{index(inside, ys)}] = {'place[l] = 0' if self.where else 'sum[l]'};"]
        body += nest([lanes], first)
        if self.where:
            sign = ">=" if self.kind == "max" else "<="
            nan = " | (v != v)" if x.dtype.startswith("float") else ""
            later = [f"const {kind} v = x[{of}];", f"const int wins = (v {sign} sum[l]){nan};", "place[l] = wins ? i : place[l];"]
            later += ["sum[l] = wins ? v : sum[l];", f"y[{to}] = place[l];"]
        else:
            nan = "sum[l] != sum[l] ? sum[l] : " if extremum and x.dtype.startswith("float") else ""
            step = _STEPS[self.kind].format(a="sum[l]", v="v")
            later = [f"const {kind} v = x[{of}];", f"sum[l] = {nan}{step};", f"y[{to}] = sum[l];"]
        body += nest([("i", "1", str(n)), lanes], later)
        head, loops = share(names, rounds)
        return "\n".join([*lines, *head, *nest(loops, body), *(["}"] if not outer else [])]) + "\n"


@dataclass(frozen=True, eq=False)
class Order(Op):
    """`output[..., r]` = the position along the last dimension of the element of rank r, int64; equal elements keep their order.

    The output has all ranks, or the first k, and is row-major along them. NaN is greater than all.
    """

    descending: bool = False

    def functions(self) -> dict[str, str]:
        kind = C_TYPES[self.inputs[0].dtype]
        name = self._name
        sign = ">" if self.descending else "<"
        first, second = ("a", "b") if self.descending else ("b", "a")  # which one comes first where it is NaN
        nan = f" || ({first} != {first} && {second} == {second})" if kind in ("float", "double") else ""
        text = f"""static inline int {name}_first({kind} a, {kind} b) {{ return a {sign} b{nan}; }}

// whether element i of a row comes before element j
static inline int {name}_before(const {kind} *x, long step, int64_t i, int64_t j) {{
    const {kind} a = x[i * step], b = x[j * step];
    return {name}_first(a, b) || (!{name}_first(b, a) && i < j);
}}

// let the first of a heap of n positions sink to its place; the one that comes last is on top
static void {name}_sink(const {kind} *x, long step, int64_t *heap, long n, long at) {{
    const int64_t moved = heap[at];
    for (long child; (child = 2 * at + 1) < n; at = child) {{
        if (child + 1 < n && {name}_before(x, step, heap[child], heap[child + 1])) child++;
        if (!{name}_before(x, step, moved, heap[child])) break;
        heap[at] = heap[child];
    }}
    heap[at] = moved;
}}

// the first k of n positions, in order: a heap of the best so far, then sorted in place
static void {name}(const {kind} *x, long step, long n, int64_t *heap, long k) {{
    for (long i = 0; i < k; i++) heap[i] = i;
    for (long i = k / 2; i-- > 0;) {name}_sink(x, step, heap, k, i);
    for (long i = k; i < n; i++)
        if ({name}_before(x, step, i, heap[0])) heap[0] = i, {name}_sink(x, step, heap, k, 0);
    for (long last = k - 1; last > 0; last--) {{
        const int64_t top = heap[0];
        heap[0] = heap[last];
        heap[last] = top;
        {name}_sink(x, step, heap, last, 0);
    }}
}}
"""
        return {name: text}

    @property
    def _name(self) -> str:
        return f"order_{C_TYPES[self.inputs[0].dtype].removesuffix('_t')}{'_down' if self.descending else ''}"

    def source(self, at: Callable[[Buffer], str]) -> str:
        x, y = self.inputs[0], self.output
        if 0 in y.shape:
            return "// no elements\n"
        outer, (ys, xs) = merge(x.shape[:-1], [y.strides[:-1], x.strides[:-1]])
        names = [f"n{d}" for d in range(len(outer))]
        lines = [pointer("y", y, at, write=True), pointer("x", x, at)]
        body = [f"{self._name}(x + {index(names, xs)}, {x.strides[-1]}, {x.shape[-1]}, y + {index(names, ys)}, {y.shape[-1]});"]
        head, loops = share(names, outer)
        return "\n".join([*lines, *head, *nest(loops, body), *(["}"] if not outer else [])]) + "\n"
