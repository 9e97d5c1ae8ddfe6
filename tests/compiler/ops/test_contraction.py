"""Matrix products of every kind against PyTorch: sizes that are odd, 1 or 0, strides, broadcasting, types, threads."""

import pytest
import torch
import torch.nn.functional as F
from compiling import agree, agree_all
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

SIZES = st.sampled_from([0, 1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33])
BATCH = st.sampled_from([(), (1,), (3,), (2, 3), (5,)])


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed + sum(shape))
    if dtype.is_floating_point:
        return torch.randn(shape, generator=made, dtype=dtype)
    return torch.randint(-100, 100, shape, generator=made).to(dtype)


def close(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}


@settings(max_examples=15, deadline=None)
@given(
    BATCH,
    SIZES,
    SIZES,
    SIZES,
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.int32]),
    st.integers(1, 3),
)
def test_matmul(batch: tuple, m: int, k: int, n: int, first: bool, second: bool, dtype: torch.dtype, parts: int) -> None:
    x = drawn(*batch, *((k, m) if first else (m, k)), dtype=dtype)
    y = drawn(*batch, *((n, k) if second else (k, n)), dtype=dtype, seed=1)
    one = drawn(k, n, dtype=dtype, seed=2)

    vector = drawn(k, dtype=dtype, seed=3)

    def function(x: torch.Tensor, y: torch.Tensor, vector: torch.Tensor) -> tuple:
        x, y = x.transpose(-1, -2) if first else x, y.transpose(-1, -2) if second else y
        return x @ y, x @ one, x @ one[:, :1], x @ vector, vector @ y

    agree(function, x, y, vector, parts=parts, **close(dtype))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([(), (1,), (4,), (2, 3)]), SIZES, st.sampled_from([1, 4, 16, 29, 40]), st.booleans(), st.integers(1, 3))
def test_linear(batch: tuple, k: int, n: int, biased: bool, parts: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(max(1, k), n, bias=biased).requires_grad_(False)
    agree(layer, drawn(*batch, max(1, k)), parts=parts, **close(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_each_op(dtype: torch.dtype) -> None:
    x, y, z = drawn(3, 5, 7, dtype=dtype), drawn(3, 7, 9, dtype=dtype), drawn(5, 9, dtype=dtype)
    v, w = drawn(7, dtype=dtype), drawn(7, dtype=dtype, seed=3)
    two, three = (2, 3) if dtype == torch.int64 else (0.5, 1.5)
    agree_all(
        {
            "bmm": lambda x, y, z, v, w: torch.bmm(x, y),
            "mm": lambda x, y, z, v, w: torch.mm(x[0], y[0]),
            "mm with a constant": lambda x, y, z, v, w: torch.mm(torch.ones(4, 5, dtype=dtype), x[1]),
            "mv": lambda x, y, z, v, w: torch.mv(x[0], v),
            "mv of a column": lambda x, y, z, v, w: x[0] @ y[0][:, 3],
            "vector @ matrix": lambda x, y, z, v, w: v @ y,
            "dot": lambda x, y, z, v, w: torch.dot(v, w),
            "vdot": lambda x, y, z, v, w: torch.vdot(v, w),
            "inner": lambda x, y, z, v, w: torch.inner(x, v),
            "inner of matrices": lambda x, y, z, v, w: torch.inner(x, x[0]),
            "addmm": lambda x, y, z, v, w: torch.addmm(z, x[0], y[0]),
            "addmm scaled": lambda x, y, z, v, w: torch.addmm(z, x[0], y[0], beta=two, alpha=three),
            "addmm of a row": lambda x, y, z, v, w: torch.addmm(z[0], x[0], y[0]),
            "addmm of nothing": lambda x, y, z, v, w: torch.addmm(z, x[0], y[0], beta=0),
            "baddbmm": lambda x, y, z, v, w: torch.baddbmm(z, x, y, beta=two),
            "addmv": lambda x, y, z, v, w: torch.addmv(z[:, 0], x[0], v, alpha=three),
            "addbmm": lambda x, y, z, v, w: torch.addbmm(z, x, y, alpha=three),
            "outer": lambda x, y, z, v, w: torch.outer(v, w),
            "einsum": lambda x, y, z, v, w: torch.einsum("bij,bjk,ik->bk", x, y, z),
            "einsum of a constant": lambda x, y, z, v, w: torch.einsum("bij,jk->bik", x, torch.ones(7, 2, dtype=dtype)),
            "flipped": lambda x, y, z, v, w: torch.mm(x[0].flip(1), y[0].flip(0)),
            "every second": lambda x, y, z, v, w: torch.mm(x[0, ::2, 1::2], y[0, ::3, ::2][:3]),
            "expanded": lambda x, y, z, v, w: torch.matmul(x[:1].expand(3, 5, 7), y),
        },
        x,
        y,
        z,
        v,
        w,
        parts=2,
        **close(dtype),
    )


def test_bilinear() -> None:
    torch.manual_seed(0)
    agree(nn.Bilinear(4, 5, 3).requires_grad_(False), drawn(6, 4), drawn(6, 5), rtol=1e-4, atol=1e-5)


def test_large() -> None:
    """More rows than stay near, panels that share their work between threads, and a long k."""
    torch.manual_seed(0)
    agree(nn.Linear(2500, 40).requires_grad_(False), drawn(130, 2500), parts=3, rtol=1e-3, atol=1e-3)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([1, 2, 5, 12]),
    st.sampled_from([1, 3, 9]),
    st.sampled_from([1, 4, 20]),
    st.sampled_from(["none", "bool", "float", "causal", "scale", "groups"]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_attention(queries: int, keys: int, width: int, kind: str, dtype: torch.dtype) -> None:
    q, k, v = (
        drawn(2, h, n, width, dtype=dtype)
        for h, n in ((4, queries), (2 if kind == "groups" else 4, keys), (2 if kind == "groups" else 4, keys))
    )
    named: dict = (
        {"scale": 0.3} if kind == "scale" else {"is_causal": True} if kind == "causal" else {"enable_gqa": True} if kind == "groups" else {}
    )
    mask = torch.rand(2, 1, queries, keys) > 0.4
    mask[0, 0, 0] = False  # nothing to look at: PyTorch gives zeros
    if kind == "bool":
        agree(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), q, k, v, mask, **close(dtype))
    elif kind == "float":
        agree(
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
            q,
            k,
            v,
            drawn(queries, keys, dtype=dtype),
            **close(dtype),
        )
    else:
        agree(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **named), q, k, v, parts=2, **close(dtype))


def test_attention_masks_of_groups() -> None:
    q, k = drawn(2, 4, 5, 8), drawn(2, 2, 6, 8)
    for shape in ((5, 6), (2, 1, 5, 6), (2, 4, 5, 6)):
        mask = drawn(*shape)
        agree(lambda q, k, m: F.scaled_dot_product_attention(q, k, k, attn_mask=m, enable_gqa=True), q, k, mask, rtol=1e-4, atol=1e-5)


def test_heads() -> None:
    """A whole attention layer, whose heads are views of one product."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(24, 3, batch_first=True).eval().requires_grad_(False)
    agree(lambda x: layer(x, x, x)[0], drawn(2, 7, 24), rtol=1e-4, atol=1e-5)
