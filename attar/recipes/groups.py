"""What a network's structure lets go: its groups, what each would save, what stays whole and why, and a trial cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from attar.errors import AttarError
from attar.graph import Coupling, Group, Network, apply, couple, select
from attar.pruning import plan

__all__ = ["InspectedGroup", "Spot", "Structure", "Trial", "Whole", "structure"]

_KEEP = 0.5  # of each group, in the savings and in the trial


@dataclass(frozen=True)
class InspectedGroup:
    """Units that go together wherever they are: `makers` are the layers that make them, `readers` those that read them.

    `parameters`, `bytes` and `macs` are what the network would lose if half of this group alone went.
    """

    name: str
    kind: str
    units: int
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    parameters: int
    bytes: int
    macs: int


@dataclass(frozen=True)
class Whole:
    """Dimensions of weights that stay whole for one reason."""

    reason: str
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Spot:
    """An op that is in the way of a cut: in which layer, why, and what would help."""

    layer: str
    op: str
    reason: str
    hint: str


@dataclass(frozen=True)
class Trial:
    """Half of every group cut for trial: parameters before and after, the self-check's error, and whether the class was kept.

    `failure` is why the cut could not be made, with the rest empty.
    """

    parameters: tuple[int, int] = (0, 0)
    macs: tuple[int, int] = (0, 0)
    error: float = 0.0
    keeps_class: bool = False
    notes: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Structure:
    """All groups of a network, in its order, what stays whole, what is in the way, and a trial."""

    groups: tuple[InspectedGroup, ...]
    whole: tuple[Whole, ...]
    spots: tuple[Spot, ...]
    trial: Trial


def structure(model: nn.Module, example: tuple | Mapping[str, Any], network: Network) -> Structure:
    """The structure of a traced network; a copy is cut for trial, so that what is promised here has been seen to work."""
    coupling = couple(network)
    groups = tuple(_inspected(coupling, group) for group in coupling.groups)
    spots = tuple(Spot(spot.layer, spot.op, spot.reason, spot.hint) for spot in coupling.spots)
    return Structure(groups, _whole(coupling), spots, _trial(model, example, coupling))


def _inspected(coupling: Coupling, group: Group) -> InspectedGroup:
    cut = select(coupling, {group.name: range(group.units - max(1, round(group.units * _KEEP)))})
    saved = [before - after for before, after in (cut.parameters, cut.bytes, cut.macs)]
    makers = dict.fromkeys(_layer(place.tensor) for place in group.produced)
    readers = dict.fromkeys(_layer(place.tensor) for place in group.places if place.consumed)
    return InspectedGroup(group.name, group.kind, group.units, tuple(makers), tuple(readers), *saved)


def _layer(tensor: str) -> str:
    """The layer that holds a tensor; the tensor's own name where it is the network's."""
    path, _, leaf = tensor.rpartition(".")
    return path or leaf


def _whole(coupling: Coupling) -> tuple[Whole, ...]:
    found: dict[str, list[str]] = {}
    for name, tensor in coupling.network.tensors.items():
        if not isinstance(tensor, nn.Parameter) or tensor.ndim < 2:
            continue
        for d, side in zip(range(2), ("outputs", "inputs"), strict=True):
            for reason in coupling.fixed(name, d):
                found.setdefault(reason, []).append(f"{name.removesuffix('.weight')} ({side})")
    return tuple(Whole(reason, tuple(names)) for reason, names in found.items())


def _trial(model: nn.Module, example: tuple | Mapping[str, Any], coupling: Coupling) -> Trial:
    try:
        selection = plan(coupling, keep=_KEEP, allocation="layer")
        surgery = apply(model, selection, example, coupling=coupling)
    except AttarError as error:
        return Trial(failure=str(error))
    return Trial(selection.parameters, selection.macs, surgery.error, surgery.eager, surgery.notes)
