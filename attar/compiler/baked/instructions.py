"""The instruction list of baked code, as data: one record an instruction, one table that says what each kind is.

A program is a NumPy array of records; a function is a run of them that ends in RET, and a program may hold many. Whoever reads a
program (interpreter, assembler, listing) looks its kinds up in `TABLE`. The fields of a record:

- `reg`: the vector register written (for STORE: read), or the pointer that LEA and NEXT write;
- `source`: the first vector operand of the kinds that have two;
- `base`: the pointer of a memory operand, or the register that is the last vector operand;
- `masked`: 1 where the lanes outside k1 become zero;
- `value`: the displacement in bytes, or the count of a shift.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COUNT",
    "INSTRUCTION",
    "MASK",
    "NEXT_CODE",
    "NEXT_STREAM",
    "OUT",
    "POINTERS",
    "RESIDUAL",
    "SCRATCH",
    "STREAM",
    "TABLE",
    "Kind",
    "Program",
    "Spec",
    "X",
    "bounds",
    "check",
    "insert",
    "instruct",
    "join",
    "pointers_used",
    "points_at",
]

Program = NDArray[Any]
Field = int | Sequence[int] | NDArray[np.integer]

INSTRUCTION = np.dtype([("kind", "u1"), ("reg", "u1"), ("source", "u1"), ("base", "u1"), ("masked", "u1"), ("value", "<i4")], align=True)
_WHOLE = np.dtype((np.void, INSTRUCTION.itemsize))  # NumPy moves a record many times faster when it need not know its fields

# The pointers, by the number of their register: the arguments of the System V convention in order, then what a call may overwrite.
X, STREAM, OUT, COUNT, MASK, RESIDUAL, SCRATCH, NEXT_STREAM, NEXT_CODE = 7, 6, 2, 1, 8, 9, 0, 10, 11
POINTERS = {X: "rdi", STREAM: "rsi", OUT: "rdx", MASK: "r8", RESIDUAL: "r9", SCRATCH: "rax", NEXT_STREAM: "r10", NEXT_CODE: "r11"}


class Kind(IntEnum):
    """What an instruction does; `TABLE` says how each is written."""

    LOAD = 0  # reg <- 16 lanes of memory
    STORE = 1  # 16 lanes of memory <- reg
    BROADCAST = 2  # every lane of reg <- one word of memory
    FMA = 3  # float32: reg <- source * word + reg, rounded once
    DOT = 4  # int32: reg <- reg + the four unsigned bytes of source times the four signed bytes of the word
    ADD_FLOAT = 5  # float32: reg <- source + 16 lanes of memory
    ADD_INT = 6  # int32: reg <- source + word
    MULTIPLY = 7  # float32: reg <- source * word
    MAX = 8  # float32: reg <- source > base ? source : base, so that a NaN in base stays
    MIN = 9  # float32: reg <- source < base ? source : base
    MAX_BYTES = 10  # unsigned bytes
    MIN_BYTES = 11
    PACK_WORDS = 12  # int32 to int16 with saturation, 128 bits of source and base in turn
    PACK_BYTES = 13  # int16 to unsigned bytes with saturation, likewise
    SHUFFLE = 14  # bytes of source, chosen in each 128 bits by base
    MOVE = 15  # reg <- base
    TO_FLOAT = 16  # int32 to float32
    TO_INT = 17  # float32 to int32, to nearest even
    SHIFT_LEFT = 18  # 32-bit lanes of base by value
    SHIFT_RIGHT = 19
    LEA = 20  # pointer reg <- pointer base + value
    NEXT = 21  # pointer reg <- where the next function begins
    PREFETCH = 22  # bring a line to the L2 cache; changes nothing
    LOAD_SCRATCH = 23  # rax <- the seventh argument
    LOAD_MASK = 24  # k1 <- 16 bits at r8
    LOOP = 25  # where the loop over tiles begins; no bytes
    DECREMENT = 26  # rcx <- rcx - 1
    REPEAT = 27  # to LOOP while rcx is not 0
    RET = 28


@dataclass(frozen=True)
class Spec:
    """How a kind is written.

    `form` names the operands: `load`, `store`, `word` (reg and one broadcast word), `memory` and `embedded` (reg, source, and 16 lanes or
    one broadcast word of memory), `register` (reg, source, base), `unary` (reg, base), `shift` (reg, base, count), `pointer`, or `fixed`.
    `opcode_map`, `prefix`, `opcode` are EVEX's mmm, pp and opcode, or the fixed bytes; `scale` is the N of disp8*N; `digit` the opcode's
    extension.
    """

    mnemonic: str
    form: str
    opcode_map: int = 0
    prefix: int = 0
    opcode: int = 0
    scale: int = 1
    digit: int = 0
    fixed: bytes = b""


TABLE: dict[Kind, Spec] = {
    Kind.LOAD: Spec("vmovups", "load", 1, 0, 0x10, 64),
    Kind.STORE: Spec("vmovups", "store", 1, 0, 0x11, 64),
    Kind.BROADCAST: Spec("vbroadcastss", "word", 2, 1, 0x18, 4),
    Kind.FMA: Spec("vfmadd231ps", "embedded", 2, 1, 0xB8, 4),
    Kind.DOT: Spec("vpdpbusd", "embedded", 2, 1, 0x50, 4),
    Kind.ADD_FLOAT: Spec("vaddps", "memory", 1, 0, 0x58, 64),
    Kind.ADD_INT: Spec("vpaddd", "embedded", 1, 1, 0xFE, 4),
    Kind.MULTIPLY: Spec("vmulps", "embedded", 1, 0, 0x59, 4),
    Kind.MAX: Spec("vmaxps", "register", 1, 0, 0x5F),
    Kind.MIN: Spec("vminps", "register", 1, 0, 0x5D),
    Kind.MAX_BYTES: Spec("vpmaxub", "register", 1, 1, 0xDE),
    Kind.MIN_BYTES: Spec("vpminub", "register", 1, 1, 0xDA),
    Kind.PACK_WORDS: Spec("vpackssdw", "register", 1, 1, 0x6B),
    Kind.PACK_BYTES: Spec("vpackuswb", "register", 1, 1, 0x67),
    Kind.SHUFFLE: Spec("vpshufb", "register", 2, 1, 0x00),
    Kind.MOVE: Spec("vmovaps", "unary", 1, 0, 0x28),
    Kind.TO_FLOAT: Spec("vcvtdq2ps", "unary", 1, 0, 0x5B),
    Kind.TO_INT: Spec("vcvtps2dq", "unary", 1, 1, 0x5B),
    Kind.SHIFT_LEFT: Spec("vpslld", "shift", 1, 1, 0x72, digit=6),
    Kind.SHIFT_RIGHT: Spec("vpsrld", "shift", 1, 1, 0x72, digit=2),
    Kind.LEA: Spec("lea", "pointer", opcode=0x8D),
    Kind.NEXT: Spec("lea", "pointer", opcode=0x8D),
    Kind.PREFETCH: Spec("prefetcht1", "pointer", digit=2),
    Kind.LOAD_SCRATCH: Spec("mov rax, QWORD PTR [rsp+8]", "fixed", fixed=b"\x48\x8b\x44\x24\x08"),
    Kind.LOAD_MASK: Spec("kmovw k1, WORD PTR [r8]", "fixed", fixed=b"\xc4\xc1\x78\x90\x08"),
    Kind.LOOP: Spec("", "fixed"),
    Kind.DECREMENT: Spec("dec rcx", "fixed", fixed=b"\x48\xff\xc9"),
    Kind.REPEAT: Spec("jnz", "pointer"),
    Kind.RET: Spec("vzeroupper; ret", "fixed", fixed=b"\xc5\xf8\x77\xc3"),
}

_MEMORY = np.array([TABLE[kind].form in ("load", "store", "word", "memory", "embedded") for kind in Kind])
_MEMORY[[Kind.LOAD_MASK, Kind.PREFETCH]] = True
_SHIFT = np.array([TABLE[kind].form == "shift" for kind in Kind])
_WRITES_POINTER = np.array([kind in (Kind.LEA, Kind.NEXT) for kind in Kind])
# Memory operands are not masked (a load would zero, a store would merge), and the bytes' kinds mask by byte, not by lane.
_MASKABLE = np.array([kind in (Kind.MAX, Kind.MIN, Kind.MOVE, Kind.TO_FLOAT, Kind.TO_INT) for kind in Kind])


def instruct(kind: Field, *, reg: Field = 0, source: Field = 0, base: Field = 0, masked: Field = 0, value: Field = 0) -> Program:
    """Instructions, one for each element of the fields that are sequences; the other fields are repeated.

    >>> instruct(Kind.STORE, reg=[0, 1], base=OUT, value=[0, 64])["value"].tolist()
    [0, 64]
    """
    fields = {"kind": kind, "reg": reg, "source": source, "base": base, "masked": masked, "value": value}
    program = np.empty(max((len(field) for field in fields.values() if not isinstance(field, int)), default=1), INSTRUCTION)
    for name, field in fields.items():
        program[name] = field
    return program


def join(parts: Sequence[Program]) -> Program:
    """Programs one after the other."""
    return np.concatenate([part.view(_WHOLE) for part in parts]).view(INSTRUCTION)


def insert(program: Program, places: NDArray[np.int64], added: Program) -> Program:
    """A program with `added[i]`, or the only one there is, put before what was at `places[i]`."""
    return np.insert(program.view(_WHOLE), places, added.view(_WHOLE)).view(INSTRUCTION)


def bounds(program: Program) -> NDArray[np.int64]:
    """Where each function begins, and the end of the last: function i is `program[bounds[i]:bounds[i + 1]]`."""
    return np.concatenate([[0], np.flatnonzero(program["kind"] == Kind.RET) + 1])


def points_at(program: Program, pointer: int) -> NDArray[np.bool_]:
    """Which instructions read or write memory by a pointer."""
    return (program["base"] == pointer) & _MEMORY[program["kind"]]


def pointers_used(program: Program) -> set[int]:
    """All pointers that a program reads or writes memory by."""
    return set(np.flatnonzero(np.bincount(program["base"][_MEMORY[program["kind"]]])).tolist())


def check(program: Program) -> None:
    """Raise ValueError unless a program is within the language: known kinds and registers, and one loop in each function."""
    kind = program["kind"]
    if not program.size or kind.max() >= len(Kind) or kind[-1] != Kind.RET:
        raise ValueError("a program must be of known kinds and end in RET")
    pointer = np.isin(np.arange(256), [*POINTERS])
    wrong = {
        "registers must be below 32": (program["reg"] | program["source"] | program["base"]) >= 32,
        "a memory operand and LEA need one of POINTERS": (_MEMORY[kind] | (kind == Kind.LEA)) & ~pointer[program["base"]],
        "LEA and NEXT must write one of POINTERS": _WRITES_POINTER[kind] & ~pointer[program["reg"]],
        "PREFETCH must use r8 to r11": (kind == Kind.PREFETCH) & (program["base"] < 8),
        "LOAD_MASK must use MASK": (kind == Kind.LOAD_MASK) & (program["base"] != MASK),
        "masked must be 0, or 1 on a kind that masks by lane": program["masked"] > _MASKABLE[kind],
        "a shift must be by 0 to 31": _SHIFT[kind] & ((program["value"] < 0) | (program["value"] > 31)),
    }
    for rule, where in wrong.items():
        if where.any():
            at = int(np.argmax(where))
            raise ValueError(f"{rule}, got {Kind(int(kind[at])).name} {program[at]} at {at}")
    marks = kind[np.isin(kind, [Kind.LOOP, Kind.REPEAT, Kind.RET])]
    if marks.size % 3 or (marks.reshape(-1, 3) != [Kind.LOOP, Kind.REPEAT, Kind.RET]).any():
        raise ValueError("each function must have one LOOP, then one REPEAT, then RET")
