"""Labelled pictures in memory, and the `Task` made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attar.errors import DataError
from attar.task import Task, top1, top5

__all__ = ["Input", "Pictures", "Values", "check_input", "make_task"]

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow's "L" uses
Values = float | Sequence[float] | None


@dataclass(frozen=True)
class Input:
    """How stored bytes become a network's input: `(x / white - mean) / std`, resized to `shape` (channels, height, width)."""

    mean: Values = None
    std: Values = None
    shape: Sequence[int] | None = None
    white: int = 255


@dataclass(frozen=True, eq=False)
class Pictures:
    """A map-style data set over uint8 pictures [n, channels, height, width] and their classes [n].

    `pictures[i]` is one (float32 [c, h, w], int); `pictures.batch(indices)` is (float32 [n, c, h, w], int64 [n]), many at
    once. Raises DataError where counts, classes, channels, mean or std do not fit.

    >>> black = np.zeros((3, 1, 2, 2), np.uint8)
    >>> inputs, targets = Pictures(black, np.array([0, 1, 1]), classes=2, input=Input(mean=0.5, std=0.5)).batch([0, 2])
    >>> inputs.shape, inputs.max().item(), targets
    (torch.Size([2, 1, 2, 2]), -1.0, tensor([0, 1]))
    """

    images: np.ndarray
    labels: np.ndarray
    classes: int
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(f"pictures must be uint8 [n, channels, height, width], got {self.images.dtype} {list(self.images.shape)}")
        if self.labels.shape != (len(self.images),):
            raise DataError(f"there must be one label for each picture, got {len(self.images)} pictures and {self.labels.size} labels")
        if self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < self.classes:
            raise DataError(f"labels must be 0 to {self.classes - 1}, got {self.labels.min()} to {self.labels.max()}: the file is damaged")
        check_input(self.input, self.images.shape[1])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, targets = self.batch([index])
        return inputs[0], int(targets[0])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The samples at `indices`: inputs float32 [n, c, h, w], targets int64 [n]."""
        chosen = np.asarray(indices, dtype=np.int64)
        inputs = torch.from_numpy(self.images[chosen]).float() / self.input.white
        if self.input.shape is not None:
            inputs = _reshape(inputs, tuple(self.input.shape))
        targets = torch.from_numpy(self.labels[chosen].astype(np.int64))
        return (inputs - _column(self.input.mean, 0.0)) / _column(self.input.std, 1.0), targets

    def take(self, indices: np.ndarray) -> "Pictures":
        """The pictures at `indices`, copied: a split of its own."""
        return Pictures(self.images[indices], self.labels[indices], self.classes, self.input)


def make_task(
    name: str,
    train: Pictures,
    test: Pictures,
    *,
    validation: int | Pictures | None,
    seed: int,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> Task:
    """A Task whose validation pictures, drawn by `seed`, leave `train`; pictures given as `validation` are used as they are."""
    if not isinstance(validation, Pictures):
        train, validation = _split(train, validation, seed)
    metrics = {"top-1": top1, "top-5": top5} if train.classes > 10 else {"top-1": top1}
    return Task(train, validation, test, metrics=metrics, augment=augment, name=name)


def _split(train: Pictures, count: int | None, seed: int) -> tuple[Pictures, Pictures]:
    """What stays for training and `count` validation pictures, each in its old order."""
    if count is None:
        count = min(5000, max(1, len(train) // 5))
    if not 0 < count < len(train):
        raise DataError(f"validation must be 1 to {len(train) - 1} samples of the {len(train)} for training, got {count}")
    order = np.random.default_rng(seed).permutation(len(train))
    return train.take(np.sort(order[count:])), train.take(np.sort(order[:count]))


def check_input(wanted: Input, channels: int) -> None:
    """Raise DataError unless pictures of that many channels can become the input that is wanted."""
    if wanted.shape is not None:
        if len(wanted.shape) != 3 or min(wanted.shape) < 1:
            raise DataError(f"shape must be (channels, height, width), got {tuple(wanted.shape)}")
        if wanted.shape[0] != channels and {wanted.shape[0], channels} != {1, 3}:
            raise DataError(f"the pictures have {channels} channels and the network takes {wanted.shape[0]}: only grey and RGB convert")
        channels = wanted.shape[0]
    for name, values in (("mean", wanted.mean), ("std", wanted.std)):
        count = np.size(values) if values is not None else 1
        if count not in (1, channels):
            raise DataError(f"{name} must be one value or one for each of {channels} channels, got {count}")
    if wanted.std is not None and not np.all(np.asarray(wanted.std) > 0):
        raise DataError(f"std must be above 0, got {wanted.std}: inputs are divided by it")


def _column(values: Values, default: float) -> Tensor:
    return torch.as_tensor(default if values is None else values, dtype=torch.float32).reshape(-1, 1, 1)


def _reshape(inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Grey to RGB or back, then resized; untouched where it fits."""
    if inputs.shape[1] != shape[0]:
        grey = torch.tensor(GREY).reshape(1, 3, 1, 1)
        inputs = inputs.expand(-1, 3, -1, -1) if shape[0] == 3 else (inputs * grey).sum(1, keepdim=True)
    if inputs.shape[2:] != shape[1:]:
        inputs = functional.interpolate(inputs, size=shape[1:], mode="bilinear", antialias=True)
    return inputs
