"""Pruning single weights at once, without training."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attar.errors import AttarError
from attar.graph import Weight, require_finite
from attar.names import find, nearest
from attar.pruning._evidence import layer_seed, score
from attar.pruning._targets import Group, groups, kept, sparsify
from attar.pruning.allocation import ALLOCATIONS, require_keep, require_quality, std_threshold
from attar.pruning.saliency.magnitude import magnitude

__all__ = ["choose", "element_scores", "prune_weights", "require_allocation"]


def prune_weights(
    model: nn.Module,
    *,
    keep: float | Mapping[str, float] | None = None,
    quality: float | Mapping[str, float] | None = None,
    saliency: str | Callable[..., Tensor] = "magnitude",
    allocation: str = "global",
    layers: str | Iterable[str] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Attach a `Sparse` form, in place, to each weight of the network, and return the masks by the weight's name.

    `allocation` is "global" (one threshold), "layer" (the same fraction of each layer) or "std" (Han's threshold,
    `|W| >= quality * std(W)`, the magnitude's only). `keep`, or `quality` for "std", is one number, or one for each
    pattern on layer names; with "global" the layers of one pattern share one threshold. `layers` are patterns that
    narrow what is pruned; biases and norms never are. A `Sparse` weight loses more and gains nothing; `keep` is of
    all its elements.

    Raises AttarError for keep outside (0, 1], quality not above 0, a pattern that matches nothing, NaN or infinite
    weights, no weight to prune, or a weight that carries another form.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> masks = prune_weights(model, keep=0.25)
    >>> sum(int(mask.sum()) for mask in masks.values())
    10
    """
    if (allocation == "std") != (quality is not None) or (keep is None) == (quality is None):
        raise AttarError(
            f"give keep, or quality with allocation='std'; got keep={keep!r}, quality={quality!r}, allocation={allocation!r}: choose one"
        )
    criterion = find("saliency", saliency)
    require_finite(model)
    if quality is not None:
        require_quality(quality)
        if criterion is not magnitude:
            raise AttarError(f"allocation 'std' is a threshold on magnitudes, got saliency={saliency!r}: use 'global' or 'layer' with keep")
        chosen = groups(model, quality, layers)
        masks: dict[str, Tensor] = {}
        for group in chosen:
            reached = std_threshold({weight.name: weight.dense() for weight in group.weights}, group.budget)
            masks |= {weight.name: reached[weight.name] & kept(weight) for weight in group.weights}
    else:
        require_keep(keep)
        require_allocation(allocation)
        assert keep is not None
        chosen = groups(model, keep, layers)
        masks = choose(chosen, {}, criterion=criterion, allocation=allocation, seed=seed)
    for weight in [w for group in chosen for w in group.weights]:
        sparsify(weight, masks[weight.name])
    return masks


def choose(
    chosen: Iterable[Group], left: Mapping[str, Tensor], *, criterion: Callable[..., Tensor], allocation: str, seed: int
) -> dict[str, Tensor]:
    """The masks of all groups; what is missing from `left` (by default from the weight's form) stays removed."""
    masks: dict[str, Tensor] = {}
    for group in chosen:
        alive = {weight.name: left[weight.name] if weight.name in left else kept(weight) for weight in group.weights}
        scores = {w.name: element_scores(w, criterion, seed).masked_fill(~alive[w.name], -torch.inf) for w in group.weights}
        masks |= {name: mask & alive[name] for name, mask in ALLOCATIONS[allocation](scores, group.budget).items()}
    return masks


def element_scores(weight: Weight, criterion: Callable[..., Tensor], seed: int) -> Tensor:
    """What the criterion gives for each element of a weight, from the weight alone."""
    evidence: dict[str, Any] = {"weight": weight.dense(), "seed": layer_seed(seed, weight.name)}
    return score(criterion, evidence)


def require_allocation(allocation: str, known: Iterable[str] = tuple(ALLOCATIONS)) -> None:
    """Raise AttarError unless `allocation` is one of the `known` ones, by default those of single weights that take `keep`."""
    if allocation not in known:
        raise AttarError(f"there is no allocation {allocation!r}{nearest(allocation, known)}: give one of {', '.join(known)}")
