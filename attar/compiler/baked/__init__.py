"""Baked code: sparse layers as AVX-512 machine code, made in two steps, an instruction list (`bake`), then bytes (`assemble`).

`interpret` proves the list's meaning and the GNU assembler, given `listing`, proves the bytes, on any machine; only running it needs the
processor: AVX512F for float32 weights, AVX512BW and AVX512_VNNI too for int8. `carrier` and `declarations` are what goes into a build.
"""

from attar.compiler.baked.assemble import assemble
from attar.compiler.baked.bake import bake
from attar.compiler.baked.interpret import interpret
from attar.compiler.baked.layer import LANES, PROTOTYPE, Baked, Epilogue, Function, Strides
from attar.compiler.baked.listing import listing
from attar.compiler.baked.source import carrier, declarations

__all__ = [
    "LANES",
    "PROTOTYPE",
    "Baked",
    "Epilogue",
    "Function",
    "Strides",
    "assemble",
    "bake",
    "carrier",
    "declarations",
    "interpret",
    "listing",
]
