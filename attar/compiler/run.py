"""A compiled program in memory: called with arrays or tensors, any number of samples at a time, from any thread."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attar.compiler.ir import Array, Program, aligned
from attar.compiler.kernels.segment import Torch
from attar.errors import AttarError

__all__ = ["Engine", "Segment", "Signature", "Tail", "TorchEngine", "segments"]

CLOSED = "this engine is closed: compile the network again"


@dataclass(frozen=True)
class Signature:
    """One argument or result: its name, the shape of one call of the program, its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Segment:
    """A step that PyTorch runs: a function of views of the arena. `reads` and `writes` make the views from (arena, arguments)."""

    step: int
    name: str
    function: Callable[..., Any]
    reads: tuple[Callable[..., Tensor], ...]
    write: Callable[..., Tensor]


@dataclass(frozen=True)
class Tail:
    """The end of a network for a group of samples at once, after the first `steps` steps of the program for one sample.

    Those steps write `crossing` beside the program's outputs. `engine` takes of the inputs and of what crosses, counted on from
    the inputs, what lies at the positions `reads`; its `samples` are those of a group.
    """

    engine: Engine
    reads: tuple[int, ...]
    steps: int
    crossing: tuple[Signature, ...]


class Engine:
    """A network compiled for this machine.

    Call it as the network is called, with NumPy arrays or tensors; it returns what the network returns, in arrays where all
    arguments are arrays, else in tensors. Where `batched`, the first size is free: samples run one after the other, on
    `threads` threads each, or a sample on each thread where there are several. With a `tail` groups of samples end together,
    and samples that fill no group run as without. Contiguous inputs are read where they lie.
    It releases the GIL and may be called from several threads at once: calls on one thread run side by side, calls that
    share threads take turns. `close` frees its memory; a closed engine raises AttarError.

    `samples` are those of one call of the program: 1, but in the engine of a tail.
    """

    def __init__(
        self,
        library: Path,
        constants: np.ndarray,
        arena: int,
        *,
        inputs: Sequence[Signature],
        outputs: Sequence[Signature],
        steps: int,
        batched: bool,
        samples: int = 1,
        threads: int = 1,
        tail: Tail | None = None,
        segments: Sequence[Segment] = (),
        arguments: Callable[..., Sequence[Any]] = lambda *args: args,
        result: Callable[[list[Any]], Any] = lambda values: values[0] if len(values) == 1 else values,
    ) -> None:
        if threads < 1:
            raise AttarError(f"threads must be at least 1, got {threads}")
        self.library, self.inputs, self.outputs, self.batched = library, tuple(inputs), tuple(outputs), batched
        self.samples, self.tail = samples, tail
        crossing = tail.crossing if tail else ()
        self._strides = [s.bytes if self._is_free(s) else 0 for s in (*self.inputs, *self.outputs, *crossing)]
        self.arena_bytes = -(-max(arena, 1) // 4096) * 4096
        self._steps, self._segments = steps, tuple(segments)
        self._arguments, self._result = arguments, result
        self._constants = aligned(constants)
        self._code = ctypes.CDLL(str(library))
        self._code.attar_start.restype = ctypes.c_void_p
        self._code.attar_run.restype = None
        self._code.attar_workers.restype = ctypes.c_long
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()
        self._pool_lock = threading.Lock()
        self._pool = None
        self._closed = False
        self.report: Any = None
        if threads > 1:
            self._pool = ctypes.c_void_p(self._code.attar_start(ctypes.c_long(threads)))
            if not self._pool:
                raise AttarError(f"the system has no memory for {threads} threads")
        self.threads = self._code.attar_workers(self._pool) if self._pool else 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self._arguments(*args, **kwargs)
        results = self.run(given)
        if any(isinstance(value, Tensor) for value in given):
            return self._result([torch.from_numpy(r) for r in results])
        return self._result(results)

    def run(self, given: Sequence[Any]) -> list[np.ndarray]:
        """The output arrays for the network's input tensors, in order."""
        if self._closed:
            raise AttarError(CLOSED)
        arrays, samples = self._check(given)
        if self.batched and not all(self._is_free(o) for o in self.outputs):
            raise AttarError("an output has no sample dimension")
        results = [self._empty(o, samples) for o in self.outputs]
        grouped = 0
        if self.tail:
            group = self.tail.engine.samples
            grouped, most = samples // group * group, group * self.threads
            for first in range(0, grouped, most):
                self._in_groups(self._part(arrays, self.inputs, first, first + most), [r[first : first + most] for r in results])
            arrays = self._part(arrays, self.inputs, grouped, samples)
        if samples > grouped or not self.batched:
            crossing = [self._empty(c, samples - grouped) for c in self.tail.crossing] if self.tail else []
            self._run([*arrays, *(r[grouped:] if self.batched else r for r in results), *crossing], samples - grouped)
        return results

    def compare_tail(self, given: Sequence[Any], rounds: int = 5) -> tuple[float, float]:
        """Seconds of the steps after the cut on these samples, whole groups: sample by sample, and in groups with what copies values
        to them. The least of some rounds, taken in turns."""
        if self.tail is None:
            raise AttarError("this engine has no tail: there is nothing to compare")
        arrays, samples = self._check(given)
        results = [self._empty(o, samples) for o in self.outputs]
        taken = self._before_tail(arrays, results, self.tail)
        passed = [*arrays, *results, *(self._empty(c, samples) for c in self.tail.crossing)]
        apart, together = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            self._run(passed, samples, self.tail.steps)
            between = time.perf_counter()
            self.tail.engine._run([*taken, *results], samples)
            apart.append(between - began)
            together.append(time.perf_counter() - between)
        return min(apart), min(together)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pool", None):
            self.close()

    def close(self) -> None:
        """Stop the threads and free the memory."""
        with self._pool_lock, self._lock:
            self._closed = True
            if self._pool:
                self._code.attar_stop(self._pool)
                self._pool = None
            self._free.clear()
        if self.tail:
            self.tail.engine.close()

    def _is_free(self, one: Signature) -> bool:
        """Whether an argument's or result's first size is the number of samples."""
        return self.batched and one.shape[:1] == (self.samples,)

    def _empty(self, one: Signature, samples: int) -> np.ndarray:
        return np.empty((samples, *one.shape[1:]) if self.batched else one.shape, one.dtype)

    def _part(self, arrays: list[np.ndarray], about: Sequence[Signature], first: int, last: int) -> list[np.ndarray]:
        """The arrays of some of the samples."""
        return [a[first:last] if self._is_free(one) else a for a, one in zip(arrays, about, strict=True)]

    def _in_groups(self, arrays: list[np.ndarray], results: list[np.ndarray]) -> None:
        """Whole groups of samples: one by one up to the tail, then a group on each thread, or all threads on one group."""
        assert self.tail
        taken = self._before_tail(arrays, results, self.tail)
        self.tail.engine._run([*taken, *results], len(results[0]))

    def _before_tail(self, arrays: list[np.ndarray], results: list[np.ndarray], tail: Tail) -> list[np.ndarray]:
        """What the tail takes; `results` are memory that this writes nothing to."""
        crossing = [self._empty(c, len(results[0])) for c in tail.crossing]
        if tail.steps:
            self._run([*arrays, *results, *crossing], len(results[0]), last=tail.steps)
        return [(*arrays, *crossing)[position] for position in tail.reads]

    def _check(self, given: Sequence[Any]) -> tuple[list[np.ndarray], int]:
        """The arguments as contiguous arrays of the right types, and the number of samples."""
        if len(given) != len(self.inputs):
            names = ", ".join(s.name for s in self.inputs)
            raise AttarError(f"the network takes {len(self.inputs)} tensors ({names}), got {len(given)}")
        arrays, samples = [], None
        for value, want in zip(given, self.inputs, strict=True):
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            if array.dtype != np.dtype(want.dtype):
                raise AttarError(f"{want.name} must be {want.dtype}, got {array.dtype}: convert it, as by x.astype(np.{want.dtype})")
            free = self._is_free(want)
            expected = ("any", *want.shape[1:]) if free else want.shape
            if array.ndim != len(want.shape) or any(a != e for a, e in zip(array.shape, expected, strict=True) if e != "any"):
                shown = "[" + ", ".join(map(str, expected)) + "]"
                raise AttarError(f"{want.name} must have shape {shown}, got {list(array.shape)}")
            if free and samples is not None and samples != array.shape[0]:
                raise AttarError(f"{want.name} has {array.shape[0]} samples where the inputs before have {samples}")
            samples = array.shape[0] if free else samples
            if not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
                array = np.array(array, dtype=want.dtype, order="C")
            arrays.append(array)
        return arrays, self.samples if samples is None else samples

    def _run(self, arrays: list[np.ndarray], samples: int, first: int = 0, last: int | None = None) -> None:
        """Steps [first, last) for these inputs and the memory of all that is written, `samples` of each that has samples."""
        calls, steps = samples // self.samples if self.batched else 1, (first, self._steps if last is None else last)
        if self._pool is None:
            arena = self._take(1)
            try:
                self._steps_on(arena, arrays, calls, steps, None)
            finally:
                self._give(arena)
            return
        with self._pool_lock:
            if self._closed:
                raise AttarError(CLOSED)
            arena = self._take(self.threads)
            try:
                self._steps_on(arena, arrays, calls, steps, self._pool)
            finally:
                self._give(arena)

    def _steps_on(self, arena: np.ndarray, arrays: list[np.ndarray], calls: int, steps: tuple[int, int], pool: Any) -> None:
        segments = [segment for segment in self._segments if steps[0] <= segment.step < steps[1]]
        if not segments:
            self._call(pool, arena, [a.ctypes.data for a in arrays], calls, *steps)
            return
        for n in range(calls):  # what PyTorch runs comes between, one call of the program at a time
            places = [a.ctypes.data + n * stride for a, stride in zip(arrays, self._strides, strict=True)]
            views = [a.reshape(-1).view(np.uint8)[n * stride :] for a, stride in zip(arrays, self._strides, strict=True)]
            done = steps[0]
            for segment in segments:
                self._call(pool, arena, places, 1, done, segment.step)
                self._segment(segment, arena, views)
                done = segment.step + 1
            self._call(pool, arena, places, 1, done, steps[1])

    def watch(self, given: Sequence[Any], seen: Callable[[int, np.ndarray], None]) -> None:
        """Run the samples one after the other on this thread, step by step: after each, `seen(step, arena)` may read its output."""
        arrays, samples = self._check(given)
        results = [self._empty(one, samples) for one in (*self.outputs, *(self.tail.crossing if self.tail else ()))]
        segments = {segment.step: segment for segment in self._segments}
        arena = self._take(self.threads)
        try:
            for n in range(samples // self.samples if self.batched else 1):
                whole = [a.reshape(-1).view(np.uint8)[n * stride :] for a, stride in zip((*arrays, *results), self._strides, strict=True)]
                for step in range(self._steps):
                    if step in segments:
                        self._segment(segments[step], arena, whole)
                    else:
                        self._call(None, arena, [a.ctypes.data for a in whole], 1, step, step + 1)
                    seen(step, arena)
        finally:
            self._give(arena)

    def _segment(self, segment: Segment, arena: np.ndarray, views: list[np.ndarray]) -> None:
        result = segment.function(*(read(arena, views, self._constants) for read in segment.reads))
        segment.write(arena, views, self._constants).copy_(result)

    def _call(self, pool: Any, arena: np.ndarray, places: list[int], calls: int, first: int, last: int) -> None:
        count = len(places)
        self._code.attar_run(
            pool,
            ctypes.c_void_p(arena.ctypes.data),
            ctypes.c_long(self.arena_bytes),
            ctypes.c_void_p(self._constants.ctypes.data),
            (ctypes.c_void_p * max(1, count))(*places),
            (ctypes.c_long * max(1, count))(*self._strides),
            ctypes.c_long(count),
            ctypes.c_long(calls),
            ctypes.c_long(first),
            ctypes.c_long(last),
        )

    def _take(self, count: int) -> np.ndarray:
        """Memory for the program's values, for `count` threads: kept between calls, one for each call at a time."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return aligned(np.zeros(count * self.arena_bytes, np.uint8))

    def _give(self, arena: np.ndarray) -> None:
        with self._lock:
            if not self._closed:
                self._free.append(arena)


class TorchEngine:
    """The network in PyTorch, called as an `Engine` is: what a machine without a C compiler gets. `reason` says why."""

    def __init__(self, program: nn.Module, reason: str) -> None:
        self.program, self.reason, self.report, self._closed = program.eval(), reason, None, False

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._closed:
            raise AttarError(CLOSED)
        arrays = not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs)))
        args, kwargs = pytree.tree_map_only(np.ndarray, torch.as_tensor, (args, kwargs))
        result = self.program(*args, **kwargs)
        return pytree.tree_map_only(Tensor, lambda t: t.numpy(), result) if arrays else result

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """After it, a call raises AttarError."""
        self._closed = True


def segments(program: Program) -> Iterator[Segment]:
    """The steps of a program that PyTorch runs."""
    for step, op in enumerate(program.ops):
        if isinstance(op, Torch):
            yield Segment(step, op.name, op.function, tuple(_view(value) for value in op.inputs), _view(op.output))


def _view(value: Array) -> Callable[..., Tensor]:
    """The array as a tensor over the memory of one call: (arena, arguments, constants) -> tensor."""
    dtype = np.dtype(value.dtype)

    def view(arena: np.ndarray, arguments: list[np.ndarray], constants: np.ndarray) -> Tensor:
        buffer = value.buffer
        if buffer.argument is not None:
            memory = arguments[buffer.argument]
        else:
            memory = (constants if buffer.data is not None else arena)[buffer.place :]
        whole = memory[: buffer.bytes].view(dtype)
        return torch.from_numpy(whole).as_strided(value.shape, value.strides, value.offset)

    return view
