"""A recipe is checked whole before anything runs, and all its faults are reported together."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from attar.errors import AttarError, RecipeError
from attar.forms import Codebook
from attar.names import find, nearest
from attar.recipes.recipe import Recipe, Stage
from attar.recipes.stages import VERBS
from attar.recipes.structure import Changed
from attar.step import Step
from attar.task import Task
from attar.training import Settings

__all__ = ["check_recipe"]

_SETTINGS = tuple(field.name for field in dataclasses.fields(Settings))
_GOOD_SETTINGS = {"epochs": 1, "lr": 0.1}


def check_recipe(recipe: Recipe, model: nn.Module, task: Task | None = None) -> None:
    """Raise RecipeError, listing every fault of every stage, unless the recipe can run on `model`; nothing is changed.

    Arguments are bound to the verbs' signatures, then every stage runs dry on a copy: no training, no clustering, but
    the same checks, patterns and order of forms as the real run meets. Stages that follow the network's graph, or measure
    it, need the `task`.
    """
    faults: list[str] = []
    run = DryRun(copy.deepcopy(model), task)
    for position, stage in enumerate(recipe.stages, 1):
        faults += [f"stage {position} ({stage.verb}): {fault}" for fault in _faults(stage, run)]
    if len(faults) == 1:
        raise RecipeError(f"the recipe cannot run: {faults[0]}")
    if faults:
        raise RecipeError(f"the recipe has {len(faults)} faults: " + "; ".join(f"[{i}] {fault}" for i, fault in enumerate(faults, 1)))


class DryRun:
    """Runs stages without training: steps start and finish, so that forms come and go as in the real run."""

    def __init__(self, model: nn.Module, task: Task | None) -> None:
        self.model = model
        self.seed = 0
        self.task = None if task is None else _few(task)

    def example(self) -> Any:
        return None if self.task is None else self.task.example()

    def change(self, changed: Changed) -> None:
        self.model = changed.model

    def train(self, settings: Settings, steps: Sequence[Step] = ()) -> None:  # noqa: ARG002 (its values were checked when it was made)
        for step in steps:
            step.start(self.model)
            step.before_forward(self.model, 0, 2)
            step.finish(self.model)


def _few(task: Task) -> Task:
    """The task with one sample in each split: a dry run tries whether evidence can be measured."""
    return dataclasses.replace(task, train=Subset(task.train, [0]), validation=Subset(task.validation, [0]), test=Subset(task.test, [0]))


def _faults(stage: Stage, run: DryRun) -> Iterator[str]:
    verb = VERBS.get(stage.verb)
    if verb is None:
        yield f"there is no such verb{nearest(stage.verb, VERBS)}; there are {', '.join(VERBS)}"
        return
    known, required = _arguments(stage)
    good = dict(stage.arguments)
    for name in stage.arguments:
        if name not in known:
            yield f"there is no argument {name!r}{nearest(name, known)}"
            del good[name]
    missing = [name for name in required if name not in good]
    yield from (f"{name} must be given" for name in missing)
    trains = {name: value for name, value in good.items() if name in _SETTINGS and (name, value) != ("epochs", 0)}
    for name, value in trains.items():
        try:
            Settings(**{**_GOOD_SETTINGS, name: value})
        except AttarError as error:
            yield str(error)
            good[name] = _GOOD_SETTINGS.get(name)
            if good[name] is None:
                del good[name]
    if not missing:
        yield from _dry_faults(verb, stage.verb, good, run)


def _dry_faults(verb: Callable[..., None], name: str, arguments: dict[str, Any], run: DryRun) -> Iterator[str]:
    """The faults of values: each entry of a mapping by itself first, then the stage as a whole."""
    mapped = [(key, value) for key, value in arguments.items() if isinstance(value, Mapping) and len(value) > 1]
    found = []
    for key, value in mapped:
        for pattern, inner in value.items():
            found += _attempt(verb, name, {**arguments, key: {pattern: inner}}, DryRun(copy.deepcopy(run.model), run.task))
    yield from dict.fromkeys(found)
    if not found:
        yield from _attempt(verb, name, arguments, run)


def _attempt(verb: Callable[..., None], name: str, arguments: Mapping[str, Any], run: DryRun) -> list[str]:
    try:
        if name == "quantize":
            arguments = {**arguments, "method": _stand_in(find("quantization", arguments.get("method", "kmeans")))}
        verb(run, **arguments)
    except AttarError as error:
        return [str(error)]
    except (TypeError, ValueError) as error:
        return [f"{error}"]
    return []


def _stand_in(quantizer: Callable[..., Any]) -> Callable[..., Codebook]:
    """A quantizer that tries the real one on a few weights, to check its options, and gives a codebook of zeros."""

    def stand_in(weight: Tensor, **options: Any) -> Codebook:
        quantizer(weight.flatten()[:16], **options)
        return Codebook(torch.zeros(weight.shape, dtype=torch.uint8), torch.zeros(1))

    return stand_in


def _arguments(stage: Stage) -> tuple[set[str], list[str]]:
    """The names that the stage takes, and those it cannot do without."""
    parameters = [p for p in inspect.signature(VERBS[stage.verb]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = {p.name for p in parameters}
    required = [p.name for p in parameters if p.default is p.empty]
    if stage.verb == "quantize":
        method = stage.arguments.get("method", "kmeans")
        try:
            known |= set(inspect.signature(find("quantization", method)).parameters) - {"weight", "seed"}
        except AttarError:
            return known | set(stage.arguments), required  # the dry run reports the method
    else:
        known |= set(_SETTINGS)
    if stage.verb == "prune" and stage.arguments.get("epochs"):
        required.append("lr")
    return known, required
