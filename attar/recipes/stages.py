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
from attar.recipes.structure import Changed, prune_model, require_granularity
from attar.step import Step
from attar.task import Task
from attar.training import Settings

__all__ = ["VERBS", "Run", "finetune", "prune", "quantize", "train"]


class Run(Protocol):
    """What a verb works on."""

    model: nn.Module
    seed: int
    task: Task | None

    def example(self) -> Any:
        """One input of the network, as its arguments."""

    def change(self, changed: Changed) -> None:
        """Go on with another network."""

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
    granularity: str = "weight",
    saliency: str | Callable = "magnitude",
    allocation: str | None = None,
    schedule: str = "cubic",
    every: int = 10,
    layers: str | Sequence[str] | None = None,
    exact: bool = True,
    epochs: int = 0,
    **settings: Any,
) -> None:
    """Remove weights, kernels, filters, heads or blocks: at once, or, weights with `epochs`, on a schedule while the network trains.

    `keep` is the fraction that stays, `quality` Han's threshold in standard deviations (weights at once only); both are
    one number or one for each layer pattern. Weights: `allocation` is "global" (one threshold, for each pattern where
    there are some), "layer" or "std"; by default "global" for `keep` and "std" for `quality`. The other granularities are
    those of `attar.prune`.
    """
    require_granularity(granularity)
    common: dict[str, Any] = {"saliency": saliency, "layers": layers, "seed": run.seed}
    if granularity != "weight":
        if epochs or settings or quality is not None or keep is None:
            raise AttarError(
                f"granularity {granularity!r} is pruned at once, by keep: leave out epochs, quality and settings, and add a finetune stage"
            )
        options: dict[str, Any] = {"granularity": granularity, "allocation": allocation, "exact": exact, "task": run.task}
        run.change(prune_model(run.model, run.example(), keep=keep, **options, **common))
        return
    common["allocation"] = allocation or ("global" if quality is None else "std")
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
