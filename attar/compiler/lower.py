"""A traced network to a program: what needs no input is computed now, each other op becomes the steps that its rule says.

An op without a rule is taken apart into simpler ones by PyTorch's own decompositions; what has none is left to PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

from attar.compiler.builder import Builder, dtype_name
from attar.compiler.ir import C_TYPES, Array, Lanes, Program, array, live
from attar.compiler.kernels.map import Map
from attar.compiler.kernels.segment import Torch
from attar.compiler.ops import RULES, TAKES_LANES
from attar.compiler.simpler import apart
from attar.errors import AttarError
from attar.graph import Network, op_name

__all__ = ["Builder", "Torch", "leaves", "lower"]

_KNOWN = frozenset(RULES)
_INDEXED = {"aten.index.Tensor", "aten._unsafe_index.Tensor", "aten.index_put.default"}


def lower(network: Network, inputs: Sequence[Any]) -> Program:
    """The network as steps on plain sizes, those of `inputs`: one value for each of the network's inputs, as `leaves` gives them.

    The program's inputs are the tensors among them, its outputs the tensors of the network's result, in order. `notes` names
    each op that PyTorch will run. Raises AttarError where a size or a branch depends on data.
    """
    return _Lowering(network).program(inputs)


def leaves(network: Network, example: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    """What each of the network's inputs is in a call with these arguments."""
    names = list(network.call)
    given = dict(example) if isinstance(example, Mapping) else _positional(names, network, tuple(example))
    found: list[Any] = [None] * len(network.inputs)

    def place(tree: Any, value: Any) -> None:
        if isinstance(tree, int):
            found[tree] = value
            return
        items = list(tree.items()) if isinstance(tree, Mapping) else list(enumerate(tree))
        inner = [value[key] for key, _ in items] if isinstance(value, Mapping | list | tuple) else pytree.tree_leaves(value)
        for (_, branch), part in zip(items, inner, strict=True):
            place(branch, part)

    for name in names:
        if name in given:
            place(network.call[name], given[name])
    for position, one in enumerate(network.inputs):
        if found[position] is None:
            found[position] = one.constant
    return found


def _positional(names: list[str], network: Network, values: tuple) -> dict[str, Any]:
    """Positional arguments by name; the last name may gather the rest, as `*args` does."""
    last = network.call[names[-1]] if names else None
    if len(values) > len(names) or (
        len(values) == len(names) and isinstance(last, tuple) and not isinstance(values[-1], list | tuple | Mapping)
    ):
        values = (*values[: len(names) - 1], values[len(names) - 1 :])
    return dict(zip(names, values, strict=False))


@dataclass(frozen=True, eq=False)
class _Deferred:
    """A value of a type that C has not (complex, half): computed by PyTorch inside of what reads it."""

    function: Callable[..., Any]
    inputs: tuple[Array, ...]
    fake: Tensor


class _Lowering:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.b = Builder()
        self.mode = FakeTensorMode()
        self.held = {name: tensor.detach() for name, tensor in network.tensors.items()}

    @torch.no_grad()
    def program(self, arguments: Sequence[Any]) -> Program:
        inputs: list[Array] = []
        values: dict[fx.Node, Any] = {}
        placeholders = [node for node in self.network.graph.nodes if node.op == "placeholder"]
        for node, value in zip(placeholders, arguments, strict=True):
            if isinstance(value, Tensor):
                value = array(tuple(value.shape), _supported(value.dtype, node.name), argument=len(inputs))
                inputs.append(value)
            values[node] = value
        result = self.interpret(self.network.graph, values, self.held)
        outputs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor | Array | Lanes | _Deferred)]
        first = len(inputs)
        given = tuple(self.output(value, first + position) for position, value in enumerate(outputs))
        ops = live(self.b.ops, given)
        return Program(tuple(inputs), given, ops, sorted({op.name for op in ops if isinstance(op, Torch)}))

    def interpret(self, graph: fx.Graph, values: dict[fx.Node, Any], held: Mapping[str, Any], *, whole: bool = False) -> Any:
        """Run the graph on values: what is known is computed, what is not becomes steps. `whole` ones are not taken apart."""
        for node in graph.nodes:
            if node.op == "get_attr":
                values[node] = held[str(node.target)]
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = self.call(node, args, kwargs, whole=whole)
            elif node.op == "output":
                return fx.map_arg(node.args[0], values.__getitem__)
        raise AttarError("the network's graph has no output")

    def call(self, node: fx.Node, args: tuple, kwargs: dict, *, whole: bool) -> Any:
        target: Any = node.target
        args = _places(args) if op_name(node) in _INDEXED else args
        parts = pytree.tree_leaves((args, kwargs))
        if not any(isinstance(part, Array | Lanes | _Deferred) for part in parts) and not _random(target):
            return target(*args, **kwargs)
        if target is operator.getitem:
            return args[0][args[1]]
        if not isinstance(target, torch._ops.OpOverload):
            raise AttarError(f"the compiler cannot lower {op_name(node) or target}: it is no ATen op")
        result = self.fake(target, args, kwargs)
        types = {dtype_name(leaf.dtype) for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)}
        if any(isinstance(part, _Deferred) for part in parts) or not types <= C_TYPES.keys():
            return self.torch(target, op_name(node), args, kwargs, result)
        value = self.ruled(op_name(node), args, kwargs, result)
        if value is not NotImplemented and not _lacks(node, value):
            return value
        graph = None if whole else self.decomposed(target, args, kwargs)
        if graph is None:
            return self.torch(target, op_name(node), args, kwargs, result)
        given = [part for part in parts if isinstance(part, Array | Lanes | Tensor)]
        inner = dict(zip((n for n in graph.graph.nodes if n.op == "placeholder"), given, strict=True))
        return self.interpret(graph.graph, inner, dict(graph.named_buffers()) | vars(graph), whole=True)

    def ruled(self, name: str, args: tuple, kwargs: dict, result: Any) -> Any:
        """What the op's rule makes of the call; NotImplemented where there is no rule, or it cannot say this call."""
        if name not in RULES:
            return NotImplemented
        self.b.result = result
        args, kwargs = pytree.tree_map_only(Tensor, lambda constant: self.b.constant(_widened(constant)), (args, kwargs))
        if name not in TAKES_LANES:
            args, kwargs = pytree.tree_map_only(Lanes, self.b.plain, (args, kwargs))
        return RULES[name](self.b, *args, **kwargs)

    def fake(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """What the op gives in PyTorch: tensors with sizes and types, without memory."""
        args, kwargs = pytree.tree_map_only((Array, Lanes, Tensor, _Deferred), self._fake, (args, kwargs))
        try:
            with self.mode:
                return target(*args, **kwargs)
        except (
            torch._subclasses.fake_tensor.DataDependentOutputException,
            torch._subclasses.fake_tensor.DynamicOutputShapeException,
        ) as error:
            raise AttarError(f"a size depends on the values of a tensor ({target}): the compiler needs sizes that are known") from error

    def _fake(self, value: Any) -> Tensor:
        if isinstance(value, _Deferred):
            return value.fake
        if isinstance(value, Tensor):
            return self.mode.from_tensor(value)
        with self.mode:
            return torch.empty(value.shape, dtype=getattr(torch, value.dtype))

    def decomposed(self, target: Any, args: tuple, kwargs: dict) -> fx.GraphModule | None:
        """The op as a graph of simpler ones, a placeholder for each tensor; None where there is none."""
        parts, spec = pytree.tree_flatten((args, kwargs))
        places = [i for i, part in enumerate(parts) if isinstance(part, Array | Lanes | Tensor)]
        fakes = [self._fake(part) if i in places else part for i, part in enumerate(parts)]
        given, named = pytree.tree_unflatten(fakes, spec)
        return apart(target, given, named, places, _KNOWN)

    def torch(self, target: Any, name: str, args: tuple, kwargs: dict, result: Any) -> Any:
        """One op of PyTorch for each result that the program reads; a result that C has no type for waits for its readers."""
        args, kwargs = pytree.tree_map_only(Lanes, self.b.plain, (args, kwargs))
        parts, spec = pytree.tree_flatten((args, kwargs))
        needs = [(part,) if isinstance(part, Array) else part.inputs if isinstance(part, _Deferred) else () for part in parts]
        inputs = tuple(value for need in needs for value in need)

        def run(*tensors: Tensor) -> Any:
            rest, whole = iter(tensors), []
            for part, need in zip(parts, needs, strict=True):
                mine = [next(rest) for _ in need]
                whole.append(mine[0] if isinstance(part, Array) else part.function(*mine) if isinstance(part, _Deferred) else part)
            again, named = pytree.tree_unflatten(whole, spec)
            return target(*again, **named)

        leaf_values, tree = pytree.tree_flatten(result)
        made = []
        for position, leaf in enumerate(leaf_values):
            if not isinstance(leaf, Tensor):
                made.append(leaf)
                continue
            function = _part(run, position)
            if dtype_name(leaf.dtype) in C_TYPES:
                made.append(self.b.add(Torch(self.b.empty(tuple(leaf.shape), dtype_name(leaf.dtype)), inputs, function, name)))
            else:
                made.append(_Deferred(function, inputs, leaf))
        return pytree.tree_unflatten(made, tree)

    def output(self, value: Any, argument: int) -> Array:
        """The value where the caller wants it: its buffer is the argument, or is copied to it."""
        if isinstance(value, _Deferred):
            raise AttarError(f"an output of the network is {dtype_name(value.fake.dtype)}, which the compiler has not: return real numbers")
        value = self.b.constant(value) if isinstance(value, Tensor) else self.b.plain(value)
        if not (value.dense and value.buffer.data is None and value.buffer.argument is None):
            copy = self.b.empty(value.shape, value.dtype)
            value = self.b.add(Map(copy, (value,), "{0}"))
        value.buffer.argument = argument
        return value


def _supported(dtype: torch.dtype, name: str) -> str:
    if dtype_name(dtype) not in C_TYPES:
        raise AttarError(
            f"input {name} is {dtype_name(dtype)}: the compiler takes {', '.join(C_TYPES)}; convert it, and the network, before"
        )
    return dtype_name(dtype)


def _widened(constant: Tensor) -> Tensor:
    """A constant of half precision as float32, which holds it exactly; what computes with it gives no half precision here."""
    return constant.float() if constant.dtype in (torch.float16, torch.bfloat16) else constant


def _places(args: tuple) -> tuple:
    """The arguments of an index, masks that are known replaced by the places where they hold, of which the number is known."""
    found: list[Any] = []
    for one in args[1]:
        found += one.nonzero(as_tuple=True) if isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) else [one]
    return (args[0], found, *args[2:])


def _random(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def _lacks(node: fx.Node, value: Any) -> bool:
    """Whether a result that somebody reads is None in what a rule made: the rule leaves out what hardly any network reads."""
    read = [user.args[1] for user in node.users if user.target is operator.getitem and user.users] if isinstance(value, tuple) else []
    return any(value[position] is None for position in read)


def _part(run: Callable[..., Any], position: int) -> Callable[..., Tensor]:
    return lambda *tensors: pytree.tree_leaves(run(*tensors))[position]
