"""What follows a convolution pixel by pixel (a sum with another map, an activation) becomes its epilogue; maps that are joined
are written where they belong."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from attar.compiler.ir import Buffer, LaneBuffer, Lanes, Op, Program
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.join import Join
from attar.compiler.kernels.lanes import MapLanes, Move

__all__ = ["fuse", "in_place"]


def fuse(program: Program) -> Program:
    """The program with every map over lanes that alone reads a convolution's output done by that convolution."""
    ops: list[Op] = list(program.ops)
    for position in range(len(ops)):
        op = ops[position]
        if not isinstance(op, MapLanes):
            continue
        if found := _producer(ops, position):
            before, convolution = found
            ops[position] = _joined(convolution, op)
            ops[before] = _GONE
        elif moved := _moved_after(ops, position):
            before, convolution, move = moved
            made = convolution.output
            ops[before] = _joined(convolution, dataclasses.replace(op, output=made, inputs=(made,) * len(op.inputs)))
            ops[ops.index(move)] = _GONE
            ops[position] = dataclasses.replace(move, output=op.output)
    return dataclasses.replace(program, ops=[op for op in ops if op is not _GONE])


_GONE = Op(None, ())


def _producer(ops: list[Op], position: int) -> tuple[int, Convolution] | None:
    """The last convolution before `position` whose whole output only the map there reads; None where it reads an array too."""
    op = ops[position]
    if not all(isinstance(value, Lanes) for value in op.inputs):
        return None
    buffers = {id(value.buffer) for value in op.inputs}
    for before in range(position - 1, -1, -1):
        made = ops[before]
        if made is _GONE or id(made.output.buffer) not in buffers:
            continue
        if isinstance(made, Convolution) and _only_reader(ops, op, made.output):
            return before, made
    return None


def _moved_after(ops: list[Op], position: int) -> tuple[int, Convolution, Move] | None:
    """The convolution before `position`, and the move of its pixels (phases of a transposed one) that only the map there reads.

    A sum with another map stays behind the move: before it, that map would have to be moved, too.
    """
    op = ops[position]
    move = next((made for made in ops[:position] if made is not _GONE and made.output.buffer is op.inputs[0].buffer), None)
    if type(move) is not Move or not isinstance(move.output, Lanes) or not isinstance(move.inputs[0], Lanes):
        return None
    moved = sum(part.channels * math.prod(line.count for line in part.lines) for part in move.parts)
    if any(value.buffer is not move.output.buffer for value in op.inputs) or moved != math.prod(move.output.shape):
        return None
    before = next(n for n, made in enumerate(ops) if made is not _GONE and made.output.buffer is move.inputs[0].buffer)
    made = ops[before]
    if isinstance(made, Convolution) and _only_reader(ops, op, move.output) and _only_reader(ops, move, made.output):
        return before, made, move
    return None


def _only_reader(ops: list[Op], op: Op, value: Lanes) -> bool:
    """Whether `op` reads all of the value, and nobody else any of it."""
    whole = all(v.channels == v.buffer.channels for v in op.inputs if v.buffer is value.buffer)
    return whole and _readers(ops, value) == 1


def _readers(ops: list[Op], value: Lanes) -> int:
    return sum(any(read.buffer is value.buffer for read in op.inputs) for op in ops)


def _joined(convolution: Convolution, op: MapLanes) -> Convolution:
    others = [value for value in op.inputs if value.buffer is not convolution.output.buffer]
    first = len(convolution.inputs) - 1  # {0} is the sum, {1} the first of the maps beside it
    names, n = [], first
    for value in op.inputs:
        if value.buffer is convolution.output.buffer:
            names.append(f"({convolution.epilogue})" if convolution.epilogue != "{0}" else "{0}")
        else:
            names.append(f"{{{n}}}")
            n += 1
    return dataclasses.replace(
        convolution, output=op.output, inputs=(*convolution.inputs, *others), epilogue=_named(op.expression).format(*names)
    )


# comparisons that have a name, which the convolution's kernel has for vectors too
_NAMES = (
    (r"(\{\d\}) < 0 \? 0 : \1", r"attar_reluf(\1)"),
    (r"(\{\d\}) > 0 \? \1 : \1 \* (\S+f)", r"attar_leakyf(\1, \2)"),
    (r"\(\((\{\d\}) < (\S+) \? \2 : \1\) > (\S+) \? \3 : \(\1 < \2 \? \2 : \1\)\)", r"attar_boundf(\1, \2, \3)"),
    (r"(\{\d\}) \* \(\1 < -3 \? 0 : \1 > 3 \? 6 : \1 \+ 3\) / 6", r"\1 * attar_boundf(\1 + 3.0f, 0.0f, 6.0f) / 6.0f"),
)


def _named(expression: str) -> str:
    """The expression, by its name where it has one.

    >>> _named("{0} < 0 ? 0 : {0}")
    'attar_reluf({0})'
    """
    for pattern, name in _NAMES:
        if re.fullmatch(pattern, expression):
            return re.sub(pattern, name, expression)
    return expression


def in_place(program: Program) -> Program:
    """The program in which maps that are joined are written to their channels of the joined map; what cannot be is copied there.

    A map has one place. Joins are placed last to first, so that what each layer of a DenseNet reads is a part of the block's
    last join. What reads shifted pixels of one of the maps makes all of the joined map planar.
    """
    writers: dict[Buffer, list[Op]] = {}
    for op in program.ops:
        writers.setdefault(op.output.buffer, []).append(op)
    homes: dict[Buffer, tuple[LaneBuffer, int]] = {}
    ops: list[Op] = []
    for op in reversed(program.ops):
        ops += reversed(_copies(op, homes, writers)) if isinstance(op, Join) else [op]
    return dataclasses.replace(program, ops=[_at_home(op, homes) for op in reversed(ops)])


def _copies(join: Join, homes: dict[Buffer, tuple[LaneBuffer, int]], writers: dict[Buffer, list[Op]]) -> list[Op]:
    """What is left of a join once its inputs have places."""
    places = [_home(value, homes) for value in join.inputs]
    end = [value.first + value.channels for value in places]
    along = all(a.buffer is b.buffer and stop == b.first for a, b, stop in zip(places, places[1:], end, strict=False))
    if along and join.output.buffer not in homes:
        homes[join.output.buffer] = places[0].buffer, places[0].first
        return []
    left: list[Op] = []
    for copy in join.copies:
        (source,), target = (_home(value, homes) for value in copy.inputs), _home(copy.output, homes)
        if source.buffer is target.buffer and source.first == target.first:
            continue
        if _movable(source, writers):
            homes[source.buffer] = target.buffer, target.first
        else:
            left.append(copy)
    return left


def _movable(value: Lanes, writers: dict[Buffer, list[Op]]) -> bool:
    """Whether it is a map of its own, which one op writes, with zeros around."""
    made = writers.get(value.buffer, [])
    return value.channels == value.buffer.channels and len(made) == 1 and not (isinstance(made[0], Move) and made[0].fill)


def _home(value: Any, homes: dict[Buffer, tuple[LaneBuffer, int]]) -> Any:
    """Where a value lies now."""
    while value.buffer in homes:
        buffer, start = homes[value.buffer]
        value = Lanes(buffer, value.channels, value.sizes, start + value.first)
    return value


def _at_home(op: Op, homes: dict[Buffer, tuple[LaneBuffer, int]]) -> Op:
    return dataclasses.replace(op, output=_home(op.output, homes), inputs=tuple(_home(value, homes) for value in op.inputs))
