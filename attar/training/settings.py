"""How a network is trained: the options, and the learning rate at each update."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, optim

from attar.errors import AttarError
from attar.names import nearest

__all__ = ["OPTIMIZERS", "SCHEDULES", "Settings", "make_optimizer", "rate"]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "step": lambda done: 0.1 ** ((done >= 0.5) + (done >= 0.75)),
}
"""Name -> factor on the learning rate once the share `done`, in [0, 1), of the updates after warm-up is behind."""

OPTIMIZERS: dict[str, Callable[[Any, "Settings"], optim.Optimizer]] = {
    "sgd": lambda params, s: optim.SGD(params, s.lr, momentum=s.momentum, weight_decay=s.weight_decay),
    "adam": lambda params, s: optim.Adam(params, s.lr, betas=(s.momentum, 0.999), weight_decay=s.weight_decay),
    "adamw": lambda params, s: optim.AdamW(params, s.lr, betas=(s.momentum, 0.999), weight_decay=s.weight_decay),
}


@dataclass(frozen=True)
class Settings:
    """The options of one training run.

    - `epochs`: passes over the training split. `lr`: the highest learning rate.
    - `batch_size`: samples in an update, over all processes together. An epoch is cut into ceil(n / batch_size) batches
      that differ by one sample at most, so that no batch is a tiny remainder.
    - `momentum`: SGD's momentum; Adam's first beta. `weight_decay`: L2 for SGD and Adam, decoupled for AdamW.
    - `optimizer`: sgd, adam, adamw. `lr_schedule`: cosine, linear (both to 0), step (a tenth at 1/2 and again at 3/4), constant.
    - `warmup`: the share of all updates, in [0, 1), over which the learning rate rises linearly to `lr`.
    - `clip`: the largest norm of the gradient, None for any.
    - `precision`: fp32 computes in the network's own type; bf16 computes in bfloat16 where PyTorch's autocast deems it safe.
    - `shard`: split parameters and optimizer over the processes (FSDP), for a network that one device cannot train; else each
      process holds all (DDP).

    Raises AttarError for a value out of range.

    >>> Settings(epochs=2, lr=0.1).lr_schedule
    'cosine'
    """

    epochs: int
    lr: float
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    lr_schedule: str = "cosine"
    warmup: float = 0.0
    clip: float | None = None
    precision: str = "fp32"
    shard: bool = False

    def __post_init__(self) -> None:
        _whole("epochs", self.epochs, "passes over the training split")
        _whole("batch_size", self.batch_size, "the samples in one update")
        _number("lr", self.lr, above=0, what="the highest learning rate")
        _number("momentum", self.momentum, least=0, below=1, what="the share of the last update that is kept")
        _number("weight_decay", self.weight_decay, least=0, what="the factor on the squared weights in the loss")
        _number("warmup", self.warmup, least=0, below=1, what="the share of the updates in which the learning rate rises")
        if self.clip is not None:
            _number("clip", self.clip, above=0, what="the largest norm of the gradient; None leaves it alone")
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("lr_schedule", self.lr_schedule, SCHEDULES)
        _one_of("precision", self.precision, ("fp32", "bf16"))
        if not isinstance(self.shard, bool):
            raise AttarError(f"shard must be True or False, got {self.shard!r}: it splits the network over the processes")


def rate(step: int, total: int, *, schedule: str = "cosine", warmup: float = 0.0) -> float:
    """The factor on the learning rate for update `step` of `total`, in [0, 1].

    During the first ceil(warmup * total) updates it is (step + 1) / that number; then the schedule runs over the rest.

    >>> [round(rate(step, 4, schedule="linear"), 2) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    >>> [rate(step, 4, schedule="constant", warmup=0.5) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return SCHEDULES[schedule]((step - rising) / max(1, total - rising))


def make_optimizer(parameters: Sequence[Tensor], settings: Settings) -> optim.Optimizer:
    """The optimizer that `settings` asks for."""
    return OPTIMIZERS[settings.optimizer](parameters, settings)


def _whole(name: str, value: object, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AttarError(f"{name} must be a whole number of at least 1, got {value!r}: it is {what}")


def _number(name: str, value: Any, *, what: str, above: float = -math.inf, least: float = -math.inf, below: float = math.inf) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not (good and value > above and least <= value < below):
        low = f"above {above:g}" if above > -math.inf else f"at least {least:g}"
        high = f" and below {below:g}" if below < math.inf else " and finite"
        raise AttarError(f"{name} must be a number {low}{high}, got {value!r}: it is {what}")


def _one_of(name: str, value: object, known: Any) -> None:
    if value not in tuple(known):
        raise AttarError(f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}")
