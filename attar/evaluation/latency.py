"""Wall-clock time of programs, measured interleaved in one process, with spread, threads and processor named."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from attar.errors import AttarError
from attar.machine import features, processor

__all__ = ["FASTER", "NO_GAIN", "SLOWER", "Machine", "Speedup", "Timing", "compare", "machine", "measure", "speedup"]

FASTER, SLOWER, NO_GAIN = "FASTER", "SLOWER", "NO GAIN"

# the instruction sets that decide which kernels run: x86-64's, then ARM's
_FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve")


@dataclass(frozen=True)
class Machine:
    """What a time was measured on."""

    processor: str
    features: tuple[str, ...]
    torch: str
    system: str


@dataclass(frozen=True)
class Timing:
    """The milliseconds of each round, in order, so that rounds of two programs can be paired."""

    milliseconds: tuple[float, ...]
    threads: int
    machine: Machine

    @property
    def median(self) -> float:
        """The median, in ms."""
        return float(np.median(self.milliseconds))

    @property
    def spread(self) -> float:
        """The range of the middle half (75th - 25th percentile), in ms."""
        low, high = np.percentile(self.milliseconds, [25, 75])
        return float(high - low)


@dataclass(frozen=True)
class Speedup:
    """How many times faster: median before / median after, its 95 % interval, and the verdict."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """FASTER or SLOWER where the whole interval is on one side of 1, else NO GAIN."""
        if self.low > 1:
            return FASTER
        return SLOWER if self.high < 1 else NO_GAIN


def measure(
    programs: Mapping[str, Callable[[], Any]],
    *,
    repeats: int = 30,
    warmup: int = 5,
    warm: bool = False,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each program `repeats` times, in rounds that run every program once; the order rotates from round to round.

    Drift of the machine thus hits all alike. Each call finds the caches as the other programs left them; with `warm`, as an
    untimed call of its own, right before, left them. `threads` (PyTorch's, unchanged where None) holds for all and is set back.

    Raises AttarError for no program, or repeats below 2, warm-up below 0, threads below 1.
    """
    if not programs:
        raise AttarError("there is nothing to time: give at least one program as {name: callable}")
    for name, value, least in (("repeats", repeats, 2), ("warmup", warmup, 0), ("threads", threads, 1)):
        if value is not None and value < least:
            raise AttarError(f"{name} must be at least {least}, got {value}")
    names, here = list(programs), machine()
    taken: dict[str, list[float]] = {name: [] for name in names}
    threads_before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        for step in range(warmup + repeats):
            turn = step % len(names)
            for name in names[turn:] + names[:turn]:
                if warm:
                    programs[name]()
                start = clock()
                programs[name]()
                elapsed = clock() - start
                if step >= warmup:
                    taken[name].append(1000 * elapsed)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(threads_before)
    return {name: Timing(tuple(times), used, here) for name, times in taken.items()}


def speedup(before: Timing, after: Timing, *, resamples: int = 2000, seed: int = 0) -> Speedup:
    """The ratio of medians, with the percentile bootstrap's 95 % interval over rounds, both programs' rounds drawn together.

    Raises AttarError where the two were not measured in the same rounds, with the same threads.

    Source: B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    x, y = np.asarray(before.milliseconds), np.asarray(after.milliseconds)
    if x.shape != y.shape or before.threads != after.threads:
        raise AttarError(
            f"a speed-up needs both programs timed in the same rounds, got {len(x)} rounds on {before.threads} threads "
            f"and {len(y)} on {after.threads}: give both to one call of measure"
        )
    draws = np.random.default_rng(seed).integers(0, len(x), size=(resamples, len(x)))
    ratios = np.median(x[draws], axis=1) / np.median(y[draws], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Speedup(before.median / after.median, float(low), float(high))


def compare(outputs: Any, reference: Any) -> float:
    """The largest difference between two programs' outputs, relative to the reference's largest value; 0 where equal.

    Infinite where one has a NaN or an infinity that the other has not in that place.

    Raises AttarError where the outputs differ in structure or shape.

    >>> compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    0.2
    """
    ours, structure = pytree.tree_flatten(outputs)
    theirs, expected = pytree.tree_flatten(reference)
    if structure != expected:
        raise AttarError(f"outputs of different structure cannot be compared: {structure} and {expected}")
    return max((_error(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _error(output: Any, reference: Any) -> float:
    a, b = (torch.as_tensor(v).detach().cpu() for v in (output, reference))
    if a.shape != b.shape:
        raise AttarError(f"outputs of different shape cannot be compared: {list(a.shape)} and {list(b.shape)}")
    a, b = (v.to(torch.complex128 if v.is_complex() else torch.float64) for v in (a, b))
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    if not bool((a.isfinite() & b.isfinite() | same).all()):
        return math.inf
    difference = torch.where(same, 0, (a - b).abs()).max()
    largest = torch.where(b.isfinite(), b.abs(), 0).max()
    return float(difference / largest) if largest else math.inf


def machine() -> Machine:
    """This machine: the processor's name and the instruction sets that decide which kernels run, PyTorch's version, the system."""
    found = tuple(name for name in _FEATURES if name in features())
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return Machine(processor(), found, str(torch.__version__), system)
