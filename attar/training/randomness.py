"""All randomness of training, as a function of (seed, purpose, epoch or step, rank): nothing random need be saved.

A run that is resumed at any update draws what an uninterrupted one would have drawn.
"""

import contextlib
import functools
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = ["derive", "generator", "isolated", "order", "seed_all"]


def derive(*parts: int | str) -> int:
    """A seed in [0, 2^56) from any parts, the same on every machine.

    >>> derive(0, "order", 1) == derive(0, "order", 1) != derive(0, "order", 2)
    True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "little")


def generator(*parts: int | str) -> torch.Generator:
    """A generator of its own, seeded by `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


@functools.lru_cache(maxsize=1)  # asked for at every update; nobody writes into it
def order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of `count` samples in an epoch, int64 [count]."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def seed_all(*parts: int | str) -> None:
    """Seed the global generators of PyTorch, NumPy and Python: dropout draws from the first, users' data sets from any."""
    value = derive(*parts)
    if torch.accelerator.is_available():
        torch.manual_seed(value)
    else:  # that call notes a traceback for a device that may come yet, which takes as long as a small update
        torch.default_generator.manual_seed(value)
    np.random.seed(value % (1 << 32))
    random.seed(value)


@contextlib.contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """While open, the global generators may be seeded at will; the caller's states come back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type="cuda" if device.type == "cpu" else device.type):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
