"""Convolutions of bytes, every kernel and every processor's C that runs here, against NumPy's integers, bit for bit."""

import numpy as np
import pytest
import torch
from compiling import execute
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from integers import EPILOGUES, reference

from attar.compiler.ir import Program, Space, array, check, lanes
from attar.compiler.kernels.convolution8 import BLOCKS8, Convolution8
from attar.compiler.kernels.lanes import Line, Part, from_lanes
from attar.compiler.kernels.taps import linear
from attar.compiler.kernels.taps8 import PAIR, chains, pairs
from attar.compiler.kernels.words import Affine, Pack, Unpack
from attar.compiler.plan import lay_out
from attar.compiler.target import TARGETS
from attar.errors import AttarError

HERE = [name for name, one in TARGETS.items() if one.runs_here]
BYTES = Affine(1.0, 0)  # bytes as they are
numbers = st.integers


def program(weight, sizes, *, shift=None, group=None, word=None, begin=None, scale=None, zero=0, sides=(), **finish):
    """Whole numbers packed to bytes, the convolution by every kernel that takes it, and what each gives: bytes as numbers, or float32.

    Sides are packed bytes, too.
    """
    outputs, columns, _ = weight.shape
    word = np.arange(columns)[None] if word is None else word
    shift = np.zeros((*word.shape, len(sizes)), np.int64) if shift is None else shift
    group = np.zeros(outputs, np.int64) if group is None else group
    begin = np.zeros(outputs, np.int32) if begin is None else begin
    scale = np.ones(outputs, np.float32) if scale is None else scale
    space = Space(sizes)
    low, high = shift.min((0, 1)), shift.max((0, 1))
    space.reach.append(tuple((n, n, int(a), int(z)) for n, a, z in zip(sizes, low, high, strict=True)))
    lines = tuple(Line(n) for n in sizes)
    ops, given, packed = [], [], []
    for number, (channels, grid) in enumerate([(4 * (int(word.max()) + 1), Affine(1.0, zero)), *((outputs, side) for side in sides)]):
        given.append(array((sizes[0], channels, *sizes[1:]), "float32", argument=number))
        words = -(-channels // 4)
        packed.append(lanes(words, sizes, space, "int32"))
        ops.append(Pack(packed[-1], (given[-1],), (Part(words, lines),), grid.word, grid, (channels,)))
    affine = finish.get("affine")
    results = []
    for block in BLOCKS8:
        output = lanes(outputs, sizes, space) if affine is None else lanes(-(-outputs // 4), sizes, space, "int32")
        op = Convolution8(output, tuple(packed), weight, word, shift, group, begin, scale, sides=tuple(sides), block=block, **finish)
        if op.takes(block):
            results.append(array((sizes[0], outputs, *sizes[1:]), "float32", argument=len(given) + len(results)))
            plain = (
                from_lanes(output, results[-1]) if affine is None else Unpack(results[-1], (output,), (Part(outputs, lines),), None, BYTES)
            )
            ops += [op, plain]
    return Program(tuple(given), tuple(results), ops)


def compiled(made, inputs, target, parts):
    """What C for a processor gives by each kernel, in the shares of some threads."""
    lay_out(made, TARGETS[target])
    check(made)
    return execute(made, [torch.from_numpy(x) for x in inputs], parts, TARGETS[target])


def equal_everywhere(weight, sizes, inputs, **about):
    """Every kernel on every processor gives what NumPy's integers give."""
    expected = reference(program(weight, sizes, **about), *inputs)[0]
    for parts, target in enumerate(HERE, 1):
        for found in compiled(program(weight, sizes, **about), inputs, target, parts):
            np.testing.assert_array_equal(found.numpy(), expected, err_msg=target)
    return expected


def extremes(outputs, columns, seed):
    """Weights at the edge of what neighbours may sum to: pairs of 64, -64, or 127 and 1."""
    kinds = np.array([[64, 64], [-64, -64], [127, 1], [-1, -127], [127, -127], [0, 0], [1, 127]], np.int8)
    return kinds[np.random.default_rng(seed).integers(0, len(kinds), (outputs, columns, 2))].reshape(outputs, columns, 4)


def test_no_sum_of_products_saturates_at_the_largest_weights_and_inputs():
    sizes = (1, 3, 5)
    for fill in (0, 255):
        x = np.full((1, 4 * 64, *sizes[1:]), fill, np.float32)
        for weight in (np.full((5, 64, 4), 64, np.int8), np.full((5, 64, 4), -64, np.int8), extremes(5, 64, 0)):
            expected = equal_everywhere(weight, sizes, [x])
            sums = weight.astype(np.int64).sum((1, 2)) * fill
            np.testing.assert_array_equal(expected, np.broadcast_to(sums.reshape(1, 5, 1, 1), expected.shape))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_chains_hold_every_column_once_and_overflow_nowhere(data):
    blocks, outputs, columns = (data.draw(numbers(1, n)) for n in (4, 4, 40))
    weight = extremes(blocks * outputs, columns, data.draw(numbers(0, 99))).reshape(blocks, outputs, columns, 4)
    weight = weight // np.int8(data.draw(st.sampled_from([1, 2, 5, 30])))
    weight *= np.random.default_rng(0).random((blocks, 1, columns, 1)) < data.draw(st.sampled_from([0.1, 0.7, 1]))
    for length in (1, 2, 4):
        rows, members = chains(weight, length)
        assert (np.diff(rows) >= 0).all()
        found = sorted((row, column) for row, chain in zip(rows, members, strict=True) for column in chain if column >= 0)
        assert found == [tuple(place) for place in np.argwhere((weight != 0).any((1, 3)))]
        for row, chain in zip(rows, members, strict=True):
            together = weight[row][:, chain[chain >= 0]].astype(int)
            assert (pairs(together).sum(1) <= PAIR).all()
            halves = together.reshape(outputs, -1, 2, 2)
            assert 255 * np.maximum(halves, 0).sum((1, 3)).max(initial=0) < 2**15
            assert -255 * np.maximum(-halves, 0).sum((1, 3)).max(initial=0) >= -(2**15)


def test_small_weights_are_chained_by_four_and_large_ones_are_not():
    def length(weight):
        _, members = chains(weight, 4)
        return members.shape[0] * 4 / np.count_nonzero((weight != 0).any((1, 3)))

    assert length(np.full((2, 1, 40, 4), 16, np.int8)) == 1
    assert length(np.full((2, 1, 40, 4), 64, np.int8)) == 4


def test_weights_that_avx2_would_saturate_are_refused():
    weight = np.full((4, 2, 4), 65, np.int8)
    made = program(weight, (1, 2, 2))
    lay_out(made, TARGETS["avx2"])
    with pytest.raises(AttarError, match="must keep neighbours within 128 together"):
        made.ops[1].functions()
    made = program(weight, (1, 2, 2))
    lay_out(made, TARGETS["generic"])
    assert made.ops[1].functions()


@st.composite
def layers(draw):
    """(weight, sizes, inputs, all else that makes a program): shifts and groups of any kind, odd sizes, channels no multiple of 4."""
    rng = np.random.default_rng(draw(numbers(0, 999)))
    dims = draw(numbers(1, 3))
    sizes = (draw(numbers(1, 2)), *(draw(numbers(1, 19 if dims < 3 else 5)) for _ in range(dims)))
    outputs, columns, groups = draw(numbers(1, 13)), draw(numbers(1, 40)), draw(st.sampled_from([1, 1, 2, 3]))
    weight = extremes(outputs, columns, draw(numbers(0, 99))) // np.int8(draw(st.sampled_from([1, 3, 12])))
    weight *= rng.random((outputs, columns, 1)) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
    reach = draw(numbers(0, 2))
    shift = rng.integers(-reach, reach + 1, (groups, columns, len(sizes)))
    shift[..., 0] = 0
    word, group = rng.integers(0, 5, (groups, columns)), np.sort(rng.integers(0, groups, outputs))
    zero = draw(st.sampled_from([0, 7, 128, 255]))
    about = {"shift": shift, "word": word, "group": group, "zero": zero}
    about["begin"] = rng.integers(-9999, 9999, outputs).astype(np.int32)
    about["scale"] = rng.uniform(0, 0.01, outputs).astype(np.float32)
    about["sides"] = (Affine(float(np.float32(0.013)), draw(st.sampled_from([0, 99]))),) * draw(numbers(0, 1))
    value = "({0} + {1})" if about["sides"] else "{0}"
    about["epilogue"] = draw(st.sampled_from([value, f"attar_reluf({value})", f"attar_boundf({value}, 0.0f, 6.0f)"]))
    low = -5.0 if about["epilogue"] == value else 0.0
    about["affine"] = draw(st.sampled_from([None, Affine.between(low, 7.1), Affine.between(low, 300.0)]))
    x = rng.integers(-zero, 256 - zero, (sizes[0], 4 * (int(word.max()) + 1), *sizes[1:])).astype(np.float32)
    side = [rng.uniform(-1, 2, (sizes[0], outputs, *sizes[1:])).astype(np.float32) for _ in about["sides"]]
    return weight, sizes, [x, *side], about


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(layers())
def test_every_kernel_on_every_processor_equals_integers(layer):
    weight, sizes, inputs, about = layer
    equal_everywhere(weight, sizes, inputs, **about)


def test_ties_go_to_the_even_byte_and_bytes_are_held():
    sizes, weight = (1, 1, 16), np.array([[[1, 0, 0, 0]]], np.int8)
    x = np.zeros((1, 4, *sizes[1:]), np.float32)
    x[0, 0, 0] = np.arange(16)
    affine = Affine(1.0, 3)
    result = equal_everywhere(weight, sizes, [x], scale=np.array([0.5], np.float32), affine=affine)
    np.testing.assert_array_equal(result[0, 0, 0], np.rint(np.arange(16) / 2) + 3)
    result = equal_everywhere(weight, sizes, [x], scale=np.array([-100], np.float32), affine=affine)
    np.testing.assert_array_equal(result[0, 0, 0], [3, *[0] * 15])
    result = equal_everywhere(weight, sizes, [x], scale=np.array([100], np.float32), affine=affine)
    np.testing.assert_array_equal(result[0, 0, 0], [3, 103, 203, *[255] * 13])


@pytest.mark.parametrize("affine", [None, Affine.between(-1.0, 3.0)], ids=["float32", "bytes"])
def test_any_other_epilogue_is_computed_in_float32(monkeypatch, affine):
    monkeypatch.setitem(EPILOGUES, "{0} * attar_sigmoidf({0}) + {1}", lambda v, r: v * (1 / (1 + np.exp(-v))) + r)
    rng = np.random.default_rng(0)
    sizes, weight = (1, 5, 7), extremes(6, 9, 1)
    x = rng.integers(0, 256, (1, 36, 5, 7)).astype(np.float32)
    side = rng.uniform(0, 1, (1, 6, 5, 7)).astype(np.float32)
    about = {"scale": np.full(6, 1e-4, np.float32), "sides": (Affine(float(np.float32(1 / 255)), 0),), "affine": affine}
    about["epilogue"] = "{0} * attar_sigmoidf({0}) + {1}"
    expected = reference(program(weight, sizes, **about), x, side)[0]
    for target in HERE:
        for found in compiled(program(weight, sizes, **about), [x, side], target, 2):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 if affine is None else 1)  # a byte apart at most


def test_linear_knows_the_epilogues_that_fuse_makes():
    assert linear("{0}", 0) == (-np.inf, np.inf)
    assert linear("({0} + {1}) < 0 ? 0 : ({0} + {1})", 1) == linear("attar_reluf(({0} + {1}))", 1) == (0, np.inf)
    assert linear("{0} < 0 ? 0 : {0} > 6 ? 6 : {0}", 0) == linear("attar_boundf({0}, 0.0f, 6.0f)", 0) == (0, 6)
    assert linear("attar_boundf({0}, (-1.0f), 1.0f)", 0) == (-1, 1)
    assert linear("{0}", 1) is None
    assert linear("attar_reluf({0}) + {1}", 1) is None


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.float32, 7, elements=st.floats(-1000, 1000, width=32)),
    st.floats(-100, 0, width=32),
    st.floats(0, 100, width=32).filter(lambda x: x == 0 or x > 1e-6),
)
def test_bytes_hold_zero_exactly_and_all_else_to_half_a_step(x, low, high):
    affine = Affine.between(low, high)
    assert affine.real(affine.bytes(np.zeros(1, np.float32)))[0] == 0
    held = np.clip(x, min(low, -affine.zero * affine.scale), max(high, (255 - affine.zero) * affine.scale))
    assert np.abs(affine.real(affine.bytes(x)) - held).max() <= affine.scale * 1.01


def test_packing_numbers_that_are_none_gives_bytes():
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 300, -1, 2.5], np.float32).reshape(1, 1, 8)
    for target in HERE:
        made = program(np.array([[[1, 0, 0, 0]]], np.int8), (1, 8), affine=BYTES)
        given = compiled(made, [np.concatenate([x, x, x, x], 1)], target, 1)[0]
        np.testing.assert_array_equal(given.reshape(-1), [0, 255, 0, 255, 0, 255, 0, 2])
