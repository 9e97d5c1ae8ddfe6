"""Bytes: those of the GNU assembler for every kind, register and displacement, and whole to a disassembler."""

import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.compiler.baked.assemble import ALIGNMENT, FILLER, assemble, lengths
from attar.compiler.baked.instructions import OUT, Kind, bounds, instruct, join
from attar.compiler.baked.listing import text


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), functions=st.integers(1, 12), longest=st.sampled_from([1, 12, 25, 300]))
def test_bytes_are_those_of_the_gnu_assembler(gas, random_program, seed, functions, longest):
    program = random_program(seed, functions, longest)
    assert assemble(program)[0].tobytes() == gas(text(program)).tobytes()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_functions_begin_on_lines_and_fillers_lie_between(random_program, seed):
    program = random_program(seed)
    code, starts = assemble(program)
    sizes = np.add.reduceat(lengths(program), bounds(program)[:-1])
    ends = np.append(starts[1:], code.size)
    assert (starts % ALIGNMENT == 0).all()
    assert (ends - starts - sizes < ALIGNMENT).all()
    for start, size, end in zip(starts, sizes, ends, strict=True):
        assert code[start + size - 4 : start + size].tobytes() == b"\xc5\xf8\x77\xc3"
        assert (code[start + size : end] == FILLER).all()


@pytest.mark.parametrize("count", [1, 16, 17, 18, 19, 20, 40])
def test_the_jump_is_as_short_as_it_can_be(gas, count):
    """Around 128 bytes the jump back grows from two bytes to six."""
    loop = instruct(Kind.STORE, reg=np.arange(count) % 32, base=OUT, value=64 * np.arange(count))
    program = join([instruct(Kind.LOOP), loop, instruct([Kind.DECREMENT, Kind.REPEAT, Kind.RET])])
    assert assemble(program)[0].tobytes() == gas(text(program)).tobytes()


def test_a_disassembler_reads_the_same_instructions(tmp_path, random_program):
    if not shutil.which("objdump"):
        pytest.skip("no objdump here")
    program = random_program(7, functions=20)
    (tmp_path / "code").write_bytes(assemble(program)[0].tobytes())
    said = subprocess.run(
        ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--no-show-raw-insn", "code"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "can't use supplied machine" in said.stderr:
        pytest.skip("objdump here does not know x86-64")
    lines = [line.split("\t")[1].split("#")[0].split() for line in said.stdout.splitlines() if line.count("\t") == 1]
    names = [words[0] for words in lines if words[0] != "int3"]
    wanted = [line.split()[0].rstrip(";") for line in text(program).splitlines() if line.startswith("    ")]
    assert "(bad)" not in names
    assert [{"jne": "jnz"}.get(name, name) for name in names if name != "ret"] == wanted


def test_a_program_outside_the_language_is_refused():
    with pytest.raises(ValueError, match="end in RET"):
        assemble(instruct(Kind.MOVE))
