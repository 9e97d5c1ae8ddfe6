"""What each verb of a recipe does to a network. Composition of methods happens here and nowhere else.

A verb is a function `verb(run, **arguments)`: it changes `run.model` in place and trains through `run.train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from attar.errors import AttarError
from attar.pruning import GradualPruning, prune_weights
from attar.quantization import quantize_weights
from attar.step import Step
from attar.training import Settings

__all__ = ["VERBS", "Run", "finetune", "prune", "quantize", "train"]


class Run(Protocol):
    """What a verb works on."""

    model: nn.Module
    seed: int

    def train(self, settings: Settings, steps: Sequence[Step] = ()) -> None:
        """Train `model` in place."""


def train(run: Run, *, epochs: int, lr: float, **settings: Any) -> None:
    """Train the network from what it is; left out where the network comes with weights."""
    run.train(Settings(epochs=epochs, lr=lr, **settings))


def finetune(run: Run, *, epochs: int, lr: float, **settings: Any) -> None:
    """Train what the stages before have left: kept values, centroids, biases, norms."""
    run.train(Settings(epochs=epochs, lr=lr, **settings))


def prune(
    run: Run,
    *,
    keep: float | Mapping[str, float] | None = None,
    quality: float | Mapping[str, float] | None = None,
    saliency: str | Callable = "magnitude",
    allocation: str | None = None,
    schedule: str = "cubic",
    every: int = 10,
    layers: str | Sequence[str] | None = None,
    epochs: int = 0,
    **settings: Any,
) -> None:
    """Remove weights: at once, or, with `epochs`, on a schedule while the network trains.

    `keep` is the fraction that stays, `quality` Han's threshold in standard deviations (at once only); both are one
    number or one for each layer pattern. `allocation` is "global" (one threshold, for each pattern where there are some),
    "layer" or "std"; by default "global" for `keep` and "std" for `quality`.
    """
    if allocation is None:
        allocation = "global" if quality is None else "std"
    common: dict[str, Any] = {"saliency": saliency, "allocation": allocation, "layers": layers, "seed": run.seed}
    if not epochs:
        if settings:
            raise AttarError(f"prune takes {', '.join(sorted(settings))} with epochs only: they say how to train while pruning")
        prune_weights(run.model, keep=keep, quality=quality, **common)
        return
    if quality is not None or keep is None:
        raise AttarError(
            "prune with epochs takes keep: a threshold by quality is applied at once; leave epochs out and add a finetune stage"
        )
    run.train(Settings(epochs=epochs, **settings), [GradualPruning(keep, schedule=schedule, every=every, **common)])


def quantize(
    run: Run,
    *,
    bits: int | Mapping[str, int] = 4,
    method: str | Callable = "kmeans",
    layers: str | Sequence[str] | None = None,
    **options: Any,
) -> None:
    """Share values: each weight, or what pruning has left of it, becomes the form that the quantizer `method` makes."""
    quantize_weights(run.model, bits=bits, method=method, layers=layers, seed=run.seed, **options)


VERBS: dict[str, Callable[..., None]] = {"train": train, "prune": prune, "finetune": finetune, "quantize": quantize}
