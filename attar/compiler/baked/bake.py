"""Sparse layers to baked code: positions become instructions, weights a stream that is read in order.

The scheme is generated code for a constant sparse factor, blocked over its rows so that the code stays in the instruction cache (F8 in
METHODS.md), for AVX-512: up to 30 output channels are kept in registers of 16 pixels each; every column with a weight in the block is one
load and, for each weight, one multiply-add that reads the weight as a broadcast operand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from attar.compiler.baked.assemble import ALIGNMENT, lengths
from attar.compiler.baked.epilogue import PATTERN, finish, initialise
from attar.compiler.baked.instructions import (
    INSTRUCTION,
    MASK,
    NEXT_CODE,
    NEXT_STREAM,
    OUT,
    RESIDUAL,
    SCRATCH,
    STREAM,
    Kind,
    Program,
    X,
    insert,
    instruct,
    join,
    pointers_used,
    points_at,
)
from attar.compiler.baked.layer import Baked, Epilogue, Function, Layer, Strides, prepare

__all__ = ["LOADED", "bake", "words_taken"]

LOADED = 31  # the register of x
_MOST, _MOST_BYTES = 30, 28  # accumulators that leave the epilogue the registers it needs
_PAGE = 256  # words of the stream that one-byte displacements reach: 128 before the pointer, 128 from it on
_WORDS = np.zeros(len(Kind), np.int64)
_WORDS[[Kind.BROADCAST, Kind.FMA, Kind.DOT, Kind.ADD_INT, Kind.MULTIPLY]] = 1
_WORDS[Kind.LOAD] = PATTERN.size
_LONGEST, _SCALARS = 10, 128  # bytes of the longest vector instruction here, and of all that a function has beside vectors
_TERM = 7 + 7 / _PAGE  # bytes of a multiply-add, with its share of the stream pointer's steps
_PREFETCH = 8


@dataclass(frozen=True, eq=False)
class _Piece:
    """A function before it is threaded: what it does for each tile."""

    row: int
    rows: int
    chunk: int
    before: Program
    columns: Program
    after: Program


def bake(
    weight: NDArray[np.float32] | NDArray[np.int8],
    offset: NDArray[np.integer],
    *,
    bias: NDArray[np.float32] | NDArray[np.int32],
    strides: Strides,
    epilogue: Epilogue | None = None,
    accumulators: int = _MOST,
    chunk: int = 24 * 1024,
    prefetch: int | None = None,
) -> Baked:
    """The code of out[o][p] = epilogue(bias[o] + sum over k of weight[o, k] * x[offset[k] + p]), one multiply-add for each weight but 0.

    `weight`: float32 `(Co, K)`; or int8 `(Co, K, 4)`, four input channels to a group, which are four neighbouring bytes of uint8 `x`
    (then `bias` is int32, sums wrap at 32 bits, and a group is left out when all four are 0). `offset`: `(K,)`, in lanes of 4 bytes from
    the tile's first. `accumulators`: the most output channels of a function, at most 30, and 28 in whole fours for a uint8 output.
    `chunk`: the most bytes of a function; columns are cut to keep to it, and the sums wait in memory in between. `prefetch`: where
    given, each function fetches the code and weights of the next, spread over that many tiles: worth it in calls of few tiles, whose
    code is not in the cache yet.

    With a uint8 output, channels beyond `Co` up to a multiple of four become `zero`: they share the words of the last.
    Raises ValueError for what does not fit together.

    >>> weight = np.array([[0, 2, 0], [0, 0, 0]], np.float32)
    >>> baked = bake(weight, np.arange(3) * 16, bias=np.ones(2, np.float32), strides=Strides(192, 128, 64))
    >>> int((baked.program["kind"] == Kind.FMA).sum()), baked.stream.view(np.float32)[:3].tolist(), len(baked.functions)
    (1, [1.0, 1.0, 2.0], 1)
    """
    layer = prepare(weight, offset, bias, strides, epilogue or Epilogue())
    unit = 4 if layer.epilogue.output == "uint8" else 1
    most = min(accumulators, _MOST_BYTES) // 4 * 4 if unit == 4 else accumulators
    if accumulators > _MOST or most < 1:
        raise ValueError(f"accumulators must be in {unit}..{_MOST}, got {accumulators}: each is a register, beside those the rest needs")
    if prefetch is not None and prefetch < 1:
        raise ValueError(f"prefetch must be at least 1, got {prefetch}: it is how many tiles a call has")
    cut = [
        piece
        for first, last in _blocks(len(layer.words), most, unit)
        for piece in _pieces(layer, slice(first, last), chunk=chunk, prefetch=prefetch)
    ]
    return _link(layer, [piece for piece, _ in cut], np.concatenate([columns for _, columns in cut]), prefetch=prefetch)


def _blocks(rows: int, most: int, unit: int) -> list[tuple[int, int]]:
    """Row blocks as even as whole units allow."""
    units, count = rows // unit, -(-rows // most)
    cuts = [units * i // count * unit for i in range(count + 1)]
    return list(pairwise(cuts))


def _pieces(layer: Layer, block: slice, *, chunk: int, prefetch: int | None) -> Iterator[tuple[_Piece, NDArray[np.int64]]]:
    """The functions of one row block, each with the columns that it loads."""
    words = layer.words[block]
    rows = len(words)
    column, row = np.divmod(np.flatnonzero((words != 0).T), rows)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    columns = column[starts]
    edges = np.append(starts, column.size)
    before = [initialise(layer, block.start, rows, first) for first in (False, True)]
    after = [finish(layer, block.start, rows, last) for last in (False, True)]
    shell = _SCALARS + _LONGEST * (max(map(len, before)) + max(map(len, after)))
    cuts = _cuts(np.diff(edges), _room(chunk, shell, prefetch))
    count = len(cuts) - 1
    for number, (a, b) in enumerate(pairwise(cuts)):
        terms = slice(edges[a], edges[b])
        body = _columns(layer, columns[a:b], starts[a:b] - edges[a], row[terms], words[row[terms], column[terms]])
        yield _Piece(block.start, rows, number, before[number == 0], body, after[number == count - 1]), columns[a:b]


def _room(chunk: int, shell: int, prefetch: int | None) -> float:
    """Bytes that the columns of a function may take, so that it keeps to `chunk` with all that stands around them."""
    fetched = 0.0
    if prefetch is not None:
        # The next function is at most `chunk` bytes of code, of which each word of the stream takes 6 or more.
        fetched = _PREFETCH * (4 + chunk * (1 + 4 / 6) / ALIGNMENT / prefetch)
    return chunk - shell - fetched


def _cuts(terms: NDArray[np.int64], room: float) -> list[int]:
    """Where to cut columns of so many terms into chunks of even size that fit the room."""
    sizes = np.cumsum(_LONGEST + _TERM * terms)
    largest = _LONGEST + _TERM * int(terms.max(initial=0))
    if room < 2 * largest:
        need = f"{2 * largest:.0f} bytes to the columns of {terms.max(initial=0)} rows"
        raise ValueError(f"chunk must leave {need} besides the rest of a function, got {room:.0f}: make it larger, or accumulators fewer")
    if not terms.size:
        return [0, 0]
    count = 1 if sizes[-1] <= room else int(-(-sizes[-1] // (room - largest)))
    inner = np.searchsorted(sizes, sizes[-1] * np.arange(1, count) / count)
    return np.unique([0, *inner, terms.size]).tolist()


def _columns(
    layer: Layer, columns: NDArray[np.int64], starts: NDArray[np.int64], row: NDArray[np.int64], words: NDArray[np.uint32]
) -> Program:
    """A load for each column, followed by the multiply-adds of its rows."""
    program = np.empty(columns.size + row.size, INSTRUCTION)
    loads = starts + np.arange(columns.size)
    term = np.ones(program.size, bool)
    term[loads] = False
    for name, loaded, multiplied in (
        ("kind", Kind.LOAD, layer.multiply),
        ("reg", LOADED, row),
        ("source", 0, LOADED),
        ("base", X, STREAM),
        ("masked", 0, 0),
        ("value", layer.offset[columns], words.view(np.int32)),
    ):
        program[name][term] = multiplied
        program[name][loads] = loaded
    return program


def _link(layer: Layer, pieces: list[_Piece], columns: NDArray[np.int64], *, prefetch: int | None) -> Baked:
    """Thread the pieces, from the last to the first, since each may fetch the next, and lay the words of all in one stream."""
    counts = [sum(int(words_taken(part).sum()) for part in (piece.before, piece.columns, piece.after)) for piece in pieces]
    room = -(-np.array(counts) // PATTERN.size) * PATTERN.size
    at = (np.cumsum(room) - room).tolist()
    stream = _aligned(int(room.sum()))
    programs: list[Program] = []
    for number in reversed(range(len(pieces))):
        ahead = (0, 0, 0)
        if prefetch is not None and programs:
            ahead = (at[number + 1], -(-int(lengths(programs[-1]).sum()) // ALIGNMENT), -(-4 * counts[number + 1] // ALIGNMENT))
        program, words = _thread(layer, pieces[number], at[number], ahead, tiles=prefetch or 1)
        programs.append(program)
        stream[at[number] : at[number] + words.size] = words
    programs.reverse()
    stops = np.cumsum([program.size for program in programs]).tolist()
    functions = tuple(
        Function(stop - program.size, stop, piece.row, piece.rows, piece.chunk, word)
        for program, stop, piece, word in zip(programs, stops, pieces, at, strict=True)
    )
    several = [function.rows for function in functions if function.chunk]
    scratch = 0 if layer.sums_fit_out else 64 * max(several, default=0)
    return Baked(join(programs), stream, functions, columns, layer.strides, layer.epilogue, scratch)


def _aligned(count: int) -> NDArray[np.uint32]:
    """Zeros that begin on a cache line."""
    raw = np.zeros(count + ALIGNMENT // 4, np.uint32)
    skip = -raw.ctypes.data % ALIGNMENT // 4
    return raw[skip : skip + count]


def words_taken(program: Program) -> NDArray[np.int64]:
    """How many words of the stream each instruction reads."""
    return np.where(points_at(program, STREAM), _WORDS[program["kind"]], 0)


def _thread(layer: Layer, piece: _Piece, at: int, ahead: tuple[int, int, int], *, tiles: int) -> tuple[Program, NDArray[np.int32]]:
    """The whole function, and its words in the order in which they are read.

    `ahead`: the next function's place in the stream, its lines of code and its lines of words.
    """
    fetches, steps = _fetch(ahead, tiles)
    places = np.arange(fetches.size) * piece.columns.size // max(1, fetches.size)
    body, words, pages = _lay_stream(join([piece.before, insert(piece.columns, places, fetches), piece.after]))
    strides, used = layer.strides, pointers_used(body)
    steps |= {X: strides.x_tile, OUT: strides.out_tile, MASK: 2, RESIDUAL: strides.residual[0], SCRATCH: 64 * piece.rows}
    steps = {pointer: step for pointer, step in steps.items() if pointer in used} | {STREAM: -4 * _PAGE * pages}
    head = [instruct(Kind.LOAD_SCRATCH)] if SCRATCH in used else []
    if fetches.size:
        head.append(instruct([Kind.NEXT, Kind.LEA], reg=[NEXT_CODE, NEXT_STREAM], base=STREAM, value=[0, 4 * ahead[0]]))
    head.append(instruct([Kind.LEA, Kind.LOOP], reg=STREAM, base=STREAM, value=[4 * (at + _PAGE // 2), 0]))
    moved = [(pointer, step) for pointer, step in steps.items() if step]
    if moved:
        pointers, distances = zip(*moved, strict=True)
        body = join([body, instruct(Kind.LEA, reg=pointers, base=pointers, value=distances)])
    return join([*head, body, instruct([Kind.DECREMENT, Kind.REPEAT, Kind.RET])]), words


def _fetch(ahead: tuple[int, int, int], tiles: int) -> tuple[Program, dict[int, int]]:
    """The prefetches of one tile, and how far their pointers then step: enough to have fetched all after `tiles`."""
    steps = {NEXT_CODE: -(-ahead[1] // tiles) * ALIGNMENT, NEXT_STREAM: -(-ahead[2] // tiles) * ALIGNMENT}
    pointers = np.repeat([*steps], np.array([*steps.values()]) // ALIGNMENT)
    places = np.concatenate([np.arange(0, step, ALIGNMENT) for step in steps.values()])
    return instruct(Kind.PREFETCH, base=pointers, value=places), steps


def _lay_stream(body: Program) -> tuple[Program, NDArray[np.int32], int]:
    """Words out of the instructions and displacements in; the pointer steps on after each page. Also how many steps that makes."""
    taken = words_taken(body)
    readers = np.flatnonzero(taken)
    slots = (np.cumsum(taken) - taken)[readers]
    words = np.repeat(body["value"][readers], taken[readers])
    for slot in slots[taken[readers] == PATTERN.size]:
        words[slot : slot + PATTERN.size] = PATTERN.view(np.int32)
    body["value"][readers] = 4 * (slots % _PAGE) - 4 * (_PAGE // 2)
    turns = readers[np.flatnonzero(np.diff(slots // _PAGE, prepend=0))]
    step = instruct(Kind.LEA, reg=STREAM, base=STREAM, value=4 * _PAGE)
    return insert(body, turns, step), words, turns.size
