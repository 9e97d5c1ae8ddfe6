"""Ops that hand tiles to one another: each tile goes through all of them while it is in a near cache.

A convolution whose pixels need no neighbours (1x1), or an element-wise op, can follow as soon as a tile is there. So the output
of a convolution, the sum with a shortcut and the next 1x1 convolution become one step, and a large map never leaves for memory
between them. The factors of a decomposed layer meet in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from attar.compiler.choose import Choice, Variant, times
from attar.compiler.ir import Buffer, Op, Program
from attar.compiler.kernels.lanes import ByTiles
from attar.compiler.target import Target

__all__ = ["Chain", "chained"]

_FAR = 256 << 10  # bytes of a map from which handing it over tile by tile gains
_NEAR = 256 << 10  # bytes of maps that a group of tiles takes in the second cache
_GAIN = 0.97  # of the time apart that a chain may take: less gain is noise
_WAYS = ("apart", "chain")
_TILES = 8  # threads share the tiles of a chain, and nothing else


@dataclass(frozen=True, eq=False)
class Chain(Op):
    """`ops` in order, for a group of tiles at a time."""

    ops: tuple[ByTiles, ...]

    def __str__(self) -> str:
        return "a chain of " + "; ".join(map(str, self.ops))

    @classmethod
    def of(cls, run: Sequence[Any]) -> Chain:
        """The chain of ops of which each takes what others before it make."""
        written = {op.output.buffer for op in run}
        inputs = tuple(value for op in run for value in op.inputs if value.buffer not in written)
        return cls(run[-1].output, inputs, tuple(run))

    @property
    def outputs(self) -> tuple:
        return tuple(op.output for op in self.ops)

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        return tuple(buffer for op in self.ops for buffer in op.constants)

    def functions(self) -> dict[str, str]:
        return {name: text for op in self.ops for name, text in op.functions().items()}

    def code(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: code for op in self.ops for name, code in op.code().items()}

    def listing(self) -> str:
        return "\n".join(text for text in (op.listing() for op in self.ops) if text)

    @property
    def group(self) -> int:
        """Tiles of a group."""
        tile = sum(4 * op.output.space.tile * op.output.channels for op in self.ops[:-1])
        return max(1, _NEAR // tile)

    def source(self, at: Callable[[Buffer], str]) -> str:
        tiles = self.output.space.tiles
        body = "\n".join(f"    {{  // {op}\n{op.over_tiles(at)}\n    }}" for op in self.ops)
        return f"""const long last = {tiles} * (part + 1) / parts, p = 0, n = 1;
for (long first = {tiles} * part / parts, end; first < last; first = end) {{
    end = attar_mini(first + {self.group}, last);
{body}
}}"""


def chained(program: Program, target: Target, known: Sequence[dict] | None = None) -> tuple[Program, list[Choice]]:
    """The program, which is laid out, with chains wherever a large map goes from one op to the next and a chain is faster here.

    Also what was measured; `known` are the choices of an earlier run.
    """
    runs = _runs(program.ops)
    keys = [tuple((str(op), op.shifted) for op in run) for run in runs]
    links = {key: Chain.of(run) for key, run in zip(keys, runs, strict=True) if len(run) > 1}
    if known is not None:
        taken = {one["op"]: one["kernel"] for one in known if one["kernel"] in _WAYS}
        faster = {key for key, link in links.items() if taken[str(link)] == "chain"}
        seconds = {}
    else:
        ways = [[Variant("apart", link.ops), Variant("chain", (link,))] for link in links.values()]
        seconds = dict(zip(links, times(ways, program, target) if ways else [], strict=True))
        faster = {key for key, (apart, chain) in seconds.items() if chain < _GAIN * apart}
    ops = [op for key, run in zip(keys, runs, strict=True) for op in ((Chain.of(run),) if key in faster else run)]
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
