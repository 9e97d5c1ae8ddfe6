"""Panels, and which kernel a product takes. That products equal PyTorch's is tested with the ops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.compiler.ir import Array, array, constant
from attar.compiler.kernels.matmul import Dot, Matmul, Pack, packed, panels, product, width


@given(st.integers(0, 9), st.integers(0, 40), st.sampled_from(["float32", "float64", "int64", "int32", "uint8"]))
def test_panels_hold_the_matrix(k: int, n: int, dtype: str) -> None:
    """Column c of panel p is column p * width + c; what is past the last column is zero; a row is 64 bytes."""
    weight = np.arange(k * n).reshape(k, n).astype(dtype)
    made = panels(weight)
    wide = width(dtype)
    assert made.shape == (-(-n // wide), k, wide)
    assert wide * made.itemsize == 64
    flat = np.moveaxis(made, 0, 1).reshape(k, made.shape[0] * wide)
    np.testing.assert_array_equal(flat[:, :n], weight)
    assert not flat[:, n:].any()


def test_what_repeats_is_packed_once() -> None:
    one = array((1, 6, 20), "float32")
    steps, made = packed(Array(one.buffer, (8, 6, 20), (0, 20, 1), 0))
    assert [type(s) for s in steps] == [Pack]
    assert made.shape == (8, 2, 6, 16)
    assert made.strides[0] == 0
    assert made.buffer.size == 2 * 6 * 16


@pytest.mark.parametrize(
    ("m", "n", "known", "kinds"),
    [
        (5, 7, True, [Matmul]),
        (1, 7, True, [Matmul]),
        (5, 7, False, [Pack, Matmul]),
        (1, 7, False, [Dot]),
        (5, 1, False, [Dot]),
    ],
)
def test_kernels(m: int, n: int, known: bool, kinds: list[type]) -> None:
    y = constant(np.ones((4, n), np.float32)) if known else array((4, n), "float32")
    steps = product(array((m, 4), "float32"), y, array((m, n), "float32"))
    assert [type(s) for s in steps] == kinds
    assert getattr(steps[-1], "weight", None) is (y if known else None)
