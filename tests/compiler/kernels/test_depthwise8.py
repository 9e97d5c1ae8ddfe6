"""Depthwise convolutions of bytes, on every processor's C that runs here, against NumPy's integers, bit for bit."""

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from compiling import execute
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from integers import EPILOGUES, reference

from attar.compiler.build import c_compiler
from attar.compiler.ir import Program, Space, array, check, lanes
from attar.compiler.kernels.depthwise8 import GROUP, Depthwise8, excess, groups, order
from attar.compiler.kernels.lanes import Line, Part, from_lanes
from attar.compiler.kernels.prelude import PRELUDE
from attar.compiler.kernels.taps8 import PAIR
from attar.compiler.kernels.words import Affine, Pack, Unpack
from attar.compiler.plan import lay_out
from attar.compiler.target import TARGETS, flags
from attar.errors import AttarError

HERE = [name for name, one in TARGETS.items() if one.runs_here]
numbers = st.integers


def program(weight, shift, sizes, *, first=None, begin=None, scale=None, zero=0, sides=(), affine=None, epilogue="{0}"):
    """Whole numbers packed to bytes, and what `weight` (outputs, taps) at `shift` gives, from words `first` of the input on."""
    outputs, taps = weight.shape
    first = np.zeros(taps, np.int64) if first is None else first
    words, space = -(-outputs // 4), Space(sizes)
    low, high = shift.min(0), shift.max(0)
    space.reach.append(tuple((n, n, int(a), int(z)) for n, a, z in zip(sizes, low, high, strict=True)))
    lines = tuple(Line(n) for n in sizes)
    given, ops = [], []
    for number, (channels, grid) in enumerate([(4 * (words + int(first.max())), Affine(1.0, zero)), *((outputs, side) for side in sides)]):
        given.append(array((sizes[0], channels, *sizes[1:]), "float32", argument=number))
        packed = lanes(-(-channels // 4), sizes, space, "int32")
        ops.append(Pack(packed, (given[-1],), (Part(packed.channels, lines),), grid.word, grid, (channels,)))
    output = lanes(outputs, sizes, space) if affine is None else lanes(words, sizes, space, "int32")
    held = np.zeros((outputs, taps, 4), np.int8)
    held[np.arange(outputs), :, np.arange(outputs) % 4] = weight
    ops.append(
        Depthwise8(
            output,
            tuple(op.output for op in ops),
            held,
            np.arange(words)[:, None] + first,
            np.broadcast_to(shift, (words, *shift.shape)),
            np.arange(outputs) // 4,
            np.zeros(outputs, np.int32) if begin is None else begin,
            np.ones(outputs, np.float32) if scale is None else scale,
            affine,
            tuple(sides),
            epilogue,
        )
    )
    result = array((sizes[0], outputs, *sizes[1:]), "float32", argument=len(given))
    plain = from_lanes(output, result) if affine is None else Unpack(result, (output,), (Part(outputs, lines),), None, Affine(1.0, 0))
    return Program(tuple(given), (result,), [*ops, plain])


def run(made, inputs, target, parts):
    lay_out(made, TARGETS[target])
    check(made)
    return execute(made, [torch.from_numpy(x) for x in inputs], parts, TARGETS[target])[0].numpy()


def equal_everywhere(weight, shift, sizes, inputs, **about):
    """Every processor gives what NumPy's integers give."""
    expected = reference(program(weight, shift, sizes, **about), *inputs)[0]
    for parts, target in enumerate(HERE, 1):
        np.testing.assert_array_equal(run(program(weight, shift, sizes, **about), inputs, target, parts), expected, err_msg=target)
    return expected


def square(size, dims=2):
    """Shifts of a kernel, samples first, which stay."""
    grid = np.stack(np.meshgrid(*[np.arange(size) - size // 2] * dims, indexing="ij"), -1).reshape(-1, dims)
    return np.concatenate([np.zeros((len(grid), 1), np.int64), grid], 1)


def fitting(weight):
    """Weights made as small as AVX2's sums need them."""
    return np.rint(weight / np.maximum(1, excess(weight.astype(np.float64), 0.5))[:, None]).astype(np.int8)


@st.composite
def layers(draw):
    """(weight, shifts, sizes, inputs, all else that makes a program): taps of any number and place, phases, sides, every output."""
    rng = np.random.default_rng(draw(numbers(0, 999)))
    dims, taps, outputs = draw(numbers(1, 3)), draw(numbers(1, 30)), draw(numbers(1, 11))
    sizes = (draw(numbers(1, 2)), *(draw(numbers(1, 19 if dims < 3 else 5)) for _ in range(dims)))
    reach = draw(numbers(0, 2))
    shift = rng.integers(-reach, reach + 1, (taps, dims + 1))
    shift[:, 0] = 0
    weight = fitting(rng.integers(-127, 128, (outputs, taps)) * (rng.random((outputs, taps)) < draw(st.sampled_from([0.1, 1]))))
    zero = draw(st.sampled_from([0, 7, 128, 255]))
    about = {"first": rng.integers(0, draw(numbers(1, 4)), taps), "zero": zero}
    about["begin"] = rng.integers(-9999, 9999, outputs).astype(np.int32)
    about["scale"] = rng.uniform(0, draw(st.sampled_from([0.01, 1e9])), outputs).astype(np.float32)
    about["sides"] = (Affine(float(np.float32(0.013)), draw(st.sampled_from([0, 99]))),) * draw(numbers(0, 1))
    value = "({0} + {1})" if about["sides"] else "{0}"
    about["epilogue"] = draw(st.sampled_from([value, f"attar_reluf({value})", f"attar_boundf({value}, 0.0f, 6.0f)"]))
    low = -5.0 if about["epilogue"] == value else 0.0
    about["affine"] = draw(st.sampled_from([None, Affine.between(low, 7.1), Affine.between(low, 300.0)]))
    channels = 4 * (-(-outputs // 4) + int(about["first"].max()))
    x = rng.integers(-zero, 256 - zero, (sizes[0], channels, *sizes[1:])).astype(np.float32)
    side = [rng.uniform(-1, 2, (sizes[0], outputs, *sizes[1:])).astype(np.float32) for _ in about["sides"]]
    return weight, shift, sizes, [x, *side], about


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(layers())
def test_every_processor_equals_integers(layer):
    weight, shift, sizes, inputs, about = layer
    equal_everywhere(weight, shift, sizes, inputs, **about)


@pytest.mark.parametrize("taps", [1, 9, 25])
def test_no_sum_leaves_its_bits_at_the_largest_weights_and_inputs(taps):
    """Sums of 16 bits reach both ends of what they can hold, where all weights of a group have one sign or each its own."""
    signs = np.stack([np.ones(taps), -np.ones(taps), np.resize([1, -1], taps), np.resize([1, 1, -1, -1], taps)]).astype(np.int64)
    weight = np.zeros((4, taps), np.int64)
    for part in groups(taps):
        weight[:, part.start : part.stop] = min(PAIR // 2 if len(part) > 1 else 127, GROUP // len(part))
    weight = (weight * signs).astype(np.int8)
    assert excess(weight.astype(int)).max() <= 1
    x = np.random.default_rng(0).integers(0, 2, (1, 4, 9, 11)).astype(np.float32) * 255
    shift = square(5)[:taps]
    equal_everywhere(weight, shift, (1, 9, 11), [x], begin=np.array([0, 2**20, -(2**20), 5], np.int32))
    x[:] = 255
    equal_everywhere(weight, shift, (1, 9, 11), [x], zero=0, affine=Affine(300.0, 99))


def twice(weight, shift, sizes):
    """The same convolution two times: the second reads the first's padding."""
    made = program(weight, shift, sizes, affine=Affine(900.0, 77))
    pack, one, unpack = made.ops
    two = dataclasses.replace(one, inputs=(one.output,), output=lanes(2, sizes, one.output.space, "int32"), affine=Affine(900.0, 5))
    return dataclasses.replace(made, ops=[pack, one, two, dataclasses.replace(unpack, inputs=(two.output,))])


def test_a_clean_map_is_padded_with_its_zero_point():
    sizes, shift = (1, 7, 10), square(3)
    weight = fitting(np.random.default_rng(0).integers(-127, 128, (6, 9)))
    x = np.random.default_rng(1).integers(0, 256, (1, 8, *sizes[1:])).astype(np.float32)
    expected = reference(twice(weight, shift, sizes), x)[0]
    for target in HERE:
        np.testing.assert_array_equal(run(twice(weight, shift, sizes), [x], target, 3), expected)


def test_any_other_epilogue_is_computed_in_float32(monkeypatch):
    monkeypatch.setitem(EPILOGUES, "{0} * attar_sigmoidf({0})", lambda v: v * (1 / (1 + np.exp(-v))))
    weight, shift, sizes = fitting(np.random.default_rng(0).integers(-127, 128, (6, 9))), square(3), (1, 5, 7)
    x = np.random.default_rng(1).integers(0, 256, (1, 8, 5, 7)).astype(np.float32)
    for affine in (None, Affine.between(-1.0, 3.0)):
        about = {"scale": np.full(6, 1e-4, np.float32), "affine": affine, "epilogue": "{0} * attar_sigmoidf({0})"}
        expected = reference(program(weight, shift, sizes, **about), x)[0]
        for target in HERE:
            found = run(program(weight, shift, sizes, **about), [x], target, 2)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 if affine is None else 1)  # a byte apart at most


def test_weights_that_avx2_would_confuse_are_refused():
    for weight in (np.full((4, 2), 65, np.int8), np.array([[127, -127, 2, -2]] * 4, np.int8).repeat(2, 1)):
        made = program(weight, square(3)[: weight.shape[1]], (1, 4, 4))
        lay_out(made, TARGETS["avx2"])
        with pytest.raises(AttarError, match="must keep pairs within 128 and groups within 257"):
            made.ops[1].constants  # noqa: B018
        made = program(weight, square(3)[: weight.shape[1]], (1, 4, 4))
        lay_out(made, TARGETS["generic"])
        assert made.ops[1].constants


@given(numbers(1, 80))
def test_groups_hold_every_tap_once_and_few_pairs(taps):
    parts = groups(taps)
    assert [tap for part in parts for tap in part] == list(range(taps))
    assert all(part.start % 2 == 0 and len(part) <= 6 for part in parts)
    assert len(parts) % 2 == 0 or taps <= 2


@given(st.lists(st.lists(numbers(-127, 127), min_size=9, max_size=9), min_size=1, max_size=5))
def test_scaled_by_their_excess_weights_fit_rounded_or_not(rows):
    weight = np.array(rows)
    assert (excess(weight / np.maximum(excess(weight.astype(float)), 1e-9)[:, None]) <= 1 + 1e-9).all()
    assert excess(fitting(weight).astype(int)).max() <= 1


def test_large_taps_are_ordered_beside_small_ones():
    weight = np.random.default_rng(0).normal(size=(50, 9)) * np.array([1, 2, 1, 2, 8, 2, 1, 2, 1])
    taps = order(weight)
    assert sorted(taps) == list(range(9))
    assert taps[-1] == 4  # alone
    assert excess(weight[:, taps]).mean() < excess(weight).mean()


STAND_INS = Path(__file__).with_name("vnni.h")


@pytest.mark.parametrize("taps", [2, 9])
def test_code_for_vnni_means_the_same(taps, monkeypatch):
    """With stand-ins, in plain C, for the few instructions that it names."""
    weight = np.random.default_rng(taps).integers(-127, 128, (6, taps)).astype(np.int8)
    shift, sizes = square(5)[:taps], (1, 9, 11)
    x = np.random.default_rng(0).integers(0, 256, (1, 8, *sizes[1:])).astype(np.float32)
    plain = tuple(flag for flag in flags(TARGETS["avx512"]) if flag not in TARGETS["avx512"].flags)
    monkeypatch.setattr("compiling.flags", lambda target: (*plain, "-D__AVX512VNNI__", "-include", str(STAND_INS)))
    for about in ({}, {"affine": Affine(300.0, 99)}, {"affine": Affine(300.0, 0), "epilogue": "attar_boundf({0}, 0.0f, 9000.0f)"}):
        expected = reference(program(weight, shift, sizes, zero=7, **about), x)[0]
        np.testing.assert_array_equal(run(program(weight, shift, sizes, zero=7, **about), [x], "avx512", 2), expected)


def test_code_for_vnni_is_c(tmp_path):
    weight = np.ones((6, 9), np.int8)
    made = program(weight, square(3), (1, 9, 11), affine=Affine(1.0, 3))
    lay_out(made, TARGETS["avx512"])
    (tmp_path / "net.c").write_text("\n".join([PRELUDE, *made.ops[1].functions().values()]))
    command = [*c_compiler(), *flags(TARGETS["avx512"]), "-Wno-unused-function", "-Werror", "-c", "-o", str(tmp_path / "net.o")]
    subprocess.run([*command, str(tmp_path / "net.c")], check=True)
