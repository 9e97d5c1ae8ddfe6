"""Elements taken from, or put to, places that are computed while the program runs: embedding, index, gather, scatter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attar.compiler.ir import C_TYPES, Buffer, Op
from attar.compiler.kernels.loops import numbered, pointer
from attar.compiler.kernels.map import merge

__all__ = ["Bag", "Gather", "Scatter"]

# An index below zero counts from the end, as in PyTorch. One that is out of range, which PyTorch refuses, is brought to
# the nearest that is in range: no memory but the tensor's is ever read or written.
_PLACE = {
    "attar_place": """\
static inline long attar_place(int64_t i, int64_t n) {
    i = i < 0 ? i + n : i;
    return (long)(i < 0 ? 0 : i >= n ? n - 1 : i);
}
"""
}


@dataclass(frozen=True, eq=False)
class Gather(Op):
    """`output[i] = source[i + sum of index_k[i] * step_k]`: `inputs` are the source and the indices, all of the output's shape.

    The source has stride 0 where an index says the place; `steps` has (size, stride) of the dimension of each index.
    """

    steps: tuple[tuple[int, int], ...]

    def functions(self) -> dict[str, str]:
        return _PLACE

    def source(self, at: Callable[[Buffer], str]) -> str:
        shape, strides = merge(self.output.shape, [a.strides for a in (self.output, *self.inputs)])
        if 0 in shape or not self.inputs[0].buffer.size:
            return "// no elements\n"
        lines = [pointer("x", self.inputs[0], at), pointer("y", self.output, at, write=True)]
        lines += [pointer(f"n{k}", a, at) for k, a in enumerate(self.inputs[1:])]
        places = [f"attar_place(n{k}[{numbered(strides[k + 2])}], {size}) * {step}" for k, (size, step) in enumerate(self.steps)]
        taken = " + ".join([numbered(strides[1]), *places])
        return "\n".join([*lines, *_nest(shape, f"y[{numbered(strides[0])}] = x[{taken}];", shared=True)]) + "\n"


@dataclass(frozen=True, eq=False)
class Scatter(Op):
    """`output[i + sum of index_k[i] * step_k] = (or +=, ...) source[i]`, in order: `inputs` are the source and the indices, of one shape.

    `places` are the output's strides over that shape, 0 where an index says the place. `combine` is C in which {0} is what
    lies there and {1} what comes. Places may be hit twice, so that threads share only a loop along which no index says where.
    """

    steps: tuple[tuple[int, int], ...]
    places: tuple[int, ...]
    combine: str = "{1}"

    def functions(self) -> dict[str, str]:
        return _PLACE

    def source(self, at: Callable[[Buffer], str]) -> str:
        shape, strides = merge(self.inputs[0].shape, [a.strides for a in self.inputs] + [self.places])
        if 0 in shape or not self.output.buffer.size:
            return "// no elements\n"
        lines = [pointer("x", self.inputs[0], at), pointer("y", self.output, at, write=True)]
        lines += [pointer(f"n{k}", a, at) for k, a in enumerate(self.inputs[1:])]
        places = [f"attar_place(n{k}[{numbered(strides[k + 1])}], {size}) * {step}" for k, (size, step) in enumerate(self.steps)]
        kind = C_TYPES[self.output.dtype]
        place, value = " + ".join([numbered(strides[-1]), *places]), self.combine.format("*to", f"x[{numbered(strides[0])}]")
        body = f"{kind} *const to = y + {place}; *to = ({kind})({value});"
        return "\n".join([*lines, *_nest(shape, body, shared=bool(shape) and strides[-1][0] != 0)]) + "\n"


@dataclass(frozen=True, eq=False)
class Bag(Op):
    """Each output row is the sum, mean or max of a bag of rows.

    `inputs` are the rows, which rows the bags hold, where each bag starts among those, and a factor for each, if any. Rows
    numbered `padding` are left out. An empty bag gives zeros.
    """

    mode: str
    padding: int

    def functions(self) -> dict[str, str]:
        return _PLACE

    def source(self, at: Callable[[Buffer], str]) -> str:
        rows, which, starts = self.inputs[:3]
        bags, width = self.output.shape
        count, kind = which.shape[0], C_TYPES[self.output.dtype]
        lines = [pointer(name, value, at) for name, value in zip("x w s f".split(), self.inputs, strict=False)]  # noqa: SIM905
        lines.append(pointer("y", self.output, at, write=True))
        value = f"x[row * {rows.strides[0]} + j * {rows.strides[1]}]"
        if len(self.inputs) > 3:
            value += f" * f[i * {self.inputs[3].strides[0]}]"
        joined = f"to[j] + {value}" if self.mode != "max" else f"n == 1 || {value} > to[j] || {value} != {value} ? {value} : to[j]"
        end = f"b + 1 < {starts.shape[0]} ? s[(b + 1) * {starts.strides[0]}] : {count}"
        mean = f"\n    for (long j = 0; n && j < {width}; j++) to[j] /= ({kind})n;" if self.mode == "mean" else ""
        return (
            "\n".join(lines)
            + f"""
SPLIT(lo, hi, {bags})
for (long b = lo; b < hi; b++) {{
    {kind} *restrict to = y + b * {width};
    const int64_t first = s[b * {starts.strides[0]}], end = {end};
    long n = 0;  // rows in the bag
    for (long j = 0; j < {width}; j++) to[j] = 0;
    for (long i = first < 0 ? 0 : first; i < (end < {count} ? end : {count}); i++) {{
        const long row = attar_place(w[i * {which.strides[0]}], {rows.shape[0]});
        if (row == {self.padding}) continue;
        n++;
        for (long j = 0; j < {width}; j++) to[j] = {joined};
    }}{mean}
}}
"""
        )


def _nest(shape: list[int], body: str, *, shared: bool) -> list[str]:
    """A loop over each dimension, the outermost split between threads where it is `shared`, else left to the first."""
    lines = [f"SPLIT(lo, hi, {shape[0]})"] if shared and shape else ["if (part) return;"]
    for d, n in enumerate(shape):
        start, end = ("lo", "hi") if shared and d == 0 else ("0", str(n))
        lines.append("    " * d + f"for (long i{d} = {start}; i{d} < {end}; i{d}++)")
    return [*lines, "    " * len(shape) + f"{{ {body} }}"]
