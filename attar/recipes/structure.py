"""Pruning that changes a network's structure, as the verbs and the recipes use it; and the same change made again on resuming."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attar.errors import AttarError
from attar.graph import Selection, apply, call_with, collect, eval_mode, trace
from attar.names import find, nearest
from attar.pruning import GRANULARITIES, find_blocks, needed, prune_blocks, prune_kernels, prune_structure, prune_weights, remove_blocks
from attar.task import Task, arguments, fetch

__all__ = ["Changed", "prune_model", "require_granularity", "restructure"]

Example = tuple | Mapping[str, Any]

_EVIDENCE_SAMPLES, _EVIDENCE_BATCH, _JUDGED_BATCH = 1024, 64, 256
_ALL = ("weight", "kernel", *GRANULARITIES, "block")


@dataclass(frozen=True)
class Changed:
    """A pruned network; `change` is what `restructure` needs to make its structure again, None where forms alone changed."""

    model: nn.Module
    change: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def prune_model(
    model: nn.Module,
    example: Example | None,
    *,
    keep: float | Mapping[str, float],
    granularity: str = "weight",
    saliency: str | Callable[..., Tensor] = "magnitude",
    allocation: str | None = None,
    layers: str | Iterable[str] | None = None,
    exact: bool = True,
    task: Task | None = None,
    seed: int = 0,
) -> Changed:
    """Prune `model` at a granularity; a plain mask of weights or kernels is attached in place, any other result is a new network.

    `task` gives the data that a criterion needs beside the weight (from its training split), and the loss by which blocks
    are judged (on its validation split).

    Raises AttarError for an unknown granularity, or one that needs an example or a task and has none.
    """
    require_granularity(granularity)
    if not exact and granularity not in GRANULARITIES:
        raise AttarError(f"exact=False is for {', '.join(GRANULARITIES)}, got granularity {granularity!r}: leave exact out")
    common: dict[str, Any] = {"saliency": saliency, "layers": layers, "seed": seed}
    if allocation is not None:
        common["allocation"] = allocation
    if granularity == "weight":
        prune_weights(model, keep=keep, **common)
        return Changed(model)
    if granularity == "kernel":
        prune_kernels(model, keep=keep, **common)
        return Changed(model)
    if example is None:
        raise AttarError(
            f"granularity {granularity!r} needs an example, a tuple of the network's arguments: it follows the network's graph"
        )
    if granularity == "block":
        return _without_blocks(model, example, keep, task, {**common, "allocation": allocation})
    surgery = prune_structure(
        model, example, keep=keep, granularity=granularity, exact=exact, evidence=_evidence(model, saliency, task), **common
    )
    return Changed(surgery.model, {"selection": surgery.selection.as_data()}, surgery.notes)


def restructure(model: nn.Module, change: Mapping[str, Any], example: Example) -> nn.Module:
    """The network with a `Changed.change` made again; its values are then to be restored."""
    if "blocks" in change:
        return remove_blocks(trace(model, example), change["blocks"]).program().train(model.training)
    return apply(model, Selection.from_data(change["selection"]), example).model


def require_granularity(granularity: str) -> None:
    """Raise AttarError, with the nearest valid name, unless there is such a granularity."""
    if granularity not in _ALL:
        raise AttarError(f"granularity must be one of {', '.join(_ALL)}, got {granularity!r}{nearest(granularity, _ALL)}")


def _without_blocks(model: nn.Module, example: Example, keep: Any, task: Task | None, other: Mapping[str, Any]) -> Changed:
    """Blocks are judged by the loss on validation data where there is some, else by how much they turn the example."""
    refused = [name for name in ("allocation", "layers") if other[name] is not None]
    refused += ["saliency"] if other["saliency"] != "magnitude" else []
    if isinstance(keep, Mapping) or refused:
        what = ", ".join(refused) or "patterns"
        raise AttarError(
            f"granularity 'block' takes keep as one number, and no {what}: blocks are judged by the task's loss, or the example"
        )
    judged: dict[str, Any] = {"data": [example]} if task is None else {"score": lambda network: _loss(network, task)}
    pruned = prune_blocks(model, example, keep=keep, **judged)
    if not pruned.removed:
        count = sum(block.innermost for block in find_blocks(trace(model, example)))
        raise AttarError(f"keep={keep} removes nothing: the network has {count} residual or identity blocks that can be bypassed")
    return Changed(pruned.model, {"blocks": list(pruned.removed)}, tuple(f"removed block {name}" for name in pruned.removed))


def _loss(network: nn.Module, task: Task) -> float:
    """The mean loss on the validation split."""
    total = 0.0
    with eval_mode(network), torch.no_grad():
        for inputs, targets in _batches(task.validation, len(task.validation), _JUDGED_BATCH):
            total += float(task.loss(call_with(network, arguments(inputs)), targets)) * len(targets)
    return total / len(task.validation)


def _evidence(model: nn.Module, saliency: str | Callable[..., Tensor], task: Task | None) -> dict[str, dict[str, Tensor]]:
    """The statistics that a criterion names beside the weight, of the first samples of the training split."""
    names = needed(find("saliency", saliency))
    if not names:
        return {}
    if task is None:
        raise AttarError(f"saliency {saliency!r} needs {', '.join(sorted(names))}, which are measured on data: give a task")
    return collect(model, names, _batches(task.train, _EVIDENCE_SAMPLES, _EVIDENCE_BATCH), task.loss)


def _batches(split: Any, samples: int, size: int) -> Iterator[tuple[Any, Tensor]]:
    count = min(samples, len(split))
    for start in range(0, count, size):
        yield fetch(split, range(start, min(start + size, count)))
