"""Products with a constant of many zeros equal the dense product: sizes, strides, empty rows and columns, threads, expressions."""

import numpy as np
import pytest
import torch
from compiling import execute
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.compiler.ir import Array, Op, Program, array, check, constant
from attar.compiler.kernels.matmul import Matmul, product
from attar.compiler.kernels.sparse_linear import GatherRows, SparseTiles, sparse, sparse_alternative


def ran(steps: list[Op], inputs: list[Array], output: Array, values: list[np.ndarray], parts: int) -> np.ndarray:
    program = Program(tuple(inputs), (output,), steps)
    check(program)
    return execute(program, [torch.from_numpy(v) for v in values], parts)[0].numpy()


@settings(max_examples=14, deadline=None)
@given(
    st.sampled_from([1, 2, 15, 16, 17, 48, 63, 64, 65, 130, 300]),
    st.sampled_from([1, 3, 95, 96, 97, 200]),
    st.sampled_from([1, 5, 16, 33]),
    st.sampled_from([0.0, 0.6, 0.95, 1.0]),
    st.booleans(),
    st.integers(1, 3),
)
def test_equals_dense(m: int, k: int, n: int, zeros: float, turned: bool, parts: int) -> None:
    rng = np.random.default_rng(m * k + n)
    weight = (rng.standard_normal((k, n)) * (rng.random((k, n)) >= zeros)).astype(np.float32)
    x, bias, more = (rng.standard_normal(shape).astype(np.float32) for shape in ((k, m) if turned else (m, k), (n,), (m, n)))
    given = [array(v.shape, "float32") for v in (x, bias, more)]
    a = Array(given[0].buffer, (m, k), (1, m), 0) if turned else given[0]
    others = [Array(given[1].buffer, (m, n), (0, 1), 0), given[2]]
    for make in (sparse, product):
        output = array((m, n), "float32")
        steps = make(a, constant(weight), output, others=others, expression="({0} + {1}) * {2}")
        got = ran(steps, given, output, [x, bias, more], parts)
        np.testing.assert_allclose(got, ((x.T if turned else x) @ weight + bias) * more, rtol=1e-4, atol=1e-4)


def test_wide_columns() -> None:
    """Places beyond 16 bits."""
    weight = np.zeros((40_000, 3), np.float32)
    weight[[0, 39_999, 33_000], [0, 1, 2]] = 1, 2, 3
    x = np.arange(40_000, dtype=np.float32)[None]
    output, given = array((1, 3), "float32"), array(x.shape, "float32")
    steps = sparse(given, constant(weight), output)
    assert isinstance(steps[0], GatherRows)
    assert steps[0].inputs[2].dtype == "int32"
    np.testing.assert_array_equal(ran(steps, [given], output, [x], 1), x @ weight)


@pytest.mark.parametrize("m", [1, 20])
def test_alternative(m: int) -> None:
    """A dense product with a constant turns into the same one with the zeros left out, its nonzeros alone kept."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((30, 9)) * (rng.random((30, 9)) > 0.8)).astype(np.float32)
    given, output = array((m, 30), "float32"), array((m, 9), "float32")
    dense = product(given, constant(weight), output, expression="{0} < 0 ? 0 : {0}")[-1]
    assert isinstance(dense, Matmul)
    steps = sparse_alternative(dense)
    assert steps is not None
    last, kernel = steps[-1], next(s for s in steps if isinstance(s, GatherRows | SparseTiles))
    assert (last.output, last.expression, last.weight) == (output, dense.expression, dense.weight)
    assert kernel.inputs[1].size == np.count_nonzero(weight)
    x = rng.standard_normal((m, 30)).astype(np.float32)
    np.testing.assert_allclose(ran(steps, [given], output, [x], 2), np.maximum(x @ weight, 0), rtol=1e-4, atol=1e-5)
    dynamic = product(array((m, 30), "float32"), array((30, 9), "float32"), output)[-1]
    assert not isinstance(dynamic, Matmul) or sparse_alternative(dynamic) is None
