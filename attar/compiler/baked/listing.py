"""Programs as assembly text, in Intel's syntax, for people and for the GNU assembler: it makes the same bytes of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attar.compiler.baked.assemble import ALIGNMENT, FILLER
from attar.compiler.baked.bake import LOADED, words_taken
from attar.compiler.baked.instructions import POINTERS, TABLE, Kind, Program, X, check, points_at
from attar.compiler.baked.layer import Baked

__all__ = ["listing", "text"]

_OPERANDS = {
    "load": "zmm{reg}, ZMMWORD PTR {memory}",
    "store": "ZMMWORD PTR {memory}, zmm{reg}",
    "word": "zmm{reg}, DWORD PTR {memory}",
    "memory": "zmm{reg}, zmm{source}, ZMMWORD PTR {memory}",
    "embedded": "zmm{reg}, zmm{source}, DWORD PTR {memory}{{1to16}}",
    "register": "zmm{reg}{mask}, zmm{source}, zmm{base}",
    "unary": "zmm{reg}{mask}, zmm{base}",
    "shift": "zmm{reg}, zmm{base}, {value}",
}
_POINTER_OPERANDS = {
    Kind.LEA: "{pointer}, {memory}",
    Kind.NEXT: "{pointer}, [rip+.Lfunction{following}]",
    Kind.PREFETCH: "BYTE PTR {memory}",
    Kind.REPEAT: ".Lloop{function}",
}


def text(program: Program, comments: Sequence[str] | None = None) -> str:
    """The assembly text of a program; `comments`, one for each instruction, stand at the ends of its lines.

    >>> from attar.compiler.baked.instructions import OUT, STREAM, instruct
    >>> kinds = [Kind.LOOP, Kind.FMA, Kind.DECREMENT, Kind.REPEAT, Kind.RET]
    >>> print(text(instruct(kinds, source=31, base=STREAM, value=-4), ["", "the weight", "", "", ""]).splitlines()[5])
        vfmadd231ps zmm0, zmm31, DWORD PTR [rsi-4]{1to16}        # the weight
    """
    check(program)
    function = 0
    lines = [".intel_syntax noprefix", ".text", f".balign {ALIGNMENT}", ".Lfunction0:"]
    for number, fields in enumerate(program.tolist()):
        kind = Kind(fields[0])
        if kind is Kind.LOOP:
            line = f".Lloop{function}:"
        else:
            line = "    " + _line(kind, fields, function)
        lines.append(f"{line:<60} # {comments[number]}" if comments and comments[number] else line)
        if kind is Kind.RET:
            function += 1
            lines += [f".balign {ALIGNMENT}, {FILLER:#x}", f".Lfunction{function}:"]
    return "\n".join(lines) + "\n"


def _line(kind: Kind, fields: tuple[int, ...], function: int) -> str:
    _, reg, source, base, masked, value = fields
    spec = TABLE[kind]
    operands = _POINTER_OPERANDS.get(kind) or _OPERANDS.get(spec.form, "")
    pointer = POINTERS.get(base, "")
    said = operands.format(
        reg=reg,
        source=source,
        base=base,
        value=value,
        mask="{k1}{z}" if masked else "",
        memory=f"[{pointer}{value:+d}]" if value else f"[{pointer}]",
        pointer=POINTERS.get(reg, ""),
        function=function,
        following=function + 1,
    )
    return f"{spec.mnemonic} {said}".rstrip()


def listing(baked: Baked) -> str:
    """The assembly text of a layer, with the row, column and value of each weight, and of every other word of the stream.

    >>> from attar.compiler.baked.bake import bake
    >>> from attar.compiler.baked.layer import Strides
    >>> bias = np.array([0.5], np.float32)
    >>> baked = bake(np.array([[0, 0.25]], np.float32), np.array([0, 16]), bias=bias, strides=Strides(128, 64, 64))
    >>> print("\\n".join(line for line in listing(baked).split("\\n") if "#" in line))
    .Lloop0:                                                     # channels 0 to 0, chunk 0
        vbroadcastss zmm0, DWORD PTR [rsi-512]                   # 0.5
        vmovups zmm31, ZMMWORD PTR [rdi+64]                      # column 1
        vfmadd231ps zmm0, zmm31, DWORD PTR [rsi-508]{1to16}      # row 0, column 1: 0.25
    """
    program = baked.program
    comments = [""] * program.size
    loads = np.flatnonzero(points_at(program, X)).tolist()
    columns = dict(zip(loads, baked.columns.tolist(), strict=True))
    column = -1
    for function in baked.functions:
        part = program[function.start : function.stop]
        taken = words_taken(part)
        places = function.word + np.cumsum(taken) - taken
        for number, (fields, place, count) in enumerate(zip(part.tolist(), places.tolist(), taken.tolist(), strict=True), function.start):
            column = columns.get(number, column)
            if fields[0] == Kind.LOOP:
                comments[number] = f"channels {function.row} to {function.row + function.rows - 1}, chunk {function.chunk}"
            elif number in columns:
                comments[number] = f"column {column}"
            elif count == 1:
                comments[number] = _word(fields, baked.stream[place : place + 1], function.row, column)
    return text(program, comments)


def _word(fields: tuple[int, ...], word: NDArray[np.uint32], row: int, column: int) -> str:
    """What a word of the stream says; that of a multiply-add of x is a weight."""
    kind, reg, source = fields[:3]
    if kind == Kind.DOT:
        return f"row {row + reg}, column {column}: {word.view(np.int8).tolist()}"
    if kind == Kind.ADD_INT:
        return str(word.view(np.int32)[0])
    said = f"{word.view(np.float32)[0]:.9g}"
    return f"row {row + reg}, column {column}: {said}" if kind == Kind.FMA and source == LOADED else said
