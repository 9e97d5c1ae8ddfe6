"""What can be compressed in a network, what cannot and why; nothing is changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from attar.errors import TraceError
from attar.evaluation import Column, Count, Table, count, count_by_running
from attar.forms import Dense, Form, Sparse
from attar.graph import Network, Weight, trace, weights
from attar.recipes.groups import Structure, structure
from attar.recipes.run import dense_bytes

__all__ = ["InspectedLayer", "Inspection", "inspect"]

_KEEP, _BITS = 0.1, 5  # what the estimate is for: about what Deep Compression reaches without loss


@dataclass(frozen=True)
class InspectedLayer:
    """One weight: what it is, what applying it costs, which methods apply, and an estimate of its size when compressed."""

    name: str
    shape: tuple[int, ...]
    form: str
    parameters: int
    nonzeros: int
    multiplications: int
    methods: str
    estimate: int


@dataclass(frozen=True)
class Inspection:
    """All weights of a network, its totals (biases and norms included), and notes on what cannot be done and why."""

    layers: tuple[InspectedLayer, ...]
    parameters: int
    nonzeros: int
    multiplications: int
    additions: int
    macs: int
    bytes: int
    estimate: int
    notes: tuple[str, ...]
    structure: Structure | None = None
    """The groups that can be cut; None where the network has no graph."""

    @property
    def flops(self) -> int:
        """Multiplications and additions together."""
        return self.multiplications + self.additions

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"flops": self.flops}

    def tables(self, title: str = "") -> tuple[Table, ...]:
        """The layers, and the groups where the network has a graph; remarks are the last table's notes."""
        work = f"{self.multiplications:,} multiplications, {self.additions:,} additions, {self.macs:,} MACs, {self.flops:,} FLOPs"
        notes = (f"one call on one sample: {work} (a multiply-accumulate is one MAC and two FLOPs)", *self.notes)
        layers = Table(
            f"{title}: {self.bytes:,} bytes as it is".removeprefix(": "), _COLUMNS, (*map(_row, self.layers), self._total()), notes
        )
        return (layers, _group_table(self.structure)) if self.structure is not None else (layers,)

    def _total(self) -> tuple[Any, ...]:
        return ("total", "", "", self.parameters, self.nonzeros, self.multiplications, "", self.estimate)


_COLUMNS = (
    Column("layer"),
    Column("weight"),
    Column("form"),
    Column("parameters", "count"),
    Column("nonzero", "count"),
    Column("multiplications", "count"),
    Column("methods"),
    Column("at keep 0.1, 5 bits", "bytes"),
)


def _row(layer: InspectedLayer) -> tuple[Any, ...]:
    shape = "x".join(map(str, layer.shape))
    return (layer.name, shape, layer.form, layer.parameters, layer.nonzeros, layer.multiplications, layer.methods, layer.estimate)


def _group_table(structure: Structure) -> Table:
    columns = (
        Column("group"),
        Column("kind"),
        Column("units", "count"),
        Column("read by"),
        Column("half of it saves", "bytes"),
        Column("MACs", "count"),
    )
    rows = [(g.name, g.kind, g.units, _few(g.readers), g.bytes, g.macs) for g in structure.groups]
    return Table("structure: what can be cut, and goes together", columns, tuple(rows), tuple(_remarks(structure)))


def _remarks(structure: Structure) -> Iterator[str]:
    trial = structure.trial
    if not structure.groups:
        yield "nothing can be cut; single weights still can be pruned"
    elif trial.failure:
        yield f"tried half of every group, and it cannot be cut: {trial.failure}"
    else:
        (before, after), kept = trial.parameters, "a module of its class" if trial.keeps_class else "a graph module"
        shrunk = f"{before:,} -> {after:,} parameters, {trial.macs[0]:,} -> {trial.macs[1]:,} MACs"
        yield f"tried half of every group: {shrunk}; {kept}, equal to the masked original (error {trial.error:.1e})"
        yield from trial.notes
    for spot in structure.spots:
        yield f"in the way: {spot.op} in layer {spot.layer or 'the network itself'}: {spot.reason}; {spot.hint}"
    for whole in structure.whole:
        yield f"stays whole, because {whole.reason}: {_few(whole.weights, 6)}"


def _few(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def inspect(model: nn.Module, example: tuple | Mapping[str, Any]) -> Inspection:
    """Look at a network without changing it: layers, sizes, work on `example`, which methods apply, and what its structure lets go.

    Estimates are of the coded size at keep 0.1 and 5 bits: positions at the entropy of a random mask, values at 5 bits,
    a codebook for each weight, everything else as it is. Of the structure, half of every group is cut for trial on a copy.

    >>> import torch
    >>> found = inspect(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 4)), (torch.zeros(1, 1, 5, 5),))
    >>> [(layer.name, layer.parameters, layer.multiplications) for layer in found.layers]
    [('0', 18, 162), ('2', 72, 72)]
    """
    network, counted, notes = _counted(model, example)
    default = {weight.name for weight in weights(model)}
    per_layer = counted.by_layer()
    layers, inside = [], 0
    for weight in weights(model, ["*"]) if default else []:
        path = weight.holders[0].path
        multiplications = per_layer[path].cost.multiplications if path in per_layer else 0
        elements = math.prod(weight.shape)
        nonzeros = weight.form.nonzeros() if weight.form else elements
        estimate = _estimate(elements)
        inside += elements
        layers.append(
            InspectedLayer(
                weight.name, weight.shape, _form_name(weight.form), elements, nonzeros, multiplications, _methods(weight, default), estimate
            )
        )
    total = dense_bytes(model)
    rest = 4 * (counted.parameters - inside)
    estimate = rest + sum(layer.estimate for layer in layers)
    if not default:
        notes = (*notes, "nothing to compress: no convolution, linear, recurrent or attention weight was found")
    work = counted.total
    figures = (counted.parameters, counted.nonzeros, work.multiplications, work.additions, work.macs)
    found = structure(model, example, network) if network is not None else None
    return Inspection(tuple(layers), *figures, total, estimate, notes, found)


def _counted(model: nn.Module, example: Any) -> tuple[Network | None, Count, tuple[str, ...]]:
    try:
        network = trace(model, example)
    except TraceError as error:
        counted = count_by_running(model, example)
        note = f"no graph: {error}; weights can be pruned and shared, but the network can neither be cut nor written to a .attar file"
        return None, counted, (note,)
    counted = count(network)
    unknown = ", ".join(f"{name} ({calls})" for name, calls in counted.unknown.items())
    notes = (f"not counted, for want of a formula: {unknown}",) if unknown else ()
    return network, counted, (*network.notes, *notes)


def _methods(weight: Weight, default: set[str]) -> str:
    values = weight.form.values if isinstance(weight.form, Sparse) else weight.form
    if values is not None and not isinstance(values, Dense):
        return "none: its values are shared already"
    return "prune, quantize" if weight.name in default else "prune, quantize where a pattern names it"


def _form_name(form: Form | None) -> str:
    if isinstance(form, Sparse) and not isinstance(form.values, Dense):
        return f"sparse {_form_name(form.values)}"
    return "dense" if form is None else type(form).__name__.lower()


def _estimate(elements: int) -> int:
    positions = -elements * (_KEEP * math.log2(_KEEP) + (1 - _KEEP) * math.log2(1 - _KEEP))
    return min(4 * elements, math.ceil((positions + _KEEP * elements * _BITS) / 8) + 4 * min(1 << _BITS, elements))
