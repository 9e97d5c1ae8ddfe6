"""Resizing against PyTorch: every mode, up, down and uneven, by size or by factor, corners aligned or not."""

import pytest
import torch
import torch.nn.functional as F
from compiling import agree_all
from hypothesis import given, settings
from hypothesis import strategies as st

SIZE = st.sampled_from([1, 2, 3, 4, 7, 9, 16, 20])


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(SIZE, SIZE, SIZE, SIZE),
    st.sampled_from([2, 0.6, (1.5, 2.7)]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 3),
)
def test_pictures(sizes: tuple, factor: float | tuple, dtype: torch.dtype, parts: int) -> None:
    height, width, out_height, out_width = sizes
    size = (out_height, out_width)
    found = {}
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic"):
        for align in (False, True) if mode.startswith("bi") else (None,):
            found[f"{mode} {align}"] = lambda x, mode=mode, align=align: F.interpolate(x, size, mode=mode, align_corners=align)
            if all(int(n * f) for n, f in zip((height, width), factor if isinstance(factor, tuple) else (factor, factor), strict=True)):
                found[f"{mode} {align} {factor}"] = lambda x, m=mode, a=align: F.interpolate(
                    x, scale_factor=factor, mode=m, align_corners=a
                )
    for mode in ("bilinear", "bicubic") if width > 1 and out_width > 1 else ():  # PyTorch 2.13 repeats the first row where the width is 1
        found[f"{mode} antialiased"] = lambda x, mode=mode: F.interpolate(x, size, mode=mode, antialias=True)
    agree_all(found, drawn(2, 3, height, width, dtype=dtype), parts=parts, rtol=1e-4, atol=2e-5)


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([1, 3, 10]), st.sampled_from([1, 4, 11, 30]))
def test_lines(n: int, out: int) -> None:
    found = {mode: lambda x, mode=mode: F.interpolate(x, out, mode=mode) for mode in ("nearest", "nearest-exact", "linear")}
    found["aligned"] = lambda x: F.interpolate(x, out, mode="linear", align_corners=True)
    agree_all(found, drawn(2, 3, n), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 6, 10), (2, 1, 3), (3, 2, 5)])
def test_volumes(size: tuple) -> None:
    found = {mode: lambda x, mode=mode: F.interpolate(x, size, mode=mode) for mode in ("nearest", "nearest-exact", "trilinear")}
    found["aligned"] = lambda x: F.interpolate(x, size, mode="trilinear", align_corners=True)
    found["view"] = lambda x: F.interpolate(x.permute(1, 0, 4, 2, 3), size, mode="trilinear")
    agree_all(found, drawn(2, 2, 3, 2, 5), parts=2, rtol=1e-4, atol=1e-5)


def test_bytes() -> None:
    """Choosing elements needs no arithmetic, so any type will do."""
    agree_all({"nearest": lambda x: F.interpolate(x, (5, 7), mode="nearest")}, (drawn(1, 2, 4, 3) * 50).to(torch.uint8))
