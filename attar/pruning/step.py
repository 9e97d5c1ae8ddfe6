"""Pruning while a network trains."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from attar.errors import AttarError
from attar.forms import bake
from attar.graph import Weight, require_finite, weights
from attar.names import find
from attar.pruning._targets import Group, groups, kept, sparsify
from attar.pruning.allocation import require_keep
from attar.pruning.schedule import Schedule, named
from attar.pruning.weights import choose, require_allocation
from attar.step import Step

__all__ = ["GradualPruning"]


class GradualPruning(Step):
    """Removes weights on a schedule while the network trains, and attaches `Sparse` forms when it is done.

    Every `every` updates, and at the last, where the schedule has moved: the criterion scores the weights as they
    are, and the allocation chooses masks, exactly as `prune_weights` does (`keep`, `saliency`, `allocation`,
    `layers`, `seed` mean the same). What was removed stays removed, zero after every update whatever momentum and
    weight decay do: gradients are masked before the optimizer moves, and weights after. All decisions follow from the
    weights and the step number, so all ranks decide alike.

    It acts on plain weights. `start(model)`, before the optimizer is made, turns `Sparse` weights into plain ones; a
    weight in any other form is refused.

    Raises AttarError for keep outside (0, 1], or an unknown saliency, allocation or schedule.

    >>> model, data = nn.Linear(4, 2), torch.ones(1, 4)
    >>> step, optimizer = GradualPruning(0.25), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    >>> for i in range(3):
    ...     step.before_forward(model, i, 3)
    ...     model(data).sum().backward()
    ...     step.after_backward(model, i, 3)
    ...     optimizer.step()
    ...     step.after_update(model, i, 3)
    >>> step.finish(model)
    >>> int(model.weight.count_nonzero())
    2
    """

    def __init__(
        self,
        keep: float | Mapping[str, float],
        *,
        saliency: str | Callable[..., Tensor] = "magnitude",
        allocation: str = "global",
        schedule: str | Schedule = "cubic",
        layers: str | Iterable[str] | None = None,
        every: int = 10,
        seed: int = 0,
    ) -> None:
        require_keep(keep)
        require_allocation(allocation)
        if every < 1:
            raise AttarError(f"every must be at least 1, got {every}: masks are chosen again after that many updates")
        self.keep = keep
        self.layers = layers if layers is None or isinstance(layers, str) else tuple(layers)
        self.every = every
        self.masks: dict[str, Tensor] = {}
        self._schedule = named(schedule)
        self._rule = {"criterion": find("saliency", saliency), "allocation": allocation, "seed": seed}
        self._bound: tuple[nn.Module | None, dict[str, Tensor]] = (None, {})

    def start(self, model: nn.Module) -> None:
        """Refuse what cannot be pruned, and make `Sparse` weights plain; what they have removed stays removed."""
        require_finite(model)
        for weight in _members(groups(model, self.keep, self.layers)):
            self.masks.setdefault(weight.name, kept(weight).clone())
            if weight.form is not None:
                bake(weight.holders[0].layer, weight.holders[0].name, model=model)

    def before_forward(self, model: nn.Module, step: int, total: int) -> None:
        """Choose masks again where the schedule has moved since they were chosen last."""
        if step == 0 or self._due(step, total):
            require_finite(model)
            budgets = groups(model, self.keep, self.layers)
            _require_plain(_members(budgets))
            now = [Group(self._schedule(step, total, group.budget), group.weights) for group in budgets]
            self.masks = choose(now, self.masks, **self._rule)  # type: ignore[arg-type]
            self._bound = (None, {})
            self.after_update(model, step, total)

    def after_backward(self, model: nn.Module, step: int, total: int) -> None:  # noqa: ARG002 (the contract of Step)
        """Zero the gradient of what is removed, so that momentum does not gather there."""
        for name, weight in self._weights(model).items():
            if weight.grad is not None:
                weight.grad.masked_fill_(~self.masks[name], 0)

    @torch.no_grad()
    def after_update(self, model: nn.Module, step: int, total: int) -> None:  # noqa: ARG002 (the contract of Step)
        """Zero what is removed: momentum gathered before, and weight decay, may have moved it."""
        for name, weight in self._weights(model).items():
            weight.masked_fill_(~self.masks[name], 0)

    def finish(self, model: nn.Module) -> None:
        """Attach a `Sparse` form to each pruned weight, in all layers that hold it."""
        for weight in self._targets(model):
            sparsify(weight, self.masks[weight.name])
        self._bound = (None, {})

    def state_dict(self) -> dict:
        """The masks, by the weight's name."""
        return dict(self.masks)

    def load_state_dict(self, state: dict) -> None:
        """Take back the masks."""
        self.masks = {name: mask.bool() for name, mask in state.items()}
        self._bound = (None, {})

    def _due(self, step: int, total: int) -> bool:
        """Whether masks are to be chosen at this step: a function of the step alone, so that a resumed run needs no memory of it."""
        if step % self.every and step != total - 1:
            return False
        before = (step - 1) // self.every * self.every
        budgets = self.keep.values() if isinstance(self.keep, Mapping) else [self.keep]
        return any(self._schedule(step, total, keep) != self._schedule(before, total, keep) for keep in budgets)

    def _targets(self, model: nn.Module) -> list[Weight]:
        """The weights that have masks."""
        return [weight for weight in weights(model, ["*"]) if weight.name in self.masks] if self.masks else []

    def _weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The parameters that have masks, looked up once: walking a deep network three times an update would show."""
        if self._bound[0] is not model:
            found = self._targets(model)
            _require_plain(found)
            self.masks |= {weight.name: self.masks[weight.name].to(weight.dense().device) for weight in found}
            self._bound = (model, {weight.name: weight.owner for weight in found if isinstance(weight.owner, nn.Parameter)})
        return self._bound[1]


def _members(budgets: Iterable[Group]) -> list[Weight]:
    return [weight for group in budgets for weight in group.weights]


def _require_plain(chosen: Iterable[Weight]) -> None:
    for weight in chosen:
        if weight.form is not None:
            raise AttarError(
                f"{weight.name} carries a {type(weight.form).__name__}, and gradual pruning acts on plain weights: "
                "call its start(model) before the optimizer is made, or bake the form"
            )
