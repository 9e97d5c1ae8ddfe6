"""The public verbs, re-exported by `attar`. The model passed in is never changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attar import coding
from attar.evaluation import Estimate, Paired, Scores, paired
from attar.evaluation import evaluate as score
from attar.forms import Form
from attar.graph import trace
from attar.quantization import quantize_weights
from attar.recipes.structure import prune_model
from attar.step import Step
from attar.task import Task
from attar.training import Settings, bar, train

__all__ = ["Evaluation", "evaluate", "finetune", "load", "prune", "quantize", "save"]

Patterns = str | Iterable[str] | None


def prune(
    model: nn.Module,
    example: tuple | Mapping[str, Any] | None = None,
    *,
    keep: float | Mapping[str, float],
    granularity: str = "weight",
    saliency: str | Callable[..., Tensor] = "magnitude",
    allocation: str | None = None,
    layers: Patterns = None,
    exact: bool = True,
    task: Task | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of `model` that keeps the fraction `keep` of its weights, kernels, filters, heads or blocks, chosen by `saliency`.

    - "weight", "kernel": what is removed no longer exists; weights become `Sparse` forms, which train and are stored small;
    - "filter" (filters, neurons and heads), "channel" (no heads), "head", "inner" (channels of every group, positions of
      every head): the network itself becomes smaller, along everything that is coupled, checked against the original;
    - "block": residual blocks are bypassed, the least harmful first by the `task`'s validation loss.

    `keep` is one number or one for each layer pattern; `layers` narrows what is pruned. `allocation` is "global" (the
    default, but for kernels), "layer" (each layer alike), for filters also "macs" (`keep` is of multiply-accumulates), for
    kernels also "filter". All but "weight" and "kernel" need an `example`, the network's positional arguments as a tuple
    or its keywords as a dict. `exact=False` also cuts what norms average over. A result that could not keep its class is a
    graph module, and a warning says why. Without `finetune` expect a loss of accuracy at low `keep`.

    Raises AttarError for keep outside (0, 1], a pattern that matches nothing, NaN weights, or nothing to prune, with the
    reasons; TraceError where a graph is needed and cannot be had; SurgeryError where the result is not what it must be.

    >>> import torch
    >>> pruned = prune(nn.Linear(10, 10), keep=0.2)
    >>> int(pruned.weight.count_nonzero())
    20
    >>> prune(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.zeros(1, 4),), keep=0.5, granularity="filter")[0]
    Linear(in_features=4, out_features=4, bias=True)
    """
    options: dict[str, Any] = {"saliency": saliency, "allocation": allocation, "layers": layers, "exact": exact, "task": task}
    changed = prune_model(copy.deepcopy(model), example, keep=keep, granularity=granularity, seed=seed, **options)
    for note in changed.notes:
        warnings.warn(note, stacklevel=2)
    return changed.model


def quantize(
    model: nn.Module,
    *,
    bits: int | Mapping[str, int] = 4,
    method: str | Callable[..., Form] = "kmeans",
    layers: Patterns = None,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """A copy of `model` whose weights share at most `2^bits` values in each layer; what was pruned stays zero.

    `bits` is one number or one for each layer pattern; `options` go to the method (`attar ls quantization`).

    Raises AttarError for bits outside 1 to 16, a pattern that matches nothing, NaN weights, or shared values already.

    >>> quantize(nn.Linear(10, 10), bits=2).weight.unique().numel()
    4
    """
    result = copy.deepcopy(model)
    quantize_weights(result, bits=bits, method=method, layers=layers, seed=seed, **options)
    return result


def finetune(
    model: nn.Module, task: Task, *, epochs: int, lr: float, steps: Sequence[Step] = (), seed: int = 0, **settings: Any
) -> nn.Module:
    """A copy of `model` trained on the task's training split; forms train as what they are (kept values, centroids).

    `settings` are those of `attar.training.Settings`: batch_size, momentum, weight_decay, optimizer, schedule, ...

    Raises AttarError for a setting out of range, or a loss that is not finite.
    """
    result = copy.deepcopy(model)
    with bar("finetune") as progress:
        train(result, task, settings=Settings(epochs=epochs, lr=lr, **settings), steps=steps, seed=seed, progress=progress)
    return result


def save(model: nn.Module, path: str | Path, *, example: tuple | Mapping[str, Any], codec: str = "auto") -> int:
    """Write `model` to a `.attar` file, structure and all, and return its bytes.

    `example` is a tuple of positional arguments or a dict of keyword arguments; `codec` is "auto" or one of
    `attar.coding.CODECS`.

    Raises TraceError where the network has no graph, AttarError where the file cannot be written; an earlier file at
    `path` is then intact.
    """
    coding.save(trace(model, example), path, codec=codec)
    return Path(path).stat().st_size


def load(path: str | Path) -> nn.Module:
    """The network in a `.attar` file, in eval mode, without its class: it runs, trains again, and can be compressed again.

    Raises FormatError for a file that is damaged, hostile, or from a newer version; nothing in it is ever executed.
    """
    return coding.load(path).program()


@dataclass(frozen=True)
class Evaluation:
    """Metrics on the test split with 95 % intervals, and the paired difference from `against` where one was given."""

    scores: Scores
    metrics: Mapping[str, Estimate]
    difference: Mapping[str, Paired]


def evaluate(model: nn.Module, task: Task, *, against: nn.Module | None = None, batch_size: int = 256) -> Evaluation:
    """Accuracy (or the task's own metrics) of `model` on the test split; with `against`, the paired difference from it.

    Raises DataError for NaN outputs.
    """
    scores = score(model, task.test, task, batch_size=batch_size)
    if against is None:
        return Evaluation(scores, scores.estimates(), {})
    others = score(against, task.test, task, batch_size=batch_size)
    return Evaluation(scores, scores.estimates(), {name: paired(others.metrics[name], scores.metrics[name]) for name in scores.metrics})
