"""Batch norms folded into the layers that they follow, by the graph: on a network as data, or in a copy of an eager model."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import batchnorm

from attar.forms import Dense, attach, of
from attar.graph.network import Network, Program, op_name, shape
from attar.graph.trace import trace

__all__ = ["Folded", "Layer", "arguments", "fold_batch_norms", "fold_network", "held_like", "layer_at", "readers"]

BATCH_NORM = "aten.batch_norm.default"
LAYERS = frozenset(
    """
    aten.linear.default aten.convolution.default
    aten.conv1d.default aten.conv2d.default aten.conv3d.default aten.conv1d.padding aten.conv2d.padding aten.conv3d.padding
    aten.conv_transpose1d.default aten.conv_transpose2d.input aten.conv_transpose3d.input
    """.split()  # noqa: SIM905 (as a list it would be ten lines)
)
# a class of the user's own may do more in its forward than the op that the graph shows
_NORMS = {batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward}
_EAGER = {
    kind.forward
    for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
}  # fmt: skip

Result = TypeVar("Result")


@dataclass(frozen=True)
class Folded(Generic[Result]):
    """What folding gave: the result, the (norm, layer) pairs that became one, and (norm, reason) for each that stayed."""

    model: Result
    folded: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of a graph: the node that calls it, the nodes of its arguments, and how it connects.

    `padded` says whether zeros are added around the input; a transposed convolution also counts, because its border
    sees fewer taps than its middle.
    """

    node: fx.Node
    input: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    groups: int
    transposed: bool
    padded: bool

    def kernel(self, weight: Tensor) -> Tensor:
        """`weight` as (groups, outputs of a group, inputs of a group, taps); channel c of the input is (c // inputs, c % inputs)."""
        grouped = weight.flatten(2).unflatten(0, (self.groups, -1)) if weight.ndim > 2 else weight[None, :, :, None]
        return grouped.transpose(1, 2) if self.transposed else grouped

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """`weight` with each output channel times its entry of `scale`."""
        if not self.transposed:
            return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        by_input = scale.reshape(self.groups, -1).repeat_interleave(weight.shape[0] // self.groups, 0)
        return weight * by_input.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))

    def channel(self) -> int:
        """The dimension of the input (and of the output) that holds the channels, counted from the end."""
        return 1 - len(shape(self.weight))


def fold_batch_norms(model: nn.Module, example: tuple | Mapping[str, Any]) -> Folded[nn.Module]:
    """A copy of `model` in which each batch norm that directly follows a convolution or linear layer is part of it.

    W'[o] = W[o] * gamma[o] / sqrt(var[o] + eps), b'[o] = beta[o] + (b[o] - mean[o]) * gamma[o] / sqrt(var[o] + eps).
    What follows what is read from the graph, not from the modules' order; the norm becomes `nn.Identity`, a layer
    without bias gains one. Eval outputs are the same up to rounding. Norms that cannot be folded are in `left`, with
    the reason. A `Program` gives a `Program`.

    Raises TraceError where the model has no graph.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    >>> result = fold_batch_norms(model, (torch.zeros(1, 1, 8, 8),))
    >>> result.folded, result.left
    ((('1', '0'),), (('3', 'it does not follow a convolution or linear layer (its input is relu)'),))
    >>> result.model[1]
    Identity()
    """
    copied = copy.deepcopy(model)
    network = trace(copied, example)
    if isinstance(copied, Program):
        result = fold_network(network)
        return Folded(result.model.program().train(model.training), result.folded, result.left)
    folds, left = _plan(network)
    modules = dict(copied.named_modules(remove_duplicate=False))
    done = []
    for fold in folds:
        refusal = _eager_refusal(fold, modules)
        if refusal:
            left[fold.norm_name] = refusal
            continue
        _fold_modules(fold, modules)
        done.append((fold.norm_name, fold.layer_name))
    return Folded(copied, tuple(done), tuple(left.items()))


def fold_network(network: Network) -> Folded[Network]:
    """`fold_batch_norms` on a network as data: the folded norms are gone from the graph; `network` is left as it is.

    >>> network = trace(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), (torch.zeros(2, 3),))
    >>> result = fold_network(network)
    >>> sorted(result.model.tensors)
    ['0.bias', '0.weight']
    """
    folds, left = _plan(network)
    graph, copies = fx.Graph(), {}  # type: ignore[var-annotated]
    graph.output(graph.graph_copy(network.graph, copies))
    tensors, forms = dict(network.tensors), dict(network.forms)
    for fold in folds:
        name, node, norm = str(fold.layer.weight.target), copies[fold.layer.node], copies[fold.norm]
        weight = tensors[name]
        tensors[name] = held_like(weight, fold.weight)
        if name in forms:
            forms[name] = Dense(tensors[name])
        if fold.layer.bias is None:
            bias_name = _bias_name(name, tensors)
            tensors[bias_name] = held_like(weight, fold.bias)
            _gain_bias(graph, node, bias_name)
        else:
            bias_name = str(fold.layer.bias.target)
            tensors[bias_name] = held_like(tensors[bias_name], fold.bias)
        norm.replace_all_uses_with(node)
        graph.erase_node(norm)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    tensors = {name: tensor for name, tensor in tensors.items() if name in used}
    pairs = tuple((fold.norm_name, fold.layer_name) for fold in folds)
    return Folded(dataclasses.replace(network, graph=graph, tensors=tensors, forms=forms), pairs, tuple(left.items()))


def layer_at(node: Any) -> Layer | None:
    """The convolution or linear layer that `node` calls, or None."""
    if not isinstance(node, fx.Node) or op_name(node) not in LAYERS:
        return None
    given = arguments(node)
    if len(shape(given["weight"])) < 2:
        return None
    transposed = bool(given.get("transposed", "transpose" in op_name(node)))
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        padded = padding == "same" and any(size > 1 for size in shape(given["weight"])[2:])
    else:
        padded = transposed or any(p != 0 for p in (padding if isinstance(padding, list | tuple) else [padding]))
    return Layer(node, given["input"], given["weight"], given["bias"], given.get("groups", 1), transposed, padded)


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an ATen op by their names in its schema, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    bound = {a.name: a.default_value for a in schema if a.has_default_value()}
    return bound | dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)


def readers(network: Network) -> dict[str, list[fx.Node]]:
    """The nodes that read each held tensor."""
    table: dict[str, list[fx.Node]] = {name: [] for name in network.tensors}
    for node in network.graph.nodes:
        if node.op == "get_attr":
            table[str(node.target)] += node.users
    return table


def held_like(old: Tensor, values: Tensor) -> Tensor:
    """`values` with the dtype and the device of `old`, a parameter where `old` is one, frozen where it is frozen."""
    values = values.detach().to(old.device, old.dtype)
    return nn.Parameter(values, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else values


@dataclass(frozen=True)
class _Fold:
    """One norm to fold, and what its layer's weight and bias become (float64)."""

    norm: fx.Node
    layer: Layer
    norm_name: str
    layer_name: str
    weight: Tensor
    bias: Tensor


def _plan(network: Network) -> tuple[list[_Fold], dict[str, str]]:
    """The norms to fold, and the reason for each that stays."""
    reads = readers(network)
    folds, left = [], {}
    for norm in network.graph.nodes:
        if op_name(norm) != BATCH_NORM:
            continue
        refusal = _norm_refusal(network, norm, reads) or _layer_refusal(network, norm, reads)
        if refusal:
            left[_norm_name(network, norm)] = refusal
        else:
            folds.append(_fold(network, norm))
    return folds, left


def _fold(network: Network, norm: fx.Node) -> _Fold:
    given = arguments(norm)
    layer = layer_at(given["input"])
    assert layer is not None
    gamma, beta, mean, var, bias = (
        network.tensors[str(part.target)].detach().double() if part is not None else None
        for part in (given["weight"], given["bias"], given["running_mean"], given["running_var"], layer.bias)
    )
    assert mean is not None
    assert var is not None
    scale = (1.0 if gamma is None else gamma) / torch.sqrt(var + given["eps"])
    shift = (0.0 if beta is None else beta) + ((0.0 if bias is None else bias) - mean) * scale
    name = str(layer.weight.target)
    weight = layer.scaled(network.tensors[name].detach().double(), scale)
    return _Fold(norm, layer, _norm_name(network, norm), name.removesuffix(".weight"), weight, shift)


def _norm_name(network: Network, norm: fx.Node) -> str:
    """The path of the module that holds the norm's tensors, or the node's name where it holds none."""
    given = arguments(norm)
    parts = (given[key] for key in ("running_mean", "running_var", "weight", "bias"))
    held = next((name for part in parts if (name := network.held(part))), norm.name)
    return held.rpartition(".")[0] or held


def _norm_refusal(network: Network, norm: fx.Node, reads: Mapping[str, list[fx.Node]]) -> str | None:
    given = arguments(norm)
    if given["training"] or given["running_mean"] is None or given["running_var"] is None:
        return "it has no running statistics: it normalises by the batch"
    for key in ("weight", "bias", "running_mean", "running_var"):
        if given[key] is None:
            continue
        name = network.held(given[key])
        if name is None:
            return f"its {key} is computed, not held"
        if len(reads[name]) > 1:
            return f"its {key} is used {len(reads[name])} times: the norm is shared"
        if name in network.forms:
            return f"its {key} carries a {type(network.forms[name]).__name__}"
    return None


def _layer_refusal(network: Network, norm: fx.Node, reads: Mapping[str, list[fx.Node]]) -> str | None:
    source = arguments(norm)["input"]
    layer = layer_at(source)
    if layer is None:
        return f"it does not follow a convolution or linear layer (its input is {source.name})"
    name, bias = network.held(layer.weight), network.held(layer.bias)
    if name is None or (layer.bias is not None and bias is None):
        return f"the weight or bias of the layer before it ({source.name}) is computed, not held"
    if len(source.users) > 1:
        others = ", ".join(user.name for user in source.users if user is not norm)
        return f"the output of {name} is also read by {others}"
    if len(shape(source)) != len(shape(layer.weight)):
        return f"it does not normalise over the output channels of {name}"
    for tensor in (name, bias):
        if tensor is not None and len(reads[tensor]) > 1:
            return f"{tensor} is used {len(reads[tensor])} times: the layer is shared"
        form = network.forms.get(tensor or "")
        if form is not None and not (tensor == name and type(form) is Dense):
            return f"{tensor} carries a {type(form).__name__}: fold before the weight is compressed, or bake it"
    return None


def _bias_name(weight: str, taken: Mapping[str, Tensor]) -> str:
    """A name for the bias beside `weight` that no tensor has and no tensor's path runs through."""
    name = weight.removesuffix("weight") + "bias" if weight.endswith("weight") else f"{weight}_bias"
    while any(other == name or other.startswith(f"{name}.") for other in taken):
        name += "_"
    return name


def _gain_bias(graph: fx.Graph, node: fx.Node, name: str) -> None:
    with graph.inserting_before(node):
        bias = graph.get_attr(name)
    layer = layer_at(node)
    assert layer is not None
    outputs = shape(node)[layer.channel()]
    bias.meta["val"] = layer.weight.meta["val"].new_empty(outputs)
    if len(node.args) == 2:
        node.args = (*node.args, bias)
    elif len(node.args) > 2:
        node.update_arg(2, bias)
    else:
        node.update_kwarg("bias", bias)


def _eager_refusal(fold: _Fold, modules: Mapping[str, nn.Module]) -> str | None:
    """Why two modules cannot do what their nodes would: they are not what was called, or they do more than the op."""
    norm, layer = modules.get(fold.norm_name), modules.get(_owner(fold.layer.weight))
    for module, node, name, known in (
        (norm, fold.norm, fold.norm_name, _NORMS),
        (layer, fold.layer.node, fold.layer_name, _EAGER),
    ):
        called = modules.get(next(reversed(node.meta.get("nn_module_stack", {"": ("", "")}).values()))[0])
        if module is None or called is not module or type(module).forward not in known:
            return f"{name} is not an ordinary layer that the model calls: fold the graph instead (fold_network)"
    assert norm is not None
    if norm._forward_hooks or norm._forward_pre_hooks:
        return f"{fold.norm_name} has hooks, which would be lost"
    return None


def _fold_modules(fold: _Fold, modules: Mapping[str, nn.Module]) -> None:
    norm, layer = modules[fold.norm_name], modules[_owner(fold.layer.weight)]
    weight: Any = layer.weight
    if of(layer, "weight") is None:
        layer.weight = held_like(weight, fold.weight)  # type: ignore[assignment]
    else:
        attach(layer, "weight", Dense(fold.weight.to(weight)).requires_grad_(weight.requires_grad))
    layer.bias = held_like(weight if layer.bias is None else layer.bias, fold.bias)  # type: ignore[assignment,arg-type]
    for parent in list(modules.values()):
        for key, child in parent._modules.items():
            if child is norm:
                parent._modules[key] = nn.Identity().train(norm.training)


def _owner(node: fx.Node) -> str:
    return str(node.target).rpartition(".")[0]
