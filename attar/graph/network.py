"""A network as data: a graph of ATen ops, the tensors it holds, and the forms they have become."""

from __future__ import annotations

import operator
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from attar.errors import TraceError
from attar.forms import Form, attach

__all__ = ["TRAINING_ARGUMENT", "Input", "Network", "Program", "op_name", "shape"]

# op -> position of the argument that says whether the network trains; export fixes it, `Program.train` sets it again
TRAINING_ARGUMENT = {
    "aten.dropout.default": 2,
    "aten.feature_dropout.default": 2,
    "aten.alpha_dropout.default": 2,
    "aten.feature_alpha_dropout.default": 2,
    "aten.batch_norm.default": 5,
    "aten.instance_norm.default": 5,
    "aten.lstm.input": 6,
    "aten.gru.input": 6,
    "aten.rnn_tanh.input": 6,
    "aten.rnn_relu.input": 6,
    "aten.rrelu.default": 3,
}

_NORMS = ("aten.batch_norm.default", "aten.instance_norm.default")


@dataclass(frozen=True)
class Input:
    """One tensor (or constant) that the network is called with; a None in `shape` is a size free at run time."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: torch.dtype | None
    constant: Any = None


@dataclass(frozen=True)
class Network:
    """A traced network: functional, without training state, every held tensor once.

    `graph` has one placeholder for each input, one `get_attr` for each tensor (its target is the name, as in a
    state_dict), ATen ops, and an output of nested tuples, lists and dicts; every node carries its fake result in
    `meta["val"]`. `tensors` maps a name to the tensor, dense; `forms` maps it to the form it has, where it has one.
    `call` maps each argument of the network's `forward` to the tree of positions in `inputs` that it is made of.
    `preprocessing` is what a user must know of the inputs: the `mean` and `std` of `(x - mean) / std`, one value for
    each channel, where the network says so.
    """

    graph: fx.Graph
    inputs: tuple[Input, ...]
    tensors: Mapping[str, Tensor]
    forms: Mapping[str, Form]
    call: Mapping[str, Any]
    preprocessing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=())

    def held(self, node: Any) -> str | None:
        """The name of the tensor that `node` reads, or None."""
        return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None

    def program(self) -> Program:
        """The network as a module that runs and trains, without its original class."""
        return Program(self)


class Program(nn.Module):
    """A network rebuilt from its graph: parameters and buffers under their old names, forms attached, trainable.

    `train()` switches dropout, batch norm and recurrent layers, whose mode the graph has as an argument.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        for name, tensor in network.tensors.items():
            _place(self, name, tensor)
        for name, form in network.forms.items():
            path, _, leaf = name.rpartition(".")
            attach(self.get_submodule(path), leaf, form)
        for name, values in network.preprocessing.items():
            setattr(self, name, values)
        shape = network.inputs[0].shape
        if len(network.inputs) == 1 and shape and None not in shape[1:]:
            self.example_shape = shape[1:]
        self._graph = _callable_graph(network)
        self.eval()

    def train(self, mode: bool = True) -> Program:
        super().train(mode)
        for node in self._graph.nodes:
            position = TRAINING_ARGUMENT.get(op_name(node))
            if op_name(node) in _NORMS and node.args[3] is None:  # it has no statistics but the input's, in either mode
                continue
            if position is not None and len(node.args) > position:
                node.update_arg(position, mode)
        code = self._graph.python_code("self")
        namespace = dict(code.globals)
        exec(code.src, namespace)  # fx's own text of the graph: names are checked identifiers, values are literals
        self.forward = types.MethodType(namespace["forward"], self)  # with the parameters' names, as export and callers want them
        return self


def op_name(node: fx.Node) -> str:
    """`aten.conv2d.default` for a node that calls it, the function's name for the arithmetic of sizes, else ''."""
    if node.op != "call_function":
        return ""
    if isinstance(node.target, torch._ops.OpOverload):
        return f"{node.target.namespace}.{node.target._opname}.{node.target._overloadname}"
    return getattr(node.target, "__name__", "")


def shape(value: Any) -> tuple[int, ...]:
    """The sizes of a node's result (or of a tensor) on the example that was traced, as plain integers."""
    if isinstance(value, fx.Node):
        value = value.meta.get("val")
    if not isinstance(value, Tensor):
        raise TraceError(f"a {type(value).__name__} has no shape")
    return tuple(size(s) for s in value.shape)


def size(value: Any) -> int:
    """One size as a plain integer, the example's where it is free at run time."""
    return int(value.node.hint) if isinstance(value, torch.SymInt) else int(value)


def _place(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register `tensor` below `root` under its dotted name, making the modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(leaf, tensor)
    else:
        root.register_buffer(leaf, tensor)


def _callable_graph(network: Network) -> fx.Graph:
    """A copy of the graph with one placeholder for each argument; nested arguments are taken apart inside."""
    graph = fx.Graph()
    leaves: dict[int, fx.Node] = {}

    def unpack(node: fx.Node, tree: Any) -> None:
        if isinstance(tree, int):
            leaves[tree] = node
        else:
            for key, inner in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
                unpack(graph.call_function(operator.getitem, (node, key)), inner)

    arguments = [(graph.placeholder(name), tree) for name, tree in network.call.items()]
    for node, tree in arguments:
        unpack(node, tree)
    copied: dict[fx.Node, fx.Node] = {}
    placeholders = [node for node in network.graph.nodes if node.op == "placeholder"]
    for position, node in enumerate(placeholders):
        copied[node] = leaves[position]
    for node in network.graph.nodes:
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], copied.__getitem__))
        elif node.op != "placeholder":
            copied[node] = graph.node_copy(node, copied.__getitem__)
    return graph
