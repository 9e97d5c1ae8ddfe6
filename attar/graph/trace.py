"""From a module to its graph: `torch.export` as it comes, without decompositions, made functional, paired with forms."""

import contextlib
import dataclasses
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from attar.errors import TraceError
from attar.forms import Form, dense
from attar.graph.caches import forget
from attar.graph.functional import make_functional
from attar.graph.grouped import grouped_mm
from attar.graph.network import Input, Network, Program, op_name
from attar.graph.propagate import propagate

__all__ = ["call_with", "eval_mode", "trace"]

_NO_CAP = 1 << 62
# other names of ops, by which each is known to everything that reads graphs; memory that nobody wrote is made of zeros
_SAME = {
    "aten.multiply.Tensor": torch.ops.aten.mul.Tensor,
    "aten.multiply.Scalar": torch.ops.aten.mul.Scalar,
    "aten.subtract.Tensor": torch.ops.aten.sub.Tensor,
    "aten.subtract.Scalar": torch.ops.aten.sub.Scalar,
    "aten.divide.Tensor": torch.ops.aten.div.Tensor,
    "aten.divide.Scalar": torch.ops.aten.div.Scalar,
    "aten.negative.default": torch.ops.aten.neg.default,
    "aten.absolute.default": torch.ops.aten.abs.default,
    "aten.greater.Tensor": torch.ops.aten.gt.Tensor,
    "aten.greater.Scalar": torch.ops.aten.gt.Scalar,
    "aten.less.Tensor": torch.ops.aten.lt.Tensor,
    "aten.less.Scalar": torch.ops.aten.lt.Scalar,
    "aten.new_empty.default": torch.ops.aten.new_zeros.default,
    "aten.empty_like.default": torch.ops.aten.zeros_like.default,
    "transformers.grouped_mm_fallback.default": grouped_mm._opoverload,
}
# guards and checks that export adds; our own checks replace them
_CHECKS = {"_guards_fn", "aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten.sym_constrain_range_for_size.default"}


def trace(model: nn.Module, example: tuple | Mapping[str, Any]) -> Network:
    """The graph of `model` in eval mode on `example`: positional arguments as a tuple, or keyword arguments as a dict.

    Each formed weight is one held tensor, paired with its form; tied weights are one. The first size of every
    tensor is free at run time where the network allows it.

    Raises TraceError with the reason where the network has no graph (a branch on data, a state that it writes, ...).

    >>> network = trace(nn.Linear(3, 2), (torch.zeros(1, 3),))
    >>> [op_name(node) for node in network.graph.nodes if node.op == "call_function"]
    ['aten.linear.default']
    """
    if isinstance(example, Tensor):
        raise TraceError("the example is a tensor: put the network's arguments in a tuple, (x,)")
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else (tuple(example), {})
    if not [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]:
        raise TraceError("the example holds no tensor: give the network's positional arguments as a tuple, or its keywords as a dict")
    args, kwargs = _distinct((args, kwargs))
    arguments = _arguments(model, args, kwargs)
    kwargs = {name: kwargs[name] for name in arguments if name in kwargs}  # in the order in which the graph takes them
    with eval_mode(model), dense(model) as forms, torch.no_grad(), _quiet():
        forget(model)  # a graph must not depend on what the network was called with before
        try:
            exported, notes = _export(model, args, kwargs)
        finally:
            forget(model)
        held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        network = _normalise(exported, arguments, held, forms, notes)
        propagate(network, [_shape(leaf) for leaf in pytree.tree_leaves(arguments)], byte_cap=_NO_CAP)
    return dataclasses.replace(network, preprocessing=_preprocessing(model))


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """While open, `model` is in eval mode and PyTorch's fused attention path, which computes otherwise, is off."""
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode
        for module, mode in modes:
            if isinstance(module, Program):  # its mode is written into its graph as well
                module.train(mode)


def call_with(model: nn.Module, example: tuple | Mapping[str, Any]) -> Any:
    """`model` called with `example`, positional or keyword."""
    return model(**example) if isinstance(example, Mapping) else model(*example)


def _export(model: nn.Module, args: tuple, kwargs: dict) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    """Export with the first sizes free, else with fixed sizes; in-place ops made functional, by us or by PyTorch."""
    refusal: Exception | None = None
    shapes = _free_first_sizes(model, args, kwargs)
    given = (args, kwargs)
    for inputs, dynamic in ((pytree.tree_map(_two_samples, given), shapes), (given, shapes), (given, None)):
        try:
            exported = torch.export.export(model, *inputs, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # export fails in many ways, and each is a reason to report
            refusal = error
            continue
        if _takes(exported, given):
            break
    else:
        why = "its forward branches on the values of a tensor, where both sides can be computed and chosen by torch.where: "
        why = why if "data-dependent" in str(refusal) else ""
        raise TraceError(f"{type(model).__name__} cannot be traced: {why}{_first_line(refusal)}") from refusal
    notes: tuple[str, ...] = () if dynamic else ("all sizes are fixed to the example's: export refused a free batch size",)
    if any(op_name(n).startswith("wrap_with") or _nested(n) for n in exported.graph.nodes) or make_functional(exported.graph):
        try:
            exported = exported.run_decompositions({})
        except Exception as error:
            reason = _first_line(error)
            raise TraceError(f"{type(model).__name__} writes in place in a way that cannot be made functional: {reason}") from error
        notes += ("in-place ops were made functional by PyTorch, which may change the order of ops",)
    return exported, notes


def _distinct(example: Any) -> Any:
    """The example with a tensor that it holds twice copied: export takes one object for one input, whatever comes later."""
    seen: set[int] = set()

    def one(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and id(leaf) in seen:
            return leaf.clone()
        seen.add(id(leaf))
        return leaf

    return pytree.tree_map(one, example)


def _two_samples(leaf: Any) -> Any:
    """A batch of one sample twice: export takes a size of 1 for a constant, and never frees it."""
    return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == 1 else leaf


def _takes(exported: torch.export.ExportedProgram, given: Any) -> bool:
    """Whether the graph takes the example as it was given: two samples may have been taken for a constant."""
    user = set(exported.graph_signature.user_inputs)
    sizes = [node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder" and node.name in user]
    leaves = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)]
    tensors = [value for value in sizes if isinstance(value, Tensor)]
    return all(
        _is_free(size) or size == wanted
        for value, leaf in zip(tensors, leaves, strict=True)
        for size, wanted in zip(value.shape, leaf.shape, strict=True)
    )


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While open, export does not tell the user that recurrent layers rebuild their weights, or which sizes it could not free."""
    names = ("torch._export.non_strict_utils", "torch.fx.experimental.symbolic_shapes", "torch.export", "torch._dynamo")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # a refused export prints its whole graph
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _arguments(model: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The values that `forward` is called with, by the name of its parameter; `*args` and `**kwargs` are spread."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TraceError(f"the example does not fit {type(model).__name__}.forward: {error}") from None
    spread: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            spread |= {f"{name}_{i}": item for i, item in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            spread |= value
        else:
            spread[name] = value
    return spread


def _free_first_sizes(model: nn.Module, args: tuple, kwargs: dict) -> Any:
    def free(leaf: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(leaf, Tensor) and leaf.ndim else None

    if not kwargs:  # by parameter, so that `*args` is one of them
        return tuple(pytree.tree_map(free, value) for value in inspect.signature(model.forward).bind(*args).arguments.values())
    given = pytree.tree_map(free, args), pytree.tree_map(free, kwargs)
    names = list(inspect.signature(model.forward).parameters)
    return dict(zip(names, given[0], strict=False)) | given[1]


def _normalise(exported: Any, call: Mapping[str, Any], held: dict[str, Any], forms: Mapping[Any, Form], notes: tuple[str, ...]) -> Network:
    """The exported graph with held tensors as attributes, constants named, checks dropped, outputs as plain containers."""
    signature = exported.graph_signature
    written = [spec.kind.name for spec in signature.output_specs if spec.kind.name != "USER_OUTPUT"]
    if written:
        what = written[0].lower().replace("_", " ")
        raise TraceError(f"the network writes to its own state while it runs ({what}): return the state instead")
    held = {**exported.state_dict, **exported.constants, **held}
    source = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    graph, copied = fx.Graph(), {}
    inputs: list[Input] = []
    canonical: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in source:
            tensor = held[source[node.name]]
            name = canonical.setdefault(id(tensor), source[node.name])
            tensors[name] = tensor
            copied[node] = graph.get_attr(name)
        elif node.op == "placeholder":
            inputs.append(_input(node))
            copied[node] = graph.placeholder(node.name)
        elif node.op == "output":
            user = pytree.tree_unflatten(list(node.args[0]), exported.call_spec.out_spec)
            graph.output(pytree.tree_map_only(fx.Node, copied.__getitem__, _plain(user), is_leaf=lambda v: isinstance(v, fx.Node)))
            continue
        elif op_name(node) in _CHECKS or node.op == "call_module":
            continue
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
            copied[node].target = _SAME.get(op_name(node), node.target)
        copied[node].meta = dict(node.meta)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    tensors = {name: tensor for name, tensor in tensors.items() if name in used}
    positions = iter(range(len(inputs)))
    tree = pytree.tree_map(lambda _: next(positions), call)
    paired = {name: forms[tensor] for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter) and tensor in forms}
    return Network(graph, tuple(inputs), tensors, paired, tree, notes=notes)


def _preprocessing(model: nn.Module) -> dict[str, tuple[float, ...]]:
    """The `mean` and `std` that a network says its inputs are normalised by."""
    found = {}
    for name in ("mean", "std"):
        values = getattr(model, name, None)
        if isinstance(values, tuple) and values and all(isinstance(value, int | float) for value in values):
            found[name] = tuple(float(value) for value in values)
    return found


def _input(node: fx.Node) -> Input:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return Input(node.name, None, None, value)
    sizes = tuple(None if _is_free(s) else int(s) for s in value.shape)
    return Input(node.name, sizes, value.dtype)


def _is_free(size: Any) -> bool:
    """Whether a size is free at run time: one that the network's code fixed is a symbol still, of one value."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _plain(output: Any) -> Any:
    """Outputs as dicts, lists and tuples: a registered class (a `ModelOutput`, a dataclass) becomes a dict of its fields."""
    if isinstance(output, fx.Node) or output is None or isinstance(output, bool | int | float | str):
        return output
    if isinstance(output, Mapping):
        return {str(key): _plain(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        items = [_plain(value) for value in output]
        return items if isinstance(output, list) else tuple(items)
    return {key: _plain(value) for key, value in vars(output).items() if value is not None}


def _nested(node: fx.Node) -> bool:
    """Whether a node calls another graph (`torch.cond` and the like)."""
    return any(isinstance(a, fx.Node) and a.op == "get_attr" for a in node.args) and not isinstance(node.target, torch._ops.OpOverload)


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
