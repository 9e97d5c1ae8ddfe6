"""The public verbs, re-exported by `attar`. The model passed in is never changed."""

from __future__ import annotations

import copy
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
from attar.pruning import prune_weights
from attar.quantization import quantize_weights
from attar.step import Step
from attar.task import Task
from attar.training import Settings, bar, train

__all__ = ["Evaluation", "evaluate", "finetune", "load", "prune", "quantize", "save"]

Patterns = str | Iterable[str] | None


def prune(
    model: nn.Module,
    *,
    keep: float | Mapping[str, float],
    saliency: str | Callable[..., Tensor] = "magnitude",
    allocation: str = "global",
    layers: Patterns = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of `model` that keeps the fraction `keep` of its weights, chosen one by one by `saliency`.

    `keep` is one number or one for each layer pattern; `allocation` is "global" (one threshold over all layers) or
    "layer"; `layers` narrows what is pruned. What is removed no longer exists: the weights become `Sparse` forms, which
    train and are stored small. Without `finetune` expect a loss of accuracy at low `keep`.

    Raises AttarError for keep outside (0, 1], a pattern that matches nothing, NaN weights, or nothing to prune.

    >>> import torch
    >>> pruned = prune(nn.Linear(10, 10), keep=0.2)
    >>> int(pruned.weight.count_nonzero())
    20
    """
    result = copy.deepcopy(model)
    prune_weights(result, keep=keep, saliency=saliency, allocation=allocation, layers=layers, seed=seed)
    return result


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
