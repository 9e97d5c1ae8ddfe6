"""Metrics of a network on a split, sample by sample, and the fingerprint of all its outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attar.errors import AttarError, DataError
from attar.evaluation.statistics import Estimate, estimate
from attar.forms import dense
from attar.graph import eval_mode
from attar.task import Task, fetch, taken

__all__ = ["Scores", "evaluate", "fingerprint"]


@dataclass(frozen=True)
class Scores:
    """Each metric's value for each sample, and the fingerprint of all outputs.

    Two runs with equal `batch_size` and `threads` on one machine give the same `fingerprint`, bit for bit.
    """

    metrics: Mapping[str, Tensor]
    """Name -> float64 values, shape [samples]."""
    fingerprint: str
    batch_size: int
    threads: int

    @property
    def samples(self) -> int:
        return len(next(iter(self.metrics.values())))

    def estimates(self) -> dict[str, Estimate]:
        """The mean of each metric with its 95 % interval."""
        return {name: estimate(values) for name, values in self.metrics.items()}


def evaluate(
    model: nn.Module,
    split: Any,
    task: Task,
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Run `model` over `split` in order, in eval mode, with dense weights, and score each sample by the task's metrics.

    `progress(done, total)` is called after each batch, in samples.

    Raises DataError for an empty split, samples that the network does not take, an output or a metric that is NaN, and a metric
    that is not one value a sample; AttarError for a batch size below 1.
    """
    if batch_size < 1:
        raise AttarError(f"batch_size must be at least 1, got {batch_size}: it is the number of samples in one call")
    if len(split) == 0:
        raise DataError("the split is empty: give it at least one (input, target) pair")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    values: dict[str, list[Tensor]] = {name: [] for name in task.metrics}
    digest = _Digest()
    with eval_mode(model), dense(model), torch.no_grad():
        for start in range(0, len(split), batch_size):
            indices = range(start, min(start + batch_size, len(split)))
            inputs, targets = fetch(split, indices)
            with taken(inputs, task.name):
                outputs = _to(_call(model, _to(inputs, device)), torch.device("cpu"))
            _require_numbers(outputs, start)
            digest.add(outputs)
            for name, metric in task.metrics.items():
                values[name].append(_scored(name, metric(outputs, targets), len(indices), start))
            if progress is not None:
                progress(indices.stop, len(split))
    return Scores({name: torch.cat(batches) for name, batches in values.items()}, digest.hex(), batch_size, torch.get_num_threads())


def fingerprint(outputs: Any) -> str:
    """SHA-256 of outputs: a tensor [samples, ...], or tensors in nested tuples, lists and dicts.

    Equal exactly where the structure, the types, the shapes and every bit are; how the samples were cut into batches
    does not enter.

    >>> fingerprint(torch.zeros(2, 3)) == fingerprint(torch.zeros(2, 3)), fingerprint(torch.zeros(2)) == fingerprint(-torch.zeros(2))
    (True, False)
    """
    digest = _Digest()
    digest.add(outputs)
    return digest.hex()


class _Digest:
    """A hash for each tensor of the outputs, fed batch by batch."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def add(self, outputs: Any) -> None:
        for path, leaf in pytree.tree_leaves_with_path(outputs):
            if not isinstance(leaf, Tensor):
                continue
            key = f"{pytree.keystr(path)}:{leaf.dtype}:{list(leaf.shape[1:])}"
            stored = self._hashes.setdefault(key, hashlib.sha256(key.encode()))
            flat = leaf.detach().cpu().contiguous().reshape(-1)
            stored.update(flat.view(torch.uint8).numpy())

    def hex(self) -> str:
        whole = hashlib.sha256()
        for key in sorted(self._hashes):
            whole.update(self._hashes[key].digest())
        return whole.hexdigest()


def _call(model: nn.Module, inputs: Any) -> Any:
    """`model` called with a batch: a mapping as keywords, a tuple or list as positions, else the one input."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


def _to(value: Any, device: torch.device) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


def _require_numbers(outputs: Any, start: int) -> None:
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor) and bool(leaf.isnan().any()):
            row = int(leaf.isnan().reshape(len(leaf), -1).any(1).nonzero()[0]) if leaf.ndim else 0
            raise DataError(
                f"the network's outputs must be numbers, got NaN for sample {start + row}: its weights or that input are broken"
            )


def _scored(name: str, values: Any, samples: int, start: int) -> Tensor:
    if not isinstance(values, Tensor) or tuple(values.shape) != (samples,):
        came = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise DataError(f"metric {name!r} must give one value for each of the {samples} samples, got {came}: return a tensor [samples]")
    if bool(values.isnan().any()):
        row = int(values.isnan().nonzero()[0])
        raise DataError(f"metric {name!r} is NaN for sample {start + row}: no mean can be had; let the metric give a number")
    return values.detach().double().cpu()
