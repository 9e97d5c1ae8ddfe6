"""How sensitive each layer is to pruning."""

import copy
import fnmatch
import glob
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from attar.graph import Coupling, couple, masked, trace, weights
from attar.pruning.allocation import require_keep, share_count
from attar.pruning.granularity import plan
from attar.pruning.weights import prune_weights

__all__ = ["sensitivity", "within_drop"]

Scan = Mapping[str, Sequence[tuple[float, float]]]


def sensitivity(
    model: nn.Module,
    score: Callable[[nn.Module], float],
    *,
    example: tuple | Mapping[str, Any] | None = None,
    grid: Sequence[float] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
    saliency: str | Callable[..., Tensor] = "magnitude",
    layers: Iterable[str] | None = None,
    seed: int = 0,
) -> dict[str, list[tuple[float, float]]]:
    """What `score` gives when one layer alone is pruned to each `keep` of the grid, without retraining.

    Single weights are pruned; with an `example`, filters and heads, group by group (the network is masked, which gives the
    same outputs as cutting it and costs less). Returns layer or group -> [(keep, score)], in the order of the grid; the
    model itself is never changed.

    Raises AttarError as `prune_weights` does; TraceError where filters are asked for and the network has no graph.

    References: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", 2015; H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets", 2017.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> left = lambda network: int(network[0].weight.count_nonzero())
    >>> sensitivity(model, left, grid=(1.0, 0.5))
    {'0': [(1.0, 4.0), (0.5, 2.0)], '1': [(1.0, 4.0), (0.5, 4.0)]}
    """
    if example is not None:
        return _of_groups(model, score, couple(trace(model, example)), grid, saliency=saliency, layers=layers, seed=seed)
    scan: dict[str, list[tuple[float, float]]] = {}
    for weight in weights(model, layers):
        scan[weight.name] = []
        for keep in grid:
            trial = copy.deepcopy(model)
            prune_weights(trial, keep=keep, saliency=saliency, allocation="layer", layers=[glob.escape(weight.name)], seed=seed)
            scan[weight.name].append((keep, float(score(trial))))
    return scan


def _of_groups(
    model: nn.Module, score: Callable[[nn.Module], float], coupling: Coupling, grid: Sequence[float], **how: Any
) -> dict[str, list[tuple[float, float]]]:
    require_keep({str(keep): keep for keep in grid})
    chosen = how.pop("layers")
    patterns = [chosen] if isinstance(chosen, str) else chosen
    scan: dict[str, list[tuple[float, float]]] = {}
    for group in coupling.groups:
        if group.kind == "inner" or not (patterns is None or any(fnmatch.fnmatch(group.name, pattern) for pattern in patterns)):
            continue
        scan[group.name] = []
        for keep in grid:
            whole = share_count(keep, group.units) == group.units
            removed = {} if whole else plan(coupling, keep=keep, allocation="layer", layers=[glob.escape(group.name)], **how).removed
            scan[group.name].append((keep, float(score(masked(model, coupling, coupling.kept(removed))))))
    return scan


def within_drop(scan: Scan, drop: float) -> dict[str, float]:
    """For each layer the smallest `keep` whose score, and that of every larger one, is within `drop` of the largest keep's.

    So every layer sits at the same small loss, as Han et al. choose their thresholds.

    >>> within_drop({"fc": [(1.0, 0.98), (0.5, 0.97), (0.1, 0.60)]}, 0.02)
    {'fc': 0.5}
    """
    chosen = {}
    for layer, points in scan.items():
        ordered = sorted(points, reverse=True)
        least = ordered[0][1] - drop
        chosen[layer] = [keep for keep, _ in itertools.takewhile(lambda point: point[1] >= least, ordered)][-1]  # noqa: B023 (used at once)
    return chosen
