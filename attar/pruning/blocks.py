"""Removing whole blocks of layers: residual branches, and layers that compute nothing."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from attar.errors import AttarError
from attar.forms import of
from attar.graph import Network, Program, call_with, eval_mode, op_name, require_finite, shape, trace
from attar.graph.fold import BATCH_NORM, arguments, layer_at
from attar.names import nearest
from attar.pruning.allocation import require_keep, share_count

__all__ = ["Block", "PrunedBlocks", "cosine_distances", "find_blocks", "prune_blocks", "remove_blocks"]

Example = tuple | Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """A part of a network that can be bypassed: the result of `node` becomes the operand `trunk` of that node.

    `kind` is "residual" (the branch F of x + F(x), which goes) or "identity" (a layer that gives its input back).
    `parameters` are those that its removal frees; `macs`, per example that was traced, those of its convolutions and
    linear layers. `innermost` says that no other block lies within it.
    """

    name: str
    kind: str
    node: str
    trunk: int
    parameters: int
    macs: int
    innermost: bool


@dataclass(frozen=True, eq=False)
class PrunedBlocks:
    """A network without some of its blocks: their names and scores, in the order in which they went."""

    model: Program
    removed: Mapping[str, float]


def find_blocks(network: Network) -> tuple[Block, ...]:
    """All blocks of a traced network that can be bypassed, in its order.

    A *residual* block is an addition of x and F(x), of one shape, where all that is computed from x on the way to
    F(x) is used on that way only, and reads a parameter. Blocks within blocks are listed too. A block that changes the
    size has another shortcut than x itself, so that it is never one. An *identity* block is a convolution or linear
    layer with the identity for a weight and no bias, or a batch norm that undoes its own statistics (both are what
    Net2DeeperNet inserts).

    A block has the path of the modules that hold its weights (`layer1.2`), and the name of its node behind it where
    that is not enough (`layers.0:add_1`).

    References: A. Veit, M. Wilber, S. Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow
    Networks", 2016 (bypassing blocks); T. Chen, I. Goodfellow, J. Shlens, "Net2Net: Accelerating Learning via Knowledge
    Transfer", 2016 (identity layers).

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.head(x + self.inner(x).relu())
    >>> [(block.name, block.parameters, block.macs) for block in find_blocks(trace(Net(), (torch.zeros(1, 4),)))]
    [('inner', 20, 16)]
    """
    reads = _reads(network)
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    found = []
    for node in network.graph.nodes:
        branches = [(trunk, branch) for trunk in _operands(node) if (branch := _branch(network, node, trunk, reads, order))]
        if branches:
            found.append((node, *branches[0], "residual"))
        elif _is_identity(network, node):
            found.append((node, 0, [node], "identity"))
    paths = [_path(network, branch, reads) for _, _, branch, _ in found]
    count = Counter(paths)
    blocks = []
    for (node, trunk, branch, kind), path in zip(found, paths, strict=True):
        parameters, macs = _freed(network, node, trunk)
        innermost = not any(other in branch for other, *_ in found if other is not node)
        name = path if path and count[path] == 1 else f"{path}:{node.name}" if path else node.name
        blocks.append(Block(name, kind, node.name, trunk, parameters, macs, innermost))
    return tuple(blocks)


def remove_blocks(network: Network, names: Iterable[str]) -> Network:
    """The network with the blocks of these names (as `find_blocks` gives them) bypassed; `network` is left as it is.

    x + F(x) becomes x, and what follows stays (the ReLU of a block that ends in one). What nothing reads any more is
    gone from the graph, with its tensors and their forms; the tensors that stay are shared with `network`.

    Raises AttarError for a name that is no block's.

    >>> network = trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), (torch.zeros(1, 3),))
    >>> _ = nn.init.eye_(network.tensors["0.weight"]), nn.init.zeros_(network.tensors["0.bias"])
    >>> sorted(remove_blocks(network, ["0"]).tensors)
    ['2.bias', '2.weight']
    """
    blocks = {block.name: block for block in find_blocks(network)}
    chosen = [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in blocks:
            known = f"the blocks are {', '.join(blocks)}" if blocks else "the network has none"
            raise AttarError(f"there is no block {name!r}{nearest(name, blocks)}: {known}")
    return _bypass(network, [blocks[name] for name in chosen])


def prune_blocks(
    model: nn.Module,
    example: Example,
    *,
    keep: float | None = None,
    count: int | None = None,
    score: Callable[[nn.Module], float] | None = None,
    data: Sequence[Example] | None = None,
    tune: Callable[[nn.Module], object] | None = None,
) -> PrunedBlocks:
    """Remove innermost blocks one by one, each time the one that harms least, until `keep` of them stay or `count` are gone.

    The harm is what `score(network)` gives with the block bypassed, higher for worse (the loss on validation data); or,
    without labels, with batches of `data` (each like `example`), how much the block turns what runs through it
    (`cosine_distances`). After each removal `tune(network)` may train what is left, in place. The statistics of batch
    norms behind the removed block no longer fit: a pass in train mode over data without labels corrects them, and `tune`
    is the place for it. The result is a graph module; `model` is not touched.

    Raises AttarError unless one of keep, in (0, 1], and count, and one of score and data, is given; for NaN or infinite
    weights, a network without enough blocks, or a score that is NaN. Raises TraceError where the network has no graph.

    Reference: the greedy choice by what removal costs is that of P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz,
    "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017, applied to blocks.

    >>> encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    >>> _ = nn.init.zeros_(encoder.linear2.weight), nn.init.zeros_(encoder.linear2.bias)
    >>> prune_blocks(encoder, (torch.zeros(1, 3, 8),), count=1, data=[(torch.randn(2, 3, 8),)]).removed
    {'add_1': 0.0}
    """
    if (keep is None) == (count is None) or (score is None) == (data is None):
        raise AttarError(
            "give one of keep (the fraction of blocks that stays) and count (of blocks to remove), and one of score and data, "
            f"got keep={keep!r}, count={count!r}, {_given('score', score)}, {_given('data', data)}"
        )
    require_finite(model)
    network = trace(copy.deepcopy(model), example)
    blocks = {block.node: block for block in find_blocks(network) if block.innermost}
    left = _left(len(blocks), keep, count)
    removed: dict[str, float] = {}
    while len(alive := [block for block in find_blocks(network) if block.node in blocks]) > left:
        scores = cosine_distances(network, alive, data) if data is not None else _scores(network, alive, score)
        best = min(alive, key=lambda block: scores[block.name])
        removed[blocks[best.node].name] = scores[best.name]
        network = _bypass(network, [best])
        if tune is not None:
            program = network.program()
            tune(program)
            network = _refreshed(network, program)
    return PrunedBlocks(network.program().train(model.training), removed)


def cosine_distances(network: Network, blocks: Iterable[Block], data: Iterable[Example]) -> dict[str, float]:
    """How much each block turns what runs through it: `1 - cos(x, x + F(x))`, by the block's name, the mean over all samples.

    Computed as `|x / |x| - y / |y||^2 / 2`, which is 0 exactly where nothing changes, and keeps its digits near 0. A sample
    is what has one index of the first dimension; one that is zero before or after the block, and not both, counts 1/2.

    Raises AttarError where data holds no batch.

    Reference: X. Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024 (there
    by token, and for whole layers).

    >>> class Twice(nn.Linear):
    ...     def forward(self, x):
    ...         return x + super().forward(x)
    >>> network = trace(Twice(2, 2, bias=False), (torch.zeros(1, 2),))
    >>> _ = network.tensors["weight"].data.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    >>> distances = cosine_distances(network, find_blocks(network), [(torch.tensor([[0.0, 1.0]]),)])
    >>> {name: round(value, 4) for name, value in distances.items()}
    {'add': 0.2929}
    """
    chosen = list(blocks)
    program = _taps(network, chosen).program()
    totals, samples = dict.fromkeys((block.name for block in chosen), 0.0), Counter[str]()
    with eval_mode(program), torch.no_grad():
        for batch in data:
            for block, (x, y) in zip(chosen, call_with(program, batch), strict=True):
                units = [functional.normalize(t.double().reshape(len(t) if t.ndim > 1 else 1, -1), dim=1) for t in (x, y)]
                totals[block.name] += float((units[0] - units[1]).square().sum()) / 2
                samples[block.name] += len(units[0])
    if chosen and not samples:
        raise AttarError("data holds no batch: give batches like the example, to compare what runs through the blocks")
    return {name: total / samples[name] for name, total in totals.items()}


def _left(total: int, keep: float | None, count: int | None) -> int:
    """How many blocks are to stay."""
    if keep is not None:
        require_keep(keep, of="blocks")
        return share_count(keep, total) if total else 0
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= total:
        raise AttarError(
            f"count must be from 0 to {total}, got {count!r}: it is how many of the network's {total} innermost blocks are removed"
        )
    return total - count


def _given(name: str, value: Any) -> str:
    return f"{'no' if value is None else 'a'} {name}"


def _scores(network: Network, blocks: Iterable[Block], score: Callable[[nn.Module], float] | None) -> dict[str, float]:
    assert score is not None
    scores = {block.name: float(score(_bypass(network, [block]).program())) for block in blocks}
    for name, value in scores.items():
        if math.isnan(value):
            raise AttarError(f"score gave NaN for the network without {name}: it must be a number, higher for worse")
    return scores


# Edits.


def _bypass(network: Network, blocks: Iterable[Block]) -> Network:
    """All nodes keep their results: a trunk has the shape and the type of what it stands for, so that nothing is propagated again."""
    graph, copies = fx.Graph(), {}  # type: ignore[var-annotated]
    graph.output(graph.graph_copy(network.graph, copies))
    by_name = {node.name: copied for node, copied in copies.items()}
    for block in blocks:
        node = by_name[block.node]
        node.replace_all_uses_with(node.args[block.trunk])  # type: ignore[arg-type]
    return _live(network, graph)


def _taps(network: Network, blocks: Iterable[Block]) -> Network:
    """The network that gives, for each block, what goes into it and what comes out."""
    graph, copies = fx.Graph(), {}  # type: ignore[var-annotated]
    graph.graph_copy(network.graph, copies)
    by_name = {node.name: copied for node, copied in copies.items()}
    graph.output(tuple((by_name[block.node].args[block.trunk], by_name[block.node]) for block in blocks))
    return _live(network, graph)


def _live(network: Network, graph: fx.Graph) -> Network:
    """The network with another graph, without what nothing reads."""
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    tensors = {name: tensor for name, tensor in network.tensors.items() if name in used}
    return dataclasses.replace(
        network, graph=graph, tensors=tensors, forms={name: form for name, form in network.forms.items() if name in used}
    )


def _refreshed(network: Network, program: Program) -> Network:
    """The network with the tensors and forms that its program has now."""
    tensors, forms = {}, {}
    for name in network.tensors:
        path, _, leaf = name.rpartition(".")
        layer = program.get_submodule(path)
        form = of(layer, leaf)
        if form is not None:
            forms[name] = form
            tensors[name] = nn.Parameter(form().detach(), requires_grad=network.tensors[name].requires_grad)
        else:
            tensors[name] = getattr(layer, leaf)
    return dataclasses.replace(network, tensors=tensors, forms=forms)


# Finding.


def _operands(node: fx.Node) -> tuple[int, ...]:
    """The positions of an addition's operands that can stand for its result."""
    if op_name(node) != "aten.add.Tensor" or not all(_is_tensor(x) for x in node.args):
        return ()
    value = node.meta["val"]
    alike = [shape(x) == shape(node) and x.meta["val"].dtype == value.dtype for x in node.args]  # type: ignore[union-attr]
    return tuple(i for i in (0, 1) if all(alike) and (i == 0 or node.kwargs.get("alpha", 1) == 1))


def _is_tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def _branch(
    network: Network, node: fx.Node, trunk: int, reads: Mapping[fx.Node, frozenset[str]], order: Mapping[fx.Node, int]
) -> list[fx.Node]:
    """What is computed from the trunk for the other operand; empty where that is used elsewhere too, or holds no parameter."""
    x, other = node.args[trunk], node.args[1 - trunk]
    assert isinstance(x, fx.Node)
    assert isinstance(other, fx.Node)
    before = _ancestors(other, x)
    inside: set[fx.Node] = set()
    for source in sorted(before, key=order.__getitem__):
        # a size of x stays what it is, whether the block does or not: later ones may share it
        if not inside.isdisjoint(source.all_input_nodes) or (x in source.all_input_nodes and not _is_number(source)):
            inside.add(source)
    if any(user is not node and user not in inside for source in inside for user in source.users):
        return []
    names = {name for source in inside for name in _read_by(source, reads)}
    return list(inside) if any(isinstance(network.tensors[name], nn.Parameter) for name in names) else []


def _is_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), bool | int | float | torch.SymInt | torch.SymFloat | torch.SymBool)


def _ancestors(node: fx.Node, stop: fx.Node) -> set[fx.Node]:
    """`node` and all that it is computed from, without `stop` and what lies behind it only."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current is not stop and current not in found:
            found.add(current)
            waiting += current.all_input_nodes
    return found


def _reads(network: Network) -> dict[fx.Node, frozenset[str]]:
    """Of each node that is computed from held tensors alone, which: a weight may be computed (a weight norm)."""
    table: dict[fx.Node, frozenset[str]] = {}
    for node in network.graph.nodes:
        if node.op == "get_attr":
            table[node] = frozenset({str(node.target)})
        elif node.op == "call_function" and node.all_input_nodes and all(source in table for source in node.all_input_nodes):
            table[node] = frozenset().union(*(table[source] for source in node.all_input_nodes))
    return table


def _read_by(node: fx.Node, reads: Mapping[fx.Node, frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*(reads.get(source, frozenset()) for source in node.all_input_nodes))


def _path(network: Network, branch: Iterable[fx.Node], reads: Mapping[fx.Node, frozenset[str]]) -> str:
    """The innermost module that holds all weights of a branch (its norms, where it has no more): names outlive the module's code."""
    names = [name for node in branch for name in _read_by(node, reads) if isinstance(network.tensors[name], nn.Parameter)]
    names = [name for name in names if network.tensors[name].ndim > 1] or names
    paths = [name.split(".")[:-1] for name in names]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _freed(network: Network, node: fx.Node, trunk: int) -> tuple[int, int]:
    """The parameters that nothing reads when a block is bypassed, and the multiply-accumulates of layers that are not computed."""
    x = node.args[trunk]
    gone = {node}
    for source in reversed(network.graph.nodes):
        if source is not x and source.op not in ("placeholder", "output") and source.users and gone.issuperset(source.users):
            gone.add(source)
    kept = {source.target for source in network.graph.nodes if source.op == "get_attr" and source not in gone}
    held = {str(source.target) for source in gone if source.op == "get_attr"} - kept
    parameters = sum(network.tensors[name].numel() for name in held if isinstance(network.tensors[name], nn.Parameter))
    return parameters, sum(_macs(source) for source in gone)


def _macs(node: fx.Node) -> int:
    layer = layer_at(node)
    if layer is None:
        return 0
    positions = math.prod(shape(layer.input if layer.transposed else node))
    return positions * math.prod(shape(layer.weight)[1:])


def _is_identity(network: Network, node: fx.Node) -> bool:
    """Whether a layer gives back its input, for whatever input."""
    if op_name(node) == BATCH_NORM:
        return _is_identity_norm(network, node)
    layer = layer_at(node)
    if layer is None or layer.transposed or shape(node) != shape(layer.input) or network.held(layer.weight) is None:
        return False
    stride = arguments(node).get("stride", 1)
    sizes = shape(layer.weight)[2:]
    if any(s != 1 for s in (stride if isinstance(stride, list | tuple) else [stride])) or any(size % 2 == 0 for size in sizes):
        return False
    if layer.bias is not None and (network.held(layer.bias) is None or bool(network.tensors[str(layer.bias.target)].any())):
        return False
    kernel = layer.kernel(network.tensors[str(layer.weight.target)].detach())
    expected = torch.zeros_like(kernel)
    if kernel.shape[1] == kernel.shape[2]:
        expected[..., kernel.shape[-1] // 2] = torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
    return torch.equal(kernel, expected) and bool(expected.any())


def _is_identity_norm(network: Network, node: fx.Node) -> bool:
    """Whether scale and shift of a norm undo its statistics, up to rounding."""
    given = arguments(node)
    parts = [given[name] for name in ("running_mean", "running_var", "weight", "bias")]
    if given["training"] or any(network.held(part) is None for part in parts):
        return False
    mean, var, gamma, beta = (network.tensors[str(part.target)].detach() for part in parts)
    rounding = 4 * torch.finfo(var.dtype).eps
    return torch.allclose(gamma, (var + given["eps"]).sqrt(), rtol=rounding, atol=0.0) and torch.allclose(
        beta, mean, rtol=rounding, atol=0.0
    )
