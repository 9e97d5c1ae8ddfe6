"""Ops that hand tiles to one another: each tile goes through all of them while it is in a near cache.

A convolution whose pixels need no neighbours (1x1), or an element-wise op, can follow as soon as a tile is there. So the output
of a convolution, the sum with a shortcut and the next 1x1 convolution become one step, and a large map never leaves for memory
between them. The factors of a decomposed layer meet in the same way.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from attar.compiler.choose import Choice, Variant, times
from attar.compiler.ir import C_TYPES, LINE, Array, Buffer, LaneBuffer, Op, Program, array
from attar.compiler.kernels.lanes import ByTiles
from attar.compiler.plan import fit
from attar.compiler.target import Target

__all__ = ["Chain", "chained"]

_FAR = 256 << 10  # bytes of a map from which handing it over tile by tile gains
_NEAR = 256 << 10  # bytes of maps that a group of tiles takes in the second cache
_GAIN = 0.97  # of the time apart that a chain may take: less gain is noise
_WAYS = ("apart", "chain")
_TILES = 8  # threads share the tiles of a chain, and nothing else
_THREADS = 16  # at most, which have memory for maps that pass


@dataclass(frozen=True, eq=False)
class Chain(Op):
    """`ops` in order, for a group of tiles at a time.

    Maps that only these ops touch, `passing` in order, never leave the cache: a group's tiles of them lie in `memory`, of which
    each thread has a part, one map over another where they do not live at once.
    """

    ops: tuple[ByTiles, ...]
    passing: tuple[tuple[LaneBuffer, int], ...]
    group: int
    memory: Array

    def __str__(self) -> str:
        return "a chain of " + "; ".join(map(str, self.ops))

    @classmethod
    def of(cls, run: Sequence[Any], shared: Container[Buffer]) -> Chain:
        """The chain of ops of which each takes what others before it make; `shared` is what ops outside of it touch, too."""
        inputs = tuple(value for op in run for value in op.inputs if value.buffer not in {one.output.buffer for one in run})
        lives: dict[LaneBuffer, list[int]] = {}
        for step, op in enumerate(run):
            for value in (op.output, *op.inputs):
                if isinstance(value.buffer, LaneBuffer) and value.buffer.tiled and value.buffer not in shared:
                    lives.setdefault(value.buffer, [step, step])[1] = step
        space = run[-1].output.space

        def fitted(tiles: int) -> tuple[list[int], int]:
            bytes_each = [tiles * space.tile * buffer.channels * np.dtype(buffer.dtype).itemsize for buffer in lives]
            return fit([(first, last, -(-size // LINE) * LINE) for (first, last), size in zip(lives.values(), bytes_each, strict=True)])

        group = min(space.tiles, max(1, _NEAR // max(1, fitted(1)[1])))
        places, total = fitted(group)
        memory = array((min(_THREADS, -(-space.tiles // group)), total), "uint8")
        return cls(run[-1].output, inputs, tuple(run), tuple(zip(lives, places, strict=True)), group, memory)

    @property
    def outputs(self) -> tuple:
        passing = {buffer for buffer, _ in self.passing}
        return (*(op.output for op in self.ops if op.output.buffer not in passing), self.memory)

    @property
    def overwrites(self) -> tuple[tuple[Any, Any], ...]:
        return tuple(pair for op in self.ops for pair in op.overwrites)

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        return tuple(buffer for op in self.ops for buffer in op.constants)

    def functions(self) -> dict[str, str]:
        return {name: text for op in self.ops for name, text in op.functions().items()}

    def code(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: code for op in self.ops for name, code in op.code().items()}

    def listing(self) -> str:
        return "\n".join(text for text in (op.listing() for op in self.ops) if text)

    def source(self, at: Callable[[Buffer], str]) -> str:
        threads, own = self.memory.shape
        tiles = self.output.space.tiles
        places = {buffer: (place, self.output.space.tile * buffer.channels) for buffer, place in self.passing}

        def near(buffer: Buffer) -> str:
            """As `at`, for a map of which a thread's memory holds the tiles from `first` on."""
            if buffer not in places:
                return at(buffer)
            place, stride = places[buffer]
            return f"(({C_TYPES[buffer.dtype]} *)({at(self.memory.buffer)} + part * {own} + {place}) - first * {stride})"

        body = "\n".join(f"    {{  // {op}\n{op.over_tiles(near)}\n    }}" for op in self.ops)
        return f"""const long threads = attar_mini(parts, {threads}), p = 0, n = 1;  // no others have memory
const long last = {tiles} * attar_mini(part + 1, threads) / threads;
for (long first = {tiles} * attar_mini(part, threads) / threads, end; first < last; first = end) {{
    end = attar_mini(first + {self.group}, last);
{body}
}}"""


def chained(program: Program, target: Target, known: Sequence[dict] | None = None) -> tuple[Program, list[Choice]]:
    """The program, which is laid out, with chains wherever a large map goes from one op to the next and a chain is faster here.

    Also what was measured; `known` are the choices of an earlier run.
    """
    runs = _runs(program.ops)
    keys = [tuple((str(op), op.shifted) for op in run) for run in runs]
    touched = Counter(buffer for run in runs for buffer in {value.buffer for op in run for value in (*op.inputs, *op.outputs)})
    shared = {buffer for buffer, count in touched.items() if count > 1} | {value.buffer for value in program.outputs}
    links = {key: Chain.of(run, shared) for key, run in zip(keys, runs, strict=True) if len(run) > 1}
    if known is not None:
        taken = {one["op"]: one["kernel"] for one in known if one["kernel"] in _WAYS}
        faster = {key for key, link in links.items() if taken[str(link)] == "chain"}
        seconds = {}
    else:
        ways = [[Variant("apart", link.ops), Variant("chain", (link,))] for link in links.values()]
        seconds = dict(zip(links, times(ways, program, target) if ways else [], strict=True))
        faster = {key for key, (apart, chain) in seconds.items() if chain < _GAIN * apart}
    ops = [op for key, run in zip(keys, runs, strict=True) for op in ((Chain.of(run, shared),) if key in faster else run)]
    choices = [Choice(str(links[key]), _WAYS[key in faster], dict(zip(_WAYS, pair, strict=True))) for key, pair in seconds.items()]
    return dataclasses.replace(program, ops=ops), choices


def _runs(ops: Sequence[Op]) -> list[list[Op]]:
    """The ops in order, those that can be a chain together."""
    runs: list[list[Op]] = []
    for op in ops:
        if runs and _follows(runs[-1], op):
            runs[-1].append(op)
        else:
            runs.append([op])
    return runs


def _follows(run: Sequence[Op], op: Op) -> bool:
    """Whether an op goes over the same tiles, takes a large map from the run, and needs no neighbours of what the run makes."""
    if not (isinstance(op, ByTiles) and isinstance(run[-1], ByTiles)):
        return False
    space, written = run[-1].output.space, {one.output.buffer for one in run}
    taken = [value.buffer for value in op.inputs if value.buffer in written]
    near = not (op.shifted and op.inputs[0].buffer in written)
    return near and op.output.space is space and space.tiles >= _TILES and any(4 * buffer.size >= _FAR for buffer in taken)
