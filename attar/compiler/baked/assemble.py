"""Programs to the bytes that the processor reads, all instructions at once.

The encodings are those of the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (EVEX: section 2.7), each the
shortest that the GNU assembler would choose, so that the two can be compared byte by byte.

An instruction is a head (prefixes, opcode, ModRM) of at most 7 bytes and a tail (displacement or count) of at most 4. Each field moves
bits of the head that no other field moves, so a head is the exclusive or of one table entry for each field.
"""

import numpy as np
from numpy.typing import NDArray

from attar.compiler.baked.instructions import TABLE, Kind, Program, bounds, check

__all__ = ["ALIGNMENT", "FILLER", "assemble", "lengths"]

ALIGNMENT = 64  # bytes: a function begins on a cache line, which is what prefetching counts in
FILLER = 0xCC  # int3 between functions: what is never reached must not run on

_SPECS = [TABLE[kind] for kind in Kind]
_DISPLACED = np.array([spec.form in ("load", "store", "word", "memory", "embedded") for spec in _SPECS])
_DISPLACED[[Kind.LEA, Kind.PREFETCH]] = True
_SCALE = np.array([spec.scale for spec in _SPECS], np.int32)
_SHORT_JUMP = 0x75
_MODES = np.array([0x00, 0x40, 0, 0, 0x80], np.uint64)  # ModRM's first field, by the bytes of displacement


def _head(kind: Kind) -> list[int]:
    """The head of a kind with all its registers 0 and no displacement."""
    spec = TABLE[kind]
    if spec.form == "fixed":
        return list(spec.fixed)
    if spec.form == "pointer":
        fixed = {Kind.LEA: [0x48, 0x8D, 0], Kind.NEXT: [0x48, 0x8D, 5], Kind.PREFETCH: [0x40, 0x0F, 0x18, spec.digit << 3]}
        return fixed.get(kind, [0x0F, 0x85])
    mode = 0 if _DISPLACED[kind] else 0xC0
    embedded = 0x10 if spec.form == "embedded" else 0
    return [0x62, 0xF0 | spec.opcode_map, 0x7C | spec.prefix, 0x48 | embedded, spec.opcode, mode | spec.digit << 3]


def _reg_bits(kind: Kind, reg: int) -> list[int]:
    """The bits of the head that `reg` turns; a shift carries it where others carry their first source."""
    form = TABLE[kind].form
    if kind in (Kind.LEA, Kind.NEXT):
        return [(reg >> 3 & 1) << 2, 0, (reg & 7) << 3]
    if form in ("pointer", "fixed"):
        return []
    if form == "shift":
        return [0, 0, (reg & 15) << 3, (reg >> 4) << 3]
    return [0, (reg >> 3 & 1) << 7 | (reg >> 4) << 4, 0, 0, 0, (reg & 7) << 3]


def _source_bits(kind: Kind, source: int) -> list[int]:
    two = TABLE[kind].form in ("memory", "embedded", "register")
    return [0, 0, (source & 15) << 3, (source >> 4) << 3] if two else []


def _base_bits(kind: Kind, base: int) -> list[int]:
    form = TABLE[kind].form
    if kind in (Kind.LEA, Kind.PREFETCH):
        return [base >> 3 & 1, *[0] * (kind == Kind.PREFETCH), 0, base & 7]
    if form in ("pointer", "fixed"):
        return []
    return [0, (base >> 3 & 1) << 5 | (0 if _DISPLACED[kind] else base >> 4) << 6, 0, 0, 0, base & 7]


def _numbers(rows: list[list[int]]) -> NDArray[np.uint64]:
    return np.array([int.from_bytes(bytes(row), "little") for row in rows], np.uint64)


_LENGTH = np.array([len(_head(kind)) for kind in Kind])
_HEADS = _numbers([_head(kind) for kind in Kind])
_REG = _numbers([_reg_bits(kind, number) for kind in Kind for number in range(32)])
_SOURCE = _numbers([_source_bits(kind, number) for kind in Kind for number in range(32)])
_BASE = _numbers([_base_bits(kind, number) for kind in Kind for number in range(32)])
_MASKED = _numbers([[], [0, 0, 0, 0x81]])
_MODE_AT = np.array([8 * (len(_head(kind)) - 1) if _DISPLACED[kind] else 0 for kind in Kind], np.uint64)


def _tails(program: Program) -> NDArray[np.int64]:
    """Bytes after each head: for a displacement none where it is 0, one where it is a small multiple of the operand's size, else four."""
    kind, value = program["kind"], program["value"]
    steps, rest = np.divmod(value, _SCALE[kind])
    short = (rest == 0) & (steps >= -128) & (steps <= 127)
    found = np.where(short, 1, 4)
    found[(value == 0) | ~_DISPLACED[kind]] = 0
    found[(kind == Kind.SHIFT_LEFT) | (kind == Kind.SHIFT_RIGHT)] = 1
    found[(kind == Kind.NEXT) | (kind == Kind.REPEAT)] = 4
    return found


def _jumps(program: Program, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the REPEATs are, and how far each would jump if it were two bytes long."""
    kind = program["kind"]
    loops, jumps = np.flatnonzero(kind == Kind.LOOP), np.flatnonzero(kind == Kind.REPEAT)
    before = np.concatenate([[0], np.cumsum(sizes)])
    return jumps, before[loops] - before[jumps] - 2


def lengths(program: Program) -> NDArray[np.int64]:
    """Bytes of each instruction, the filler after functions left out."""
    found = _LENGTH[program["kind"]] + _tails(program)
    jumps, near = _jumps(program, found)
    found[jumps] = np.where(near >= -128, 2, 6)
    return found


def assemble(program: Program) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The machine code of a program, and the byte at which each of its functions begins.

    Functions begin at multiples of `ALIGNMENT`, with `FILLER` between them and after the last. Raises ValueError when the program is
    not within the language.

    >>> from attar.compiler.baked.instructions import OUT, instruct
    >>> one = instruct([Kind.LOOP, Kind.STORE, Kind.DECREMENT, Kind.REPEAT, Kind.RET], reg=3, base=OUT)
    >>> code, starts = assemble(one)
    >>> code[:15].tobytes().hex(" "), starts.tolist(), code.size
    ('62 f1 7c 48 11 1a 48 ff c9 75 f5 c5 f8 77 c3', [0], 64)
    """
    check(program)
    sizes, cuts = lengths(program), bounds(program)
    spans = np.add.reduceat(sizes, cuts[:-1])
    room = -(-spans // ALIGNMENT) * ALIGNMENT
    starts = np.cumsum(room) - room
    text = _encode(program, sizes, room)
    code = np.full(int(room.sum()), FILLER, np.uint8)
    at = 0
    for start, span in zip(starts, spans, strict=True):
        code[start : start + span] = text[at : at + span]
        at += span
    return code, starts


def _encode(program: Program, sizes: NDArray[np.int64], room: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bytes of all instructions, one after the other, each first laid into two words of 64 bits."""
    kind = program["kind"]
    tails = sizes - _LENGTH[kind]
    index = kind.astype(np.intp) * 32
    heads = _HEADS[kind] ^ _REG[index + program["reg"]] ^ _SOURCE[index + program["source"]] ^ _BASE[index + program["base"]]
    heads ^= _MASKED[program["masked"]] ^ np.where(_DISPLACED[kind], _MODES[tails] << _MODE_AT[kind], np.uint64(0))
    value = np.where(_DISPLACED[kind] & (tails == 1), program["value"] // _SCALE[kind], program["value"])
    _aim(value, program, sizes, room)
    head_bits = 8 * _LENGTH[kind]
    near = (kind == Kind.REPEAT) & (sizes == 2)
    heads[near], head_bits[near] = _SHORT_JUMP, 8
    tail, shift = value.view(np.uint32).astype(np.uint64), head_bits.astype(np.uint64)
    table = np.empty((program.size, 2), "<u8")
    table[:, 0] = heads | tail << shift
    table[:, 1] = tail >> (np.uint64(64) - shift)
    return table.view(np.uint8)[np.arange(16, dtype=np.int8) < sizes[:, None].astype(np.int8)]


def _aim(value: NDArray[np.int32], program: Program, sizes: NDArray[np.int64], room: NDArray[np.int64]) -> None:
    """Write into `value` how far the REPEATs and NEXTs reach, from the end of each."""
    jumps, near = _jumps(program, sizes)
    value[jumps] = np.where(sizes[jumps] == 2, near, near - 4)
    ahead = np.flatnonzero(program["kind"] == Kind.NEXT)
    cuts, ends = bounds(program), np.cumsum(sizes)
    function = np.searchsorted(cuts, ahead, side="right") - 1
    starts = np.concatenate([[0], ends[cuts[1:-1] - 1]])
    value[ahead] = (starts + room)[function] - ends[ahead]
