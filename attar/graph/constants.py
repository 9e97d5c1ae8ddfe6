"""What is the same for every input: constant channels, found by running the graph on what is known, and moved into later biases.

A value is known as a float64 tensor that broadcasts to the node's shape, NaN where nothing is proven. A number in it
says: there, the network gives this number for every input on which all its values are finite, at any batch size.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from attar.errors import TraceError
from attar.graph.fold import BATCH_NORM, Layer, arguments, held_like, layer_at, readers
from attar.graph.network import Network, op_name, shape, size
from attar.graph.propagate import fakes

__all__ = ["Absorbed", "absorb", "absorb_", "along", "constants"]

_NO_CAP = 1 << 62
_NAN = float("nan")

Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Absorbed:
    """What `absorb` gave.

    `tensors` are the new values of some of the network's tensors (biases, and running means of batch norms that
    follow). With them in place, `dead` says for each weight of a convolution or linear layer which channels of its
    input are free: setting the weight's slices of them to zero changes no output. `left` names the weights with
    constant input channels that could not be absorbed, with the reason.
    """

    tensors: Mapping[str, Tensor]
    dead: Mapping[str, Tensor]
    left: tuple[tuple[str, str], ...]


def absorb(network: Network) -> Absorbed:
    """Move what constant channels contribute to a layer into its bias, so that they can be removed exactly.

    b_next += sum over constant c of const_c * sum_{taps} W_next[:, c, taps].

    Exact where the layer pads nothing or const_c is 0 (a transposed convolution counts as padded). A layer without
    bias gives the sum to the batch norm that alone reads it (its running mean loses it), else the channels stay, and
    `left` says so. Channels whose slices of the weight are zero already are free as well. Masks are over the
    layer's input channels, also where it is grouped. The network is left as it is.

    >>> from torch import nn
    >>> from attar.graph import trace
    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     _, _ = model[0].weight[1].zero_(), model[0].bias.fill_(5.0)
    ...     _, _ = model[2].weight.fill_(2.0), model[2].bias.zero_()
    >>> result = absorb(trace(model, (torch.zeros(1, 3),)))
    >>> result.dead["2.weight"].tolist(), result.tensors["2.bias"].tolist()
    ([False, True], [10.0])
    """
    known = constants(network)
    reads = readers(network)
    calls: dict[str, list[Layer]] = {}
    left: dict[str, str] = {}
    for node in network.graph.nodes:
        layer = layer_at(node)
        if layer is not None and (name := network.held(layer.weight)):
            calls.setdefault(name, []).append(layer)
    tensors: dict[str, Tensor] = {}
    dead: dict[str, Tensor] = {}
    for name, layers in calls.items():
        values = _agreed(layers, known)
        moved, free, refusal = _movable(network, reads, layers, values)
        if refusal:
            left[name] = refusal
        if moved.any():
            tensors.update(_moved(network, reads, layers, torch.where(moved, values, 0.0)))
        if free.any():
            dead[name] = free
    return Absorbed(tensors, dead, tuple(left.items()))


def absorb_(network: Network) -> tuple[str, ...]:
    """Make in place what `absorb` finds: biases take what constant channels give, and the slices that read these are zero.

    The network gives the same outputs, and what it then holds for its dead channels is zero, so that removing them is
    exact and a criterion sees that they are worth nothing. Returns the weights that read dead channels, few of which a
    trained network has.

    >>> from torch import nn
    >>> from attar.graph import trace
    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     _, _ = model[0].weight[1].zero_(), model[0].bias.fill_(5.0)
    ...     _, _ = model[2].weight.fill_(2.0), model[2].bias.zero_()
    >>> absorb_(trace(model, (torch.zeros(1, 3),))), model[2].weight.tolist(), model[2].bias.tolist()
    (('2.weight',), [[2.0, 0.0]], [10.0])
    """
    if not any(_has_zeros(name, tensor) for name, tensor in network.tensors.items()):
        return ()
    found = absorb(network)
    layers = {network.held(layer.weight): layer for node in network.graph.nodes if (layer := layer_at(node)) is not None}
    with torch.no_grad():
        for name, values in found.tensors.items():
            network.tensors[name].copy_(values)
        for name, mask in found.dead.items():
            weight = network.tensors[name]
            if layers[name].transposed:
                weight[mask.to(weight.device)] = 0
            else:  # channel c is column c % inputs of the rows of group c // inputs
                inputs = mask.to(weight.device).reshape(layers[name].groups, 1, -1, *[1] * (weight.ndim - 2))
                weight.view(layers[name].groups, -1, *weight.shape[1:]).masked_fill_(inputs, 0)
    return tuple(found.dead)


def _has_zeros(name: str, tensor: Tensor) -> bool:
    """Whether a row or column of a weight, or an entry of a norm's scale, is zero: nothing is constant without one."""
    if not name.endswith("weight") or not tensor.is_floating_point() or not tensor.ndim:
        return False
    values = tensor.detach()
    return (
        any(not bool(values.transpose(0, d).flatten(1).any(1).all()) for d in range(min(2, values.ndim)))
        if values.ndim > 1
        else not bool(values.all())
    )


def constants(network: Network) -> dict[fx.Node, Tensor]:
    """What is proven of each node's result, for the nodes of which anything is; `along` reads it channel by channel.

    Each tensor is float64, has the rank of the result and size 1 wherever nothing depends on the place. Seeds are zero
    weight rows (their bias) and zero norm scales (their shift); the other ops of the tables below pass knowledge on,
    and every op that is not in them ends it. Sizes that are free at run time never carry knowledge of their own.
    """
    free = _free_dimensions(network)
    if free is None:
        return {}
    found: dict[fx.Node, Any] = {}

    def read(node: Any) -> Any:
        """What is known of an argument: a held tensor, a partly known one, a size; anything else is itself."""
        if not isinstance(node, fx.Node):
            return node
        if node.op == "get_attr":
            held = network.tensors[str(node.target)].detach().cpu()
            return held if not held.is_complex() else _unknown(held.ndim)
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            return found.get(node, _unknown(value.ndim))
        if isinstance(value, tuple | list):
            return found.get(node)
        return size(value) if isinstance(value, torch.SymInt) else value

    for node in network.graph.nodes:
        rule = _RULES.get(op_name(node).removeprefix("aten.").removesuffix(".default"))
        result = rule(node, read) if rule else None
        value: Any = node.meta.get("val")
        if isinstance(value, Tensor):
            result = _settled(result, value, free.get(node, ()))
            if result is not None:
                found[node] = result
        elif isinstance(result, tuple | list):
            found[node] = [_settled(part, value[i], free.get((node, i), ())) for i, part in enumerate(result)]
    return {node: result for node, result in found.items() if isinstance(result, Tensor)}


def along(known: Tensor | None, dim: int, size: int) -> Tensor:
    """The constants of a dimension's `size` channels: NaN where a channel is not one number at every other place.

    >>> along(torch.tensor([[[1.0], [2.0]]]), 1, 2).tolist(), along(None, 1, 2).tolist()
    ([1.0, 2.0], [nan, nan])
    """
    if known is None:
        return torch.full((size,), _NAN, dtype=torch.float64)
    dim %= known.ndim
    return _uniform(known, [d for d in range(known.ndim) if d != dim]).flatten().expand(size).clone()


# Moving constants into biases.


def _agreed(layers: list[Layer], known: Mapping[fx.Node, Tensor]) -> Tensor:
    """The constants of the input channels on which all calls of one weight agree."""
    each = [along(known.get(layer.input), layer.channel(), shape(layer.input)[layer.channel()]) for layer in layers]
    first = each[0]
    same = [other == first for other in each if len(other) == len(first)]
    return torch.where(torch.stack(same).all(0), first, _NAN) if len(same) == len(each) else torch.full_like(first, _NAN)


def _movable(network: Network, reads: Mapping[str, list[fx.Node]], layers: list[Layer], values: Tensor) -> tuple[Tensor, Tensor, str]:
    """Of the input channels of one weight: which to move, which are free once they are moved, and why not the others."""
    name, first = str(layers[0].weight.target), layers[0]
    nothing = torch.zeros(len(values), dtype=torch.bool)
    users = set(reads[name]) - {layer.node for layer in layers}
    if users or len({(layer.groups, layer.transposed) for layer in layers}) > 1:
        others = ", ".join(sorted(user.name for user in users)) or "layers of another kind"
        return nothing, nothing, f"it is also used by {others}" if values.isfinite().any() else ""
    unused = ~(first.kernel(network.tensors[name].detach()) != 0).any(-1).any(1).flatten().cpu()
    free = unused | (values == 0)
    wanted = values.isfinite() & ~free
    count = int(wanted.sum())
    if not count:
        return nothing, free, ""
    if any(layer.padded for layer in layers):
        return nothing, free, f"{count} constant input channels are not zero, and the layer's zero padding meets them"
    place = _place(network, reads, layers)
    if isinstance(place, fx.Node):
        return wanted, free | wanted, ""
    return nothing, free, f"{count} constant input channels stay: {place}"


def _place(network: Network, reads: Mapping[str, list[fx.Node]], layers: list[Layer]) -> fx.Node | str:
    """What can take the constants' contribution: the layer's bias, or the running mean of the norm after it; else why none can."""
    biases = {layer.bias for layer in layers}
    if biases != {None}:
        (bias, *more), users = biases, {layer.node for layer in layers}
        name = network.held(bias)
        if more or bias is None or name is None:
            return "the layer has no bias of its own"
        if set(reads[name]) != users:
            return f"{name} is shared with another layer"
        return f"{name} carries a {type(network.forms[name]).__name__}" if name in network.forms else bias
    node, *others = layers[0].node.users
    if not others and len(layers) == 1 and op_name(node) == BATCH_NORM:
        given = arguments(node)
        name, ranks = network.held(given["running_mean"]), (len(shape(layers[0].node)), len(shape(layers[0].weight)))
        own = given["input"] is layers[0].node and ranks[0] == ranks[1]
        if own and name and not given["training"] and reads[name] == [node] and name not in network.forms:
            return given["running_mean"]
    return "the layer has no bias and no batch norm of its own after it"


def _moved(network: Network, reads: Mapping[str, list[fx.Node]], layers: list[Layer], values: Tensor) -> dict[str, Tensor]:
    """The tensor that takes what the input channels' `values` contribute, with its contribution."""
    layer, place = layers[0], _place(network, reads, layers)
    assert isinstance(place, fx.Node)
    contribution = _response(layer, network.tensors[str(layer.weight.target)].detach().cpu(), values)
    old = network.tensors[str(place.target)]
    sign = 1 if layer.bias is not None else -1
    return {str(place.target): held_like(old, old.detach().cpu().double() + sign * contribution)}


def _response(layer: Layer, weight: Tensor, values: Tensor) -> Tensor:
    """What a layer without bias and padding gives for an input whose channels have `values` everywhere, float64."""
    used = values.reshape(layer.groups, -1)
    columns = (used != 0).any(0)
    taps = layer.kernel(weight)[:, :, columns].sum(-1, dtype=torch.float64)
    return torch.einsum("goi,gi->go", taps, used[:, columns]).flatten()


# What is known of a result, given what is known of its arguments. A rule takes a node and a way to read arguments.


def _layer(node: fx.Node, read: Read) -> Tensor | None:
    layer = layer_at(node)
    if layer is None:
        return None
    weight, channel = read(layer.weight).expand(shape(layer.weight)), layer.channel()
    values = along(read(layer.input), channel, shape(layer.input)[channel])
    usable = values == 0 if layer.padded else values.isfinite()
    reached = (layer.kernel(weight) != 0).any(-1)  # NaN, an unknown weight, is not 0
    blocked = (reached & ~usable.reshape(layer.groups, 1, -1)).any(-1).flatten()
    if blocked.all():
        return None
    outputs = torch.zeros(len(blocked), dtype=torch.float64) if layer.bias is None else read(layer.bias).double()
    outputs = torch.where(blocked, _NAN, outputs + _response(layer, weight, torch.where(usable, values, 0.0)))
    return _spread(outputs, channel, len(shape(node)))


def _batch_norm(node: fx.Node, read: Read) -> Tensor | None:
    given = arguments(node)
    if given["training"] or given["running_mean"] is None or given["running_var"] is None:
        return _norm(1)(node, read)
    mean, var = read(given["running_mean"]).double(), read(given["running_var"]).double()
    gamma = 1.0 if given["weight"] is None else read(given["weight"]).double()
    beta = 0.0 if given["bias"] is None else read(given["bias"]).double()
    scale = gamma / torch.sqrt(var + given["eps"])
    scale, shift = (_spread(part, 1, len(shape(node))) for part in (scale, beta - mean * scale))
    return torch.where(scale == 0, shift, read(given["input"]) * scale + shift)


def _norm(dim: int | None) -> Callable[[fx.Node, Read], Tensor | None]:
    """Norms by the input's own statistics: known where the scale is zero; it lies along `dim`, or over the last dimensions."""

    def rule(node: fx.Node, read: Read) -> Tensor | None:
        given = arguments(node)
        if given["weight"] is None:
            return None
        gamma = read(given["weight"]).double()
        beta = torch.zeros_like(gamma) if given.get("bias") is None else read(given["bias"]).double()
        known = torch.where(gamma == 0, beta, _NAN)
        rank = len(shape(node))
        return _spread(known, dim, rank) if dim is not None else known.reshape(*[1] * (rank - known.ndim), *known.shape)

    return rule


def _pointwise(node: fx.Node, read: Read) -> Tensor:
    """The op itself, unknown wherever an argument is; what the op makes of NaN does not matter."""
    given: Any = fx.map_arg((node.args, dict(node.kwargs)), read)
    unknown = functools.reduce(torch.logical_or, [leaf.isnan() for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)])
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: torch.where(t.isnan(), 0, t), given)
    return torch.where(unknown, _NAN, node.target(*args, **kwargs))  # type: ignore[operator]


def _product(node: fx.Node, read: Read) -> Tensor:
    """Zero times the unknown is zero."""
    zero = functools.reduce(torch.logical_or, [torch.as_tensor(read(arg) == 0) for arg in node.args[:2]])
    return torch.where(zero, 0.0, _pointwise(node, read))


def _prelu(node: fx.Node, read: Read) -> Tensor:
    x, slope = (read(arg) for arg in node.args)
    slope = _spread(slope.double(), 1, x.ndim) if x.ndim > 1 else slope.double()
    return torch.where(x > 0, x + 0 * slope, x * slope)


def _identity(node: fx.Node, read: Read) -> Any:
    return read(node.args[0])


def _in_eval(node: fx.Node, read: Read) -> Any:
    return None if arguments(node)["train"] else read(node.args[0])


def _part(node: fx.Node, read: Read) -> Any:
    whole = read(node.args[0])
    return whole[node.args[1]] if isinstance(whole, list) and isinstance(node.args[1], int) else None


def _moves(node: fx.Node, read: Read) -> Any:
    """Ops that only move elements: run on the known elements at their full size."""
    sources = [read(source) for source in node.all_input_nodes]
    if all(bool(torch.as_tensor(source).isnan().all()) for source in sources if isinstance(source, Tensor)):
        return None
    given: Any = fx.map_arg((node.args, dict(node.kwargs)), lambda source: _full(source, read))
    args, kwargs = given
    if op_name(node).split(".")[1] in _RESHAPES:  # whatever the strides, the elements keep their order
        return args[0].reshape(shape(node))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _full(node: fx.Node, read: Read) -> Any:
    value = read(node)
    return value.double().expand(shape(node)) if isinstance(value, Tensor) else value


def _window(node: fx.Node, read: Read) -> Any:
    """Pools, and upsampling by weights that sum to 1: a channel that is constant in space stays so."""
    known = read(node.args[0])
    known = _uniform(known, _space(node, known.ndim))
    return known if isinstance(node.meta["val"], Tensor) else (known, None)


def _average(node: fx.Node, read: Read) -> Tensor:
    """Averages over windows; zeros from outside count, unless the op is told otherwise."""
    given, known = arguments(node), _window(node, read)
    padding = given["padding"] if isinstance(given["padding"], list | tuple) else [given["padding"]]
    exact = given.get("divisor_override") is None and (not given["count_include_pad"] or all(p == 0 for p in padding))
    return known if exact else torch.where(known == 0, known, _NAN)


def _reduction(node: fx.Node, read: Read) -> Tensor:
    """The mean, or the largest or smallest, of equal numbers."""
    given, known = arguments(node), read(node.args[0]).double()
    dims = given.get("dim")
    dims = list(range(known.ndim)) if dims is None or dims == [] else [d % known.ndim for d in ([dims] if isinstance(dims, int) else dims)]
    known = _uniform(known, dims)
    return known if given.get("keepdim") else known.squeeze(tuple(dims))


def _space(node: fx.Node, rank: int) -> list[int]:
    found = re.search(r"([123])d", op_name(node))
    assert found is not None
    return list(range(rank - int(found[1]), rank))


_RESHAPES = frozenset("view reshape flatten unflatten squeeze unsqueeze _unsafe_view view_as reshape_as ravel".split())  # noqa: SIM905
_TABLE: dict[Callable[[fx.Node, Read], Any], str] = {
    _layer: """linear convolution conv1d conv2d conv3d conv1d.padding conv2d.padding conv3d.padding
        conv_transpose1d conv_transpose2d.input conv_transpose3d.input""",
    _batch_norm: "batch_norm",
    _norm(1): "group_norm instance_norm",
    _norm(None): "layer_norm rms_norm",
    # continuous functions only: beside a step, float32 and float64 may fall on two sides
    _pointwise: """relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid softshrink softplus
        sigmoid log_sigmoid tanh sin cos exp expm1 log log1p sqrt rsqrt reciprocal square neg abs erf
        add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar div.Tensor div.Scalar true_divide.Tensor
        pow.Tensor_Scalar maximum minimum clamp clamp.Tensor clamp_min clamp_max clip""",
    _product: "mul.Tensor mul.Scalar",
    _prelu: "prelu",
    _identity: """to.dtype to.dtype_layout to.device to.other _to_copy type_as contiguous clone detach alias positive
        lift_fresh_copy""",
    _in_eval: "dropout feature_dropout alpha_dropout feature_alpha_dropout",
    _part: "getitem",
    _moves: """view reshape flatten.using_ints unflatten.int squeeze squeeze.dim squeeze.dims unsqueeze _unsafe_view view_as
        reshape_as ravel permute transpose.int t mT movedim.int movedim.intlist swapaxes expand expand_as broadcast_to
        cat concat stack slice.Tensor select.int narrow split.Tensor split_with_sizes split.sizes chunk unbind.int
        repeat tile flip roll pixel_shuffle pixel_unshuffle channel_shuffle
        pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d""",
    _window: """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec upsample_bilinear2d.vec
        upsample_bicubic2d.vec upsample_trilinear3d.vec
        _upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec""",
    _average: "avg_pool1d avg_pool2d avg_pool3d",
    _reduction: "mean mean.dim amax amin",
}
_RULES = {name: rule for rule, names in _TABLE.items() for name in names.split()}


# Known tensors.


def _uniform(known: Tensor, dims: list[int]) -> Tensor:
    """`known` at size 1 along `dims`: NaN where it differs there."""
    if not dims:
        return known
    low, high = known.amin(dims, keepdim=True), known.amax(dims, keepdim=True)
    return torch.where(low == high, low, _NAN)


def _unknown(rank: int) -> Tensor:
    return torch.full((1,) * rank, _NAN, dtype=torch.float64)


def _spread(values: Tensor, dim: int, rank: int) -> Tensor:
    """A vector along `dim` of a tensor of that rank."""
    sizes = [1] * rank
    sizes[dim] = -1
    return values.reshape(sizes)


def _settled(known: Tensor | None, value: Any, free: tuple[int, ...]) -> Tensor | None:
    """A rule's result as it is kept: finite numbers, nothing along free dimensions, size 1 where nothing varies; None if all is unknown."""
    if known is None or not (isinstance(value, Tensor) and value.is_floating_point()) or known.numel() == 0:
        return None
    known = known.double()
    known = _uniform(torch.where(known.isfinite(), known, _NAN), list(free))
    for dim in range(known.ndim):
        first = known.narrow(dim, 0, 1)
        if known.shape[dim] > 1 and bool(((known == first) | (known.isnan() & first.isnan())).all()):
            known = first
    return None if bool(known.isnan().all()) else known


def _free_dimensions(network: Network) -> dict[Any, tuple[int, ...]] | None:
    """The dimensions of each result whose size changes with the batch; None where the graph does not run on another batch.

    A part of a result of several tensors is under (node, position).
    """
    nodes = [node for node in network.graph.nodes if node.op == "placeholder"]
    given = [None if known.shape is None else shape(node) for known, node in zip(network.inputs, nodes, strict=True)]
    if not any(known.shape and None in known.shape for known in network.inputs):
        return {}
    doubled = [
        sizes and tuple(s if fixed is not None else 2 * s for s, fixed in zip(sizes, known.shape or (), strict=True))
        for sizes, known in zip(given, network.inputs, strict=True)
    ]
    try:
        other = fakes(network, doubled, byte_cap=_NO_CAP)
    except TraceError:
        return None
    table: dict[Any, tuple[int, ...]] = {}
    for node, twice in other.items():
        once: Any = node.meta.get("val")
        if isinstance(twice, Tensor):
            table[node] = _changed(once, twice)
        elif isinstance(twice, tuple | list):
            table |= {(node, i): _changed(a, b) for i, (a, b) in enumerate(zip(once, twice, strict=False)) if isinstance(b, Tensor)}
    return table


def _changed(once: Tensor, twice: Tensor) -> tuple[int, ...]:
    return tuple(dim for dim, (a, b) in enumerate(zip(shape(once), shape(twice), strict=True)) if a != b)
