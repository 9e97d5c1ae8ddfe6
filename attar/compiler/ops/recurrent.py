"""LSTM, GRU and plain recurrent layers: for each layer and direction one product for all steps, then one loop over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from attar.compiler.builder import Builder
from attar.compiler.ir import Array, Buffer, contiguous
from attar.compiler.kernels.recurrent import GATES, Recurrent
from attar.compiler.ops.contraction import multiply
from attar.compiler.ops.movement import permuted, stack

__all__ = ["LANES", "RULES"]

_STATES = 8192  # numbers of a state that lie on a thread's stack; a larger one is left to the ops that it is made of


def _recurrent(kind: str) -> Callable[..., Any]:
    """The rule of aten.lstm.input and its kin; projected states, dropout and weights that are computed are left to other ops."""

    def rule(
        b: Builder,
        x: Array,
        hidden: Any,
        params: Sequence[Array],
        has_biases: bool,
        layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        states = list(hidden) if kind == "lstm" else [hidden]
        ways, size = 2 if bidirectional else 1, states[0].shape[2]
        each = 4 if has_biases else 2
        held = [p.data for p in params if p.data is not None]
        plain = len(held) == len(params) == each * layers * ways and not (train and dropout)
        if not plain or 0 in x.shape or size > _STATES or x.dtype not in ("float32", "float64"):
            return NotImplemented
        x = permuted(x, (1, 0, 2)) if batch_first else x
        hidden_ends, cell_ends = [], []
        for layer in range(layers):
            output, cells = _outputs(x, size, ways, kind == "lstm")
            for way in range(ways):
                number = layer * ways + way
                weights = held[number * each : (number + 1) * each]
                first = [_part(state, number) for state in states]
                place = replace(output, shape=(*output.shape[:2], size), offset=way * size)
                cell = _part(cells, way) if cells else None
                gates, rest = _gates(b, x, weights, kind)
                b.add(Recurrent(place, (gates, *rest, *first), kind, backward=way == 1, cell=cell))
                hidden_ends.append(_part(place, -1 if way == 0 else 0))
                cell_ends += [cell] if cell else []
            x = output
        ends = [stack(b, ends) for ends in (hidden_ends, cell_ends) if ends]
        return (permuted(x, (1, 0, 2)) if batch_first else x, *ends)

    return rule


def _outputs(x: Array, size: int, ways: int, cells: bool) -> tuple[Array, Array | None]:
    """A fresh (steps, samples, ways * size) and, behind it in the same buffer, the last cells (ways, samples, size)."""
    steps, samples, _ = x.shape
    shape, rest = (steps, samples, ways * size), (ways, samples, size)
    length = steps * samples * ways * size
    buffer = Buffer(x.dtype, length + (ways * samples * size if cells else 0))
    return Array(buffer, shape, contiguous(shape)), Array(buffer, rest, contiguous(rest), length) if cells else None


def _part(x: Array, place: int) -> Array:
    return Array(x.buffer, x.shape[1:], x.strides[1:], x.offset + place % x.shape[0] * x.strides[0])


def _gates(b: Builder, x: Array, weights: Sequence[np.ndarray], kind: str) -> tuple[Array, tuple[Array, Array]]:
    """What the input gives to the gates at every step; the state's weight, turned, and bias."""
    weight, state, *biases = weights
    product = permuted(b.constant(np.ascontiguousarray(weight)), (1, 0))
    turned = b.constant(np.ascontiguousarray(state.T))
    width = GATES[kind] * state.shape[1]
    bias = b.constant(np.ascontiguousarray(biases[1] if biases else np.zeros(width, x.dtype)))
    if not biases:
        return b.dense(multiply(b, x, product)), (turned, bias)
    given = multiply(b, x, product, others=[b.constant(np.ascontiguousarray(biases[0]))], expression="{0} + {1}")
    return b.dense(given), (turned, bias)


RULES: dict[str, Callable[..., Any]] = {
    "aten.lstm.input": _recurrent("lstm"),
    "aten.gru.input": _recurrent("gru"),
    "aten.rnn_tanh.input": _recurrent("rnn_tanh"),
    "aten.rnn_relu.input": _recurrent("rnn_relu"),
}

LANES: frozenset[str] = frozenset()
