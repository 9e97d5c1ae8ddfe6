"""Resizing along one dimension: each output is a weighted sum of a few inputs, whose positions and weights are constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attar.compiler.ir import C_TYPES, Buffer, Op
from attar.compiler.kernels.loops import index, nest, pointer
from attar.compiler.kernels.map import merge
from attar.compiler.kernels.reduce import share

__all__ = ["Resample"]


@dataclass(frozen=True, eq=False)
class Resample(Op):
    """`output[..., i, ...] = sum over t of weight[i, t] * x[..., position[i, t], ...]` along `axis`.

    inputs are (x, position (n, taps) int32, weight (n, taps)), or (x, position (n, 1)) for a plain choice of elements.
    """

    axis: int

    def source(self, at: Callable[[Buffer], str]) -> str:
        x, position, *weight = self.inputs
        y, axis = self.output, self.axis
        if 0 in y.shape:
            return "// no elements\n"
        inner = [d for d in range(len(y.shape)) if d != axis]
        sizes, (ys, xs) = merge([y.shape[d] for d in inner], [[a.strides[d] for d in inner] for a in (y, x)])
        names = [f"n{d}" for d in range(len(sizes))]
        n, taps = position.shape
        lines = [pointer("y", y, at, write=True), pointer("x", x, at), pointer("position", position, at)]
        lines += [pointer("weight", w, at) for w in weight]
        last = len(sizes) - 1
        rows = bool(sizes) and ys[last] == xs[last] == 1 and sizes[last] >= 8  # neighbours along another dimension: they go together
        # an element of the output lies at `to`, its inputs begin at `of`
        head, loops = share([*(names[:-1] if rows else names), "i"], [*(sizes[:-1] if rows else sizes), n])
        outer = [*names, "i"]
        to = f"y[{index(outer, [*ys, y.strides[axis]])}]"
        of = [f"x[{index([*names, f'p{t}'], [*xs, x.strides[axis]])}]" for t in range(taps)]
        fixed = [f"const long {', '.join(f'p{t} = position[i * {taps} + {t}]' for t in range(taps))};"]
        if weight:
            kind = C_TYPES[x.dtype]
            fixed.append(f"const {kind} {', '.join(f'w{t} = weight[i * {taps} + {t}]' for t in range(taps))};")
            value = " + ".join(f"w{t} * {of[t]}" for t in range(taps))
        else:
            value = of[0]
        store = [f"{to} = {value};"]
        body = [*fixed, *(nest([(names[-1], "0", str(sizes[last]))], store) if rows else store)]
        return "\n".join([*lines, *head, *nest(loops, body)]) + "\n"
