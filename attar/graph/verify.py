"""The oracle of surgery: the original network with what is removed set to zero, run in float64 beside the result."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from attar.errors import TraceError
from attar.graph.coupling import Coupling, Kept
from attar.graph.grouped import grouped_mm
from attar.graph.network import Network, op_name
from attar.graph.propagate import fakes
from attar.graph.trace import call_with, eval_mode

__all__ = ["Example", "difference", "differs_first", "leaves", "legal", "masked", "outputs", "reference", "smaller", "wide", "widened"]

Example = tuple | Mapping[str, Any]

_PICTURE, _SENTENCE = 64, 16  # sizes that the check shrinks pictures and sequences to


def masked(model: nn.Module, coupling: Coupling, kept: Kept, *, double: bool = False) -> nn.Module:
    """A copy of a plain model (no forms), `widened` where `double`, in which every removed slice of every parameter is zero.

    Consumers' slices alone would do where all consumers are parameters; producers' are needed where an activation meets
    another (attention). Where both are, the consumers' zeros make the producers' harmless.
    """
    result = widened(model) if double else copy.deepcopy(model)
    parameters = dict(result.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, indices in kept.indices.items():
            for d, index in indices.items():
                if name in parameters and (name, d) not in coupling.propagation.unmasked:
                    gone = torch.ones(parameters[name].shape[d], dtype=torch.bool)
                    gone[torch.from_numpy(index)] = False
                    parameters[name].index_fill_(d, gone.nonzero().flatten().to(parameters[name].device), 0.0)
    return result


def reference(model: nn.Module, coupling: Coupling, kept: Kept, *, double: bool) -> Callable[[Example], list[Tensor]]:
    """What the result of a cut must give for an example, in float64, or as the network itself computes.

    For exact cuts the masked original; for approximate ones (float64 only) its graph, in which norms and means are over
    what is left.
    """
    original = masked(model, coupling, kept, double=double)
    if not double:
        return lambda example: outputs(original, example, double=False)
    if not coupling.propagation.approximate:
        return lambda example: outputs(original, example, double=True)
    tensors = _held(coupling.network, original)

    def run(example: Example) -> list[Tensor]:
        return _floats(_interpret(coupling.network, tensors, example, coupling, kept)[None])

    return run


def differs_first(model: nn.Module, coupling: Coupling, kept: Kept, result: Network, example: Example) -> fx.Node | None:
    """The first op whose result in the smaller network is not what is kept of its result in the masked original."""
    network = coupling.network
    before = _interpret(network, _held(network, masked(model, coupling, kept, double=True)), example, coupling, kept)
    tensors = {name: tensor.detach().double() if tensor.is_floating_point() else tensor.detach() for name, tensor in result.tensors.items()}
    after = list(_interpret(result, tensors, example, coupling, kept).items())
    by_name = {node.name: value for node, value in after if node is not None}
    for node, value in before.items():
        if node is None or node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        for d, vector in enumerate(coupling.propagation.labels[node].dims):
            if len(vector) == value.shape[d]:
                value = value.index_select(d, torch.from_numpy(kept.mask(vector).nonzero()[0]))
        if not isinstance(found := by_name.get(node.name), Tensor) or difference([found.double()], [value.double()]) > 1e-6:
            return node
    return None


def outputs(model: nn.Module, example: Example, *, double: bool) -> list[Tensor]:
    """All floating-point tensors that a model gives in eval mode; with `double` it is `widened`, and computes in float64."""
    with eval_mode(model), torch.no_grad(), wide() if double else contextlib.nullcontext():
        return _floats(call_with(model, _doubled(example) if double else example))


def widened(model: nn.Module) -> nn.Module:
    """A copy of a plain model with all its floating-point tensors, registered or not, in float64."""
    wide: dict[int, Any] = {}  # what `deepcopy` finds copied already: a copy to be widened would double the time
    for value in itertools.chain(model.parameters(), model.buffers()):
        if value.is_floating_point():
            double = value.detach().to(torch.float64, copy=True)
            wide[id(value)] = nn.Parameter(double, value.requires_grad) if isinstance(value, nn.Parameter) else double
    result = copy.deepcopy(model, wide)
    for module in result.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(module, name, value.double())
    return result


@contextlib.contextmanager
def wide() -> Iterator[None]:
    """While open, whatever asks for a narrower floating-point type gets float64 (networks cast to float32 for their norms)."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widen():
            yield
    finally:
        torch.set_default_dtype(default)


class _Widen(TorchDispatchMode):
    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = {name: _widened(value) for name, value in (kwargs or {}).items()}
        if getattr(func, "_opname", "") in ("_grouped_mm", "grouped_mm_fallback"):  # they know no float64
            return grouped_mm(args[0], args[1], args[2] if len(args) > 2 else kwargs["offs"])
        return func(*map(_widened, args), **kwargs)


def _widened(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def difference(result: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of all outputs, relative to the largest expected value of each; infinite where shapes differ."""
    if [r.shape for r in result] != [e.shape for e in expected]:
        return math.inf
    worst = 0.0
    for r, e in zip(result, expected, strict=True):
        if not e.numel():
            continue
        same = (r == e) | (r.isnan() & e.isnan())
        if bool(same.all()):
            continue
        gap = torch.where(same, 0.0, (r - e).abs()).max()
        largest = torch.where(e.isfinite(), e.abs(), 0.0).max()
        worst = max(worst, float(gap / largest) if largest > 0 and bool(gap.isfinite()) else math.inf)
    return worst


def smaller(network: Network, example: Example, *, batch: int | None, shrink: bool = True) -> Example:
    """Noise like the example, at another batch size (None: its own) where that is free; with `shrink`, pictures and sequences are small.

    Noise, because an example of zeros would show nothing. Whole numbers, and inputs of zeros and ones (masks), stay.
    """
    free = iter([known.shape is not None and bool(known.shape) and known.shape[0] is None for known in network.inputs])
    generator = torch.Generator().manual_seed(batch or 0)

    def one(leaf: Any) -> Any:
        is_free = next(free)
        if not isinstance(leaf, Tensor):
            return leaf
        if is_free and batch is not None:
            leaf = torch.cat([leaf] * math.ceil(batch / leaf.shape[0]))[:batch]
        for d, most in _small(leaf).items() if shrink else ():
            leaf = leaf.narrow(d, 0, min(leaf.shape[d], most))
        return _noise(leaf, generator).contiguous()

    return pytree.tree_map(one, example)


def _small(leaf: Tensor) -> dict[int, int]:
    """The sizes to try, by dimension: of pictures and volumes, and of sequences (of numbers or of features)."""
    if leaf.ndim >= 4:
        return dict.fromkeys(range(2, leaf.ndim), _PICTURE)
    sequence = leaf.ndim == 3 or (leaf.ndim == 2 and not leaf.is_floating_point())
    return {1: _SENTENCE} if sequence else {}


def _noise(leaf: Tensor, generator: torch.Generator) -> Tensor:
    if not leaf.is_floating_point() or not bool(leaf.isfinite().all()) or (bool(((leaf == 0) | (leaf == 1)).all()) and bool(leaf.any())):
        return leaf
    spread = leaf.double().std(correction=0)
    noise = torch.randn(leaf.shape, dtype=torch.float64, generator=generator).to(leaf.device)
    return (leaf.double().mean() + noise * (spread if spread > 0 else 1.0)).to(leaf.dtype)


def legal(network: Network, example: Example) -> bool:
    """Whether the graph takes an example of these shapes."""
    try:
        fakes(network, [tuple(leaf.shape) if isinstance(leaf, Tensor) else None for leaf in leaves(network, example)], byte_cap=1 << 62)
    except TraceError:
        return False
    return True


def _doubled(example: Example) -> Any:
    return pytree.tree_map(lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, example)


def _floats(output: Any) -> list[Tensor]:
    return [v.double() for v in _tensors(output) if v.is_floating_point()]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
    elif hasattr(output, "__dict__"):
        for value in vars(output).values():
            yield from _tensors(value)


def leaves(network: Network, example: Example) -> list[Any]:
    """The inputs of the graph in order."""
    values = list(example.values()) if isinstance(example, Mapping) else list(example)
    if isinstance(example, Mapping):
        values = [example[name] for name in network.call if name in example]
    return pytree.tree_leaves(values)


def _held(network: Network, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network as a model has them; constants of its graph from the network."""
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    held = {name: own.get(name, tensor) for name, tensor in network.tensors.items()}
    return {name: tensor.detach().double() if tensor.is_floating_point() else tensor.detach() for name, tensor in held.items()}


def _interpret(
    network: Network, tensors: Mapping[str, Tensor], example: Example, coupling: Coupling, kept: Kept
) -> dict[fx.Node | None, Any]:
    """The result of every op, approximate ones on what is kept only; under None that of the network."""
    values: dict[fx.Node | None, Any] = {}
    given = iter(leaves(network, example))
    with wide(), torch.no_grad():
        for node in network.graph.nodes:
            if node.op == "placeholder":
                values[node] = _doubled(next(given))
            elif node.op == "get_attr":
                values[node] = tensors[str(node.target)]
            elif node.op == "output":
                values[None] = fx.map_arg(node.args[0], values.__getitem__)
            else:
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
                approximate = node in coupling.propagation.approximate
                values[node] = _approximate(node, args, kwargs, coupling, kept) if approximate else node.target(*args, **kwargs)
    return values


def _approximate(node: fx.Node, args: tuple, kwargs: Mapping[str, Any], coupling: Coupling, kept: Kept) -> Tensor:
    """A mean or a norm over what is kept; of a norm's result, zeros elsewhere."""
    labels = coupling.propagation.labels[node.args[0]]  # type: ignore[index]
    rows = {d: torch.from_numpy(kept.mask(labels.dims[d]).nonzero()[0]) for d in coupling.propagation.approximate[node]}
    x = args[0]
    for d, index in rows.items():
        x = x.index_select(d, index)
    if op_name(node).startswith("aten.mean"):
        return node.target(x, *args[1:], **kwargs)  # type: ignore[operator]
    lead = x.ndim - len(args[1])
    own = [_rows(value, rows, lead) for value in args[2:4]]
    result = node.target(x, list(x.shape[lead:]), *own, *args[4:], **kwargs)  # type: ignore[operator]
    for d, index in rows.items():
        sizes = [*result.shape[:d], args[0].shape[d], *result.shape[d + 1 :]]
        result = result.new_zeros(sizes).index_copy(d, index, result)
    return result


def _rows(value: Any, rows: Mapping[int, Tensor], lead: int) -> Any:
    if isinstance(value, Tensor):
        for d, index in rows.items():
            value = value.index_select(d - lead, index)
    return value
