"""What is built: the assembler takes it, the symbols are there, the bytes are ours; where the processor can, the code runs."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from attar.compiler.baked import Epilogue, assemble, carrier, declarations, interpret

FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
POINTER = ctypes.c_void_p


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A baked layer as a shared library."""
    if platform.system() != "Linux" or platform.machine() != "x86_64" or not shutil.which("cc"):
        pytest.skip("no C compiler for x86-64 and ELF here")

    def run(baked, by_file=False):
        folder = tmp_path_factory.mktemp("baked")
        code, starts = assemble(baked.program)
        symbols = [f"layer_{number}" for number in range(len(starts))]
        file = str(folder / 'the "code".bin') if by_file else None
        if file:
            Path(file).write_bytes(code.tobytes())
        (folder / "code.s").write_text(carrier(code, starts, symbols=symbols, file=file))
        uses = "\n".join(f"void *use_{number}(void) {{ return (void *){symbol}; }}" for number, symbol in enumerate(symbols))
        (folder / "use.c").write_text(declarations(symbols) + uses + "\n")
        subprocess.run(["cc", "-Wall", "-Werror", "-fPIC", "-shared", "code.s", "use.c", "-o", "layer.so"], cwd=folder, check=True)
        return ctypes.CDLL(str(folder / "layer.so")), symbols

    return run


@pytest.mark.parametrize("by_file", [False, True])
def test_the_library_holds_every_function_at_its_symbol(build, case, by_file):
    baked = case(0, rows=40, columns=120, density=0.5, tiles=1).bake(Epilogue(low=0.0, masked=True), chunk=6000)
    library, symbols = build(baked, by_file)
    code, starts = assemble(baked.program)
    assert len(symbols) == len(baked.functions) > 2
    for number, (symbol, start) in enumerate(zip(symbols, starts.tolist(), strict=True)):
        here = ctypes.cast(getattr(library, symbol), POINTER).value
        use = getattr(library, f"use_{number}")
        use.restype = POINTER
        end = [*starts.tolist(), code.size][number + 1]
        assert use() == here
        assert here % 64 == 0
        assert ctypes.string_at(here, end - start) == code[start:end].tobytes()


NEEDS = [
    (Epilogue(low=0.0, high=6.0, masked=True, residual=True), ["avx512f"]),
    (Epilogue("int32", masked=True), ["avx512f", "avx512_vnni"]),
    (Epilogue("float32", low=0.0, masked=True, residual=True, scale=np.full(45, 1e-3, np.float32)), ["avx512f", "avx512_vnni"]),
    (
        Epilogue("uint8", 7, 200, True, True, np.full(45, 1e-3, np.float32), 7, 0.5, 9),
        ["avx512f", "avx512bw", "avx512_vnni"],
    ),
]


@pytest.mark.parametrize(("epilogue", "needs"), NEEDS, ids=["float32", "int32", "dequantised", "uint8"])
@pytest.mark.parametrize("prefetch", [None, 3])
def test_the_processor_computes_what_the_interpreter_does(build, case, epilogue, needs, prefetch):
    if any(f" {flag} " not in FLAGS for flag in needs):
        pytest.skip(f"this processor has not all of {', '.join(needs)}")
    layer = case(5, rows=45, columns=200, density=0.4, tiles=3, int8=len(needs) > 1, bytes_out=epilogue.output == "uint8")
    baked = layer.bake(epilogue, chunk=9000, prefetch=prefetch)
    wanted, got = (np.zeros(layer.residual.size, np.uint32) for _ in range(2))
    residual = (layer.residual, 0) if epilogue.residual else None
    interpret(baked, (layer.x, layer.start), out=(wanted, 0), tiles=3, mask=(layer.mask, 0), residual=residual)
    library, symbols = build(baked)
    scratch = np.zeros(max(1, baked.scratch * 3), np.uint8)
    arrays = (layer.mask, layer.residual, scratch)
    for symbol in symbols:
        function = getattr(library, symbol)
        function.restype, function.argtypes = None, [POINTER] * 3 + [ctypes.c_int64] + [POINTER] * 3
        function(layer.x.ctypes.data + layer.start, baked.stream.ctypes.data, got.ctypes.data, 3, *(array.ctypes.data for array in arrays))
    assert (got == wanted).all()
