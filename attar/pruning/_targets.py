"""Which weights of a network are to be pruned, under which budget, and what is left of them already."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attar.errors import AttarError
from attar.forms import Dense, Sparse
from attar.graph import Weight, by_pattern, weights

__all__ = ["Group", "groups", "kept", "sparsify"]


@dataclass(frozen=True)
class Group:
    """Weights that share one budget."""

    budget: float
    weights: tuple[Weight, ...]


def groups(
    model: nn.Module,
    budget: float | Mapping[str, float],
    layers: str | Iterable[str] | None,
    *,
    accepts: Callable[[Weight], bool] = lambda _weight: True,
    needs: str = "convolution, linear, recurrent or attention layer",
) -> list[Group]:
    """One group for all weights, or one for each pattern of a mapping (the first that matches); `layers` narrows both.

    Weights that the method does not accept are passed over, but each pattern must name one that it does.

    Raises AttarError where nothing is left to prune, or a weight carries a form that cannot be pruned.
    """
    narrow = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
    for pattern in [*(budget if isinstance(budget, Mapping) else ()), *(narrow or ())]:
        if not any(accepts(weight) for weight in weights(model, [pattern])):
            raise AttarError(f"layer pattern {pattern!r} matches no {needs}: `attar inspect` lists the layers")
    chosen = weights(model, list(budget) if narrow is None and isinstance(budget, Mapping) else narrow)
    pattern_of: dict[str, Any] = (
        by_pattern(model, {p: p for p in budget}) if isinstance(budget, Mapping) else {w.name: None for w in chosen}
    )
    chosen = [w for w in chosen if w.name in pattern_of and accepts(w)]
    if not chosen:
        raise AttarError(f"{type(model).__name__} has no weight to prune: it needs a {needs}")
    for weight in chosen:
        _require_prunable(weight)
    found: dict[Any, list[Weight]] = {}
    for weight in chosen:
        found.setdefault(pattern_of[weight.name], []).append(weight)
    return [Group(budget[pattern] if isinstance(budget, Mapping) else budget, tuple(members)) for pattern, members in found.items()]


def kept(weight: Weight) -> Tensor:
    """The mask of what earlier pruning has left of a weight, on its device."""
    if isinstance(weight.form, Sparse):
        return weight.form.mask
    return torch.ones(weight.shape, dtype=torch.bool, device=weight.dense().device)


def sparsify(weight: Weight, mask: Tensor) -> None:
    """Let a `Sparse` form stand for the weight, in every layer that holds it."""
    weight.become(Sparse(mask, weight.dense()[mask]))


def _require_prunable(weight: Weight) -> None:
    form = weight.form.values if isinstance(weight.form, Sparse) else weight.form
    if form is not None and not isinstance(form, Dense):
        raise AttarError(f"{weight.name} carries a {type(form).__name__}, which pruning would undo: prune first, or bake the form")
