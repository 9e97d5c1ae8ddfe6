"""Coupling rules of recurrent layers: one hidden size, in every gate of every weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attar.graph.identities import Vector
from attar.graph.labels import Call, Labels, Product, Propagation, Rule, layer_of

__all__ = ["cell", "recurrent"]


def recurrent(gates: int) -> Rule:
    """LSTM (4 gates), GRU (3), plain (1): layers stacked, in one or two directions, an LSTM's output perhaps projected.

    All layers and directions share the hidden units that stay, because their states are one tensor. With weights,
    biases and first states of zero a unit's state stays zero: `c = f * 0 + i * tanh(0)`.
    """

    def rule(run: Propagation, call: Call) -> Any:
        if "input" not in call.args:  # a packed sequence
            return run.unknown(call)
        x, states = call["input"], call["hx"] if gates == 4 else [call["hx"]]
        directions = 2 if call["bidirectional"] else 1
        hidden = states[-1].dims[2]
        out = states[0].dims[2]
        if len(hidden) != len(out):
            run.ids.fix(hidden, "an LSTM with a projection keeps its cells")
        zero = states[0].zero[2]
        for state in states[1:]:
            if len(state.dims[2]) == len(out):
                run.ids.unite(out, state.dims[2])
            zero = zero and state.zero[2]
        if not zero:
            run.ids.fix(out, "a recurrent layer's first state is not zero")
        time, batch = (1, 0) if call["batch_first"] else (0, 1)
        run.fix(x, [time], "a recurrent layer runs along it")
        features: Vector = x.dims[2]
        for weights in _layers(call["params"], call, len(out) != len(hidden), directions):
            for own in weights:
                _direction(run, call, own, features, hidden, out, gates)
            features = np.concatenate([out] * directions)
        dims = (x.dims[0], x.dims[1], features)
        last = [Labels((state.dims[0], x.dims[batch], state.dims[2]), (False, False, True)) for state in states]
        for state in states:
            run.fix(state, [0], "it counts the layers and directions of a recurrent network")
            run.ids.unite(state.dims[1], x.dims[batch])
        return [Labels(dims, (False, False, True)), *last]

    return rule


def cell(gates: int) -> Rule:
    """One step of one layer, which a network's own loop may call again with the state that it gives."""

    def rule(run: Propagation, call: Call) -> Any:
        x, states = call["input"], list(call["hx"]) if gates == 4 else [call["hx"]]
        hidden = states[0].dims[-1]
        for state in states[1:]:
            run.ids.unite(hidden, state.dims[-1])
        if not all(state.zero[-1] for state in states):
            run.ids.fix(hidden, "a recurrent layer's first state is not zero")
        own = [call[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if call[name] is not None]
        _direction(run, call, own, x.dims[-1], hidden, hidden, gates)
        for state in states:
            for mine, its in zip(x.dims[:-1], state.dims[:-1], strict=True):
                run.ids.unite(mine, its)
        result = Labels((*x.dims[:-1], hidden), (*(False for _ in x.dims[:-1]), True))
        return [result, result] if gates == 4 else result

    return rule


def _layers(params: Sequence[Labels], call: Call, projected: bool, directions: int) -> list[list[list[Labels]]]:
    """The tensors of each layer and direction: two weights, two biases, a projection."""
    each = 2 + (2 if call["has_biases"] else 0) + (1 if projected else 0)
    groups = [list(params[i : i + each]) for i in range(0, len(params), each)]
    return [groups[i : i + directions] for i in range(0, len(groups), directions)]


def _direction(run: Propagation, call: Call, own: Sequence[Labels], features: Vector, hidden: Vector, out: Vector, gates: int) -> None:
    of_input, of_state, *rest = own
    rows = np.tile(hidden, gates)
    for labels in (of_input, of_state, *(r for r in rest if len(r.dims) == 1)):
        run.ids.unite(labels.dims[0], rows)
    run.ids.unite(of_input.dims[1], features)
    run.ids.unite(of_state.dims[1], out)
    consumed = [of_input.origin[1], of_state.origin[1]]
    steps = call.shapes[0]
    assert steps is not None
    count = math.prod(steps[:-1])
    run.products += [Product(layer_of(call.node), count, (rows, features)), Product(layer_of(call.node), count, (rows, out))]
    if len(hidden) != len(out):
        projection = rest[-1]
        run.ids.unite(projection.dims[0], out)
        run.ids.unite(projection.dims[1], hidden)
        consumed.append(projection.origin[1])
        run.products.append(Product(layer_of(call.node), count, (out, hidden)))
    run.consumed.update(origin for origin in consumed if origin is not None)
