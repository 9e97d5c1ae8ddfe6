"""What data say of the weights: named statistics for all of them, from one pass.

A criterion names what it needs, and only that is computed: gradients where a statistic is made of them, sample by sample
where it does not average, and the graph where it is made of what enters or leaves the layers.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from attar.errors import AttarError, DataError, TraceError
from attar.forms import dense
from attar.graph.network import Network, op_name, shape
from attar.graph.propagate import fakes
from attar.graph.trace import call_with, eval_mode, trace
from attar.graph.weights import Weight, weights
from attar.names import nearest
from attar.task import arguments

__all__ = ["STATISTICS", "collect"]

# statistic -> what it is made of: the loss's gradient, single samples, what a layer is given, what comes out of it
STATISTICS = {
    "weight": frozenset[str](),
    "grad": frozenset({"loss"}),
    "grad_sq": frozenset({"loss", "samples"}),
    "inputs_sq": frozenset({"inputs"}),
    "outputs_zero_share": frozenset({"outputs"}),
    "outputs_taylor": frozenset({"loss", "outputs"}),
}

# op -> positions of its input and its weight, dimensions of the weight that run over input and output channels
_LAYERS = {
    "linear": (0, 1, 1, 0),
    "conv1d": (0, 1, 1, 0),
    "conv2d": (0, 1, 1, 0),
    "conv3d": (0, 1, 1, 0),
    "conv_transpose1d": (0, 1, 0, 1),
    "conv_transpose2d": (0, 1, 0, 1),
    "conv_transpose3d": (0, 1, 0, 1),
    "matmul": (0, 1, 0, 1),
    "mm": (0, 1, 0, 1),
    "addmm": (1, 2, 0, 1),
}
_ACTIVATIONS = (
    "relu relu6 hardtanh clamp clamp_min leaky_relu prelu rrelu threshold elu selu celu gelu silu mish softplus sigmoid tanh"
    " hardswish hardsigmoid softsign softshrink hardshrink log_sigmoid"
)
# what may stand between a layer and its activation: channels stay channels, in the same place
_BETWEEN = (
    "batch_norm instance_norm group_norm layer_norm rms_norm dropout feature_dropout alpha_dropout feature_alpha_dropout"
    " contiguous clone max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d"
    " adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
)

Key = tuple[str, str]  # a weight's name and a statistic's


def collect(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Statistics of every weight of `model`, by the weight's name and the statistic's, in one pass over (inputs, target) batches.

    E is the mean over samples of `loss`, a mean over the batch; batches may be of any size. Each statistic broadcasts to
    the weight, here [out, in, ...] (channels in the other order where the layer has them so):

    - `weight`: the dense weight itself;
    - `grad`: dE/dw, in the weight's shape;
    - `grad_sq`: the mean over samples of (d loss of that sample / dw)², the diagonal of the empirical Fisher matrix, in the
      weight's shape. One backward pass for each sample: exact whatever the network is, and as slow as that;
    - `inputs_sq`: the mean over samples and positions of the square of each input channel, [1, in, 1, ...]; of a grouped
      convolution [out, in / groups, 1, ...], each output's row with the channels that it reads;
    - `outputs_zero_share`: the share of zeros, over samples and positions, of each output channel after the activation that
      follows (norms, pooling and dropout may stand between), [out, 1, ...];
    - `outputs_taylor`: the mean over samples of |mean over positions of z * d loss of that sample / dz|, z being the output
      after the activation that follows, or the layer's own (behind its norm) where none does, [out, 1, ...].

    `inputs_sq` and `outputs_*` are had of linear layers and convolutions; a weight used elsewhere, and the share of zeros
    where no activation follows or something else reads the output too, is left out of its weight's statistics. A weight
    used more than once counts all its uses. The network is in eval mode, formed weights are dense, and all of it is
    afterwards as it was. Sums are float64; results are float32, or float64 where the weight is, on the weight's device.

    Raises AttarError for an unknown statistic, a network without weights, gradients without a loss, a loss that is not one
    finite number or depends on no weight, and statistics that are not finite; DataError where there are no samples;
    TraceError where the graph is needed and cannot be had.

    Sources: Y. LeCun, J. Denker, S. Solla, "Optimal Brain Damage", 1989; H. Hu, R. Peng, Y.-W. Tai, C.-K. Tang, "Network
    Trimming", 2016; P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, "Pruning Convolutional Neural Networks for
    Resource Efficient Inference", 2017.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> data = [(torch.tensor([[1.0, 2.0]]), torch.ones(1, 1)), (torch.tensor([[3.0, 0.0]]), torch.ones(1, 1))]
    >>> collect(layer, ["inputs_sq"], data)["weight"]["inputs_sq"].tolist()
    [[5.0, 2.0]]
    """
    asked = _known(names)
    needs = frozenset[str]().union(*(STATISTICS[name] for name in asked))
    if "loss" in needs and loss is None:
        gradients = ", ".join(name for name in asked if "loss" in STATISTICS[name])
        raise AttarError(f"{gradients} needs gradients, and there is no loss to take them of: give the loss of a Task")
    with eval_mode(model), dense(model):
        found = weights(model, ["*"])
        sums: _Sums = _Sums()
        if needs:
            with _differentiable(model, found if "loss" in needs else []):
                _gather(_Pass(model, {w.name: w.owner for w in found}, asked, loss if "loss" in needs else None), batches, sums)
        return {w.name: _results(w, asked, sums) for w in found}


def _known(names: Iterable[str]) -> list[str]:
    asked = list(dict.fromkeys(names))
    for name in asked:
        if name not in STATISTICS:
            raise AttarError(f"there is no evidence {name!r}{nearest(name, STATISTICS)}: there is {', '.join(STATISTICS)}")
    return asked


@contextlib.contextmanager
def _differentiable(model: nn.Module, found: Sequence[Weight]) -> Iterator[None]:
    """While open, gradients of the weights can be had, also of frozen ones (none: nothing is recorded); `.grad` is never touched."""
    flags = [(w.owner, w.owner.requires_grad) for w in found if isinstance(w.owner, nn.Parameter)]
    cudnn = torch.backends.cudnn.enabled
    for parameter, _ in flags:
        parameter.requires_grad_(True)
    if flags and any(isinstance(module, nn.RNNBase) for module in model.modules()):
        torch.backends.cudnn.enabled = False  # cuDNN has no backward pass for recurrent layers in eval mode
    try:
        with torch.set_grad_enabled(bool(flags)):
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@dataclass(frozen=True)
class _Sums:
    """Sums and what to divide them by, for each weight and statistic."""

    totals: dict[Key, Tensor] = field(default_factory=dict)
    counts: dict[Key, int] = field(default_factory=dict)

    def add(self, key: Key, value: Tensor, count: int) -> None:
        held = self.totals.get(key)
        if held is not None and held.shape == value.shape:
            held += value
        else:  # a weight used both ways round has sums that run along different dimensions
            self.totals[key] = value.to(torch.float64, copy=True) if held is None else held + value
        self.counts[key] = self.counts.get(key, 0) + count


def _results(weight: Weight, asked: Sequence[str], sums: _Sums) -> dict[str, Tensor]:
    """The statistics of one weight, in the order asked for."""
    results = {}
    for name in asked:
        key = weight.name, name
        if name == "weight":
            results[name] = weight.dense()
        elif key in sums.totals:
            mean = sums.totals[key] / sums.counts[key]
            if not bool(torch.isfinite(mean).all()):
                raise AttarError(f"{name} of {weight.name} is not finite: look for broken samples, or a function without a gradient there")
            results[name] = mean.to(torch.promote_types(weight.dense().dtype, torch.float32))
    return results


@dataclass(frozen=True)
class _Pass:
    """What a pass over the data computes; `loss` is None where no gradient is needed."""

    model: nn.Module
    weights: Mapping[str, Any]
    asked: Sequence[str]
    loss: Callable[[Any, Any], Tensor] | None

    @property
    def watched(self) -> list[str]:
        """The statistics that need the graph."""
        return [name for name in self.asked if STATISTICS[name] & {"inputs", "outputs"}]


def _gather(run: _Pass, batches: Iterable[tuple[Any, Any]], sums: _Sums) -> None:
    device = next((w.device for w in run.weights.values()), torch.device("cpu"))
    plans: dict[Any, _Watch] = {}
    seen = 0
    for batch in batches:
        inputs, target = pytree.tree_map_only(Tensor, lambda leaf: leaf.to(device), tuple(batch))
        count = _count(inputs)
        single = any("samples" in STATISTICS[name] for name in run.asked)
        if run.watched and not single and count > 1:
            single = "outputs_taylor" in run.asked and not _plan(run, inputs, plans).samples_first
        for part in _samples(inputs, target, count) if single else [(inputs, target)] if count else []:
            watch = _plan(run, part[0], plans) if run.watched else None
            _measure(run, part, watch, sums, 1 if single else count)
        seen += count
    if not seen:
        raise DataError("the data hold no sample to collect evidence from: give at least one batch (a generator can be read only once)")


def _count(inputs: Any) -> int:
    """The number of samples of a batch: the first size of its first tensor."""
    leaf = next((leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim), None)
    if leaf is None:
        raise DataError("a batch must be (inputs, target) with samples along the first dimension of the inputs: there is no such tensor")
    return len(leaf)


def _samples(inputs: Any, target: Any, count: int) -> Iterator[tuple[Any, Any]]:
    """Batches of one sample each; what has another first size is common to all samples."""

    def one(leaf: Any, i: int) -> Any:
        return leaf[i : i + 1] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == count else leaf

    for i in range(count):
        yield pytree.tree_map(functools.partial(one, i=i), (inputs, target))


def _measure(run: _Pass, part: tuple[Any, Any], watch: "_Watch | None", sums: _Sums, count: int) -> None:
    """Add what `count` samples say."""
    example = arguments(part[0])
    if watch is None:
        outputs, maps = call_with(run.model, example), ()
    else:
        outputs, reduced, maps = call_with(watch.program, example)
        for (name, statistic, dim), (value, positions) in zip(watch.reductions, reduced, strict=True):
            sums.add((name, statistic), _shaped(value, dim, run.weights[name].shape), positions)
        if watch.structure is not None:
            outputs = pytree.tree_unflatten(pytree.tree_leaves(outputs), watch.structure)
    if run.loss is None:
        return
    names = list(run.weights) if {"grad", "grad_sq"} & set(run.asked) else []
    loss = _one_number(run.loss(outputs, part[1]))
    wanted = [run.weights[name] for name in names] + list(maps)
    gradients = torch.autograd.grad(loss * count, wanted, allow_unused=True, materialize_grads=True) if wanted else ()
    for name, gradient in zip(names, gradients, strict=False):
        gradient = gradient.to_dense().double() if gradient.is_sparse else gradient.double()
        if "grad" in run.asked:
            sums.add((name, "grad"), gradient, count)
        if "grad_sq" in run.asked:
            sums.add((name, "grad_sq"), gradient.square(), count)
    if watch is not None:
        _add_taylor(run, watch, zip(maps, gradients[len(names) :], strict=True), sums, count)


def _one_number(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise AttarError(f"the loss must be one number, the mean over the batch, got {got}: average it in Task.loss")
    if not math.isfinite(loss.item()):
        raise AttarError(f"the loss must be finite, got {loss.item()}: no evidence follows from it; look for broken samples or weights")
    if not loss.requires_grad:
        raise AttarError("the loss depends on no weight of the network, so that there are no gradients: do not detach the outputs")
    return loss.reshape(())


def _add_taylor(run: _Pass, watch: "_Watch", pairs: Iterable[tuple[Tensor, Tensor]], sums: _Sums, count: int) -> None:
    """Add |mean over positions of z * dC/dz| of each sample; all uses of a weight are positions of one map."""
    signed: dict[str, Tensor] = {}
    positions: dict[str, int] = {}
    for (name, dim), (z, gradient) in zip(watch.maps, pairs, strict=True):
        weight = run.weights[name]
        products = _channels_last(z.detach().double() * gradient, weight.ndim).reshape(count, -1, z.shape[1 - weight.ndim])
        value = _shaped(products.sum(1), dim, weight.shape)
        signed[name] = signed[name] + value if name in signed else value
        positions[name] = positions.get(name, 0) + products.shape[1]
    for name, value in signed.items():
        sums.add((name, "outputs_taylor"), value.abs().sum(0) / positions[name], count)


@dataclass(frozen=True)
class _Watch:
    """The network as a program that also returns reductions and feature maps: (outputs, ((sums, positions), ...), (map, ...))."""

    program: nn.Module
    reductions: tuple[tuple[str, str, int], ...]  # weight, statistic, dimension of the weight that the sums run along
    maps: tuple[tuple[str, int], ...]  # weight, dimension
    samples_first: bool  # the first dimension of every map is that of the samples
    structure: Any  # of the network's own outputs, where a loss reads them: the program gives plain containers


@dataclass(frozen=True)
class _Use:
    """One op that applies a weight: `source` enters it, `reached` is what is taken for its output."""

    weight: str
    axes: tuple[int, int]  # dimensions of the weight that run over input and output channels
    rank: int
    op: fx.Node
    source: fx.Node
    reached: fx.Node
    activated: bool


def _plan(run: _Pass, inputs: Any, plans: dict[Any, _Watch]) -> _Watch:
    """The program for inputs of these sizes: one for all numbers of samples, where the network leaves that free."""
    example = arguments(inputs)
    sizes = tuple(tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in pytree.tree_leaves(example))
    rest = tuple(size[1:] if isinstance(size, tuple) else size for size in sizes)
    for key in ((True, rest), (False, sizes)):
        if key in plans:
            return plans[key]
    network = trace(run.model, example)
    free = all(not given.shape or given.shape[0] is None for given in network.inputs)
    plan = _watch(run, network, inputs)
    plans[(True, rest) if free else (False, sizes)] = plan
    return plan


def _watch(run: _Pass, network: Network, inputs: Any) -> _Watch:
    """Let the graph, which is ours alone, return what the statistics are made of."""
    graph, uses = network.graph, _uses(network, run.weights)
    samples_first = "outputs_taylor" in run.asked and _samples_first(network, uses, _count(inputs))
    reductions: list[tuple[tuple[str, str, int], fx.Node]] = []
    maps: list[tuple[tuple[str, int], fx.Node]] = []
    for use in uses:
        if "inputs_sq" in run.asked:
            with graph.inserting_before(use.op):  # at once, so that the tensor need not be kept
                reductions.append(((use.weight, "inputs_sq", use.axes[0]), graph.call_function(_squares, (use.source, use.rank))))
        if "outputs_zero_share" in run.asked and use.activated:
            with graph.inserting_after(use.reached):
                reductions.append(((use.weight, "outputs_zero_share", use.axes[1]), graph.call_function(_zeros, (use.reached, use.rank))))
        if "outputs_taylor" in run.asked:
            maps.append(((use.weight, use.axes[1]), use.reached))
    output = next(reversed(graph.nodes))
    output.args = ((output.args[0], tuple(node for _, node in reductions), tuple(node for _, node in maps)),)
    with torch.no_grad():
        structure = None if run.loss is None else pytree.tree_structure(call_with(run.model, arguments(inputs)))
    return _Watch(
        network.program(),
        tuple(label for label, _ in reductions),
        tuple(label for label, _ in maps),
        samples_first,
        structure,
    )


def _uses(network: Network, named: Mapping[str, Tensor]) -> list[_Use]:
    """Every op of the graph that applies one of the weights."""
    of = {id(parameter): name for name, parameter in named.items()}
    found = []
    for node in network.graph.nodes:
        if _base(node) not in _LAYERS:
            continue
        source, weight, *axes = _LAYERS[_base(node)]
        held = network.held(node.args[weight])
        name = None if held is None else of.get(id(network.tensors[held]))
        if name is not None and (named[name].ndim == 2) != _base(node).startswith("conv"):  # a stack of matrices is no layer
            found.append(_Use(name, (axes[0], axes[1]), named[name].ndim, node, node.args[source], *_follow(node)))
    return found


def _base(node: fx.Node) -> str:
    """`conv2d` for all overloads of it."""
    return op_name(node).partition(".")[2].partition(".")[0]


def _follow(node: fx.Node) -> tuple[fx.Node, bool]:
    """The activation that alone reads a layer's output, if there is one; else how far the output goes before something else reads it."""
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if not reader.args or reader.args[0] is not node:
            break
        if _base(reader) in _ACTIVATIONS.split():
            return reader, True
        if _base(reader) not in _BETWEEN.split():
            break
        node = reader
    return node, False


def _samples_first(network: Network, uses: Sequence[_Use], count: int) -> bool:
    """Whether the first dimension of every feature map is the samples, nothing folded into it: it grows by one with one more."""
    shapes: list[tuple[int, ...] | None] = []
    for node, given in zip([n for n in network.graph.nodes if n.op == "placeholder"], network.inputs, strict=True):
        free = given.shape is not None and given.shape[:1] == (None,)
        shapes.append((shape(node)[0] + 1, *shape(node)[1:]) if free else None if given.shape is None else shape(node))
    try:
        more = fakes(network, shapes, byte_cap=1 << 62)  # nothing is allocated
    except TraceError:
        return False
    maps = [use.reached for use in uses]
    return all(
        shape(z)[0] == count and shape(more[z])[0] == count + 1 and len(shape(z)) >= use.rank for z, use in zip(maps, uses, strict=True)
    )


def _channels_last(x: Tensor, rank: int) -> Tensor:
    """The channels of what enters or leaves a layer stand before its `rank - 2` positions, with a batch dimension or without."""
    return x.movedim(1 - rank, -1)


def _rows(x: Tensor, rank: int) -> Tensor:
    return _channels_last(x.detach(), rank).reshape(-1, x.shape[1 - rank])


def _squares(x: Tensor, rank: int) -> tuple[Tensor, int]:
    rows = _rows(x, rank)
    return rows.double().square().sum(0), len(rows)


def _zeros(x: Tensor, rank: int) -> tuple[Tensor, int]:
    rows = _rows(x, rank)
    return (rows == 0).sum(0), len(rows)


def _shaped(values: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Values for each channel, [..., channels], so shaped that they broadcast to a weight whose dimension `dim` runs over them.

    Dimension 1 of a grouped convolution's weight runs over the channels of one group: there each row gets its own.

    >>> _shaped(torch.tensor([1.0, 2.0]), 1, (2, 1, 3)).tolist()
    [[[1.0]], [[2.0]]]
    """
    lead, channels = values.shape[:-1], values.shape[-1]
    ones = [1] * (len(sizes) - 2)
    if channels == sizes[dim]:
        return values.reshape(*lead, *((channels, 1) if dim == 0 else (1, channels)), *ones)
    groups = channels // sizes[1]
    rows = values.reshape(*lead, groups, sizes[1]).repeat_interleave(sizes[0] // groups, -2)
    return rows.reshape(*lead, *sizes[:2], *ones)
