"""What can be compressed in a network, what cannot and why; nothing is changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from attar.errors import TraceError
from attar.evaluation import Count, count, count_by_running
from attar.forms import Dense, Form, Sparse
from attar.graph import Weight, trace, weights
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

    @property
    def flops(self) -> int:
        """Multiplications and additions together."""
        return self.multiplications + self.additions

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"flops": self.flops}


def inspect(model: nn.Module, example: tuple | Mapping[str, Any]) -> Inspection:
    """Look at a network without changing it: layers, sizes, multiplications on `example`, and which methods apply to each weight.

    Estimates are of the coded size at keep 0.1 and 5 bits: positions at the entropy of a random mask, values at 5 bits,
    a codebook for each weight, everything else as it is.

    >>> import torch
    >>> found = inspect(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 4)), (torch.zeros(1, 1, 5, 5),))
    >>> [(layer.name, layer.parameters, layer.multiplications) for layer in found.layers]
    [('0', 18, 162), ('2', 72, 72)]
    """
    counted, notes = _counted(model, example)
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
    return Inspection(tuple(layers), *figures, total, estimate, notes)


def _counted(model: nn.Module, example: Any) -> tuple[Count, tuple[str, ...]]:
    try:
        network = trace(model, example)
    except TraceError as error:
        counted = count_by_running(model, example)
        return counted, (f"no graph: {error}; weights can be pruned and shared, but the network cannot be written to a .attar file",)
    counted = count(network)
    unknown = ", ".join(f"{name} ({calls})" for name, calls in counted.unknown.items())
    notes = (f"not counted, for want of a formula: {unknown}",) if unknown else ()
    return counted, (*network.notes, *notes)


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
