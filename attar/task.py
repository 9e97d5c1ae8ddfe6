"""What a network is for: data splits, a loss, and metrics per sample."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from attar.errors import DataError

__all__ = ["Task", "arguments", "fetch", "taken", "top1", "top5"]


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each sample whose highest output is its class, shape [samples].

    >>> top1(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([1., 0.])
    """
    return (outputs.argmax(1) == targets).float()


def top5(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each sample whose class is among its five highest outputs, shape [samples]."""
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(1).float()


@dataclass(frozen=True)
class Task:
    """Three map-style data sets of (input, target), a loss over a batch, and metrics per sample.

    `loss(outputs, targets)` is a mean over the batch; each metric maps them to a tensor [samples], so that two
    networks can be compared pairwise. `augment(inputs, generator)` changes training inputs only, drawing from the
    generator alone. Decisions use `train` and `validation`; `test` is read once, at the end.

    Raises DataError for an empty split, or for one split used twice.
    """

    train: Any
    validation: Any
    test: Any
    loss: Callable[[Any, Tensor], Tensor] = functional.cross_entropy
    metrics: Mapping[str, Callable[[Any, Tensor], Tensor]] = field(default_factory=lambda: {"top-1": top1})
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    name: str = "data"

    def __post_init__(self) -> None:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        for name, split in splits.items():
            if not hasattr(split, "__getitem__") or not hasattr(split, "__len__"):
                raise DataError(f"the {name} split must have len() and [index], got {type(split).__name__}: wrap it in a list or a Dataset")
            if len(split) == 0:
                raise DataError(f"the {name} split is empty: give it at least one (input, target) pair")
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if _overlap(splits[one], splits[other]):
                raise DataError(
                    f"the {one} and {other} splits share samples: what was decided on data cannot be measured on it; give disjoint splits"
                )

    def example(self) -> tuple | Mapping[str, Any]:
        """One batch of one input, as the network's arguments."""
        return arguments(fetch(self.train, [0])[0])


def fetch(split: Any, indices: Sequence[int]) -> tuple[Any, Tensor]:
    """The samples at `indices` as one batch (inputs, targets).

    A data set with `batch(indices)` hands out whole batches itself; any other is read sample by sample and stacked.
    """
    if hasattr(split, "batch"):
        return split.batch(indices)
    inputs, targets = zip(*(split[int(i)] for i in indices), strict=True)
    return torch.utils.data.default_collate(list(inputs)), torch.utils.data.default_collate(list(targets))


def arguments(inputs: Any) -> tuple | Mapping[str, Any]:
    """A batch of inputs as the network's arguments: a mapping by keyword, several by position, or one.

    >>> arguments(torch.zeros(2, 3))[0].shape
    torch.Size([2, 3])
    """
    if isinstance(inputs, Mapping):
        return inputs
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


@contextlib.contextmanager
def taken(inputs: Any, name: str) -> Iterator[None]:
    """While a network is called with samples of `name`: what PyTorch raises for a wrong shape, type or argument becomes a DataError."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(str(list(leaf.shape)) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
        raise DataError(f"the network does not take samples of {name}, {shapes}: {error}") from error


def _overlap(one: Any, other: Any) -> bool:
    """Whether two splits are the same object, or windows on the same data set that share an index."""
    if one is other:
        return True
    base_a, index_a = _window(one)
    base_b, index_b = _window(other)
    if base_a is not base_b:
        return False
    return index_a is None or index_b is None or not set(index_a).isdisjoint(index_b)


def _window(split: Any) -> tuple[Any, list[int] | None]:
    """The underlying data set and the indices into it (all of them: None), through nested `Subset`s."""
    indices = None
    while isinstance(split, torch.utils.data.Subset):
        inner = [int(i) for i in split.indices]
        indices = inner if indices is None else [inner[i] for i in indices]
        split = split.dataset
    return split, indices
