"""Baked code where no processor runs it: C stands in for its functions, and calls the interpreter on the same memory."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from attar.compiler.baked import PROTOTYPE
from attar.compiler.baked.interpret import call
from attar.compiler.ir import Program
from attar.compiler.kernels.convolution_baked import BakedConvolution
from attar.compiler.target import TARGETS, host

__all__ = ["LAYOUT", "Emulator", "emulator"]

# maps laid out as for AVX-512; the C compiler makes two of this machine's vectors, or four, of each
LAYOUT = replace(TARGETS["avx512"], name="emulated", flags=host().flags, needs=frozenset())

_POINTER = ctypes.c_void_p
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_long, _POINTER, _POINTER, _POINTER, ctypes.c_int64, _POINTER)


@dataclass
class Emulator:
    """The functions of a program's baked code, by symbol, and each call of one that was made: (symbol, address written, tiles)."""

    functions: dict[str, np.ndarray]
    calls: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """C that stands in for the functions."""
        if not self.functions:
            return ""
        head = "void (*attar_emulator)(long, const void *, const void *, void *, int64_t, const void *);"
        bodies = (
            f"{PROTOTYPE.format(name=name).split(' __attribute__')[0]} {{\n    (void)mask, (void)scratch;\n"
            f"    attar_emulator({number}, x, stream, out, tiles, residual);\n}}"
            for number, name in enumerate(self.functions)
        )
        return "\n".join([head, *bodies])

    def run(self, library: ctypes.CDLL, memory: Sequence[np.ndarray], steps: Callable[[], None]) -> None:
        """Call `steps`, which call functions of `library`; what a function touches must be within one of the arrays."""
        programs, names, failures = [*self.functions.values()], [*self.functions], []

        def place(pointer: int) -> tuple[np.ndarray, int]:
            held = next(array for array in memory if array.ctypes.data <= pointer < array.ctypes.data + array.nbytes)
            return held, pointer - held.ctypes.data

        def emulate(number: int, x: int, stream: int, out: int, tiles: int, residual: int | None) -> None:
            try:
                beside = place(residual) if residual else None
                call(programs[number], place(x), stream=place(stream), out=place(out), tiles=tiles, residual=beside)
                self.calls.append((names[number], out, tiles))
            except BaseException as failure:  # C has no way to pass it on
                failures.append(failure)

        callback = _CALL(emulate)
        if self.functions:
            ctypes.c_void_p.in_dll(library, "attar_emulator").value = ctypes.cast(callback, _POINTER).value
        steps()
        if failures:
            raise failures[0]


def emulator(program: Program) -> Emulator:
    """What stands in for the baked code of a program."""
    layers = [(name, layer) for op in program.ops if isinstance(op, BakedConvolution) for name, _, layer in op.layers]
    return Emulator({f"{name}_{n}": layer.program[f.start : f.stop] for name, layer in layers for n, f in enumerate(layer.functions)})
