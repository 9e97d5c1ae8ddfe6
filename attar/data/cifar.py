"""CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009): 32x32 RGB pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attar.data._batches import read_batch, read_members
from attar.data._files import cached, data_folder, obtain
from attar.data._pictures import Input, Pictures, Values, make_task
from attar.errors import DataError
from attar.task import Task

__all__ = ["cifar10", "cifar100"]

URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CIFAR100_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"


def cifar10(
    folder: str | Path | None = None,
    *,
    validation: int | None = None,
    seed: int = 0,
    download: bool | str = False,
    mean: Values = None,
    std: Values = None,
    shape: tuple[int, int, int] | None = None,
) -> Task:
    """CIFAR-10: 32x32 RGB pictures of 10 classes, 50,000 to train on and 10,000 to test.

    From the folder `cifar-10-batches-py`, or `cifar-10-python.tar.gz` or `.tar.xz`. Training inputs are shifted and flipped at
    random. The decoded archive is kept in the user's cache folder. Arguments and errors: `attar.data`.
    """
    places = _places(data_folder(folder), "cifar-10-batches-py", "cifar-10-python")
    source = obtain(places, url=URL, sha256=CIFAR10_SHA256, download=download)
    batches = [f"data_batch_{i}" for i in range(1, 6)]
    wanted = Input(mean, std, shape)
    train, test = _splits(source, wanted, train=batches, test=["test_batch"], label="labels", classes=10)
    return make_task("cifar10", train, test, validation=validation, seed=seed, augment=shift_and_flip)


def cifar100(
    folder: str | Path | None = None,
    *,
    validation: int | None = None,
    seed: int = 0,
    download: bool | str = False,
    mean: Values = None,
    std: Values = None,
    shape: tuple[int, int, int] | None = None,
) -> Task:
    """CIFAR-100: 32x32 RGB pictures of 100 fine classes, 50,000 to train on and 10,000 to test.

    From the folder `cifar-100-python`, or `cifar-100-python.tar.gz` or `.tar.xz`. Training inputs are shifted and flipped at
    random. The decoded archive is kept in the user's cache folder. Arguments and errors: `attar.data`.
    """
    places = _places(data_folder(folder), "cifar-100-python", "cifar-100-python")
    source = obtain(places, url=URL, sha256=CIFAR100_SHA256, download=download)
    wanted = Input(mean, std, shape)
    train, test = _splits(source, wanted, train=["train"], test=["test"], label="fine_labels", classes=100)
    return make_task("cifar100", train, test, validation=validation, seed=seed, augment=shift_and_flip)


def shift_and_flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture of [n, c, h, w] cropped at random from itself with a zero border of h / 8, and mirrored with chance 1/2.

    At 32x32 this is the border of 4 of He et al., "Deep Residual Learning for Image Recognition", 2015. A zero input is the
    mean colour. Draws come from `generator` alone.
    """
    count, channels, height, width = inputs.shape
    border = height // 8
    padded = torch.nn.functional.pad(inputs, (border,) * 4)
    top, left = torch.randint(2 * border + 1, (2, count, 1), generator=generator, device=generator.device).to(inputs.device)
    mirror = torch.randint(2, (count, 1), generator=generator, device=generator.device).to(inputs.device)
    across = torch.arange(width, device=inputs.device)
    columns = left + torch.where(mirror == 1, across.flip(0), across)
    rows = top + torch.arange(height, device=inputs.device)
    sample = torch.arange(count, device=inputs.device)[:, None, None, None]
    channel = torch.arange(channels, device=inputs.device)[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _places(folder: Path, unpacked: str, archive: str) -> list[Path]:
    return [folder / unpacked, folder / f"{archive}.tar.xz", folder / f"{archive}.tar.gz"]


def _splits(
    source: Path, wanted: Input, *, train: Sequence[str], test: Sequence[str], label: str, classes: int
) -> tuple[Pictures, Pictures]:
    def decode() -> dict[str, np.ndarray]:
        batches = [read_batch(content, label, f"{name} in {source}") for name, content in read_members(source, [*train, *test])]
        images, labels = zip(*batches, strict=True)
        cut = len(train)
        return {
            "train_images": np.concatenate(images[:cut]),
            "train_labels": np.concatenate(labels[:cut]),
            "test_images": np.concatenate(images[cut:]),
            "test_labels": np.concatenate(labels[cut:]),
        }

    arrays = decode() if source.is_dir() else cached(source, decode)
    try:
        return (
            Pictures(arrays["train_images"], arrays["train_labels"], classes, wanted),
            Pictures(arrays["test_images"], arrays["test_labels"], classes, wanted),
        )
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
