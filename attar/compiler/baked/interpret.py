"""What a program means, by NumPy, on any machine: bit for bit what the processor computes, out-of-range accesses refused.

All tiles go through an instruction together. That is exact because no tile reads what another writes: `x` is only read, and the strides
keep the tiles of what is written apart. A fused multiply-add is rounded once, by way of float64 rounded to odd (Boldo and Melquiond,
"Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008); a reference that rounds the product
first, or sums in another order, differs from it in the last bits, so compare those by tolerance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.compiler.baked.instructions import (
    MASK,
    OUT,
    POINTERS,
    RESIDUAL,
    SCRATCH,
    STREAM,
    TABLE,
    Kind,
    Program,
    X,
    check,
)
from attar.compiler.baked.layer import LANES, Baked

__all__ = ["Address", "call", "fma", "interpret"]

Address = tuple[NDArray[Any], int]  # an array, and the byte of it that a pointer points at
Lanes = NDArray[np.uint32]  # (tiles, 16)


def fma(first: NDArray[np.float32], second: NDArray[np.float32], third: NDArray[np.float32]) -> NDArray[np.float32]:
    """first * second + third, rounded once.

    >>> tiny = np.float32(2**-12)
    >>> one = np.ones(1, np.float32)
    >>> float(fma(one + tiny, one + tiny, -one * (1 + 2 * tiny))[0]) == 2**-24
    True
    """
    product = first.astype(np.float64) * second  # exact: 48 bits
    total = product + third
    third_part = total - product
    error = (product - (total - third_part)) + (third - third_part)  # exact (Knuth)
    # Where the sum is not exact and its last bit is even, the neighbour on the true sum's side is odd, and rounds as the true sum does.
    even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
    odd = np.where((error != 0) & np.isfinite(error) & even, np.nextafter(total, np.copysign(np.inf, error)), total)
    return odd.astype(np.float32)


def _float(lanes: Lanes) -> NDArray[np.float32]:
    return lanes.view(np.float32)


def _bytes(lanes: Lanes) -> NDArray[np.uint8]:
    return lanes.view(np.uint8)


def _lanes(array: NDArray[Any]) -> Lanes:
    return np.ascontiguousarray(array).view(np.uint32)


def _dot(old: Lanes, first: Lanes, last: Lanes) -> Lanes:
    products = _bytes(first).astype(np.int64) * _bytes(last).view(np.int8)
    return (old.view(np.int32) + products.reshape(-1, LANES, 4).sum(2)).astype(np.uint32)


def _to_int(lanes: Lanes) -> Lanes:
    rounded = np.rint(_float(lanes).astype(np.float64))
    fits = (rounded >= -(2**31)) & (rounded < 2**31)
    return _lanes(np.where(fits, rounded, -(2.0**31)).astype(np.int32))


def _pack(first: NDArray[Any], last: NDArray[Any], narrow: type) -> Lanes:
    """First and last in turn, 128 bits of each to 64, with saturation."""
    pairs = np.stack([part.reshape(len(first), 4, -1) for part in (first, last)], 2)
    limits = np.iinfo(narrow)
    return _lanes(np.clip(pairs, limits.min, limits.max).astype(narrow).reshape(len(first), -1))


def _shuffle(first: Lanes, last: Lanes) -> Lanes:
    source, chosen = (_bytes(part).reshape(-1, 4, 16) for part in (first, last))
    picked = np.take_along_axis(source, (chosen & 15).astype(np.intp), 2)
    return _lanes(np.where(chosen & 0x80, np.uint8(0), picked).reshape(len(first), -1))


# What a kind makes of its last operand; of its first and its last; of the register's old lanes and both.
_ONE: dict[Kind, Callable[[Lanes], Lanes]] = {
    Kind.LOAD: lambda last: last,
    Kind.BROADCAST: lambda last: last,
    Kind.MOVE: lambda last: last,
    Kind.TO_FLOAT: lambda last: _lanes(last.view(np.int32).astype(np.float32)),
    Kind.TO_INT: _to_int,
}
_TWO: dict[Kind, Callable[[Lanes, Lanes], Lanes]] = {
    Kind.ADD_FLOAT: lambda first, last: _lanes(_float(first) + _float(last)),
    Kind.ADD_INT: lambda first, last: first + last,
    Kind.MULTIPLY: lambda first, last: _lanes(_float(first) * _float(last)),
    Kind.MAX: lambda first, last: np.where(_float(first) > _float(last), first, last),
    Kind.MIN: lambda first, last: np.where(_float(first) < _float(last), first, last),
    Kind.MAX_BYTES: lambda first, last: _lanes(np.maximum(_bytes(first), _bytes(last))),
    Kind.MIN_BYTES: lambda first, last: _lanes(np.minimum(_bytes(first), _bytes(last))),
    Kind.PACK_WORDS: lambda first, last: _pack(first.view(np.int32), last.view(np.int32), np.int16),
    Kind.PACK_BYTES: lambda first, last: _pack(first.view(np.int16), last.view(np.int16), np.uint8),
    Kind.SHUFFLE: _shuffle,
}
_THREE: dict[Kind, Callable[[Lanes, Lanes, Lanes], Lanes]] = {
    Kind.FMA: lambda old, first, last: _lanes(fma(_float(first), _float(last), _float(old))),
    Kind.DOT: _dot,
}
_SHIFTS: dict[Kind, Callable[[Lanes, np.uint32], Lanes]] = {Kind.SHIFT_LEFT: np.left_shift, Kind.SHIFT_RIGHT: np.right_shift}


@dataclass(frozen=True, eq=False)
class _Pointer:
    """Bytes, a place in them, and how far it moves from tile to tile; no bytes where there is nothing to read."""

    memory: NDArray[np.uint8] | None
    at: int
    step: int = 0


@dataclass(frozen=True, eq=False)
class _State:
    """The machine, all tiles side by side."""

    tiles: int
    registers: list[Lanes]
    pointers: dict[int, _Pointer]
    kept: NDArray[np.bool_]  # k1


def _view(state: _State, pointer: int, displacement: int, count: int, kind: type) -> NDArray[Any]:
    """Memory as (tiles, count), each tile a step further; raises IndexError where that is not all inside the array."""
    held, width = state.pointers[pointer], np.dtype(kind).itemsize
    begin, span = held.at + displacement, held.step * (state.tiles - 1)
    low, high = begin + min(0, span), begin + max(0, span) + count * width
    if held.memory is None or low < 0 or high > held.memory.size:
        room = "has no memory" if held.memory is None else f"has {held.memory.size} bytes"
        raise IndexError(f"an access must stay inside its array, got bytes {low} to {high} by {POINTERS[pointer]}, which {room}")
    return np.ndarray((state.tiles, count), kind, held.memory, begin, (held.step, width))


def _flat(array: NDArray[Any]) -> NDArray[np.uint8]:
    if not array.flags.c_contiguous:
        raise ValueError("memory must be a C-contiguous array: addresses are counted in its bytes")
    return array.reshape(-1).view(np.uint8)


def call(
    program: Program,
    x: Address,
    *,
    stream: Address,
    out: Address,
    tiles: int,
    mask: Address | None = None,
    residual: Address | None = None,
    scratch: Address | None = None,
) -> None:
    """Run one function, with the arguments of `PROTOTYPE`; what it writes is in the arrays afterwards.

    Raises IndexError when it would read or write outside an array, ValueError when it is not within the language.
    """
    check(program)
    if tiles < 1:
        raise ValueError(f"tiles must be at least 1, got {tiles}: the loop is left at its end")
    arguments = {X: x, STREAM: stream, OUT: out, MASK: mask, RESIDUAL: residual}
    pointers = {name: _Pointer(None, 0) for name in POINTERS}
    pointers |= {name: _Pointer(_flat(given[0]), given[1]) for name, given in arguments.items() if given is not None}
    blank = np.zeros((tiles, LANES), np.uint32)
    state = _State(tiles, [blank] * 32, pointers, np.zeros((tiles, LANES), bool))
    spare = _Pointer(None, 0) if scratch is None else _Pointer(_flat(scratch[0]), scratch[1])
    records = program.tolist()
    loop = next(number for number, fields in enumerate(records) if fields[0] == Kind.LOOP)
    with np.errstate(all="ignore"):
        for number, fields in enumerate(records):
            if number == loop:
                _set_steps(state, program[loop:])
            _execute(state, spare, *fields)


def _set_steps(state: _State, body: Program) -> None:
    """Let each pointer move, from tile to tile, by what the loop adds to it."""
    leas = body[body["kind"] == Kind.LEA]
    if (leas["reg"] != leas["base"]).any():
        raise ValueError("a loop must move each pointer from itself: where it is at every tile is then known")
    for name, pointer in list(state.pointers.items()):
        step = int(leas["value"][leas["reg"] == name].sum(dtype=np.int64))
        state.pointers[name] = _Pointer(pointer.memory, pointer.at, step)


def _execute(state: _State, spare: _Pointer, kind: int, reg: int, source: int, base: int, masked: int, value: int) -> None:
    what = Kind(kind)
    if kind == Kind.STORE:
        _store(state, base, value, state.registers[reg])
    elif TABLE[what].form not in ("pointer", "fixed"):
        last = _last_operand(state, TABLE[what].form, base, value)
        found = _meaning(what, state.registers[reg], state.registers[source], last, value)
        state.registers[reg] = np.where(state.kept, found, np.uint32(0)) if masked else found
    elif kind == Kind.LEA:
        before = state.pointers[base]
        state.pointers[reg] = _Pointer(before.memory, before.at + value, before.step)
    elif kind == Kind.NEXT:
        state.pointers[reg] = _Pointer(None, 0)
    elif kind == Kind.LOAD_SCRATCH:
        state.pointers[SCRATCH] = spare
    elif kind == Kind.LOAD_MASK:
        state.kept[:] = _view(state, MASK, 0, 1, np.uint16) >> np.arange(LANES, dtype=np.uint16) & 1


def _meaning(kind: Kind, old: Lanes, first: Lanes, last: Lanes, value: int) -> Lanes:
    if kind in _ONE:
        return _ONE[kind](last)
    if kind in _TWO:
        return _TWO[kind](first, last)
    if kind in _THREE:
        return _THREE[kind](old, first, last)
    return _SHIFTS[kind](last, np.uint32(value))


def _last_operand(state: _State, form: str, base: int, value: int) -> Lanes:
    if form in ("load", "memory"):
        return np.array(_view(state, base, value, LANES, np.uint32), order="C")
    if form in ("word", "embedded"):
        return np.repeat(_view(state, base, value, 1, np.uint32), LANES, axis=1)
    return state.registers[base]


def _store(state: _State, base: int, value: int, lanes: Lanes) -> None:
    if state.tiles > 1 and abs(state.pointers[base].step) < 4 * LANES:
        raise ValueError(f"tiles that are stored must be 64 bytes apart, got {state.pointers[base].step}: they would overwrite each other")
    _view(state, base, value, LANES, np.uint32)[:] = lanes


def interpret(
    baked: Baked,
    x: Address,
    *,
    out: Address,
    tiles: int,
    mask: Address | None = None,
    residual: Address | None = None,
) -> None:
    """Run all functions of a layer in turn, as its caller in C does; the scratch is made here.

    >>> from attar.compiler.baked.bake import bake
    >>> from attar.compiler.baked.layer import Strides
    >>> x, out = np.arange(32, dtype=np.float32), np.zeros(16, np.float32)
    >>> weight, bias = np.array([[2, 1]], np.float32), np.array([0.5], np.float32)
    >>> interpret(bake(weight, np.array([0, 16]), bias=bias, strides=Strides(128, 64, 64)), (x, 0), out=(out, 0), tiles=1)
    >>> out[:3].tolist()
    [16.5, 19.5, 22.5]
    """
    scratch = np.zeros(baked.scratch * tiles, np.uint8)
    for function in baked.functions:
        program = baked.program[function.start : function.stop]
        call(program, x, stream=(baked.stream, 0), out=out, tiles=tiles, mask=mask, residual=residual, scratch=(scratch, 0))
