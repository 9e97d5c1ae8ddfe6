"""Reductions, running sums and order against PyTorch: any dimensions, types, strides, the odd numbers, threads."""

import math

import pytest
import torch
import torch.nn.functional as F
from compiling import agree, agree_all
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPES = st.sampled_from([(), (1,), (7,), (65,), (200,), (3, 4), (1, 70), (70, 3), (9, 130), (2, 3, 5), (2, 9, 1, 17), (3, 2, 4, 70)])
DTYPES = [torch.float32, torch.float64, torch.int64, torch.int32, torch.bool]


def drawn(shape: tuple, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=made, dtype=dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 9, shape, generator=made).to(dtype)


def cases(dtype: torch.dtype, dims: list[int], keep: bool) -> dict:
    """Every reduction that PyTorch allows for the type."""
    one = dims[0]
    found = {
        "sum": lambda x: x.sum(dims, keepdim=keep),
        "sum of all": lambda x: x.sum(),
        "sum as double": lambda x: x.sum(one, dtype=torch.float64),
        "prod": lambda x: x.prod(one, keepdim=keep),
        "prod of all": lambda x: x.prod(),
        "amax": lambda x: x.amax(dims, keepdim=keep),
        "amin": lambda x: x.amin(dims, keepdim=keep),
        "max": lambda x: x.max(),
        "max with places": lambda x: tuple(x.max(one, keepdim=keep)),
        "min with places": lambda x: tuple(x.min(one, keepdim=keep)),
        "any": lambda x: x.any(one, keepdim=keep),
        "all": lambda x: x.all(dims, keepdim=keep),
        "any of all": lambda x: x.any(),
        "count_nonzero": lambda x: x.count_nonzero(one),
        "aminmax": lambda x: tuple(x.aminmax(dim=one, keepdim=keep)),
        "cumsum": lambda x: x.cumsum(one),
        "cumprod": lambda x: x.cumprod(one),
        "cummax": lambda x: tuple(x.cummax(one)),
        "cummin": lambda x: tuple(x.cummin(one)),
        "sort": lambda x: tuple(x.sort(dim=one, stable=True)),
        "sort down": lambda x: tuple(x.sort(dim=one, descending=True, stable=True)),
    }
    if dtype != torch.bool:
        found["argmax"] = lambda x: x.argmax(one, keepdim=keep)
        found["argmin"] = lambda x: x.argmin(one)
        found["argmax of all"] = lambda x: x.argmax()
    if dtype.is_floating_point:
        found |= {
            "mean": lambda x: x.mean(dims, keepdim=keep),
            "mean of all": lambda x: x.mean(),
            "var": lambda x: x.var(dims, keepdim=keep, correction=0),
            "std": lambda x: x.std(dims, correction=0.5, keepdim=keep),
            "var_mean": lambda x: torch.var_mean(x, dims, correction=0),
            "std_mean": lambda x: torch.std_mean(x, dims, correction=0),
            "logsumexp": lambda x: x.logsumexp(dims, keepdim=keep),
            **{f"norm {p}": lambda x, p=p: torch.linalg.vector_norm(x, p, dims, keep) for p in (0, 1, 2, 3.5, math.inf, -math.inf)},
            "old norm": lambda x: x.norm(p=2),
            "topk": lambda x: x.topk(max(1, x.shape[one] // 2), one)[0] if x.ndim else x.topk(1)[0],
        }
    return found


@settings(max_examples=8, deadline=None)
@given(SHAPES, st.sampled_from(DTYPES), st.booleans(), st.booleans(), st.integers(1, 3), st.data())
def test_every_reduction(shape: tuple, dtype: torch.dtype, keep: bool, turned: bool, parts: int, data: st.DataObject) -> None:
    dims = data.draw(
        st.lists(
            st.integers(-max(1, len(shape)), max(1, len(shape)) - 1), min_size=1, max_size=3, unique_by=lambda d: d % max(1, len(shape))
        )
    )
    found = cases(dtype, dims, keep)
    if turned and len(shape) > 1:
        back = tuple(reversed(range(len(shape))))
        found = {name: lambda x, one=one: one(x.permute(back)) for name, one in found.items()}
        shape = shape[::-1]
    agree_all(found, drawn(shape, dtype, len(shape)), parts=parts, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odd_numbers(dtype: torch.dtype) -> None:
    """A NaN wins; infinities are what they are; the first of equals counts."""
    x = drawn((6, 40), dtype)
    x[0, 3] = math.nan
    x[1, 5], x[1, 9] = math.inf, -math.inf
    x[2] = -math.inf
    x[3] = 7.0
    x[4, 8] = x[4, 20] = math.nan
    x[5, 11] = math.inf
    found = cases(dtype, [1], False) | {f"{name} down": one for name, one in cases(dtype, [0], True).items()}
    for name in ("topk", "topk down"):
        found[name] = lambda x: x.topk(3)[0]
    for name in ("var_mean", "std_mean"):  # PyTorch's mean of infinities beside a variance is NaN, though alone it is infinite
        del found[name], found[f"{name} down"]
    agree_all(found, x, rtol=2e-5, atol=2e-5)


def test_nothing() -> None:
    """Sums and truth over no elements, and results of no elements."""
    agree_all(
        {
            "sum": lambda x: x.sum(1),
            "prod": lambda x: x.prod(1),
            "mean": lambda x: x.mean(1),
            "any": lambda x: x.any(1),
            "all": lambda x: x.all(1),
            "norm": lambda x: torch.linalg.vector_norm(x, 2, 1),
            "amax": lambda x: x.amax(0),
            "argmax": lambda x: x.argmax(0),
            "cumsum": lambda x: x.cumsum(0),
            "sort": lambda x: tuple(x.sort(1)),
        },
        torch.empty(3, 0),
    )


def test_truth_over_no_dimensions() -> None:
    agree_all({"any": lambda x: torch.any(x, []), "all": lambda x: torch.all(x, [])}, drawn((4, 5), torch.float32))


def test_long_sums() -> None:
    """Many additions in float32 stay as exact as PyTorch's: the sums are kept as doubles."""
    x = torch.full((3, 300_000), 0.1)
    agree_all(
        {"rows": lambda x: x.sum(1), "columns": lambda x: x.view(-1, 3).sum(0), "mean": torch.mean, "last": lambda x: x.cumsum(1)[:, -1]}, x
    )


def test_unbiased() -> None:
    """Bessel's correction in each way to ask for it."""
    found = {
        "all": lambda x: (x.var(), x.std(), x.var(False), x.std(unbiased=False)),
        "rows": lambda x: (x.var(1), x.std(1, keepdim=True), x.var(1, False), x.std([0, 1], unbiased=True)),
        "mean": lambda x: (*torch.var_mean(x), *torch.std_mean(x, 1, True), *torch.var_mean(x, [0], correction=3, keepdim=True)),
    }
    agree_all(found, drawn((6, 9), torch.float32))


def test_integers_wrap() -> None:
    x = torch.full((3, 9), 2**62)
    agree_all(
        {"sum": lambda x: x.sum(1), "prod": lambda x: x.prod(0), "cumsum": lambda x: x.cumsum(1), "cumprod": lambda x: x.cumprod(1)}, x
    )


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([1, 2, 5, 31, 100]), st.integers(0, 5), st.booleans(), st.sampled_from([torch.float32, torch.int64]))
def test_topk(n: int, less: int, largest: bool, dtype: torch.dtype) -> None:
    """Values are PyTorch's; places may differ among equals, so they are looked up."""
    k = max(1, n - less) if n > 2 else 1
    x = drawn((4, n), dtype, n)

    def function(x: torch.Tensor) -> tuple:
        values, places = x.topk(k, -1, largest)
        return values, x.gather(-1, places)

    agree(function, x)


def test_histogram() -> None:
    x = torch.cat([torch.linspace(-1, 9, 77), torch.tensor([math.nan, 0.0, 8.0])])
    agree_all({"histc": lambda x: torch.histc(x, 8, 0, 8), "one bin": lambda x: torch.histc(x, 1, -3, 2.5)}, x)


def test_cosine_similarity() -> None:
    x = drawn((5, 1, 33), torch.float32)
    x[2] = 0
    agree(lambda x, y: (F.cosine_similarity(x, y, -1), F.cosine_similarity(x, y, 1, 0.5)), x, drawn((5, 3, 33), torch.float32, 1))
