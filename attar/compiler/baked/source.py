"""Baked code as what a C compiler builds: an assembly file that carries the bytes, and the declarations to call them by."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attar.compiler.baked.assemble import ALIGNMENT
from attar.compiler.baked.layer import PROTOTYPE

__all__ = ["carrier", "declarations"]

_LINE = 32  # bytes of code on a line of text


def carrier(code: NDArray[np.uint8], starts: Sequence[int], *, symbols: Sequence[str], file: str | None = None) -> str:
    """The text of a `.s` file that puts code in `.text`, one global symbol for each function, for `cc -c` on any x86-64 system with ELF.

    `code` and `starts` come from `assemble`. The bytes stand in the text or, where `file` is given, are read by the assembler from the
    file of that name, which must hold `code`: shorter and quicker for large layers.

    >>> print(carrier(np.array([0xC3], np.uint8), [0], symbols=["nothing"]).split(".text")[1])
    <BLANKLINE>
    .balign 64
    .globl nothing
    .type nothing, @function
    .set nothing, .Lcode + 0
    .Lcode:
    .byte 0xc3
    .section .note.GNU-stack, "", @progbits
    <BLANKLINE>
    """
    lines = [".text", f".balign {ALIGNMENT}"]
    for symbol, start in zip(symbols, starts, strict=True):
        lines += [f".globl {symbol}", f".type {symbol}, @function", f".set {symbol}, .Lcode + {start}"]
    lines.append(".Lcode:")
    if file is None:
        lines += [".byte " + ",".join(map(hex, code[at : at + _LINE].tolist())) for at in range(0, code.size, _LINE)]
    else:
        quoted = file.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'.incbin "{quoted}"')
    lines.append('.section .note.GNU-stack, "", @progbits')  # the code needs no executable stack
    return "\n".join(lines) + "\n"


def declarations(symbols: Sequence[str]) -> str:
    """The C declarations of baked functions.

    >>> print(declarations(["conv1_0"]).split("(")[0])
    #include <stdint.h>
    void conv1_0
    """
    return "\n".join(["#include <stdint.h>", *(PROTOTYPE.format(name=symbol) for symbol in symbols)]) + "\n"
