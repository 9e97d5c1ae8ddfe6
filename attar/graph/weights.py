"""The weights of a network that weight-level methods apply to, by name and pattern; no graph is needed for this."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attar.errors import AttarError
from attar.forms import Form, Holder, attach, owners
from attar.names import nearest

__all__ = ["Weight", "by_pattern", "require_finite", "weights"]

_WEIGHT = re.compile(r"(^|_)weight(_|$)")


@dataclass(frozen=True)
class Weight:
    """A weight that a method may replace: its name, and every place that holds it.

    `name` is the layer's path where the attribute is plain `weight` (`conv1`), else path and attribute
    (`lstm.weight_ih_l0`).
    """

    name: str
    holders: tuple[Holder, ...]
    owner: nn.Parameter | Form

    @property
    def form(self) -> Form | None:
        """The form it has become, or None while it is a plain parameter."""
        return self.owner if isinstance(self.owner, Form) else None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.owner.shape)

    def dense(self) -> Tensor:
        """The dense weight, detached."""
        return (self.owner() if isinstance(self.owner, Form) else self.owner).detach()

    def become(self, form: Form) -> None:
        """Let `form` stand for this weight in every layer that holds it."""
        for holder in self.holders:
            attach(holder.layer, holder.name, form)


def weights(model: nn.Module, patterns: Iterable[str] | None = None) -> list[Weight]:
    """The weights of convolutions, linear, recurrent and attention layers, in the network's order.

    Norm scales and biases are not weights; embeddings count only where a pattern names them. With `patterns`
    (shell-style, on names), only what matches.

    Raises AttarError for a pattern that matches nothing.
    """
    found = []
    for owner, holders in owners(model).items():
        first = holders[0]
        if len(owner.shape) < 2 or not _WEIGHT.search(first.name):
            continue
        name = first.path if first.name == "weight" and first.path else first.full_name
        found.append(Weight(name, tuple(holders), owner))
    found.sort(key=_order(model))
    if patterns is None:
        return [w for w in found if not any(isinstance(h.layer, nn.Embedding | nn.EmbeddingBag) for h in w.holders)]
    chosen: set[str] = set()
    for pattern in patterns:
        matched = fnmatch.filter([w.name for w in found], pattern)
        if not matched:
            hint = nearest(pattern, [w.name for w in found])
            raise AttarError(f"layer pattern {pattern!r} matches nothing{hint}; `attar inspect` lists the layers")
        chosen.update(matched)
    return [w for w in found if w.name in chosen]


def by_pattern(model: nn.Module, value: object) -> dict[str, object]:
    """One value for each weight's name: `value` itself for all, or the value of the first pattern of a mapping that matches.

    Weights that no pattern names are left out. Raises AttarError for a pattern that matches nothing.
    """
    if not isinstance(value, Mapping):
        return {w.name: value for w in weights(model)}
    chosen = weights(model, list(value))
    return {w.name: next(v for pattern, v in value.items() if fnmatch.fnmatch(w.name, pattern)) for w in chosen}


def require_finite(model: nn.Module) -> None:
    """Raise AttarError naming the first parameter that holds NaN or infinity: nothing can be decided from such a weight."""
    for owner, holders in owners(model).items():
        values = owner() if isinstance(owner, Form) else owner
        if not bool(torch.isfinite(values.detach()).all()):
            name = holders[0].full_name
            raise AttarError(f"{name} holds NaN or infinite values: the network is broken before compression; train or load it again")


def _order(model: nn.Module):
    """Sorts weights by the place of their first holder, whether they carry a form or not (attaching must not reorder)."""
    place = {path: i for i, (path, _) in enumerate(model.named_modules())}
    return lambda w: (place[w.holders[0].path], w.holders[0].name)
