"""Softmax and normalisation against PyTorch: dimensions, sizes, strides, types, missing weights, threads."""

import math

import pytest
import torch
import torch.nn.functional as F
from compiling import agree, agree_all
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

DTYPES = st.sampled_from([torch.float32, torch.float64])


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype) * 2 + 0.5


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([(), (1,), (9,), (70,), (3, 40), (2, 7, 5), (2, 33, 4, 9), (2, 3, 70)]), DTYPES, st.integers(1, 3))
def test_softmax(shape: tuple, dtype: torch.dtype, parts: int) -> None:
    dims = range(-1, max(1, len(shape)) - 1)
    found = {
        f"{name} {d}": lambda x, one=one, d=d: one(x, d)
        for name, one in (("softmax", torch.softmax), ("log", torch.log_softmax))
        for d in dims
    }
    found["turned"] = lambda x: torch.softmax(x.mT if x.ndim > 1 else x, -1)
    found["of integers"] = lambda x: torch.softmax((x > 0).long(), -1, dtype=torch.float32)
    agree_all(found, drawn(*shape, dtype=dtype), parts=parts)


def test_softmax_of_infinities() -> None:
    x = drawn(5, 20)
    x[0, 3] = -math.inf
    x[1] = -math.inf
    x[2, 4] = math.inf
    x[3, 1] = math.nan
    x[4, 0] = 200.0
    found = {f"{d}": lambda x, d=d: (x.softmax(d), x.log_softmax(d), torch.ops.aten._safe_softmax(x, d)) for d in (0, 1)}
    agree_all(found, x)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([(4,), (3, 1), (5, 37), (2, 3, 64), (2, 4, 3, 5)]), st.integers(1, 4), DTYPES, st.integers(1, 3))
def test_layer_norm(shape: tuple, last: int, dtype: torch.dtype, parts: int) -> None:
    size = shape[-min(last, len(shape)) :]
    w, c = drawn(*size, dtype=dtype, seed=1), drawn(*size, dtype=dtype, seed=2)
    found = {
        "plain": lambda x, w, c: F.layer_norm(x, size),
        "scaled": lambda x, w, c: F.layer_norm(x, size, w),
        "shifted": lambda x, w, c: F.layer_norm(x, size, None, c),
        "whole": lambda x, w, c: F.layer_norm(x, size, w, c, 0.1),
        "statistics": lambda x, w, c: torch.native_layer_norm(x, size, w, c, 1e-3),
        "rms": lambda x, w, c: (F.rms_norm(x, size), F.rms_norm(x, size, w, 1e-3)),
    }
    if len(size) == 1 and len(shape) > 1:
        found["of a view"] = lambda x, w, c: F.layer_norm(x.transpose(0, -1).contiguous().transpose(0, -1)[..., :], size, w, c)
    agree_all(found, drawn(*shape, dtype=dtype), w, c, parts=parts, rtol=1e-4, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([(1, 1), (2, 3), (1, 8)]),
    st.sampled_from([(1,), (7,), (4, 5), (2, 3, 3)]),
    st.sampled_from([1, 2, 5]),
    DTYPES,
    st.integers(1, 3),
)
def test_group_norm(grouping: tuple, pixels: tuple, samples: int, dtype: torch.dtype, parts: int) -> None:
    groups, each = grouping
    channels = groups * each
    if pixels == (1,) and each == 1:
        pixels = (2,)  # PyTorch refuses to normalise one value
    x, w, c = drawn(samples, channels, *pixels, dtype=dtype), drawn(channels, dtype=dtype, seed=1), drawn(channels, dtype=dtype, seed=2)
    whole = math.prod(pixels)
    found = {
        "plain": lambda x, w, c: F.group_norm(x, groups),
        "whole": lambda x, w, c: F.group_norm(x, groups, w, c, 1e-3),
        "statistics": lambda x, w, c: torch.native_group_norm(x, w, c, samples, channels, whole, groups, 1e-3),
    }
    if whole > 1:
        found["instance"] = lambda x, w, c: (F.instance_norm(x), F.instance_norm(x, None, None, w, c, eps=1e-3))
    agree_all(found, x, w, c, parts=parts, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (2, 5, 7), (1, 5, 3, 4), (2, 5, 3, 4)])
def test_batch_norm(shape: tuple) -> None:
    """With constants, with statistics that are computed, without weights, and by the batch's own statistics."""
    x, w, c = drawn(*shape), drawn(5, seed=1), drawn(5, seed=2)
    mean, var = drawn(5, seed=3), drawn(5, seed=4).abs() + 0.1
    scale, shift = drawn(5, seed=5), drawn(5, seed=6)
    found = {
        "constants": lambda x, w, c: F.batch_norm(x, mean, var, scale, shift),
        "computed": lambda x, w, c: F.batch_norm(x, c * 0.5, w * w + 1, w, c),
        "weights": lambda x, w, c: F.batch_norm(x, mean, var, w, c, eps=0.1),
        "bare": lambda x, w, c: F.batch_norm(x, mean, var),
    }
    if math.prod(shape) > 5:
        found["own"] = lambda x, w, c: F.batch_norm(x, None, None, w, c, training=True)
        found["bare own"] = lambda x, w, c: F.batch_norm(x, None, None, training=True)
    agree_all(found, x, w, c, parts=2, rtol=1e-4, atol=1e-4)


def test_long_rows() -> None:
    x = drawn(2, 3, 40_000) + 30
    agree_all({"layer": lambda x: F.layer_norm(x, (40_000,)), "group": lambda x: F.group_norm(x, 1)}, x, rtol=1e-4, atol=1e-4)


def test_nothing() -> None:
    x = torch.empty(0, 4, 3)
    agree_all({"layer": lambda x: F.layer_norm(x, (3,)), "softmax": lambda x: x.softmax(1), "batch": nn.BatchNorm1d(4).eval()}, x)


def test_modules() -> None:
    torch.manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)).eval()
    agree(norm.requires_grad_(False), drawn(2, 4, 5, 6), rtol=1e-4, atol=1e-4)
