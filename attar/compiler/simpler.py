"""Ops said by simpler ones: PyTorch's decompositions, and its own loops over time where it would call a library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions, decomposition_table, decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

__all__ = ["apart"]

aten = torch.ops.aten


def apart(target: Any, args: tuple, kwargs: dict, places: Sequence[int], known: frozenset[str]) -> fx.GraphModule | None:
    """A call as a graph of simpler ops; None where there are none. Ops that are `known` stay whole.

    `places` are the positions of the tensors, without memory, among the leaves of (args, kwargs): each is a placeholder.
    """
    parts, spec = pytree.tree_flatten((args, kwargs))
    call = _own(target) or target

    def run(*tensors: Tensor) -> Any:
        whole = list(parts)
        for place, tensor in zip(places, tensors, strict=True):
            whole[place] = tensor
        again, named = pytree.tree_unflatten(whole, spec)
        return call(*again, **named)

    functional = torch.func.functionalize(run, remove="mutations")  # recurrent layers compute in place
    graph = make_fx(functional, decomposition_table=_table(known), tracing_mode="fake")(*(parts[place] for place in places))
    called = [node for node in graph.graph.nodes if node.op == "call_function"]
    return None if any(node.target is target for node in called) else graph


def _lstm(
    x: Tensor,
    hidden: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch's own, step by step where PyTorch would call a library."""
    held = decompositions.gather_params(params, has_biases, hidden[0].shape[2] != hidden[1].shape[2])
    state = list(zip(hidden[0], hidden[1], strict=True))
    layer = decompositions.one_layer_lstm
    out, last = decompositions._rnn_helper(x, state, held, has_biases, layers, dropout, train, bidirectional, batch_first, layer)
    return out, torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])


def _own(target: Any) -> Callable[..., Any] | None:
    """The decomposition of a composite op that PyTorch would take apart in C++, by other ways than its Python ones."""
    if target is aten.lstm.input:
        return _lstm
    return decomposition_table[target] if target in (aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input) else None


def _name(op: Any) -> str:
    return f"{op.namespace}.{op._opname}.{op._overloadname}"


@cache
def _table(known: Collection[str]) -> dict[Any, Callable]:
    return {op: rule for op, rule in core_aten_decompositions().items() if _name(op) not in known}
