"""Products that look their weights up equal those with the weights themselves: sizes, bits, zeros, strides, threads, processors."""

import itertools

import numpy as np
import pytest
import torch
from compiling import execute
from emulating import LAYOUT
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from attar.compiler import compile as compile_
from attar.compiler.ir import Array, Op, Program, array, check, constant
from attar.compiler.kernels.codebook import LookUp, LookUpRuns, codebook_alternatives, few, pack, runs
from attar.compiler.kernels.matmul import Matmul, product
from attar.compiler.kernels.sparse_linear import sparse
from attar.compiler.target import TARGETS, Target, host

HERE = [*(target for target in TARGETS.values() if target.runs_here), LAYOUT]  # the last: AVX-512's width on any processor


def shared(shape: tuple[int, int], bits: int, zeros: float, seed: int = 0) -> np.ndarray:
    """A weight of at most 2^bits values, zero among them where some of it is zero."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(2**bits).astype(np.float32)
    if zeros:
        values[0] = 0
    return values[rng.integers(0, 2**bits, shape) * (rng.random(shape) >= zeros)]


def ran(steps: list[Op], inputs: list[Array], values: list[np.ndarray], parts: int = 2, target: Target | None = None) -> list[np.ndarray]:
    program = Program(tuple(inputs), tuple(step.output for step in steps), steps)
    check(program)
    found = execute(program, [torch.from_numpy(v) for v in values], parts, target or host())
    return [value.numpy() for value in found]


def looked_up(op: Matmul, bits: int) -> list[Op]:
    """The product as it is, and both ways to look its weights up, whatever its size; each with an output of its own."""
    a, _, *others = op.inputs
    weight = op.weight.known.T
    values, indices = few(weight)
    book = np.zeros(max(16, 1 << bits), np.float32)
    book[: len(values)] = values
    tables = [constant(part) for part in runs(indices, weight != 0)]
    outputs = [array(op.output.shape, "float32") for _ in range(2)]
    return [
        op,
        LookUp(outputs[0], (a, constant(pack(indices, bits)), constant(book), *others), bits, op.expression),
        LookUpRuns(outputs[1], (a, constant(book), *tables, *others), op.expression),
    ]


@settings(max_examples=16, phases=[Phase.generate], deadline=None)  # not shrunk: each example is compiled
@given(
    st.integers(1, 67) | st.sampled_from([128, 200, 256]),
    st.integers(1, 67),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(HERE),
)
def test_equals_the_product_with_the_weights(k: int, n: int, bits: int, zeros: float, stride: int, parts: int, target: Target) -> None:
    """Bit for bit where the order of sums is the same."""
    weight = shared((k, n), bits, zeros, k * n)
    rng = np.random.default_rng(k + n)
    x, bias, more = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, k * stride), (n,), (1, n)))
    given = [array(v.shape, "float32") for v in (x, bias, more)]
    a = Array(given[0].buffer, (1, k), (k * stride, stride), 0)
    others = [Array(given[1].buffer, (1, n), (0, 1), 0), given[2]]
    (op,) = product(a, constant(weight), array((1, n), "float32"), others=others, expression="({0} + {1}) * {2}")
    dense, panels, in_runs = ran(looked_up(op, bits), given, [x, bias, more], parts, target)
    np.testing.assert_array_equal(panels, dense)
    scale = (np.abs(x[:, ::stride]) @ np.abs(weight) + np.abs(bias)) * np.abs(more)
    assert (np.abs(in_runs - dense) <= 1e-5 * scale).all()


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_wide_inputs(bits: int) -> None:
    """Places beyond 16 bits; whole numbers, so that every order of sums gives the same."""
    rng = np.random.default_rng(bits)
    weight = rng.integers(0, 2**bits, (70_000, 5)).astype(np.float32) * (rng.random((70_000, 5)) > 0.99)
    x = rng.integers(-4, 5, (1, 70_000)).astype(np.float32)
    given = array(x.shape, "float32")
    (op,) = product(given, constant(weight), array((1, 5), "float32"))
    steps = looked_up(op, bits)
    assert steps[2].inputs[2].dtype == "int32"
    for found in ran(steps, [given], [x]):
        np.testing.assert_array_equal(found, x @ weight)


@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 300), st.sampled_from([0.0, 0.8, 1.0]))
@settings(deadline=None)
def test_values_and_indices_are_the_weight(n: int, k: int, count: int, zeros: float) -> None:
    """Nothing is lost, not even the sign of a zero; each value is there once; more than an index tells apart are refused."""
    rng = np.random.default_rng(n * k)
    values = np.concatenate([np.array([0.0, -0.0, 1e-42], np.float32), rng.standard_normal(count).astype(np.float32)])
    weight = values[rng.integers(0, len(values), (n, k)) * (rng.random((n, k)) >= zeros)]
    bits = weight.view(np.uint32)
    known = few(weight)
    if len(np.unique(bits)) > 256:
        assert known is None
        return
    assert known is not None
    found, indices = known
    np.testing.assert_array_equal(np.sort(found.view(np.uint32)), np.unique(bits))
    np.testing.assert_array_equal(found.view(np.uint32)[indices], bits)


def test_values_that_come_late() -> None:
    """Every element is looked at: the last may be one value too many, or none that a product may be reordered with."""
    weight = np.repeat(np.arange(256, dtype=np.float32), 1000)
    assert few(weight) is not None
    for last in (256.5, np.nan, np.inf, -np.inf):
        assert few(np.append(weight[1000:], np.float32(last))) is None or last == 256.5
        assert few(np.append(weight, np.float32(last))) is None


@given(st.integers(1, 20), st.integers(1, 80), st.integers(1, 8), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
@settings(deadline=None)
def test_runs_hold_each_weight_once(n: int, k: int, bits: int, zeros: float) -> None:
    """In each row at most three single weights of a value: what comes four times is in runs."""
    weight = shared((n, k), bits, zeros, n + k)
    values, indices = few(weight)
    places, which, starts = runs(indices, weight != 0)
    assert len(places) == np.count_nonzero(weight) == 4 * starts[-1, 0] + starts[-1, 1]
    found = np.zeros_like(weight)
    for row, (begin, end) in enumerate(itertools.pairwise(starts)):
        here = places[4 * begin[0] + begin[1] : 4 * end[0] + end[1]]
        index = which[begin.sum() : end.sum()]
        whole = end[0] - begin[0]
        assert np.bincount(index[whole:], minlength=1).max() <= 3
        found[row, here] = values[np.concatenate([np.repeat(index[:whole], 4), index[whole:]])]
    np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize(("bits", "field"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_bytes_that_indices_take(bits: int, field: int) -> None:
    assert pack(np.zeros((256, 256), np.uint8), bits).size == 256 * 256 * field // 8


def test_bytes_that_runs_take() -> None:
    """Of a layer of 4 bits with nine tenths zeros: well below half of what float32 values and their places take."""
    weight = constant(shared((1024, 256), 4, 0.9))
    given, output = array((1, 1024), "float32"), array((1, 256), "float32")
    (plain,) = sparse(given, weight, output)
    (op,) = product(given, weight, output)
    coded = codebook_alternatives(op)["codebook4-sparse"]
    held = [sum(value.buffer.bytes for value in step.inputs if value.buffer.data is not None) for step in (plain, coded)]
    assert held[1] < 0.5 * held[0]


def offered(weight: np.ndarray, m: int = 1) -> list[str]:
    """The ways that are offered for a product, each of which gives what the dense product gives."""
    given, output = array((m, len(weight)), "float32"), array((m, weight.shape[1]), "float32")
    op = product(given, constant(weight), output, expression="attar_tanhf({0})")[-1]
    found = codebook_alternatives(op)
    x = np.random.default_rng(0).standard_normal(given.shape).astype(np.float32)
    wanted = ran([op], [given], [x])[0]
    for step in found.values():
        np.testing.assert_allclose(ran([step], [given], [x])[0], wanted, atol=1e-5 * np.sqrt(len(weight)))
    return [*found]


@pytest.mark.parametrize(
    ("shape", "bits", "zeros", "names"),
    [
        ((512, 300), 4, 0, ["codebook4"]),
        ((512, 300), 4, 0.7, ["codebook4", "codebook4-sparse"]),
        ((512, 300), 4, 0.95, ["codebook4-sparse"]),
        ((512, 300), 8, 0.6, ["codebook8", "codebook8-sparse"]),
        ((512, 300), 8, 0.9, ["codebook8-sparse"]),
        ((512, 300), 9, 0, []),  # more values than an index tells apart
        ((512, 300), 9, 0.9, []),
        ((128, 300), 4, 0.6, []),  # stays in a cache as it is
    ],
)
def test_what_is_offered(shape: tuple[int, int], bits: int, zeros: float, names: list[str]) -> None:
    assert offered(shared(shape, bits, zeros)) == names


def test_what_is_not_offered() -> None:
    weight = shared((512, 300), 4, 0.6)
    assert offered(weight)
    assert not offered(weight, m=2)
    for other in (np.nan, np.inf):
        one = weight.copy()
        one[100, 100] = other
        assert not codebook_alternatives(product(array((1, 512), "float32"), constant(one), array((1, 300), "float32"))[-1])
    wide = product(array((1, 512), "float64"), constant(weight.astype(np.float64)), array((1, 300), "float64"))[-1]
    assert not codebook_alternatives(wide)


def test_one_value() -> None:
    assert offered(np.full((512, 300), 0.25, np.float32)) == ["codebook1"]
    assert offered(np.zeros((512, 300), np.float32)) == ["codebook1-sparse"]


def test_choice_and_network() -> None:
    """All ways are timed, for layers of other bits apart; whichever is taken, the network gives what it gives in PyTorch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 300), nn.ReLU(), nn.Linear(300, 512, bias=False)).eval()
    for layer, bits in ((model[0], 4), (model[2], 8)):
        layer.weight.data = torch.from_numpy(shared(tuple(layer.weight.shape), bits, 0.7, bits) / 16)
    x = torch.randn(1, 512)
    engine = compile_(model, (x,))
    np.testing.assert_allclose(engine(x), model(x).detach(), rtol=1e-4, atol=1e-5)
    timed = [set(choice.seconds) for choice in engine.report.choices]
    assert timed == [{"dense", "sparse", f"codebook{bits}", f"codebook{bits}-sparse"} for bits in (4, 8)]
