"""The compiler's own language: buffers, what is seen of them, and ops on them, with every size a plain number.

A tensor is an `Array`, a strided view of a buffer, so that permuting, slicing and expanding cost nothing; or it is `Lanes`,
a map with padded rows in which an output of a convolution is a sum of shifted inputs. An op is a frozen dataclass: it
reads its `inputs`, writes its one `output`, and a file of `kernels/` says it in C. `check` holds a program to the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from attar.errors import AttarError

__all__ = [
    "C_TYPES", "LINE", "Array", "Buffer", "LaneBuffer", "Lanes", "Op", "Program", "Space",
    "aligned", "array", "check", "constant", "contiguous", "lanes", "live",
]  # fmt: skip

LINE = 64  # bytes of a line of the cache; memory of the program begins at one

# NumPy's name of a type -> C's; booleans are bytes that hold 0 or 1
C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int64": "int64_t",
    "int32": "int32_t",
    "int16": "int16_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "bool": "uint8_t",
}


@dataclass(eq=False)
class Buffer:
    """Memory of one tensor: `size` elements; a constant's `data`, or the position of an argument, or a place in the arena.

    `place` is where it lies, in bytes from the start of the arena or of the constants; `plan` sets it.
    """

    dtype: str
    size: int
    data: np.ndarray | None = None
    argument: int | None = None
    place: int | None = None

    @property
    def bytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, eq=False)
class Array:
    """A strided view of a buffer: element (i, j, ...) lies at `offset + i * strides[0] + j * strides[1] + ...`."""

    buffer: Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def dtype(self) -> str:
        return self.buffer.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def data(self) -> np.ndarray | None:
        """The values, where they are known when the program is built."""
        if self.buffer.data is None:
            return None
        flat = self.buffer.data.reshape(-1)
        strides = [s * flat.itemsize for s in self.strides]
        return (
            np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
            if self.size
            else np.empty(self.shape, flat.dtype)
        )

    @property
    def known(self) -> np.ndarray:
        """The values of a constant; raises AttarError for what is computed only when the program runs."""
        if self.data is None:
            raise AttarError(f"the compiler needs the values of an array {list(self.shape)} that is computed")
        return self.data

    @property
    def dense(self) -> bool:
        """Whether it is all of its buffer in row-major order."""
        return self.offset == 0 and self.strides == contiguous(self.shape) and self.size == self.buffer.size


@dataclass(eq=False)
class Space:
    """The pixels of maps that share an order: `sizes` (samples, ..., height, width), each kept with a pitch of its own.

    Pixel (n, y, x) has number (n * pitch[1] + y) * pitch[2] + x. What lies between a size and its pitch is padding, shared
    by the end of one row and the start of the next. Maps that are added to one another, or of which one is computed from
    the other pixel by pixel, share a space: `merge` makes two spaces one. Kernels compute `tile` pixels at a time.

    `lanes` and `registers` are the target's: floats in a vector, vectors at hand.

    `reach` collects, for each dimension, (size read, size written, least shift, largest shift) of what reads shifted pixels.
    `plan` derives the rest from it: padding of `before` and `after` pixels is read for the pixels that are written, and
    `beyond` is how far ahead anything is read, for the rest of the last tile too.
    """

    sizes: tuple[int, ...]
    reach: list[tuple[tuple[int, int, int, int], ...]] = field(default_factory=list)
    pitch: tuple[int, ...] = ()
    before: int = 0
    after: int = 0
    beyond: int = 0
    tile: int = 0
    lanes: int = 0
    registers: int = 0
    _parent: Space | None = None

    @property
    def root(self) -> Space:
        space = self
        while space._parent is not None:
            space = space._parent
        return space

    def merge(self, other: Space) -> None:
        one, two = self.root, other.root
        if one is not two:
            one.sizes = tuple(max(a, b) for a, b in zip(one.sizes, two.sizes, strict=True))
            one.reach += two.reach
            two._parent = one

    @property
    def steps(self) -> tuple[int, ...]:
        """The distance between neighbours of each dimension, in pixels."""
        return tuple(math.prod(self.pitch[d + 1 :]) for d in range(len(self.pitch)))

    @property
    def span(self) -> int:
        """The number of the last pixel, and one."""
        return 1 + sum((n - 1) * step for n, step in zip(self.sizes, self.steps, strict=True))

    @property
    def tiles(self) -> int:
        return -(-self.span // self.tile)

    @property
    def channel(self) -> int:
        """The distance of channels in a planar map: an odd number of lines of 64 bytes, lest channels fall on one set of the cache."""
        lines = -(-max(self.tiles * self.tile, self.span + max(self.before, self.after)) // 16)
        return 16 * (lines | 1)


@dataclass(eq=False)
class LaneBuffer(Buffer):
    """Memory of a map in lanes, planar or tiled.

    Planar: pixel p of channel c lies at `before + c * space.channel + p`, with padding on either side of each channel.
    Tiled: at `((p // tile) * channels + c) * tile + p % tile`; a tile of all channels lies together, and stays in a cache.
    `clean` says that what is no pixel must be zero: a reader takes it for the padding.
    """

    channels: int = 0
    space: Space = field(default_factory=lambda: Space(()))
    tiled: bool = False
    clean: bool = False

    def settle(self) -> None:
        """Fix the size, once the space is planned."""
        space = self.space.root
        if self.tiled:
            self.size = space.tiles * self.channels * space.tile
        else:
            self.size = space.before + self.channels * space.channel + space.beyond


@dataclass(frozen=True, eq=False)
class Lanes:
    """A map (samples, channels, ...) in lanes: `channels` of its buffer's, from `first` on; `sizes` may be below the space's."""

    buffer: LaneBuffer
    channels: int
    sizes: tuple[int, ...]
    first: int = 0

    @property
    def space(self) -> Space:
        return self.buffer.space.root

    @property
    def dtype(self) -> str:
        return self.buffer.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.sizes[0], self.channels, *self.sizes[1:])

    @property
    def channel_stride(self) -> int:
        return self.space.tile if self.buffer.tiled else self.space.channel

    @property
    def tile_stride(self) -> int:
        return self.space.tile * (self.buffer.channels if self.buffer.tiled else 1)

    @property
    def offset(self) -> int:
        """Where its first pixel lies in the buffer."""
        return self.first * self.channel_stride + (0 if self.buffer.tiled else self.space.before)

    def at(self, pixel: np.ndarray) -> np.ndarray:
        """Where the pixels of these numbers lie, from `offset`."""
        return pixel // self.space.tile * self.tile_stride + pixel % self.space.tile

    @cached_property
    def padding(self) -> tuple[Array, Array]:
        """What is no pixel of a channel: runs (offset, length), none across tiles, and the index of each tile's first run."""
        return self.outside(self.at(self.pixels().reshape(-1)))

    def outside(self, offsets: np.ndarray) -> tuple[Array, Array]:
        """Runs (offset, length) of a channel without these offsets, and the index of each tile's first run.

        The last tile's runs reach to the next channel, so that the padding after a planar channel is among them.
        """
        space = self.space
        numbers = np.arange(space.tiles * space.tile if self.buffer.tiled else space.channel)
        tile = np.minimum(numbers // space.tile, space.tiles - 1)
        places = self.at(numbers) if self.buffer.tiled else numbers
        free = ~np.isin(places, offsets)
        places, tile = places[free], tile[free]
        starts = np.flatnonzero(np.concatenate([[True], (np.diff(places) != 1) | (np.diff(tile) != 0)])) if places.size else places
        runs = np.stack([places[starts], np.diff(np.concatenate([starts, [places.size]]))], 1)
        index = np.searchsorted(tile[starts], np.arange(space.tiles + 1))
        return constant(runs.astype(np.int32)), constant(index.astype(np.int32))

    def pixels(self) -> np.ndarray:
        """The numbers of its pixels, in row-major order, shape `sizes`."""
        numbers = np.zeros((), np.int64)
        for n, step in zip(self.sizes, self.space.steps, strict=True):
            numbers = numbers[..., None] + np.arange(n) * step
        return numbers


@dataclass(frozen=True, eq=False)
class Op:
    """One step: what it reads and what it writes. Subclasses, beside their kernels, say what it does."""

    output: Any
    inputs: tuple[Any, ...]

    @property
    def outputs(self) -> tuple[Any, ...]:
        """All that it writes: its output, and what ops inside of it write."""
        return (self.output,)

    @property
    def overwrites(self) -> tuple[tuple[Any, Any], ...]:
        """Maps (written, read) that may lie in one place, where they are laid out alike and nothing reads the second afterwards:
        each pixel of it is read before the same pixel of the first is written."""
        return ()

    @property
    def shifted(self) -> bool:
        """Whether it reads pixels of its lanes other than the ones that it writes: they must be planar and clean."""
        return False

    @property
    def reads_padding(self) -> bool:
        """Whether what is no pixel of its lanes must be zero."""
        return False

    @property
    def reads(self) -> tuple[int, int]:
        """Of an op that reads shifted lanes: the least and the largest offset from a pixel to what is read for it, over all channels."""
        raise NotImplementedError(type(self).__name__)

    @property
    def constants(self) -> tuple[Buffer, ...]:
        """What it reads besides its inputs, laid out for its kernel; known once the program is planned."""
        return ()

    def functions(self) -> dict[str, str]:
        """C functions that it calls: name -> text. Ops that share a name share the text, which is emitted once."""
        return {}

    def code(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Machine code that it calls: name -> (bytes, where each function begins), shared as above; C calls them name_0, name_1 ..."""
        return {}

    def listing(self) -> str:
        """That machine code as assembly text, for people."""
        return ""

    def source(self, at: Callable[[Buffer], str]) -> str:
        """The body of a C function: `at(buffer)` is a pointer to its first element, `part` of `parts` is this thread's share."""
        raise NotImplementedError(type(self).__name__)

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {' '.join(str(list(i.shape)) for i in self.inputs)} -> {list(self.output.shape)}"


@dataclass
class Program:
    """Ops in order; `inputs` and `outputs` are dense arrays whose buffers are arguments, numbered inputs first."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    ops: list[Op]
    notes: list[str] = field(default_factory=list)

    def buffers(self) -> Iterator[Buffer]:
        """Each buffer that ops read or write, once, in the order of first use; not the tables of kernels."""
        seen: set[int] = set()
        for op in self.ops:
            for buffer in (value.buffer for value in (*op.inputs, *op.outputs)):
                if id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield buffer


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a row-major array.

    >>> contiguous((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def array(shape: tuple[int, ...], dtype: str, **buffer: Any) -> Array:
    """A dense array on a buffer of its own."""
    shape = tuple(int(n) for n in shape)
    return Array(Buffer(dtype, math.prod(shape), **buffer), shape, contiguous(shape))


def constant(data: np.ndarray) -> Array:
    """A dense array of known values."""
    data = np.ascontiguousarray(data)
    return array(data.shape, str(data.dtype), data=data)


def lanes(channels: int, sizes: tuple[int, ...], space: Space, dtype: str = "float32") -> Lanes:
    """A map in lanes on a buffer of its own, in `space`."""
    return Lanes(LaneBuffer(dtype, 0, channels=channels, space=space), channels, tuple(sizes))


def live(ops: Sequence[Op], outputs: Iterable[Array | Lanes]) -> list[Op]:
    """The ops whose outputs somebody reads, `outputs` being read."""
    needed = {value.buffer for value in outputs}
    kept = []
    for op in reversed(ops):
        if op.output.buffer in needed:
            kept.append(op)
            needed |= {value.buffer for value in op.inputs}
    return kept[::-1]


def check(program: Program) -> None:
    """Raise AttarError unless each op reads what was written before it, within its buffer, and writes no constant, and each
    channel of a map is written once.

    Where lanes lie is known once the program is laid out; before, it is not checked.
    """
    written = {a.buffer: {0} for a in program.inputs}
    for op in program.ops:
        for position, value in enumerate(op.inputs):
            if value.buffer.data is None and not written.get(value.buffer, set()).issuperset(_channels(value)):
                raise AttarError(f"the compiled program reads what nobody wrote: {op}")
            _within(value, op, shifted=op.shifted and position == 0)
        _within(op.output, op)
        if op.output.buffer.data is not None:
            raise AttarError(f"the compiled program writes a constant: {op}")
        before = written.setdefault(op.output.buffer, set())
        if isinstance(op.output, Lanes) and not before.isdisjoint(_channels(op.output)):
            raise AttarError(f"the compiled program writes channels of a map twice: {op}")
        before.update(_channels(op.output))
    missing = [a for a in program.outputs if a.buffer not in written]
    if missing:
        raise AttarError(f"the compiled program leaves {len(missing)} of its outputs unwritten")


def _channels(value: Array | Lanes) -> range:
    """The channels of a map in its buffer, which several ops may write; an array counts as one."""
    return range(value.first, value.first + value.channels) if isinstance(value, Lanes) else range(1)


def _within(value: Array | Lanes, op: Op, *, shifted: bool = False) -> None:
    if value.buffer.dtype not in C_TYPES:
        raise AttarError(f"the compiler has no type {value.buffer.dtype}: {op}")
    if isinstance(value, Array) and value.size:
        low = sum(min(0, s * (n - 1)) for n, s in zip(value.shape, value.strides, strict=True))
        high = sum(max(0, s * (n - 1)) for n, s in zip(value.shape, value.strides, strict=True))
    elif isinstance(value, Lanes) and value.space.tile:
        low, high = op.reads if shifted else (0, (value.channels - 1) * value.channel_stride)
        high += (value.space.tiles - 1) * value.tile_stride + value.space.tile - 1
        if value.buffer.size >= 2**31:
            raise AttarError(f"a map of {value.buffer.size} numbers is too large for the compiler, whose offsets have 32 bits: {op}")
    else:
        return
    if value.offset + low < 0 or value.offset + high >= value.buffer.size:
        raise AttarError(f"the compiled program reaches outside of a buffer: {op}")


def aligned(block: np.ndarray) -> np.ndarray:
    """The bytes at the start of a line of the cache."""
    if block.ctypes.data % LINE == 0:
        return block
    raw = np.zeros(block.size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    raw[start : start + block.size] = block
    return raw[start : start + block.size]
