"""Coupling rules of ops that work element by element: operands of one size go together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attar.graph.identities import Vector
from attar.graph.labels import Call, Labels, Propagation, Rule

__all__ = ["binary", "clamp", "created", "dropout", "identity", "like", "power", "prelu", "unary"]


def unary(zero: bool) -> Rule:
    """A function of each element; `zero`: it takes zero to zero."""

    def rule(run: Propagation, call: Call) -> Labels:
        x = next(call.tensors())
        return Labels(x.dims, x.zero if zero else ())

    return rule


def identity(run: Propagation, call: Call) -> Labels:
    """The tensor itself: its origin stays known."""
    return next(call.tensors())


def dropout(run: Propagation, call: Call) -> Any:
    """The tensor itself while the network is not trained; the native op gives a mask as well."""
    x = next(call.tensors())
    return [x, Labels(x.dims)] if len(call.shapes) > 1 else x


def like(run: Propagation, call: Call) -> Labels:
    """A new tensor of the size of another; it follows what is cut by itself."""
    x = next(call.tensors())
    return Labels(x.dims, (call.name == "zeros_like",) * len(x.dims))


def created(zero: bool) -> Rule:
    """A new tensor of one value, of sizes that surgery can rewrite."""

    def rule(run: Propagation, call: Call) -> Labels:
        return run.fresh(call.shape, zero)

    return rule


def clamp(run: Propagation, call: Call) -> Labels:
    """Between two numbers (or tensors): zero stays zero where it lies between them."""
    low, high = call.get("min", "min_val"), call.get("max", "max_val")
    if isinstance(low, Labels) or isinstance(high, Labels):
        return binary(all)(run, call)
    x = next(call.tensors())
    return Labels(x.dims, x.zero if (low is None or low <= 0) and (high is None or high >= 0) else ())


def prelu(run: Propagation, call: Call) -> Labels:
    """A slope for each channel, or one for all."""
    x, slope = call["self"], call["weight"]
    if len(slope.dims) == 1 and len(x.dims) > 1:
        if len(slope.dims[0]) > 1:
            run.ids.unite(x.dims[1], slope.dims[0])
    else:
        _broadcast(run, [x, slope], call.shape)
    return Labels(x.dims, x.zero)


Zero = Callable[[Sequence[bool]], bool]
_FACTORS = ("alpha", "beta")  # numbers that only scale an operand


def binary(zero: Zero) -> Rule:
    """Operands broadcast against each other; `zero` says of their being zero, in order, whether the result is."""

    def rule(run: Propagation, call: Call) -> Labels:
        operands = [
            a
            for name, a in call.args.items()
            if isinstance(a, Labels) or (isinstance(a, int | float) and not isinstance(a, bool) and name not in _FACTORS)
        ]
        dims = _broadcast(run, [a for a in operands if isinstance(a, Labels)], call.shape)
        return Labels(dims, tuple(zero([_zero_at(a, call.shape, d) for a in operands]) for d in range(len(dims))))

    return rule


def power(run: Propagation, call: Call) -> Labels:
    """Zero to a positive number is zero; to any other it is not."""
    exponent = call["exponent"]
    positive = isinstance(exponent, int | float) and exponent > 0
    return binary(lambda known: positive and known[0])(run, call)


def _zero_at(x: Labels | float, shape: Sequence[int], d: int) -> bool:
    """Whether an operand is zero at what is removed from dimension `d` of the result, broadcasting considered."""
    if not isinstance(x, Labels):
        return x == 0
    own = d - len(shape) + len(x.dims)
    return own >= 0 and x.zero[own] and len(x.dims[own]) == shape[d]


def _broadcast(run: Propagation, operands: Sequence[Labels], shape: Sequence[int]) -> tuple[Vector, ...]:
    """Unite the operands' vectors dimension by dimension, aligned at the last."""
    dims = []
    for d, length in enumerate(shape):
        lead = [len(shape) - len(x.dims) for x in operands]
        full = [x.dims[d - k] for x, k in zip(operands, lead, strict=True) if d >= k and len(x.dims[d - k]) == length]
        for vector in full[1:]:
            run.ids.unite(full[0], vector)
        dims.append(full[0] if full else np.zeros(length, dtype=np.int64))
    return tuple(dims)
