"""Kernels that read a row several times while it lies in the first cache: softmax, and normalisation by mean and variance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attar.compiler.ir import C_TYPES, Buffer, Op
from attar.compiler.kernels.loops import index, nest, pointer
from attar.compiler.kernels.map import merge
from attar.compiler.kernels.reduce import share

__all__ = ["Normalize", "Softmax"]

_LANES = 32  # sums of one row, apart from one another
_STRIP = 64  # columns at a time


def _lanes(name: str, n: int, first: str, step: str, kind: str, join: str) -> list[str]:
    """Lines that reduce n elements to name[0]: `step` is a statement on lane l and element i, `join` one on lanes l and l + h."""
    lanes = min(_LANES, 1 << (n.bit_length() - 1)) if n > 1 else 1
    whole = n - n % lanes
    lines = [f"{kind} {name}[{lanes}];", *nest([("l", "0", str(lanes))], [f"{name}[l] = {first};"])]
    inner = nest([("l", "0", str(lanes))], ["const long i = j + l;", step])
    lines += [f"for (long j = 0; j < {whole}; j += {lanes}) {{", *("    " + t for t in inner), "}"]
    if n % lanes:
        lines += nest([("l", "0", str(n % lanes))], [f"const long i = {whole} + l;", step])
    if lanes > 1:
        lines += [
            f'_Pragma("GCC unroll 8") for (long h = {lanes // 2}; h > 0; h /= 2)',
            *("    " + t for t in nest([("l", "0", "h")], [join])),
        ]
    return lines


def _greater(a: str, b: str) -> str:
    return f"{a} = ({b} > {a} || {b} != {b}) ? {b} : {a};"


@dataclass(frozen=True, eq=False)
class Softmax(Op):
    """`output = exp(x - m) / sum(exp(x - m))` along `axis`, m the greatest; with `log`, the logarithm of that.

    With `safe`, elements that are all -inf give 0, not NaN.
    """

    axis: int
    log: bool = False
    safe: bool = False

    def source(self, at: Callable[[Buffer], str]) -> str:
        x, y = self.inputs[0], self.output
        if 0 in x.shape:
            return "// no elements\n"
        others = [d for d in range(len(x.shape)) if d != self.axis]
        outer, (ys, xs) = merge([x.shape[d] for d in others], [[a.strides[d] for d in others] for a in (y, x)])
        names = [f"n{d}" for d in range(len(outer))]
        lines = [pointer("y", y, at, write=True), pointer("x", x, at)]
        column = max((d for d in range(len(outer)) if xs[d] == ys[d] == 1), key=lambda d: outer[d], default=None)
        if x.strides[self.axis] == y.strides[self.axis] == 1 or column is None:
            body = self._row(index(names, xs), index(names, ys))
            head, loops = share(names, outer)
            return "\n".join([*lines, *head, *nest(loops, body), *(["}"] if not outer else [])]) + "\n"
        n = outer[column]
        strip = min(n, _STRIP)
        inside = ["s" if d == column else v for d, v in enumerate(names)]
        body = [f"const long s = n{column} * {strip}, wide = {n} - s < {strip} ? {n} - s : {strip};"]
        body += self._columns(index(inside, xs), index(inside, ys), strip)
        head, loops = share(names, [-(-n // strip) if d == column else z for d, z in enumerate(outer)])
        return "\n".join([*lines, *head, *nest(loops, body)]) + "\n"

    def _row(self, x_at: str, y_at: str) -> list[str]:
        x, y = self.inputs[0], self.output
        n, kind = x.shape[self.axis], C_TYPES[x.dtype]
        of, to = index(["i"], [x.strides[self.axis]]), index(["i"], [y.strides[self.axis]])
        lines = [f"const {kind} *restrict from = x + {x_at};", f"{kind} *restrict to = y + {y_at};"]
        lines += _lanes(
            "most", n, "from[0]", f"const {kind} v = from[{of}]; {_greater('most[l]', 'v')}", kind, _greater("most[l]", "most[l + h]")
        )
        if self.safe:
            lines.append("if (most[0] == -INFINITY) most[0] = 0;")
        keep = "" if self.log else f"to[{to}] = "
        exp = _exp(kind, f"from[{of}] - most[0]")
        lines += _lanes("sum", n, "0", f"sum[l] += {keep}{exp};", kind, "sum[l] += sum[l + h];")
        if self.log:
            return [
                *lines,
                f"const {kind} shift = most[0] + {_log(kind, 'sum[0]')};",
                *nest([("i", "0", str(n))], [f"to[{to}] = from[{of}] - shift;"]),
            ]
        scale = "sum[0] == 0 ? 0 : 1 / sum[0]" if self.safe else "1 / sum[0]"
        return [*lines, f"const {kind} scale = {scale};", *nest([("i", "0", str(n))], [f"to[{to}] *= scale;"])]

    def _columns(self, x_at: str, y_at: str, strip: int) -> list[str]:
        x, y = self.inputs[0], self.output
        n, kind = x.shape[self.axis], C_TYPES[x.dtype]
        lines = [f"const {kind} *restrict from = x + {x_at};", f"{kind} *restrict to = y + {y_at};", f"{kind} most[{strip}], sum[{strip}];"]
        columns = ("l", "0", "wide")
        of, to = f"from[i * {x.strides[self.axis]} + l]", f"to[i * {y.strides[self.axis]} + l]"
        lines += nest([columns], ["most[l] = from[l], sum[l] = 0;"])
        lines += nest([("i", "1", str(n)), columns], [f"const {kind} v = {of};", _greater("most[l]", "v")])
        if self.safe:
            lines += nest([columns], ["most[l] = most[l] == -INFINITY ? 0 : most[l];"])
        scale = "sum[l] == 0 ? 0 : 1 / sum[l]" if self.safe else "1 / sum[l]"
        exp = _exp(kind, f"{of} - most[l]")
        lines += nest(
            [("i", "0", str(n)), columns], [f"sum[l] += {exp};"] if self.log else [f"const {kind} e = {exp};", "sum[l] += e;", f"{to} = e;"]
        )
        lines += nest([columns], [f"sum[l] = most[l] + {_log(kind, 'sum[l]')};" if self.log else f"sum[l] = {scale};"])
        return lines + nest([("i", "0", str(n)), columns], [f"{to} = {of} - sum[l];" if self.log else f"{to} *= sum[l];"])


@dataclass(frozen=True, eq=False)
class Normalize(Op):
    """`output = (x - mean) / sqrt(variance + eps) * weight + bias`, mean and variance over each row of x (rows, channels, pixels).

    x and the output are row-major. inputs are (x, weight, bias), or without bias, or x alone. weight and bias hold the channels
    of `groups` rows, (groups * channels,): row r uses those of group r % groups. Without `center`, the mean counts as 0.
    """

    eps: float
    groups: int = 1
    center: bool = True

    def source(self, at: Callable[[Buffer], str]) -> str:
        x, *affine = self.inputs
        rows, channels, pixels = x.shape
        if 0 in x.shape:
            return "// no elements\n"
        kind, n = C_TYPES[x.dtype], channels * pixels
        end = "f" if kind == "float" else ""
        lines = [pointer("y", self.output, at, write=True), pointer("x", x, at)]
        lines += [pointer(name, a, at) for name, a in zip(("weight", "bias"), affine, strict=False)]
        body = [f"const {kind} *restrict from = x + r * {n};", f"{kind} *restrict to = y + r * {n};"]
        wide = "double" if n > 1024 * _LANES else kind
        if self.center:
            body += _lanes("sum", n, "0", "sum[l] += from[i];", wide, "sum[l] += sum[l + h];")
            body.append(f"const {kind} mean = sum[0] / {n};")
        d = f"const {kind} d = from[i]{' - mean' if self.center else ''};"
        body += _lanes("square", n, "0", f"{d} square[l] += d * d;", wide, "square[l] += square[l + h];")
        body.append(f"const {kind} scale = 1 / sqrt{end}(({kind})(square[0] / {n}) + {self.eps!r}{end});")
        first = "0" if self.groups == 1 else f"r % {self.groups} * {channels}"
        weight = f"weight[{first} + c]" if first != "0" else "weight[c]"
        bias = f"bias[{first} + c]" if first != "0" else "bias[c]"
        if pixels == 1 or not affine:
            whole = "i" if pixels > 1 or not affine else "c"
            value = (
                (f"(from[{whole}] - mean) * scale" if self.center else f"from[{whole}] * scale")
                + (f" * {weight}" if affine else "")
                + (f" + {bias}" if len(affine) > 1 else "")
            )
            body += nest([(whole, "0", str(n))], [f"to[{whole}] = {value};"])
        else:
            shift = (bias if len(affine) > 1 else "0") + (" - mean * s" if self.center else "")
            inner = [f"const {kind} s = scale * {weight}, b = {shift};"]
            inner += nest([("p", "0", str(pixels))], [f"to[c * {pixels} + p] = from[c * {pixels} + p] * s + b;"])
            body += nest([("c", "0", str(channels))], inner)
        head, loops = share(["r"], [rows])
        return "\n".join([*lines, *head, *nest(loops, body)]) + "\n"


def _exp(kind: str, value: str) -> str:
    return f"attar_expf({value})" if kind == "float" else f"exp({value})"


def _log(kind: str, value: str) -> str:
    return f"attar_logf({value})" if kind == "float" else f"log({value})"
