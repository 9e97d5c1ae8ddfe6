"""From the scores of many layers and a budget to masks: which weights stay."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.errors import AttarError

__all__ = ["ALLOCATIONS", "global_", "per_filter", "per_layer", "require_keep", "require_quality", "share_count", "std_threshold"]


def per_layer(scores: Mapping[str, Tensor], keep: float | Mapping[str, float]) -> dict[str, Tensor]:
    """The highest scores of each layer on its own, `keep` of them: one fraction for all, or one for each name.

    A layer of n weights keeps `floor(keep * n + 1/2)` (half is rounded up), and one at least. Of equal scores the first
    in row-major order stays. The masks are boolean, of the shapes and on the devices of the scores.

    Raises AttarError where keep is outside (0, 1], a layer has none, or a score is NaN.

    >>> per_layer({"fc": torch.tensor([0.3, 0.1, 0.2, 0.2])}, 0.5)["fc"].tolist()
    [True, False, True, False]
    """
    require_keep(keep)
    flat = {name: _flat(name, values) for name, values in scores.items()}
    counts = {name: share_count(_of_layer(keep, name, "keep"), values.size) for name, values in flat.items()}
    return {name: _mask(_highest(values, counts[name]), scores[name]) for name, values in flat.items()}


def global_(scores: Mapping[str, Tensor], keep: float, *, floor: float | Mapping[str, float] = 0.0) -> dict[str, Tensor]:
    """The highest scores of all layers together, `keep` of them: one threshold for the whole network.

    Of N weights in all `floor(keep * N + 1/2)` stay, exactly. Every layer keeps the highest `floor` of its own in any
    case, and one weight at least, so that none is cut through; where these are more than the budget, they are what
    stays. Of equal scores the first stays: in the order of the layers, then row-major.

    Raises AttarError where keep is outside (0, 1], a floor is outside [0, 1], or a score is NaN.

    >>> masks = global_({"a": torch.tensor([5.0, 4.0]), "b": torch.tensor([3.0, 1.0])}, 0.75)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([True, True], [True, False])
    """
    require_keep(keep)
    flat = {name: _flat(name, values) for name, values in scores.items()}
    protected = {}
    for name, values in flat.items():
        share = _of_layer(floor, name, "floor")
        if not 0 <= share <= 1:
            raise AttarError(f"floor must be in [0, 1], got {share}: it is the fraction of each layer that stays in any case")
        protected[name] = _highest(values, share_count(share, values.size))
    everything = np.concatenate([np.where(protected[name], np.inf, values) for name, values in flat.items()])
    count = max(share_count(keep, everything.size), sum(int(chosen.sum()) for chosen in protected.values()))
    ends = np.cumsum([values.size for values in flat.values()])[:-1]
    parts = np.split(_highest(everything, count), ends)
    return {name: _mask(part, scores[name]) for name, part in zip(flat, parts, strict=True)}


def per_filter(scores: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
    """The highest scores of each row (of the last dimension), the same number in every row of a layer.

    Of rows of n scores `floor(keep * n + 1/2)` stay, and one at least; of equal ones the first.

    Raises AttarError where keep is outside (0, 1], or a score is NaN.

    >>> per_filter({"conv": torch.tensor([[3.0, 2.0], [0.0, 1.0]])}, 0.5)["conv"].tolist()
    [[True, False], [False, True]]
    """
    require_keep(keep)
    masks = {}
    for name, values in scores.items():
        rows = _flat(name, values).reshape(-1, values.shape[-1])
        chosen = np.zeros(rows.shape, dtype=bool)
        highest = np.argsort(-rows, axis=1, kind="stable")[:, : share_count(keep, rows.shape[1])]
        np.put_along_axis(chosen, highest, True, axis=1)
        masks[name] = _mask(chosen, values)
    return masks


def std_threshold(weights: Mapping[str, Tensor], quality: float | Mapping[str, float]) -> dict[str, Tensor]:
    """What reaches `quality` standard deviations of its layer stays: `|W| >= quality * std(W)`.

    The standard deviation is the population's, over *all* elements of the weight: those removed earlier count as
    zeros, so that on weights with mean zero a second call with the same quality removes nothing. The share that stays
    depends on the data: of a Gaussian with mean zero, `1 - erf(quality / sqrt(2))`. The largest weight of a layer
    stays in any case.

    Raises AttarError where quality is not above 0 or a layer has none.

    Reference: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", 2015.

    >>> std_threshold({"fc": torch.tensor([-3.0, 1.0, 0.5, 2.0])}, 1.0)["fc"].tolist()
    [True, False, False, True]
    """
    require_quality(quality)
    masks = {}
    for name, weight in weights.items():
        values = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        threshold = _of_layer(quality, name, "quality") * values.std(correction=0)
        masks[name] = values.abs() >= torch.minimum(threshold, values.abs().max())
    return masks


ALLOCATIONS: dict[str, Callable[..., dict[str, Tensor]]] = {"global": global_, "layer": per_layer}


def require_keep(keep: Any, *, of: str = "weights") -> None:
    """Raise AttarError unless `keep`, or each value of a mapping, is in (0, 1]; `of` says what it is a fraction of."""
    for value in keep.values() if isinstance(keep, Mapping) else [keep]:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
            raise AttarError(f"keep must be in (0, 1], got {value!r}: it is the fraction of {of} that stays")


def require_quality(quality: Any) -> None:
    """Raise AttarError unless `quality`, or each value of a mapping, is a finite number above 0."""
    for value in quality.values() if isinstance(quality, Mapping) else [quality]:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise AttarError(f"quality must be above 0, got {value!r}: weights below that many standard deviations are removed")


def _of_layer(value: float | Mapping[str, float], name: str, what: str) -> float:
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise AttarError(f"{what} has no value for layer {name!r}: give one number, or one for each of the layers")
    return value[name]


def share_count(share: float, size: int) -> int:
    """How many of `size` a share is: half is rounded up, and one at least."""
    return min(size, max(1, math.floor(share * size + 0.5)))


def _flat(name: str, scores: Tensor) -> np.ndarray:
    """The scores in one row, on the CPU, where NumPy's partition beats PyTorch's kthvalue twentyfold."""
    values = scores.detach().reshape(-1).cpu()
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float() if values.is_floating_point() else values.double()
    array = values.numpy()
    if np.isnan(array).any():
        raise AttarError(f"the scores of layer {name!r} hold NaN: nothing can be decided from them; check its weight and evidence")
    return array


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Exactly `count` true places: the highest values, the first of equal ones."""
    if count >= values.size:
        return np.ones(values.size, dtype=bool)
    threshold = np.partition(values, values.size - count)[values.size - count]
    chosen = values > threshold
    chosen[np.flatnonzero(values == threshold)[: count - int(chosen.sum())]] = True
    return chosen


def _mask(chosen: np.ndarray, scores: Tensor) -> Tensor:
    return torch.from_numpy(chosen).view(scores.shape).to(scores.device)
