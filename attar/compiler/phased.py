"""Strided ops whose channels stand alone: depthwise convolutions and pooling, whose phases are made a channel at a time.

The phases of a whole map are as large as the map, and leave for a far cache before they are read. One channel's fit the first
cache, where the op that reads them finds them: the map is read once, and nothing but the result is written.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attar.compiler.ir import Array, Buffer, LaneBuffer, Lanes, Op, Program, array
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.lanes import Move, Pool, channel_stride

__all__ = ["Phased", "phased"]

_THREADS = 16  # at most, which have memory for a channel's phases


@dataclass(frozen=True, eq=False)
class Phased(Op):
    """`move` and then `op`, channel by channel: both are those of one channel, whose phases lie in `memory`, a part for each thread."""

    move: Move
    op: Convolution | Pool
    channels: int
    memory: Array

    @classmethod
    def of(cls, move: Move, op: Convolution | Pool) -> Phased | None:
        """The two as one; None where a channel of the result takes more than the same channel's phases, or there is only one."""
        whole = op.inputs[0]
        channels = op.output.channels if isinstance(op, Pool) else len(op.channel)
        phases, rest = divmod(whole.channels, channels)
        if rest or whole.first or channels < 2:
            return None
        if any(part.start % channels or part.channels != channels or part.source for part in move.parts):
            return None
        buffer = LaneBuffer(whole.dtype, 0, channels=phases, space=whole.space, clean=True)
        buffer.settle()
        near = Lanes(buffer, phases, whole.sizes)
        if isinstance(op, Pool):
            one: Convolution | Pool = dataclasses.replace(op, inputs=(near,), apart=True)
        else:
            phase, own = np.divmod(op.channel, channels)
            if not op.separate or (own != np.arange(channels)[:, None]).any():
                return None
            one = dataclasses.replace(op, inputs=(near, *op.inputs[1:]), channel=phase)
        parts = tuple(dataclasses.replace(part, channels=1, start=part.start // channels) for part in move.parts)
        memory = array((min(_THREADS, channels), -(-buffer.size // 16) * 16), buffer.dtype)
        moved = Move(near, move.inputs, parts, move.fill)
        return cls(op.output, (*move.inputs, *op.inputs[1:]), moved, one, channels, memory)

    def __str__(self) -> str:
        return f"channel by channel, the phases of {list(self.inputs[0].shape)} and {self.op}"

    @property
    def outputs(self) -> tuple:
        return (self.output, self.memory)

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        return (*self.move.constants, *self.op.constants)

    def functions(self) -> dict[str, str]:
        return self.move.functions() | self.op.functions()

    def source(self, at: Callable[[Buffer], str]) -> str:
        threads, own = self.memory.shape
        x, near = self.move.inputs[0], self.move.output.buffer

        def own_phases(buffer: Buffer) -> str:
            return "near" if buffer is near else at(buffer)

        def own_channel(buffer: Buffer) -> str:
            return f"({at(buffer)} + channel * {channel_stride(x)})" if buffer is x.buffer else own_phases(buffer)

        return f"""const long threads = attar_mini(parts, {threads});  // no others have memory
if (part < threads) {{
    float *near = {at(self.memory.buffer)} + part * {own};
    const long begin = {self.channels} * part / threads, stop = {self.channels} * (part + 1) / threads;
    {{
        const long part = 0, parts = 1;
        {self.move.filled(own_channel)}
    }}
    for (long channel = begin; channel < stop; channel++) {{
        {{
            const long part = 0, parts = 1;
            {self.move.moved(own_channel)}
        }}
        const long p = channel, n = {self.channels}, first = 0, end = {self.output.space.tiles};
        {self.op.over_tiles(own_phases)}
    }}
}}"""


def phased(program: Program) -> Program:
    """The program, which is laid out, with a channel's phases made where they are read, wherever nothing else reads them."""
    readers = Counter(value.buffer for op in program.ops for value in op.inputs)
    makers = {op.output.buffer: op for op in program.ops if type(op) is Move}
    kept = {value.buffer for value in program.outputs}
    made: dict[int, Phased] = {}
    gone: set[int] = set()
    for op in program.ops:
        move = makers.get(op.inputs[0].buffer) if op.inputs else None
        if move is None or not isinstance(op, Convolution | Pool) or type(op) not in (Convolution, Pool):
            continue
        if readers[move.output.buffer] == 1 and move.output.buffer not in kept and (one := Phased.of(move, op)):
            made[id(op)] = one
            gone.add(id(move))
    return dataclasses.replace(program, ops=[made.get(id(op), op) for op in program.ops if id(op) not in gone])
