"""Parameters, multiplications, additions, MACs and FLOPs of a network; units and formulas are in `formulas.py`.

Counts are of one call on the example that was traced, all its samples together: trace on one sample for counts per
sample. Of the alternatives, hooks on modules miss functional ops, and the processor's own counters count what a
kernel does, not what the network asks for.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from attar.errors import AttarError
from attar.evaluation.formulas import FORMULAS, MOVES, VIEWS, Call, Cost, Operand
from attar.forms import Form, dense
from attar.graph import Network, call_with, eval_mode, op_name, shape

__all__ = ["Count", "LayerCount", "OpCount", "count", "count_by_running"]


@dataclass(frozen=True)
class OpCount:
    """One call of an op that computes: its name, the layer it belongs to, and its cost."""

    op: str
    layer: str
    cost: Cost


@dataclass(frozen=True)
class LayerCount:
    """All that a layer (a module's path; '' is the network itself) holds and does."""

    parameters: int
    nonzeros: int
    cost: Cost


@dataclass(frozen=True)
class Count:
    """What a network holds and does in one call on its example.

    `parameters` are trainable numbers, each tied one once; `nonzeros` leaves out those that a form holds to be zero;
    `buffers` are numbers stored but not trained (running statistics). `unknown` maps the name of each op without a
    formula to its number of calls: the totals do not contain them. `batch` is the example's first size.
    """

    parameters: int
    nonzeros: int
    buffers: int
    batch: int
    ops: tuple[OpCount, ...]
    unknown: Mapping[str, int]
    held: Mapping[str, tuple[int, int]] = field(repr=False)
    """Layer -> (parameters, nonzeros)."""

    @property
    def total(self) -> Cost:
        """The sum over all ops."""
        return sum((op.cost for op in self.ops), Cost())

    def by_op(self) -> dict[str, Cost]:
        """The cost of each kind of op, in order of first use."""
        found: dict[str, Cost] = {}
        for op in self.ops:
            found[op.op] = found.get(op.op, Cost()) + op.cost
        return found

    def by_layer(self) -> dict[str, LayerCount]:
        """What each layer holds and does, in order of first use; then layers whose weights no counted op reads."""
        costs: dict[str, Cost] = {}
        for op in self.ops:
            costs[op.layer] = costs.get(op.layer, Cost()) + op.cost
        names = dict.fromkeys([*costs, *self.held])
        return {name: LayerCount(*self.held.get(name, (0, 0)), costs.get(name, Cost())) for name in names}

    def per_sample(self) -> Cost:
        """The total for one sample; raises AttarError where the example had several (norms over a batch do not divide)."""
        if self.batch != 1:
            raise AttarError(f"a count per sample needs an example of one sample, got {self.batch}: trace the network on one")
        return self.total


def count(network: Network) -> Count:
    """Count a traced network, op by op.

    >>> from attar.graph import trace
    >>> counted = count(trace(nn.Linear(3, 2), (torch.zeros(1, 3),)))
    >>> counted.parameters, counted.total
    (8, Cost(multiplications=6, additions=6, macs=6))
    """
    source: dict[fx.Node, str] = {}
    ops: list[OpCount] = []
    unknown: Counter[str] = Counter()
    for node in network.graph.nodes:
        if node.op == "get_attr":
            source[node] = str(node.target)
        if node.op != "call_function" or not _tensors(node.meta.get("val")):
            continue

        def operand(value: fx.Node) -> Any:
            return _operands(value.meta.get("val"), source.get(value), network.forms)

        name = _base_name(op_name(node))
        args, kwargs = fx.map_arg((node.args, node.kwargs), operand)
        call = Call(_bind(node.target, args, kwargs), _tensors(_operands(node.meta["val"], None, {})))
        if name in VIEWS and node.args and node.args[0] in source:
            source[node] = source[node.args[0]]
        _record(name, call, _module_of(node), ops, unknown)
    batch = next((shape(n)[0] for n in network.graph.nodes if n.op == "placeholder" and _tensors(n.meta.get("val")) and shape(n)), 1)
    return _counted(network.tensors, network.forms, batch, ops, unknown)


def count_by_running(model: nn.Module, example: tuple | Mapping[str, Any]) -> Count:
    """Count by running `model` on `example` and watching PyTorch's dispatcher: for a network that cannot be traced.

    Composite ops arrive as the simpler ones they are made of (linear as addmm, attention as one fused kernel or as
    products and a softmax), so element-wise ops may count otherwise than on the graph; MACs agree.

    >>> count_by_running(nn.Linear(3, 2), (torch.zeros(1, 3),)).total.macs
    6
    """
    with eval_mode(model), dense(model) as formed, torch.no_grad(), _module_paths(model) as path:
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        watch = _Watch(held, formed, path)
        with watch:
            call_with(model, example)
        forms = {name: formed[tensor] for name, tensor in held.items() if isinstance(tensor, nn.Parameter) and tensor in formed}
        first = next((leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor) and leaf.ndim), None)
        return _counted(held, forms, 1 if first is None else first.shape[0], watch.ops, watch.unknown)


class _Watch(TorchDispatchMode):
    """Counts every op that is dispatched while it is open. A weight is known by its storage, which its views share."""

    def __init__(self, held: Mapping[str, Tensor], formed: Mapping[nn.Parameter, Form], path: Callable[[], str]) -> None:
        super().__init__()
        self.ops: list[OpCount] = []
        self.unknown: Counter[str] = Counter()
        self._path = path
        self._names = {tensor.untyped_storage()._cdata: name for name, tensor in held.items()}
        self._forms = {name: formed[tensor] for name, tensor in held.items() if isinstance(tensor, nn.Parameter) and tensor in formed}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = pytree.tree_map_only(Tensor, self._operand, (args, kwargs or {}))  # before the call, which may write in place
        result = func(*args, **(kwargs or {}))
        results = _tensors(_operands(result, None, {}))
        if results:
            name = _base_name(f"{func.namespace}.{func._opname}.{func._overloadname}")
            _record(name, Call(_bind(func, *given), results), self._path(), self.ops, self.unknown)
        return result

    def _operand(self, tensor: Tensor) -> Any:
        return _operands(tensor, self._names.get(tensor.untyped_storage()._cdata), self._forms)


@contextlib.contextmanager
def _module_paths(model: nn.Module) -> Iterator[Callable[[], str]]:
    """While open, the function it gives returns the path of the innermost module that is running."""
    stack = [""]
    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _module, _args, path=path: stack.append(path)))
        hooks.append(module.register_forward_hook(lambda _module, _args, _result: stack.pop() and None))
    try:
        yield lambda: stack[-1]
    finally:
        for hook in hooks:
            hook.remove()


def _record(name: str, call: Call, module: str, ops: list[OpCount], unknown: Counter[str]) -> None:
    """Add one call to what was counted, or to what is unknown; its layer is the one whose weight it reads, else the module."""
    if name in FORMULAS:
        weight = call["weight"]
        named = [o.name for o in [weight, *call.operands()] if isinstance(o, Operand) and o.name]
        layer = named[0].rpartition(".")[0] if named else module
        ops.append(OpCount(name, layer, FORMULAS[name](call)))
    elif name not in VIEWS and name not in MOVES:
        unknown[name] += 1


def _counted(tensors: Mapping[str, Tensor], forms: Mapping[str, Form], batch: int, ops: list[OpCount], unknown: Mapping[str, int]) -> Count:
    held: dict[str, tuple[int, int]] = {}
    buffers = 0
    for name, tensor in tensors.items():
        if not isinstance(tensor, nn.Parameter):
            buffers += tensor.numel()
            continue
        nonzeros = forms[name].nonzeros() if name in forms else tensor.numel()
        layer = name.rpartition(".")[0]
        before = held.get(layer, (0, 0))
        held[layer] = (before[0] + tensor.numel(), before[1] + nonzeros)
    parameters, nonzeros = (sum(column) for column in zip((0, 0), *held.values(), strict=True))
    return Count(parameters, nonzeros, buffers, batch, tuple(ops), dict(unknown), held)


def _base_name(name: str) -> str:
    """`conv2d` for `aten.conv2d.default`, `relu` for the in-place `aten.relu_.default`; ops of others keep their namespace."""
    parts = name.split(".")
    if len(parts) != 3:
        return name
    base = parts[1] if parts[1].startswith("__") else parts[1].rstrip("_")
    return base if parts[0] == "aten" else f"{parts[0]}.{base}"


def _bind(target: Any, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names of its schema, defaults filled in; by position where there is no schema."""
    if not isinstance(target, torch._ops.OpOverload):
        return {str(i): value for i, value in enumerate(args)} | dict(kwargs)
    bound = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
    names = [a.name for a in target._schema.arguments]
    return {**dict.fromkeys(names), **bound, **dict(zip(names, args, strict=False)), **kwargs}


def _operands(value: Any, name: str | None, forms: Mapping[str, Form]) -> Any:
    """Tensors as operands and symbolic sizes as integers, at any depth of lists and tuples."""
    if isinstance(value, Tensor):
        return Operand(shape(value), name, forms.get(name) if name else None)
    if isinstance(value, list | tuple):
        return [_operands(item, name, forms) for item in value]
    return int(value.node.hint) if isinstance(value, torch.SymInt) else value


def _tensors(value: Any) -> tuple:
    """The tensors, or operands, that a result consists of."""
    return tuple(leaf for leaf in (value if isinstance(value, list | tuple) else (value,)) if isinstance(leaf, Tensor | Operand))


def _module_of(node: fx.Node) -> str:
    """The path of the innermost module that the op was traced in."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].partition("@")[0] if stack else ""
