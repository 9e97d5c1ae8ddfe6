"""Samples together from some depth on: where a network is cut, and the two networks that the cut makes.

Up to the cut the program runs sample by sample, so that large maps stay in the caches; from there on small maps, and linear
layers whose weights would be read again for each sample, are computed for a group of samples at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from attar.compiler.compare import arguments, calibrated, repeated
from attar.compiler.ir import Program, live
from attar.errors import TraceError
from attar.graph import Input, Network, eval_mode, op_name
from attar.graph.propagate import fakes

__all__ = ["Cut", "beyond", "cuts", "decide", "front_first", "steps_before"]

_WORTH = 0.97  # of the time of samples one by one: a group that takes more is not worth it, as timing is no more exact
_CROSSING = 2  # values that cross at most: each is copied out of the program for one sample
_NEAR = 8 << 20  # bytes of a value, of all samples of the group, from which the last cache no longer holds a layer's maps
_CONVOLUTIONS = ("aten.conv", "aten.convolution")
_PRODUCTS = ("aten.linear", "aten.mm", "aten.addmm", "aten.matmul", "aten.bmm", "aten.baddbmm")


@dataclass(frozen=True, eq=False)
class Cut:
    """A network cut before the op `name`: `front` gives the network's results and then `crossing` values; `tail` takes what it `reads`.

    `reads` are positions among the network's input tensors and then the crossing values; `given` are zeros like them, of a group.
    """

    name: str
    front: Network
    crossing: int
    tail: Network
    reads: tuple[int, ...]
    given: tuple[Tensor, ...]


def cuts(network: Network, values: Sequence[Any], group: int) -> list[Cut]:
    """Where it may pay to cut a network, whose batch norms are folded, for groups of samples; `values` are its inputs for one.

    Before a convolution or a linear layer that one or two values of the samples cross to: the first from which no value of the
    group is larger than a part of the last cache, and the first behind all convolutions, where weights are read once for each
    sample. Each is worth a measurement, no more.
    """
    try:
        one, many = _results(network, values, 1), _results(network, values, group)
    except TraceError:  # the graph does not take these numbers of samples
        return []
    found: dict[str, Cut] = {}
    for places in _places(network, many):
        cut = next((cut for cut in (_cut(network, node, one, many, group) for node in places) if cut), None)
        if cut is not None:
            found.setdefault(cut.name, cut)
    return [*found.values()]


def decide(seconds: Mapping[str, tuple[float, float]], group: int) -> dict[str, Any]:
    """Which cut saves most, or none, and a sentence with the figures; `seconds` are (one by one, together) of what is behind each.

    >>> decide({"linear": (0.3, 0.1), "conv": (0.5, 0.4)}, 8)["cut"], decide({"linear": (0.1, 0.1)}, 8)["cut"]
    ('linear', None)
    """
    gains = {name: apart - together for name, (apart, together) in seconds.items() if together <= _WORTH * apart}
    best = max(gains, key=gains.__getitem__, default=None)
    tried = [f"from {name} on {1000 * together:.3g} ms, one by one {1000 * apart:.3g} ms" for name, (apart, together) in seconds.items()]
    figures = "; ".join(tried) or "there is no layer that one or two values of the samples cross to"
    what = f"samples together from {best} on" if best else "left out, as it gains nothing"
    return {"cut": best, "note": f"batch {group}: {what} ({figures})"}


def beyond(cut: Cut, network: Network, values: Sequence[Any], samples: Sequence[Tensor]) -> list[Tensor]:
    """The calibration samples of the tail, whole groups: what PyTorch computes of the network's own up to the cut."""
    program = cut.front.program()
    with torch.no_grad(), eval_mode(program):
        results = pytree.tree_leaves(program(**arguments(network, calibrated(network, values, samples))))
    known = [*samples, *results[len(results) - cut.crossing :]]
    return [repeated(known[position], len(zeros)) for position, zeros in zip(cut.reads, cut.given, strict=True)]


def front_first(program: Program, crossing: int) -> Program:
    """The program with the steps that its last `crossing` outputs need before all others."""
    front = live(program.ops, program.outputs[len(program.outputs) - crossing :])
    held = {id(op) for op in front}
    return dataclasses.replace(program, ops=[*front, *(op for op in program.ops if id(op) not in held)])


def steps_before(program: Program, crossing: int) -> int:
    """How many steps have run when the last `crossing` outputs are written."""
    wanted = {id(value.buffer) for value in program.outputs[len(program.outputs) - crossing :]} if crossing else set()
    return max((n + 1 for n, op in enumerate(program.ops) if any(id(v.buffer) in wanted for v in op.outputs)), default=0)


def _results(network: Network, values: Sequence[Any], samples: int) -> dict[fx.Node, Any]:
    """What each node gives for that many samples, tensors without memory."""
    shapes = [
        None if one.shape is None else (samples, *value.shape[1:]) if one.shape[:1] == (None,) else tuple(value.shape)
        for one, value in zip(network.inputs, values, strict=True)
    ]
    return fakes(network, shapes, byte_cap=1 << 62)


def _places(network: Network, results: Mapping[fx.Node, Any]) -> Iterator[list[fx.Node]]:
    """For each of the two rules, the layers before which it allows a cut, in order."""
    nodes = [node for node in network.graph.nodes if node.op == "call_function"]
    large = [place for place, node in enumerate(nodes) if any(t.nbytes > _NEAR for t in _tensors(results[node]))]
    maps = [place for place, node in enumerate(nodes) if op_name(node).startswith(_CONVOLUTIONS) and results[node].shape[2:].numel() > 1]
    for last in (max(large, default=-1), max(maps, default=-1)):
        yield [node for node in nodes[last + 1 :] if op_name(node).startswith((*_CONVOLUTIONS, *_PRODUCTS))]


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _cut(network: Network, place: fx.Node, one: Mapping[fx.Node, Any], many: Mapping[fx.Node, Any], group: int) -> Cut | None:
    """The network cut before `place`; None where too much crosses there, or what has no samples."""
    nodes = list(network.graph.nodes)
    position = nodes.index(place)
    computed, after = _computed(nodes), set(nodes[position:])
    crossing = [node for node in nodes[:position] if node in computed and not after.isdisjoint(node.users)]
    sizes = {node: many[node] for node in crossing if not _tensors(many[node])}  # numbers: known, for the group has a fixed size
    crossing = [node for node in crossing if node not in sizes]
    if not 0 < len(crossing) <= _CROSSING or not all(_has_samples(one[node], many[node], group) for node in crossing):
        return None
    inputs = [node for node in nodes if node.op == "placeholder"]
    tensors = [node for node, about in zip(inputs, network.inputs, strict=True) if about.shape is not None]
    written = [node for node in crossing if node not in tensors]
    given = tuple(torch.zeros(many[node].shape, dtype=many[node].dtype) for node in crossing)
    reads = tuple(tensors.index(node) if node in tensors else len(tensors) + written.index(node) for node in crossing)
    return Cut(place.name, _with_results(network, written), len(written), _tail(network, position, crossing, sizes, given), reads, given)


def _computed(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on an input."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _has_samples(one: Any, many: Any, group: int) -> bool:
    """Whether a value is a tensor whose first size, and no other, is the number of samples."""
    return isinstance(one, Tensor) and one.ndim > 0 and one.shape[0] == 1 and tuple(many.shape) == (group, *one.shape[1:])


def _with_results(network: Network, more: Sequence[fx.Node]) -> Network:
    """The network that gives the values of these nodes, too, after its own results."""
    graph, copies = fx.Graph(), {}  # type: ignore[var-annotated]
    result = graph.graph_copy(network.graph, copies)
    graph.output([result, [copies[node] for node in more]])
    return dataclasses.replace(network, graph=graph)


def _tail(network: Network, position: int, crossing: Sequence[fx.Node], sizes: Mapping[fx.Node, Any], given: Sequence[Tensor]) -> Network:
    """The nodes from `position` on as a network of what crosses; what depends on no input is computed there anew."""
    nodes, graph = list(network.graph.nodes), fx.Graph()
    computed, copies = _computed(nodes), dict(sizes)
    for node in crossing:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for place, node in enumerate(nodes):
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], copies.__getitem__))
        elif node.op != "placeholder" and (place >= position or node not in computed):
            copies[node] = graph.create_node(
                node.op, node.target, *fx.map_arg((node.args, node.kwargs), copies.__getitem__), name=node.name, type_expr=node.type
            )
            copies[node].meta = dict(node.meta)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    held = {node.target for node in graph.nodes if node.op == "get_attr"}
    inputs = tuple(Input(node.name, (None, *zeros.shape[1:]), zeros.dtype) for node, zeros in zip(crossing, given, strict=True))
    tensors = {name: tensor for name, tensor in network.tensors.items() if name in held}
    return Network(graph, inputs, tensors, {}, {one.name: number for number, one in enumerate(inputs)})
