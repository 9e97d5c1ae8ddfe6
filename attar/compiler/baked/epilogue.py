"""The ends of a function: where accumulators come from, and what becomes of them.

Instructions that read the stream hold their word, not yet its place, in `value`: threading (bake.py) takes it out again.
"""

import numpy as np
from numpy.typing import NDArray

from attar.compiler.baked.instructions import MASK, OUT, RESIDUAL, SCRATCH, STREAM, Kind, Program, insert, instruct, join
from attar.compiler.baked.layer import Layer

__all__ = ["PATTERN", "finish", "initialise"]

# Turns the bytes of four channels of four pixels into four pixels of four channels, in each 128 bits.
PATTERN = np.tile(np.arange(16, dtype=np.uint8).reshape(4, 4).T.ravel(), 4).view(np.uint32)

_LARGE = 65536.0  # beyond what any clamp lets through, and far from the ends of int32
_LOW, _HIGH = 30, 31  # registers of the bounds, once X is done with
_TERM, _RESIDUAL = 30, 31  # registers of a residual, at the same time
_CEILING = 29  # a uint8 output leaves 28 to 31 free


def _bits(number: float) -> int:
    return int(np.float32(number).view(np.int32))


def _places(layer: Layer, row: int, count: int, unit: int = 1) -> NDArray[np.int64]:
    """Displacements in `out` of channels from `row` on, `unit` to each."""
    return (row // unit + np.arange(count)) * layer.strides.out_channel


def _waiting(layer: Layer, row: int, rows: int) -> tuple[int, NDArray[np.int64]]:
    """Where sums wait between two chunks."""
    return (OUT, _places(layer, row, rows)) if layer.sums_fit_out else (SCRATCH, np.arange(rows) * 64)


def initialise(layer: Layer, row: int, rows: int, first: bool) -> Program:
    """Fill the accumulators: the bias (and a float32 layer's residual) before the first chunk, what the last left before the others."""
    registers = np.arange(rows)
    if not first:
        base, places = _waiting(layer, row, rows)
        return instruct(Kind.LOAD, reg=registers, base=base, value=places)
    parts = [instruct(Kind.BROADCAST, reg=registers, base=STREAM, value=layer.bias[row : row + rows])]
    if layer.epilogue.residual and layer.multiply is Kind.FMA:
        parts += _residual_of_floats(layer, row, rows)
    return join(parts)


def finish(layer: Layer, row: int, rows: int, last: bool) -> Program:
    """Store the accumulators: as they are between chunks, through the epilogue after the last."""
    registers, epilogue = np.arange(rows), layer.epilogue
    if not last:
        base, places = _waiting(layer, row, rows)
        return instruct(Kind.STORE, reg=registers, base=base, value=places)
    parts = [instruct(Kind.LOAD_MASK, base=MASK)] if epilogue.masked else []
    if epilogue.output == "uint8":
        return join([*parts, *_scale(layer, row, rows), *_to_bytes(layer, rows), _store_bytes(layer, row, rows)])
    if layer.multiply is Kind.DOT and epilogue.output == "float32":
        parts += _scale(layer, row, rows)
    parts += _clamp(layer, registers)
    return join([*parts, instruct(Kind.STORE, reg=registers, base=OUT, value=_places(layer, row, rows))])


def _clamp(layer: Layer, registers: NDArray[np.int64]) -> list[Program]:
    """low, high, and the mask on whichever comes last; NaN stays NaN, as in PyTorch."""
    epilogue = layer.epilogue
    bounds = [(Kind.MAX, _LOW, epilogue.low), (Kind.MIN, _HIGH, epilogue.high)]
    used = [(kind, held, bound) for kind, held, bound in bounds if bound is not None]
    parts = [instruct(Kind.BROADCAST, reg=held, base=STREAM, value=_bits(bound)) for _, held, bound in used]
    for number, (kind, held, _) in enumerate(used):
        masked = epilogue.masked and number == len(used) - 1
        parts.append(instruct(kind, reg=registers, source=held, base=registers, masked=masked))
    if epilogue.masked and not used:
        parts.append(instruct(Kind.MOVE, reg=registers, base=registers, masked=1))
    return parts


def _scale(layer: Layer, row: int, rows: int) -> list[Program]:
    """int32 sums to float32 times their scales, plus the residual."""
    registers = np.arange(rows)
    parts = [
        instruct(Kind.TO_FLOAT, reg=registers, base=registers),
        instruct(Kind.MULTIPLY, reg=registers, source=registers, base=STREAM, value=layer.scale[row : row + rows]),
    ]
    if layer.epilogue.residual:
        parts += (_residual_of_bytes if layer.epilogue.adds_bytes else _residual_of_floats)(layer, row, rows)
    return parts


def _residual_of_bytes(layer: Layer, row: int, rows: int) -> list[Program]:
    """The four bytes of each lane, as numbers, to their four channels."""
    epilogue, term = layer.epilogue, np.full(rows, _TERM)
    word, byte = np.divmod(row + np.arange(rows), 4)
    steps = [
        instruct(Kind.SHIFT_LEFT, reg=term, base=_RESIDUAL, value=24 - 8 * byte),
        instruct(Kind.SHIFT_RIGHT, reg=term, base=_TERM, value=24),
        instruct(Kind.TO_FLOAT, reg=term, base=_TERM),
        *_add_terms(rows, epilogue.residual_scale),
    ]
    if epilogue.residual_zero:
        steps.insert(2, instruct(Kind.ADD_INT, reg=term, source=_TERM, base=STREAM, value=-epilogue.residual_zero))
    first = np.flatnonzero(np.diff(word, prepend=-1))
    loads = instruct(Kind.LOAD, reg=np.full(first.size, _RESIDUAL), base=RESIDUAL, value=word[first] * layer.strides.residual[1])
    return [insert(_row_by_row(steps), first * len(steps), loads)]


def _residual_of_floats(layer: Layer, row: int, rows: int) -> list[Program]:
    """A residual of float32; what only fills a word has none."""
    registers = np.arange(min(rows, layer.outputs - row))
    places = (row + registers) * layer.strides.residual[1]
    if layer.epilogue.residual_scale == 1:
        return [instruct(Kind.ADD_FLOAT, reg=registers, source=registers, base=RESIDUAL, value=places)]
    load = instruct(Kind.LOAD, reg=np.full(registers.size, _TERM), base=RESIDUAL, value=places)
    return [_row_by_row([load, *_add_terms(registers.size, layer.epilogue.residual_scale)])]


def _add_terms(rows: int, scale: float) -> list[Program]:
    """Add to each row the term times the scale, the product rounded before it is added: a sum is a fused product with 1."""
    scaled = instruct(Kind.MULTIPLY, reg=np.full(rows, _TERM), source=_TERM, base=STREAM, value=_bits(scale))
    added = instruct(Kind.FMA, reg=np.arange(rows), source=_TERM, base=STREAM, value=_bits(1.0))
    return [added] if scale == 1 else [scaled, added]


def _row_by_row(steps: list[Program]) -> Program:
    """The first instruction of each step, then the second of each, and so on."""
    return np.stack(steps, 1).reshape(-1)


def _to_bytes(layer: Layer, rows: int) -> list[Program]:
    """float32 to whole numbers from `zero` on, then four registers of channels to one of pixels.

    Masked lanes become 0 before `zero` is added. Packing saturates, so only bounds inside 0..255 need an instruction.
    """
    registers, groups, epilogue = np.arange(rows), np.arange(0, rows, 4), layer.epilogue
    parts = []
    if layer.overflows:
        parts.append(instruct(Kind.BROADCAST, reg=_CEILING, base=STREAM, value=_bits(_LARGE)))
        parts.append(instruct(Kind.MIN, reg=registers, source=_CEILING, base=registers))
    parts.append(instruct(Kind.TO_INT, reg=registers, base=registers, masked=epilogue.masked))
    if epilogue.zero:
        parts.append(instruct(Kind.ADD_INT, reg=registers, source=registers, base=STREAM, value=epilogue.zero))
    parts.append(instruct(Kind.PACK_WORDS, reg=registers[::2], source=registers[::2], base=registers[1::2]))
    parts.append(instruct(Kind.PACK_BYTES, reg=groups, source=groups, base=groups + 2))
    parts.append(instruct(Kind.LOAD, reg=_HIGH, base=STREAM))
    parts.append(instruct(Kind.SHUFFLE, reg=groups, source=groups, base=_HIGH))
    for kind, held, bound, idle in ((Kind.MAX_BYTES, _LOW, epilogue.low, 0), (Kind.MIN_BYTES, _HIGH, epilogue.high, 255)):
        if bound is not None and bound != idle:
            every = int(np.uint32(int(bound) * 0x01010101).view(np.int32))
            parts.append(instruct(Kind.BROADCAST, reg=held, base=STREAM, value=every))
            parts.append(instruct(kind, reg=groups, source=groups, base=held))
    return parts


def _store_bytes(layer: Layer, row: int, rows: int) -> Program:
    return instruct(Kind.STORE, reg=np.arange(0, rows, 4), base=OUT, value=_places(layer, row, rows // 4, unit=4))
