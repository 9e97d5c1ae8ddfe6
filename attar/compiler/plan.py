"""Where everything lies: the order of pixels in each map, planar or tiled maps, one arena, one block of constants."""

from collections.abc import Mapping, Sequence

import numpy as np

from attar.compiler.ir import LINE, Array, Buffer, LaneBuffer, Lanes, Op, Program, Space
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.taps import linear, widths
from attar.compiler.target import Target

__all__ = ["Memory", "fit", "homes", "lay_out", "place"]


_MOST_VECTORS = 9  # of a tile: more falls out of the first cache


class Memory:
    """Sizes in bytes of the arena and of the constants, and the constants' bytes."""

    def __init__(self, arena: int, constants: np.ndarray) -> None:
        self.arena = arena
        self.constants = constants


def lay_out(program: Program, target: Target) -> None:
    """Fix the pixels of every map: pitches and tiles for `target`, planar or tiled."""
    maps = [b for b in program.buffers() if isinstance(b, LaneBuffer)]
    made: dict[Space, list[Convolution]] = {}
    for op in program.ops:
        if isinstance(op, Convolution):
            made.setdefault(op.output.space, []).append(op)
    for space in dict.fromkeys(b.space.root for b in maps):
        _settle(space, target, made.get(space, []))
    _layouts(program.ops, maps)
    for buffer in maps:
        buffer.settle()


def place(program: Program, *, over: bool = True) -> Memory:
    """Fix where each buffer of a program that is laid out lies; where `over`, outputs take the places of inputs that are done with."""
    return Memory(_arena(program, homes(program) if over else {}), _constants(program))


def _settle(space: Space, target: Target, made: Sequence[Convolution]) -> None:
    """The pitch that keeps what is read beyond an edge in the padding, and the tile that costs least."""
    space.lanes, space.registers = target.lanes, target.registers
    dims = range(len(space.sizes))
    # pixels read before the first and after the last along each dimension, and how far ahead
    edges = [[(max(0, -low), max(0, written + high - read), max(0, high)) for read, written, low, high in one] for one in space.reach]
    pitch = list(space.sizes)
    for one, edge in zip(space.reach, edges, strict=True):
        for d in dims[1:]:
            pitch[d] = max(pitch[d], one[d][0] + max(edge[d][:2]), one[d][1])
    space.pitch = tuple(pitch)
    steps = space.steps
    space.before, space.after, space.beyond = (
        max((sum(edge[d][kind] * steps[d] for d in dims) for edge in edges), default=0) for kind in range(3)
    )
    kept = sum(np.count_nonzero(op.weight) for op in made) / max(1, sum(op.weight.size for op in made))
    coded = target.runs_baked and bool(made) and all(linear(op.epilogue, len(op.inputs) - 2) and not op.separate for op in made)
    cost = _cost_of_blocks if kept > 0.5 else _cost_of_code if coded else _cost_of_stream
    vectors = min(range(1, _MOST_VECTORS + 1), key=lambda n: (-(-space.span // (n * target.lanes)) * cost(n, target.registers), -n))
    space.tile = vectors * target.lanes


def _cost_of_stream(vectors: int, registers: int) -> float:  # noqa: ARG001
    """Of a tile: loads for each weight, which are the vectors, the weight and its place; long tiles leave the first cache."""
    return vectors + 2 if vectors <= 8 else np.inf


def _cost_of_code(vectors: int, registers: int) -> float:  # noqa: ARG001
    """Of a tile, for baked code, which takes vectors one by one: the channels of a tiled map lie a tile apart, and fall into few sets
    of the first cache where that is a multiple of a power of two; what moves pixels begins anew with each tile."""
    return vectors * (1 + 0.02 * (vectors & -vectors)) + 0.2


def _cost_of_blocks(vectors: int, registers: int) -> float:
    """Of a tile: products of blocks of 4, in passes; with fewer than 12 sums under way the units wait for
    one another, and the weights come anew for each tile."""
    return 1 + sum(max(width * 4, 5 + width * 2.1) for width in widths(vectors, 4, registers))


def _layouts(ops: list[Op], maps: list[LaneBuffer]) -> None:
    """A map is tiled unless something reads it shifted; it is clean where its padding is read."""
    planar, clean = set(), set()
    for op in ops:
        for value in op.inputs:
            if isinstance(value, Lanes):
                if op.shifted:
                    planar.add(id(value.buffer))
                if op.shifted or op.reads_padding:
                    clean.add(id(value.buffer))
    for buffer in maps:
        buffer.tiled = id(buffer) not in planar
        buffer.clean = id(buffer) in clean


def _arena(program: Program, home: Mapping[Buffer, Buffer]) -> int:
    """Give every buffer that lives while the program runs a place, shared by those that never live together; the arena's bytes.

    Buffers that have a home lie where that does.
    """
    lives: dict[Buffer, list[int]] = {}
    for buffer, (first, last) in _lives(program).items():
        if buffer.data is None and buffer.argument is None:
            lives.setdefault(home.get(buffer, buffer), [first, last])[1] = last
    places, total = fit([(first, last, _rounded(buffer.bytes)) for buffer, (first, last) in lives.items()])
    for buffer, start in zip(lives, places, strict=True):
        buffer.place = start
    for buffer, other in home.items():
        buffer.place = other.place
    return total


def homes(program: Program) -> dict[Buffer, Buffer]:
    """For each map that may lie where a map lies that an op reads last while it writes the first: that map, or where it lies itself."""
    lives = _lives(program)
    found: dict[Buffer, Buffer] = {}
    for step, op in enumerate(program.ops):
        touched = [value.buffer for value in (*op.inputs, *op.outputs)]
        for written, read in op.overwrites:
            alone = touched.count(written.buffer) == touched.count(read.buffer) == 1  # ops beside it in a chain may read neighbours
            if alone and _alike(written, read) and lives[written.buffer][0] == step == lives[read.buffer][1]:
                found[written.buffer] = found.get(read.buffer, read.buffer)
    return found


def _lives(program: Program) -> dict[Buffer, tuple[int, int]]:
    """The first and the last step that touches each buffer, in the order of the first."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for step, op in enumerate(program.ops):
        for value in (*op.inputs, *op.outputs):
            lives[value.buffer] = lives.get(value.buffer, (step, step))[0], step
    return lives


def _alike(one: Array | Lanes, two: Array | Lanes) -> bool:
    """Whether two maps are the whole of buffers that are laid out alike."""
    if not (isinstance(one, Lanes) and isinstance(two, Lanes)) or one.space is not two.space:
        return False
    about = {(v.dtype, v.channels, v.buffer.channels, v.buffer.tiled) for v in (one, two)}
    return len(about) == 1 and one.channels == one.buffer.channels


def fit(lives: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """A place for each (first step, last step, size), so that what lives at the same time lies apart; and where the last one ends.

    >>> fit([(0, 1, 10), (1, 2, 20), (2, 3, 10)])
    ([20, 0, 20], 30)
    """
    placed: list[tuple[int, int, int, int]] = []  # (first step, last step, start, end)
    places = [0] * len(lives)
    for number in sorted(range(len(lives)), key=lambda n: -lives[n][2]):
        first, last, size = lives[number]
        start = 0
        for low, high in sorted((a, b) for f, l, a, b in placed if f <= last and l >= first):  # noqa: E741
            if start + size <= low:
                break
            start = max(start, high)
        places[number] = start
        placed.append((first, last, start, start + size))
    return places, max((end for *_, end in placed), default=0)


def _constants(program: Program) -> np.ndarray:
    """All constants in one block; a buffer's place is its offset."""
    used = [b for b in program.buffers() if b.data is not None]
    held = list({id(b): b for b in (*used, *(b for op in program.ops for b in op.constants))}.values())
    total = 0
    for buffer in held:
        buffer.place = total
        total += _rounded(buffer.bytes)
    block = np.zeros(total, np.uint8)
    for buffer in held:
        raw = np.ascontiguousarray(buffer.data).reshape(-1).view(np.uint8)
        start = buffer.place or 0
        block[start : start + raw.size] = raw
    return block


def _rounded(size: int) -> int:
    return -(-size // LINE) * LINE
