"""Two linear layers with nothing between them made into one."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from attar.forms import Dense
from attar.graph import Network, op_name, shape
from attar.graph.fold import Folded, Layer, arguments, held_like, layer_at, readers

__all__ = ["merge_linear"]

_IDENTITY = {"aten.dropout.default", "aten.feature_dropout.default", "aten.clone.default", "aten.detach.default", "aten.alias.default"} | {
    "aten.contiguous.default"
}
_OPS = {
    2: torch.ops.aten.linear.default,
    3: torch.ops.aten.conv1d.default,
    4: torch.ops.aten.conv2d.default,
    5: torch.ops.aten.conv3d.default,
}


def merge_linear(network: Network) -> Folded[Network]:
    """The network with each pair of layers that have nothing nonlinear between them as one; `network` is left as it is.

    Linear layers: `W = W2 W1`, `b = b2 + W2 b1`. Convolutions, of kernel sizes k, strides s, dilations d and groups g:
    a kernel that reaches `d1 (k1 - 1) + s1 d2 (k2 - 1) + 1` far, stride `s1 s2`, the padding of the first, gcd(g1, g2)
    groups, `b = b2 + (sum_yx W2) b1`; the second must have no padding, or the border would differ. Chains are merged from the front.

    The pairs that became one are in `folded` (the merged layer has the second's name), those that stay in `left` with the
    reason, which may be that one layer would have more weights than the two: such a pair is a factorization.
    Computed in float64; outputs are the same up to rounding.

    >>> from attar.graph import trace
    >>> network = trace(torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Linear(9, 2)), (torch.zeros(1, 4),))
    >>> result = merge_linear(network)
    >>> result.folded, {name: tuple(tensor.shape) for name, tensor in result.model.tensors.items()}
    ((('0', '1'),), {'1.weight': (2, 4), '1.bias': (2,)})
    """
    graph, copies = fx.Graph(), {}  # type: ignore[var-annotated]
    graph.output(graph.graph_copy(network.graph, copies))
    tensors, forms = dict(network.tensors), dict(network.forms)
    result = dataclasses.replace(network, graph=graph, tensors=tensors, forms=forms)
    done, left = [], {}
    for node in list(graph.nodes):
        second = layer_at(node)
        first = None if second is None else layer_at(_source(second.input))
        if first is None or second is None or len(shape(first.weight)) != len(shape(second.weight)):
            continue
        pair = (_name(first), _name(second))
        refusal = _refusal(result, first, second)
        if refusal:
            left["+".join(pair)] = refusal
            continue
        _merge(result, first, second)
        done.append(pair)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    tensors = {name: tensor for name, tensor in tensors.items() if name in used}
    forms = {name: form for name, form in forms.items() if name in used}
    return Folded(dataclasses.replace(result, tensors=tensors, forms=forms), tuple(done), tuple(left.items()))


@dataclass(frozen=True)
class _Geometry:
    """Where a convolution's taps are, one number for each dimension; a linear layer has none."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]


def _geometry(layer: Layer) -> _Geometry:
    """Of a layer's op, with an even padding where it is "same"."""
    given, size = arguments(layer.node), shape(layer.weight)[2:]

    def each(name: str, default: int) -> tuple[int, ...]:
        values = given.get(name, default)
        values = tuple(values) if isinstance(values, list | tuple) else (values,)
        return values * len(size) if len(values) == 1 else values

    dilation = each("dilation", 1)
    if given.get("padding") == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, size, strict=True))
    else:
        padding = (0,) * len(size) if given.get("padding") == "valid" else each("padding", 0)
    return _Geometry(each("stride", 1), padding, dilation, size)


def _combined(first: _Geometry, second: _Geometry) -> _Geometry:
    """The taps of both together are at `d1 t1 + s1 d2 t2`: a kernel of the widest dilation that meets them all."""
    dilation, size = [], []
    for s1, d1, k1, d2, k2 in zip(first.stride, first.dilation, first.size, second.dilation, second.size, strict=True):
        steps = [step for step, taps in ((d1, k1), (s1 * d2, k2)) if taps > 1]
        dilation.append(math.gcd(*steps) if steps else 1)
        size.append((d1 * (k1 - 1) + s1 * d2 * (k2 - 1)) // dilation[-1] + 1)
    stride = tuple(s1 * s2 for s1, s2 in zip(first.stride, second.stride, strict=True))
    return _Geometry(stride, first.padding, tuple(dilation), tuple(size))


def _source(node: fx.Node) -> fx.Node:
    """What a value is, behind ops that change nothing."""
    while op_name(node) in _IDENTITY and node.args[-1] is not True:
        source: Any = node.args[0]
        node = source
    return node


def _name(layer: Layer) -> str:
    return str(layer.weight.target).removesuffix(".weight")


def _refusal(network: Network, first: Layer, second: Layer) -> str | None:
    reads = readers(network)
    node = second.input
    while node is not first.node:
        if len(node.users) > 1:
            return f"what is between them ({node.name}) is read elsewhere too"
        node = node.args[0]  # type: ignore[assignment]
    if len(first.node.users) > 1:
        return "the output of the first is read elsewhere too"
    for layer in (first, second):
        for part in (layer.weight, layer.bias):
            if part is None:
                continue
            name = network.held(part)
            if name is None:
                return f"a weight or bias ({part.name}) is computed, not held"
            if len(reads[name]) > 1:
                return f"{name} is used {len(reads[name])} times: the layer is shared"
            if name in network.forms and type(network.forms[name]) is not Dense:
                return f"{name} carries a {type(network.forms[name]).__name__}: merge before the weight is compressed, or bake it"
        if layer.transposed:
            return f"{_name(layer)} is a transposed convolution"
    if second.padded:
        return "the second pads its input: the border would differ"
    one, two = _geometry(first), _geometry(second)
    if arguments(first.node).get("padding") == "same" and any(d * (k - 1) % 2 for d, k in zip(one.dilation, one.size, strict=True)):
        return "the first pads more on one side than on the other"
    inputs = shape(first.weight)[1] * first.groups // math.gcd(first.groups, second.groups)
    merged = shape(second.weight)[0] * inputs * math.prod(_combined(one, two).size)
    both = math.prod(shape(first.weight)) + math.prod(shape(second.weight))
    return f"one layer would have {merged} weights, the two have {both}" if merged > both else None


def _merge(network: Network, first: Layer, second: Layer) -> None:
    """Put the merged layer in the place of the second; what the first leaves behind is dead."""
    tensors, forms = network.tensors, network.forms
    assert isinstance(tensors, dict)
    assert isinstance(forms, dict)
    groups, geometry = math.gcd(first.groups, second.groups), _combined(_geometry(first), _geometry(second))
    weight, bias = _product(tensors, first, second, geometry)
    bias_node = second.bias or first.bias
    for node, values in ((second.weight, weight), (bias_node, bias)):
        if node is not None and values is not None:
            name = str(node.target)
            tensors[name] = held_like(tensors[name], values)
            node.meta["val"] = node.meta["val"].new_empty(values.shape)
            if name in forms:
                forms[name] = Dense(tensors[name])
    placed = (list(geometry.stride), list(geometry.padding), list(geometry.dilation), groups) if weight.ndim > 2 else ()
    second.node.target = _OPS[weight.ndim]
    second.node.args, second.node.kwargs = (first.input, second.weight, bias_node, *placed), {}


def _product(tensors: Mapping[str, Tensor], first: Layer, second: Layer, geometry: _Geometry) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the merged layer, in float64."""
    groups, one, two = math.gcd(first.groups, second.groups), _geometry(first), _geometry(second)
    w1, w2 = (_regrouped(tensors[str(layer.weight.target)].detach().double(), layer.groups, groups) for layer in (first, second))
    weight = w1.new_zeros(groups, w2.shape[1], w1.shape[2], *geometry.size)
    for taps in itertools.product(*map(range, two.size)):
        at = []
        for d, tap in enumerate(taps):
            start = one.stride[d] * two.dilation[d] * tap // geometry.dilation[d]
            step = max(1, one.dilation[d] // geometry.dilation[d])
            at.append(slice(start, start + step * (one.size[d] - 1) + 1, step))
        reached = weight[(slice(None),) * 3 + tuple(at)]
        reached += torch.einsum("gom,gmi...->goi...", w2[(slice(None),) * 3 + taps], w1)
    b1, b2 = (None if layer.bias is None else tensors[str(layer.bias.target)].detach().double() for layer in (first, second))
    if b1 is not None:
        carried = torch.einsum("gom,gm->go", w2.flatten(3).sum(3) if w2.ndim > 3 else w2, b1.unflatten(0, (groups, -1))).flatten()
        b2 = carried if b2 is None else b2 + carried
    return weight.flatten(0, 1), b2


def _regrouped(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """A weight [out, in / groups, ...] as [fewer, out / fewer, in / fewer, ...]: zeros where its own groups do not connect."""
    blocks = weight.unflatten(0, (fewer, groups // fewer, -1))
    together, (out, inside, *size) = groups // fewer, blocks.shape[2:]
    result = weight.new_zeros(fewer, together, out, together, inside, *size)
    for k in range(together):
        result[:, k, :, k] = blocks[:, k]
    return result.flatten(3, 4).flatten(1, 2)
