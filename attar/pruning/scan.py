"""How sensitive each layer is to pruning."""

import copy
import glob
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor, nn

from attar.graph import weights
from attar.pruning.weights import prune_weights

__all__ = ["sensitivity", "within_drop"]

Scan = Mapping[str, Sequence[tuple[float, float]]]


def sensitivity(
    model: nn.Module,
    score: Callable[[nn.Module], float],
    *,
    grid: Sequence[float] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
    saliency: str | Callable[..., Tensor] = "magnitude",
    layers: Iterable[str] | None = None,
    seed: int = 0,
) -> dict[str, list[tuple[float, float]]]:
    """What `score` gives when one layer alone is pruned to each `keep` of the grid, without retraining.

    Returns layer -> [(keep, score)], in the order of the grid; the model itself is never changed.

    Raises AttarError as `prune_weights` does.

    Reference: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", 2015.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> left = lambda network: int(network[0].weight.count_nonzero())
    >>> sensitivity(model, left, grid=(1.0, 0.5))
    {'0': [(1.0, 4.0), (0.5, 2.0)], '1': [(1.0, 4.0), (0.5, 4.0)]}
    """
    scan: dict[str, list[tuple[float, float]]] = {}
    for weight in weights(model, layers):
        scan[weight.name] = []
        for keep in grid:
            trial = copy.deepcopy(model)
            prune_weights(trial, keep=keep, saliency=saliency, allocation="layer", layers=[glob.escape(weight.name)], seed=seed)
            scan[weight.name].append((keep, float(score(trial))))
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
