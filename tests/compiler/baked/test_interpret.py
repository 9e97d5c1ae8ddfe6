"""The interpreter against the C library's fma, against this processor's own instructions, and at the edges of memory."""

import ctypes
import ctypes.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.compiler.baked.instructions import MASK, OUT, RESIDUAL, SCRATCH, STREAM, TABLE, Kind, X, instruct, join
from attar.compiler.baked.interpret import call, fma

FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""


def around(*body, pointers=()):
    steps = [instruct(Kind.LEA, reg=pointer, base=pointer, value=step) for pointer, step in pointers]
    return join([instruct(Kind.LOOP), *body, *steps, instruct([Kind.DECREMENT, Kind.REPEAT, Kind.RET])])


def bit_patterns(count, seed):
    """Floats of all sizes, special ones among them, as bits."""
    rng = np.random.default_rng(seed)
    special = np.array([0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 2**31, -(2**31), 2**31 - 128, 0.5, 2.5, 1e-45, 3e38], np.float32)
    bits = rng.integers(0, 2**32, count, np.uint32)
    bits[::5] = rng.choice(special.view(np.uint32), len(bits[::5]))
    bits[1::5] = (rng.standard_normal(len(bits[1::5])) * 300).astype(np.float32).view(np.uint32)
    return bits


floats = st.floats(width=32, allow_nan=False)


@pytest.fixture(scope="module")
def fmaf():
    name = ctypes.util.find_library("m")
    if name is None:
        pytest.skip("no C library here")
    function = ctypes.CDLL(name).fmaf
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    return function


def rounded_once(fmaf, *numbers):
    with np.errstate(all="ignore"):
        return fma(*(np.array([number], np.float32) for number in numbers))[0], np.float32(fmaf(*numbers))


@given(floats, floats, floats)
def test_fma_is_the_c_librarys(fmaf, a, b, c):
    ours, theirs = rounded_once(fmaf, a, b, c)
    assert ours == theirs or (np.isnan(ours) and np.isnan(theirs))


@given(st.integers(2**23, 2**24 - 1), st.integers(2**23, 2**24 - 1), st.integers(-60, 60), st.integers(-1, 1))
def test_fma_where_rounding_twice_goes_wrong(fmaf, a, b, power, nudge):
    """The third number leaves a sum near the middle of two floats, in the normal range and among the subnormals."""
    first, second = np.float32(a * 2.0**-23), np.float32(b * 2.0**-23)
    third = np.float32(-np.float32(first * second) * (1 + nudge * 2.0**-power)) if power > 0 else np.float32(2.0 ** (-power))
    for scale in (1.0, 2.0**-140):
        ours, theirs = rounded_once(fmaf, float(first), float(np.float32(second * scale)), float(np.float32(third * scale)))
        assert ours == theirs


SOURCE = """
#include <immintrin.h>
#define KIND(name, result) __attribute__((target("avx2,fma"))) void name(const char *p, const char *q, const char *r, char *out) { \\
  for (int i = 0; i < 64; i += 32) { \\
    __m256i old = _mm256_loadu_si256((void *)(p + i)), first = _mm256_loadu_si256((void *)(q + i)); \\
    __m256i last = _mm256_loadu_si256((void *)(r + i)); \\
    (void)old; (void)first; (void)last; _mm256_storeu_si256((void *)(out + i), result); } }
#define F(x) _mm256_castsi256_ps(x)
#define I(x) _mm256_castps_si256(x)
KIND(FMA, I(_mm256_fmadd_ps(F(first), F(last), F(old))))
KIND(ADD_FLOAT, I(_mm256_add_ps(F(first), F(last))))
KIND(MULTIPLY, I(_mm256_mul_ps(F(first), F(last))))
KIND(MAX, I(_mm256_max_ps(F(first), F(last))))
KIND(MIN, I(_mm256_min_ps(F(first), F(last))))
KIND(ADD_INT, _mm256_add_epi32(first, last))
KIND(MAX_BYTES, _mm256_max_epu8(first, last))
KIND(MIN_BYTES, _mm256_min_epu8(first, last))
KIND(PACK_WORDS, _mm256_packs_epi32(first, last))
KIND(PACK_BYTES, _mm256_packus_epi16(first, last))
KIND(SHUFFLE, _mm256_shuffle_epi8(first, last))
KIND(TO_FLOAT, I(_mm256_cvtepi32_ps(last)))
KIND(TO_INT, _mm256_cvtps_epi32(F(last)))
KIND(SHIFT_LEFT, _mm256_slli_epi32(last, 11))
KIND(SHIFT_RIGHT, _mm256_srli_epi32(last, 11))
"""
MEASURED = [name for name in Kind.__members__ if f"KIND({name}," in SOURCE]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """This processor's own instructions, on the two halves of 64 bytes: all these kinds stay within 128 bits."""
    compiler = shutil.which("cc")
    if compiler is None or " avx2 " not in FLAGS or " fma " not in FLAGS:
        pytest.skip("no C compiler, or no AVX2 and FMA, here")
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "kinds.c").write_text(SOURCE)
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "kinds.c", "-o", "kinds.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kinds.so"))


@pytest.mark.parametrize("name", MEASURED)
def test_kinds_do_what_the_processor_does(processor, name):
    kind, tiles = Kind[name], 200
    old, first, last = (bit_patterns(16 * tiles, seed) for seed in range(3))
    if TABLE[kind].form == "embedded":
        last = np.repeat(last[::16], 16)
    wanted, ours = np.zeros(16 * tiles, np.uint32), np.zeros(16 * tiles, np.uint32)
    for at in range(0, wanted.nbytes, 64):
        getattr(processor, name)(*(ctypes.c_void_p(array.ctypes.data + at) for array in (old, first, last, wanted)))
    loads = [instruct(Kind.LOAD, reg=[1, 2], base=[X, STREAM]), instruct(Kind.LOAD, reg=3, base=RESIDUAL)]
    in_memory = TABLE[kind].form in ("memory", "embedded")
    does = instruct(kind, reg=1, source=2, base=RESIDUAL if in_memory else 3, value=0 if in_memory else 11)
    steps = [(pointer, 64) for pointer in (X, STREAM, RESIDUAL, OUT)]
    program = around(*loads, does, instruct(Kind.STORE, reg=1, base=OUT), pointers=steps)
    call(program, (old, 0), stream=(first, 0), residual=(last, 0), out=(ours, 0), tiles=tiles)
    if name in ("FMA", "ADD_FLOAT", "MULTIPLY"):
        nan = np.isnan(wanted.view(np.float32))
        assert (nan == np.isnan(ours.view(np.float32))).all()  # which of two NaNs comes out is not NumPy's to say
        wanted[nan] = ours[nan] = 0
    assert (ours == wanted).all()


def test_dot_multiplies_unsigned_by_signed_bytes_and_wraps():
    rng = np.random.default_rng(0)
    x, word = rng.integers(0, 256, (3, 16, 4)).astype(np.uint8), np.array([-128, 127, 3, -1], np.int8)
    old = np.full((3, 16), 2**31 - 1, np.int32)
    program = around(
        instruct(Kind.LOAD, reg=[31, 0], base=[X, OUT]),
        instruct(Kind.DOT, reg=0, source=31, base=STREAM),
        instruct(Kind.STORE, base=OUT),
        pointers=[(X, 64), (OUT, 64)],
    )
    call(program, (x, 0), stream=(word, 0), out=(old, 0), tiles=3)
    exact = 2**31 - 1 + (x.astype(np.int64) * word).sum(2)
    assert (old == ((exact + 2**31) % 2**32 - 2**31)).all()


def test_masked_lanes_become_zero_tile_by_tile():
    out, mask = np.ones((2, 16), np.float32), np.array([0x0001, 0x8000], np.uint16)
    program = around(
        instruct(Kind.LOAD, base=OUT),
        instruct(Kind.LOAD_MASK, base=MASK),
        instruct(Kind.MOVE, masked=1),
        instruct(Kind.STORE, base=OUT),
        pointers=[(OUT, 64), (MASK, 2)],
    )
    call(program, (out, 0), stream=(out, 0), out=(out, 0), tiles=2, mask=(mask, 0))
    assert np.argwhere(out).tolist() == [[0, 0], [1, 15]]


@pytest.mark.parametrize(
    ("base", "value", "step"), [(X, -4, 64), (X, 68, 64), (OUT, 0, 64), (X, 0, -64), (RESIDUAL, 0, 0), (SCRATCH, 0, 0)]
)
def test_nothing_outside_an_array_is_read(base, value, step):
    """Two tiles of 64 bytes in x, one in out, no residual and no scratch."""
    arrays = {"stream": (np.zeros(16, np.float32), 0), "out": (np.zeros(16, np.float32), 0)}
    program = around(instruct(Kind.LOAD, base=base, value=value), pointers=[(base, step)] * (step != 0))
    with pytest.raises(IndexError, match="inside its array"):
        call(program, (np.zeros(32, np.float32), 0), **arrays, tiles=2)


def test_what_batching_would_get_wrong_is_refused():
    memory = (np.zeros(64, np.float32), 0)
    with pytest.raises(ValueError, match="64 bytes apart"):
        call(around(instruct(Kind.STORE, base=OUT), pointers=[(OUT, 60)]), memory, stream=memory, out=memory, tiles=2)
    with pytest.raises(ValueError, match="from itself"):
        call(around(instruct(Kind.LEA, reg=X, base=OUT)), memory, stream=memory, out=memory, tiles=2)
    with pytest.raises(ValueError, match="at least 1"):
        call(around(), memory, stream=memory, out=memory, tiles=0)
    with pytest.raises(ValueError, match="contiguous"):
        call(around(), (np.zeros((4, 4))[:, ::2], 0), stream=memory, out=memory, tiles=1)
