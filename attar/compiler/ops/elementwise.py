"""Element by element: arithmetic, comparisons, activations, casts. Each is one C expression on the operands.

Expressions are written for doubles, with plain names and literals; `_typed` says them for float32. Operands are converted to
the type in which PyTorch computes; the fake result's type is the truth for what comes out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from attar.compiler.builder import Builder, Value, converted, dtype_name, literal
from attar.compiler.ir import C_TYPES, Array, Lanes

__all__ = ["LANES", "RULES", "pointwise"]

Rule = Callable[..., Any]

# functions of <math.h> whose float32 name is an f longer; the prelude has its own of those that follow
_MATH = "sqrt fabs floor ceil trunc rint sin cos tan asin acos atan sinh cosh asinh acosh atanh log2 log10 log1p expm1 exp2 erfc"
_MATH += " lgamma pow fmod atan2 hypot copysign fmax fmin"
_OWN = "exp log tanh erf sigmoid softplus max min floordiv remainder"
_SINGLE = {name: f"{name}f" for name in _MATH.split()} | {name: f"attar_{name}f" for name in _OWN.split()}
_DOUBLE = {name: f"attar_{name}" for name in ["sigmoid", "softplus", "max", "min", "floordiv", "remainder"]}
_WORD = re.compile(r"(?<![\w.])([a-z][a-z0-9]*)(?=\()|(?<![\w.])(\d+\.\d*(?:e[+-]?\d+)?)(?![\w.])")


def _typed(expression: str, dtype: str) -> str:
    """The expression for operands of this type.

    >>> _typed("0.5 * exp({0})", "float32")
    '0.5f * attar_expf({0})'
    """
    names = _SINGLE if dtype == "float32" else _DOUBLE if dtype == "float64" else {}
    if dtype.startswith("int") or dtype in ("uint8", "bool"):
        names = {
            "max": "attar_maxi",
            "min": "attar_mini",
            "floordiv": "attar_floordivi",
            "remainder": "attar_remainderi",
            "ipow": "attar_powi",
        }

    def one(match: re.Match[str]) -> str:
        word, number = match.groups()
        return names.get(word, word) if word else f"{number}f" if dtype == "float32" else number

    return _WORD.sub(one, expression)


def pointwise(
    b: Builder, expression: str, *operands: Value | float, compute: str | Sequence[str | None] | None = None, wraps: bool = False
) -> Any:
    """The expression over the operands, tensors or numbers, each converted to the type `compute` (the result's, unless given).

    With `wraps`, integers are computed without sign, in which a sum that is too large is defined. Several types give one
    for each operand, None for as it is; the first that is given is the one of the expression.
    """
    types = [compute or b.dtype] * len(operands) if compute is None or isinstance(compute, str) else list(compute)
    main = next(t for t in types if t is not None)
    names: list[str] = []
    inputs: list[Value] = []
    for value, kind in zip(operands, types, strict=True):
        if not isinstance(value, Array | Lanes):
            text = literal(value, kind or main)
        else:
            text = converted(f"{{{len(inputs)}}}", value.dtype, kind or value.dtype)
            text = text if text.startswith("{") else f"({text})"
            inputs.append(value)
        if wraps and kind in ("int64", "int32"):
            text = f"(u{C_TYPES[kind]}){text}"
        names.append(text)
    text = converted(_typed(expression, main).format(*names), main, b.dtype)
    if wraps and main == b.dtype and main in ("int64", "int32"):
        text = f"({C_TYPES[main]})({text})"
    return b.map(text, inputs, b.dtype, b.shape)


def _promoted(x: Value | float, y: Value | float) -> str:
    """The type in which PyTorch meets two operands."""
    metas: list[Any] = [
        torch.empty(v.shape, dtype=getattr(torch, v.dtype), device="meta") if isinstance(v, Array | Lanes) else v for v in (x, y)
    ]
    return dtype_name(torch.result_type(*metas))


def _unary(expression: str) -> Rule:
    return lambda b, x: pointwise(b, expression, x)


def _binary(expression: str, *, wraps: bool = False) -> Rule:
    return lambda b, x, y: pointwise(b, expression, x, y, wraps=wraps)


def _compared(expression: str) -> Rule:
    """A truth value of operands in their common type."""
    return lambda b, x, y: pointwise(b, expression, x, y, compute=_promoted(x, y))


def _tested(expression: str, whole: str | None = None) -> Rule:
    """A truth value of one operand; `whole` is what it is for integers."""

    def rule(b: Builder, x: Value) -> Any:
        return pointwise(b, expression if whole is None or x.dtype.startswith("float") else whole, x, compute=x.dtype)

    return rule


def _logical(sign: str) -> Rule:
    return lambda b, x, y: pointwise(b, f"({{0}} != 0) {sign} ({{1}} != 0)", x, y, compute=[x.dtype, y.dtype])


def add(b: Builder, x: Value | float, y: Value | float, *, alpha: float = 1) -> Any:
    if alpha == 1:
        return pointwise(b, "{0} + {1}", x, y, wraps=True)
    return pointwise(b, "{0} + {2} * {1}", x, y, alpha, wraps=True)


def sub(b: Builder, x: Value | float, y: Value | float, *, alpha: float = 1) -> Any:
    if alpha == 1:
        return pointwise(b, "{0} - {1}", x, y, wraps=True)
    return pointwise(b, "{0} - {2} * {1}", x, y, alpha, wraps=True)


def rsub(b: Builder, x: Value, y: Value | float, alpha: float = 1) -> Any:
    return sub(b, y, x, alpha=alpha)


def div(b: Builder, x: Value | float, y: Value | float, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return pointwise(b, "floordiv({0}, {1})", x, y)
    if rounding_mode == "trunc":
        return pointwise(b, "trunc({0} / {1})" if b.dtype.startswith("float") else "({1} ? {0} / {1} : 0)", x, y)
    return pointwise(b, "{0} / {1}", x, y)


def power(b: Builder, x: Value | float, y: Value | float) -> Any:
    whole = {
        2: "{0} * {0}",
        3: "{0} * {0} * {0}",
        1: "{0}",
        0: "1",
        -1: "1 / {0}",
        0.5: "sqrt({0})",
        -0.5: "1 / sqrt({0})",
        -2: "1 / ({0} * {0})",
    }
    if not b.dtype.startswith("float"):
        return pointwise(b, "ipow({0}, {1})", x, y)
    if isinstance(y, int | float) and y in whole:
        return pointwise(b, whole[y], x)
    return pointwise(b, "pow({0}, {1})", x, y)


def clamp(b: Builder, x: Value, low: Value | float | None = None, high: Value | float | None = None) -> Any:
    """NaN stays; where the bounds cross, the upper one wins."""
    if isinstance(low, Array | Lanes) or isinstance(high, Array | Lanes):
        limits = [v for v in (low, high) if v is not None]
        text = "max({0}, {1})" if low is not None else "{0}"
        text = text if high is None else f"min({text}, {{{len(limits)}}})"
        return pointwise(b, text, x, *limits)
    text = "{0}"
    for sign, limit in (("<", low), (">", high)):
        if limit is not None:
            edge = literal(limit, b.dtype)
            text = f"({text} {sign} {edge} ? {edge} : {text})"
    return pointwise(b, text, x)


def hardtanh(b: Builder, x: Value, low: float = -1.0, high: float = 1.0) -> Any:
    return clamp(b, x, low, high)


def where(b: Builder, condition: Value, x: Value | float, y: Value | float) -> Any:
    return pointwise(b, "{0} ? {1} : {2}", condition, x, y, compute=[None, b.dtype, b.dtype])


def masked_fill(b: Builder, x: Value, mask: Value, value: Value | float) -> Any:
    return where(b, mask, value, x)


def addcmul(b: Builder, x: Value, y: Value, z: Value, *, value: float = 1) -> Any:
    return pointwise(b, "{0} + {3} * {1} * {2}", x, y, z, value, wraps=True)


def addcdiv(b: Builder, x: Value, y: Value, z: Value, *, value: float = 1) -> Any:
    return pointwise(b, "{0} + {3} * ({1} / {2})", x, y, z, value)


def lerp(b: Builder, x: Value, y: Value, weight: Value | float) -> Any:
    return pointwise(b, "{2} < 0.5 && {2} > -0.5 ? {0} + {2} * ({1} - {0}) : {1} - ({1} - {0}) * (1 - {2})", x, y, weight)


def gelu(b: Builder, x: Value, *, approximate: str = "none") -> Any:
    if approximate == "tanh":
        return pointwise(b, "0.5 * {0} * (1.0 + tanh(0.79788456080286536 * ({0} + 0.044715 * {0} * {0} * {0})))", x)
    return pointwise(b, "0.5 * {0} * (1.0 + erf({0} * 0.70710678118654752))", x)


def leaky_relu(b: Builder, x: Value, slope: float = 0.01) -> Any:
    return pointwise(b, "{0} > 0 ? {0} : {0} * {1}", x, slope)


def rrelu(b: Builder, x: Value, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:  # noqa: ARG001
    return NotImplemented if training else leaky_relu(b, x, (lower + upper) / 2)


def elu(b: Builder, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    return pointwise(b, "{0} > 0 ? {0} * {2} : {1} * {2} * expm1(({0} > 0 ? 0 : {0}) * {3})", x, alpha, scale, input_scale)


def selu(b: Builder, x: Value) -> Any:
    return elu(b, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def celu(b: Builder, x: Value, alpha: float = 1.0) -> Any:
    return elu(b, x, alpha, 1.0, 1.0 / alpha)


def softplus(b: Builder, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return pointwise(b, "{0} * {1} > {2} ? {0} : softplus({0} * {1}) / {1}", x, beta, threshold)


def threshold(b: Builder, x: Value, edge: float, value: float) -> Any:
    return pointwise(b, "{0} <= {1} ? {2} : {0}", x, edge, value)


def softshrink(b: Builder, x: Value, edge: float = 0.5) -> Any:
    return pointwise(b, "{0} > {1} ? {0} - {1} : {0} < -{1} ? {0} + {1} : {0} * 0", x, edge)


def hardshrink(b: Builder, x: Value, edge: float = 0.5) -> Any:
    return pointwise(b, "{0} >= -{1} && {0} <= {1} ? 0 : {0}", x, edge)


def prelu(b: Builder, x: Value, weight: Array) -> Any:
    """A slope for each channel, which is the second dimension, or one for all."""
    channels = weight.shape[0] if weight.shape else 1
    if channels > 1:
        weight = Array(weight.buffer, (channels, *[1] * (len(x.shape) - 2)), (weight.strides[0], *[0] * (len(x.shape) - 2)), weight.offset)
    elif weight.shape:
        weight = Array(weight.buffer, (), (), weight.offset)
    return prelu_kernel(b, x, weight)


def prelu_kernel(b: Builder, x: Value, weight: Value) -> Any:
    return pointwise(b, "{0} > 0 ? {0} : {0} * {1}", x, weight)


def nan_to_num(b: Builder, x: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Any:
    if not x.dtype.startswith("float"):
        return x
    info = torch.finfo(getattr(torch, x.dtype))
    values = (nan or 0.0, info.max if posinf is None else posinf, info.min if neginf is None else neginf)
    return pointwise(b, "{0} != {0} ? {1} : {0} > {4} ? {2} : {0} < -{4} ? {3} : {0}", x, *values, info.max)


def logit(b: Builder, x: Value, eps: float | None = None) -> Any:
    if eps is None:
        return pointwise(b, "log({0} / (1 - {0}))", x)
    z = "({0} < {1} ? {1} : {0} > 1 - {1} ? 1 - {1} : {0})"
    return pointwise(b, f"log({z} / (1 - {z}))", x, eps)


def isclose(b: Builder, x: Value, y: Value, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    text = "{0} == {1} || (fabs({1}) != INFINITY && fabs({0} - {1}) <= {3} + fabs({2} * {1}))"
    return pointwise(b, text + " || ({0} != {0} && {1} != {1})" * equal_nan, x, y, rtol, atol, compute=_promoted(x, y))


def cast(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001
    """Any of the ways to name a type: the result's is what counts."""
    return b.cast(x, b.dtype)


def same(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001
    """What changes nothing at inference: copies, dropout, detachment."""
    return x


def dropout(b: Builder, x: Value, p: float, train: bool) -> Any:  # noqa: ARG001
    return NotImplemented if train else x


def native_dropout(b: Builder, x: Value, p: float, train: bool | None) -> Any:  # noqa: ARG001
    return NotImplemented if train else (x, torch.ones(b.shape, dtype=torch.bool))


def filled(value: float | None) -> Rule:
    """A constant with the result's sizes; None takes the value from the call, after the tensor (and sizes, for `new_full`)."""

    def rule(b: Builder, x: Value, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001
        given = value if value is not None else args[-1]
        return given if isinstance(given, Array | Lanes) else torch.full((), given, dtype=getattr(torch, b.dtype)).expand(b.shape)

    return rule


def fill(b: Builder, x: Value, value: Value | float) -> Any:
    return pointwise(b, "{0}", value) if isinstance(value, Array | Lanes) else filled(value)(b, x)


_UNARY = {
    "relu": "{0} < 0 ? 0 : {0}",
    "relu6": "{0} < 0 ? 0 : {0} > 6 ? 6 : {0}",
    "sigmoid": "sigmoid({0})",
    "special_expit": "sigmoid({0})",
    "silu": "{0} * sigmoid({0})",
    "hardswish": "{0} * ({0} < -3 ? 0 : {0} > 3 ? 6 : {0} + 3) / 6",
    "hardsigmoid": "({0} < -3 ? 0 : {0} > 3 ? 6 : {0} + 3) / 6",
    "mish": "{0} * tanh({0} > 20 ? {0} : softplus({0}))",
    "log_sigmoid": "-softplus(-{0})",
    "abs": "{0} < 0 ? -{0} : {0}",
    "square": "{0} * {0}",
    "sqrt": "sqrt({0})",
    "rsqrt": "1 / sqrt({0})",
    "reciprocal": "1 / {0}",
    "sign": "({0} > 0) - ({0} < 0)",
    "sgn": "({0} > 0) - ({0} < 0)",
    "frac": "{0} - trunc({0})",
    "erf": "erf({0})",
    **{
        name: f"{name}({{0}})"
        for name in ["exp", "log", "tanh", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"]
    },
    **{name: f"{name}({{0}})" for name in ["log2", "log10", "log1p", "expm1", "exp2", "erfc", "lgamma"]},
}
# integers are whole already
_ROUNDED = {"floor": "floor({0})", "ceil": "ceil({0})", "trunc": "trunc({0})", "round": "rint({0})", "fix": "trunc({0})"}
_COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BITS = {"and": "&", "or": "|", "xor": "^"}
_CASTS = "_to_copy.default to.dtype to.dtype_layout to.device to.other to.prim_Device to.prim_dtype type_as.default"
_SAME = "clone detach alias contiguous lift_fresh_copy lift_fresh positive detach_copy alias_copy resolve_conj resolve_neg"


def _rounded(expression: str) -> Rule:
    return lambda b, x: pointwise(b, expression, x) if x.dtype.startswith("float") else x


def _forward_log_sigmoid(b: Builder, x: Value) -> Any:
    return pointwise(b, _UNARY["log_sigmoid"], x), None  # the second result is for training


def _both(name: str, rule: Rule, kinds: str = "Tensor Scalar") -> dict[str, Rule]:
    return {f"aten.{name}.{kind}": rule for kind in kinds.split()}


RULES: dict[str, Rule] = {
    **{f"aten.{name}.default": _unary(text) for name, text in _UNARY.items()},
    **{f"aten.{name}.default": _rounded(text) for name, text in _ROUNDED.items()},
    "aten.neg.default": lambda b, x: pointwise(b, "0 - {0}" if x.dtype.startswith("int") else "-{0}", x, wraps=True),
    "aten.log_sigmoid_forward.default": _forward_log_sigmoid,
    "aten.log_sigmoid.default": _unary(_UNARY["log_sigmoid"]),
    **_both("add", add),
    **_both("sub", sub),
    **_both("rsub", rsub),
    **_both("mul", _binary("{0} * {1}", wraps=True)),
    **_both("div", div, "Tensor Scalar Tensor_mode Scalar_mode"),
    **_both("true_divide", div),
    "aten.floor_divide.default": _binary("floordiv({0}, {1})"),
    "aten.floor_divide.Scalar": _binary("floordiv({0}, {1})"),
    **_both("remainder", _binary("remainder({0}, {1})"), "Tensor Scalar Scalar_Tensor"),
    **_both("fmod", lambda b, x, y: pointwise(b, "fmod({0}, {1})" if b.dtype.startswith("float") else "({1} ? {0} % {1} : 0)", x, y)),
    **_both("pow", power, "Tensor_Tensor Tensor_Scalar Scalar"),
    "aten.maximum.default": _binary("max({0}, {1})"),
    "aten.minimum.default": _binary("min({0}, {1})"),
    "aten.max.other": _binary("max({0}, {1})"),
    "aten.min.other": _binary("min({0}, {1})"),
    "aten.fmax.default": _binary("fmax({0}, {1})"),
    "aten.fmin.default": _binary("fmin({0}, {1})"),
    "aten.atan2.default": _binary("atan2({0}, {1})"),
    "aten.hypot.default": _binary("hypot({0}, {1})"),
    **_both("copysign", _binary("copysign({0}, {1})")),
    **_both("xlogy", _binary("{1} != {1} ? {1} : {0} == 0 ? 0 : {0} * log({1})"), "Tensor Scalar_Other Scalar_Self"),
    **{f"aten.{name}.{kind}": _compared(f"{{0}} {sign} {{1}}") for name, sign in _COMPARED.items() for kind in ("Tensor", "Scalar")},
    **{f"aten.logical_{name}.default": _logical(sign) for name, sign in _BITS.items()},
    "aten.logical_not.default": _tested("{0} == 0"),
    **{f"aten.bitwise_{name}.{kind}": _binary(f"{{0}} {sign} {{1}}") for name, sign in _BITS.items() for kind in ("Tensor", "Scalar")},
    **{f"aten.__{name}__.{kind}": _binary(f"{{0}} {sign} {{1}}") for name, sign in _BITS.items() for kind in ("Tensor", "Scalar")},
    "aten.bitwise_not.default": lambda b, x: pointwise(b, "!{0}" if x.dtype == "bool" else "~{0}", x),
    "aten.isnan.default": _tested("{0} != {0}"),
    "aten.isinf.default": _tested("fabs({0}) == INFINITY", "0"),
    "aten.isfinite.default": _tested("fabs({0}) < INFINITY", "1"),
    "aten.isclose.default": isclose,
    "aten.nan_to_num.default": nan_to_num,
    **_both("clamp", clamp, "default Tensor"),
    **_both("clip", clamp, "default Tensor"),
    **_both("clamp_min", clamp, "default Tensor"),
    **_both("clamp_max", lambda b, x, high: clamp(b, x, None, high), "default Tensor"),
    "aten.hardtanh.default": hardtanh,
    **_both("where", where, "self ScalarOther ScalarSelf Scalar"),
    **_both("masked_fill", masked_fill),
    "aten.addcmul.default": addcmul,
    "aten.addcdiv.default": addcdiv,
    **_both("lerp", lerp),
    "aten.gelu.default": gelu,
    "aten.leaky_relu.default": leaky_relu,
    "aten.rrelu.default": rrelu,
    "aten.elu.default": elu,
    "aten.selu.default": selu,
    "aten.celu.default": celu,
    "aten.softplus.default": softplus,
    "aten.threshold.default": threshold,
    "aten.softshrink.default": softshrink,
    "aten.hardshrink.default": hardshrink,
    "aten.prelu.default": prelu,
    "aten._prelu_kernel.default": prelu_kernel,
    "aten.logit.default": logit,
    "aten.deg2rad.default": lambda b, x: pointwise(b, "{0} * {1}", x, math.pi / 180),
    **{f"aten.{name}": cast for name in _CASTS.split()},
    **{f"aten.{name}.default": same for name in _SAME.split()},
    **{f"aten.{name}.default": dropout for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")},
    "aten.native_dropout.default": native_dropout,
    **{f"aten.{name}.default": filled(0) for name in ("zeros_like", "new_zeros", "empty_like", "new_empty")},
    **{f"aten.{name}.default": filled(1) for name in ("ones_like", "new_ones")},
    "aten.full_like.default": filled(None),
    "aten.new_full.default": filled(None),
    **_both("fill", fill),
}

# all are computed pixel by pixel, so that a map in lanes may come as it is
LANES: frozenset[str] = frozenset(RULES)
