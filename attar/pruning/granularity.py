"""Pruning whole structures: filters, neurons and attention heads, along the network's own groups.

A criterion scores single weights; here the scores of all elements that make a unit are added up (with |w| that is the
unit's L1 norm), an allocation turns the sums of all groups and a budget into a plan, and surgery applies it.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attar.errors import AttarError
from attar.graph import Coupling, Group, Selection, Surgery, absorb_, apply, couple, require_finite, select, trace
from attar.names import find, nearest
from attar.pruning._evidence import layer_seed, score
from attar.pruning.allocation import global_, per_layer, require_keep

__all__ = ["GRANULARITIES", "plan", "prune_structure", "scores"]

GRANULARITIES: dict[str, tuple[str, ...]] = {
    "filter": ("channel", "head"),  # whatever a layer makes one by one; attention makes heads
    "channel": ("channel",),
    "head": ("head",),
    "inner": ("inner",),  # positions of every head; groups of a convolution, or the channels of each
}
_ALLOCATIONS = ("global", "layer", "macs")


def prune_structure(
    model: nn.Module,
    example: tuple | Mapping[str, Any],
    *,
    keep: float | Mapping[str, float],
    granularity: str = "filter",
    saliency: str | Callable[..., Tensor] = "l1",
    exact: bool = True,
    **options: Any,
) -> Surgery:
    """A smaller copy of `model` that keeps the fraction `keep` of its filters (or heads), checked against the original.

    What is coupled goes together: `plan` has the `options` and says how units are scored and chosen. What units that are
    the same for every input (dead filters) give to later layers goes into their biases first, where that is exact.
    `exact=False` also cuts what norms average over, such as the residual stream of a transformer.

    Raises AttarError where nothing can be cut, and why; TraceError where the network has no graph.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> prune_structure(model, (torch.zeros(1, 3, 8, 8),), keep=0.5).model[0]
    Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    require_finite(model)
    model = copy.deepcopy(model)  # its biases take what dead channels give
    network = trace(model, example)
    absorb_(network)
    coupling = couple(network, exact=exact)
    selection = plan(coupling, keep=keep, granularity=granularity, saliency=saliency, **options)
    return apply(model, selection, example, coupling=coupling)


def plan(
    coupling: Coupling,
    *,
    keep: float | Mapping[str, float],
    granularity: str = "filter",
    saliency: str | Callable[..., Tensor] = "l1",
    allocation: str = "global",
    layers: str | Iterable[str] | None = None,
    greedy: bool = False,
    evidence: Mapping[str, Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> Selection:
    """Which units go.

    `allocation`: "layer" keeps the fraction `keep` of every group; "global" of all units together, by scores divided by
    their group's mean; "macs" removes the lowest of those until the fraction `keep` of the network's multiply-accumulates
    is left. `keep` is one number or one for each pattern on the groups' names (not for "macs"); `layers` narrows which
    groups may lose any. `greedy` scores groups in order, without what earlier ones removed (for "layer"). `evidence` has,
    for each weight by its layer's name, the statistics that `saliency` asks for beside the weight.

    A group keeps one unit at least. Raises AttarError where the plan would be empty, and why.

    Source of the filter norm, and of independent and greedy scores: H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P.
    Graf, "Pruning Filters for Efficient ConvNets", 2017.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> print(plan(couple(trace(model, (torch.zeros(1, 4),))), keep=0.5, allocation="layer"))
    0: 8 -> 4 channels
    2: 8 -> 4 channels
    parameters: 130 -> 50 (-61.5 %)
    bytes: 520 -> 200 (-61.5 %)
    MACs: 112 -> 40 (-64.3 %)
    """
    require_keep(keep)
    _require(allocation, granularity, keep, greedy)
    chosen = _chosen(coupling, granularity, layers, keep)
    criterion = find("saliency", saliency)
    scored = functools.partial(scores, coupling, criterion=criterion, evidence=evidence or {}, seed=seed)
    if allocation == "macs":
        assert not isinstance(keep, Mapping)
        removed = _by_macs(coupling, _normalised(scored(chosen)), keep)
    elif allocation == "global":
        removed = {}
        for share, groups in _budgets(chosen, keep):
            masks = global_(_normalised(scored(groups)), share)
            removed |= {name: _gone(mask) for name, mask in masks.items()}
    else:
        removed = {}
        for share, groups in _budgets(chosen, keep):
            for batch in [[group] for group in groups] if greedy else [groups]:
                found = scored(batch, without=removed if greedy else {})
                removed |= {name: _gone(mask) for name, mask in per_layer(found, share).items()}
    selection = select(coupling, removed)
    if not selection.cuts:
        largest = max(group.units for group in chosen)
        raise AttarError(f"keep={keep} removes nothing: the largest of {len(chosen)} groups has {largest} units; keep less")
    return selection


def scores(
    coupling: Coupling,
    groups: Sequence[Group],
    *,
    criterion: Callable[..., Tensor],
    evidence: Mapping[str, Mapping[str, Tensor]],
    seed: int = 0,
    without: Mapping[str, Iterable[int]] | None = None,
) -> dict[str, Tensor]:
    """One score for each unit of each group: the sum of the criterion's over all elements that make the unit.

    Elements that make a unit are the slices of weights that produce it (the rows of every layer that is tied to it), not
    those that read it, nor biases and norms. `without` are units whose slices no longer count.
    """
    kept = coupling.kept(without or {})
    cache: dict[str, Tensor] = {}
    found = {}
    for group in groups:
        total = torch.zeros(group.units, dtype=torch.float64)
        places = [p for p in group.produced if len(coupling.network.tensors[p.tensor].shape) > 1] or list(group.produced or group.places)
        for place in places:
            if place.tensor not in cache:
                cache[place.tensor] = _elements(coupling, place.tensor, criterion, evidence, seed)
            values = cache[place.tensor]
            for d, index in kept.indices.get(place.tensor, {}).items():
                if d != place.dim:
                    values = values.index_select(d, torch.from_numpy(index))
            rows = values.movedim(place.dim, 0).reshape(values.shape[place.dim], -1).sum(1)
            unit = torch.from_numpy(coupling.members(group, place))
            total.index_add_(0, unit[unit >= 0], rows[unit >= 0])
        found[group.name] = total
    return found


def _elements(
    coupling: Coupling, tensor: str, criterion: Callable[..., Tensor], evidence: Mapping[str, Mapping[str, Tensor]], seed: int
) -> Tensor:
    """The criterion's score of every element of a weight, in float64 on the CPU."""
    name = tensor.removesuffix(".weight")
    known: dict[str, Tensor | int] = {
        "weight": coupling.network.tensors[tensor].detach(),
        "seed": layer_seed(seed, name),
        **evidence.get(name, {}),
    }
    return score(criterion, known).to("cpu", torch.float64)


def _normalised(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores divided by their group's mean, so that those of different layers can be compared."""
    return {name: values / values.mean() if values.mean() > 0 else values for name, values in found.items()}


def _by_macs(coupling: Coupling, found: Mapping[str, Tensor], keep: float) -> dict[str, list[int]]:
    """The units of the lowest scores, as few as bring the multiply-accumulates down to the fraction `keep`."""
    order = sorted((value, name, unit) for name, values in found.items() for unit, value in enumerate(values.tolist()))
    best = {name: int(values.argmax()) for name, values in found.items()}
    order = [entry for entry in order if best[entry[1]] != entry[2]]
    budget = keep * coupling.kept({}).macs

    def first(count: int) -> dict[str, list[int]]:
        removed: dict[str, list[int]] = {}
        for _, name, unit in order[:count]:
            removed.setdefault(name, []).append(unit)
        return removed

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if coupling.kept(first(middle)).macs <= budget else (middle + 1, high)
    left = coupling.kept(first(low)).macs
    if left > budget:
        raise AttarError(
            f"keep={keep} of the multiply-accumulates cannot be reached: with one unit left in each group {left:,} of {budget:,.0f} remain"
        )
    return first(low)


def _chosen(coupling: Coupling, granularity: str, layers: str | Iterable[str] | None, keep: float | Mapping[str, float]) -> list[Group]:
    """The groups of a granularity that the patterns name; an error says why where there are none."""
    groups = [group for group in coupling.groups if group.kind in GRANULARITIES[granularity]]
    if not groups:
        raise AttarError(f"there is no {granularity} that can be cut{_why(coupling)}")
    names = [group.name for group in groups]
    for patterns in (layers, keep if isinstance(keep, Mapping) else None):
        if patterns is None:
            continue
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        for pattern in wanted:
            if not fnmatch.filter(names, pattern):
                raise AttarError(f"layer pattern {pattern!r} matches no group{nearest(pattern, names)}; `attar inspect` lists the groups")
        groups = [group for group in groups if any(fnmatch.fnmatch(group.name, pattern) for pattern in wanted)]
    return groups


def _why(coupling: Coupling) -> str:
    """The commonest reasons for which weights stay whole."""
    counts: dict[str, int] = {}
    for name, tensor in coupling.network.tensors.items():
        for d in range(tensor.ndim if isinstance(tensor, nn.Parameter) else 0):
            for reason in coupling.fixed(name, d):
                counts[reason] = counts.get(reason, 0) + 1
    common = sorted(counts, key=lambda reason: -counts[reason])[:3]
    return ": " + "; ".join(f"{reason} ({counts[reason]})" for reason in common) if common else ": it has no parameters"


def _budgets(groups: Sequence[Group], keep: float | Mapping[str, float]) -> list[tuple[float, list[Group]]]:
    """Groups with their budget; those of one pattern share one."""
    if not isinstance(keep, Mapping):
        return [(keep, list(groups))]
    of = {group.name: next(pattern for pattern in keep if fnmatch.fnmatch(group.name, pattern)) for group in groups}
    return [(share, [group for group in groups if of[group.name] == pattern]) for pattern, share in keep.items() if pattern in of.values()]


def _gone(mask: Tensor) -> list[int]:
    return np.flatnonzero(~mask.numpy()).tolist()


def _require(allocation: str, granularity: str, keep: Any, greedy: bool) -> None:
    if granularity not in GRANULARITIES:
        raise AttarError(
            f"granularity must be one of {', '.join(GRANULARITIES)}, got {granularity!r}{nearest(granularity, list(GRANULARITIES))}"
        )
    if allocation not in _ALLOCATIONS:
        raise AttarError(
            f"allocation must be one of {', '.join(_ALLOCATIONS)}, got {allocation!r}{nearest(allocation, list(_ALLOCATIONS))}"
        )
    if allocation == "macs" and isinstance(keep, Mapping):
        raise AttarError("allocation 'macs' has one budget for the network: give keep as one number, and layers for what may be cut")
    if greedy and allocation != "layer":
        raise AttarError(f"greedy scores one group after another, which needs allocation='layer', got {allocation!r}")
