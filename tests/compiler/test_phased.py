"""Strided ops whose channels stand alone give, with a channel's phases made where they are read, what they give apart, bit for bit."""

import pytest
import torch
from compiling import execute, lowered
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from attar.compiler import compile
from attar.compiler.fuse import fuse
from attar.compiler.ir import check
from attar.compiler.phased import Phased, phased
from attar.compiler.plan import lay_out, place
from attar.compiler.target import TARGETS, host

LAYERS = [
    lambda c, k, s, p: nn.Conv2d(c, c, k, s, p, groups=c),
    lambda c, k, s, p: nn.Conv2d(c, 2 * c, k, s, p, groups=c, bias=False),
    lambda c, k, s, p: nn.MaxPool2d(k, s, min(p, k // 2)),
    lambda c, k, s, p: nn.AvgPool2d(k, s, min(p, k // 2), count_include_pad=False),
]


@settings(max_examples=25, phases=[Phase.generate], deadline=None)
@given(
    layer=st.sampled_from(LAYERS), channels=st.integers(2, 20), kernel=st.integers(2, 4), stride=st.integers(2, 3),
    padding=st.integers(0, 2), size=st.tuples(*[st.integers(4, 21)] * 2), samples=st.integers(1, 2),
    before=st.booleans(), parts=st.sampled_from([1, 3]),
    target=st.sampled_from(["generic", None]),
)  # fmt: skip
def test_strided_ops(layer, channels, kernel, stride, padding, size, samples, before, parts, target):
    """From an array or from a map, into what reads pixels as they are."""
    torch.manual_seed(0)
    first = [nn.Conv2d(channels, channels, 1), nn.ReLU()] if before else []
    middle = layer(channels, kernel, stride, padding)
    model = nn.Sequential(*first, middle, nn.ReLU()).eval()
    x = torch.randn(samples, channels, *size) - 1
    where = TARGETS[target] if target else host()
    apart = fuse(lowered(model, x))
    lay_out(apart, where)
    together = phased(apart)
    check(together)
    assert sum(isinstance(op, Phased) for op in together.ops) == 1
    assert len(together.ops) == len(apart.ops) - 1
    (got,), (want,) = execute(together, [x], parts, where), execute(apart, [x], parts, where)
    assert torch.equal(got, want)
    torch.testing.assert_close(got, model(x).detach(), rtol=1e-4, atol=1e-5)


def test_phases_that_others_read_stay():
    class Both(nn.Module):
        def forward(self, x):
            return nn.functional.max_pool2d(x, 3, 2), nn.functional.conv2d(x, torch.ones(5, 8, 3, 3), stride=2)

    x = torch.randn(1, 8, 17, 17)
    program = fuse(lowered(Both(), x))
    lay_out(program, host())
    together = phased(program)
    kinds = [type(op).__name__ for op in together.ops]
    assert kinds.count("Phased") == 1
    assert kinds.count("Move") >= 1  # a convolution of all channels reads the phases of all
    for got, want in zip(execute(together, [x], 2), Both()(x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_the_phases_of_all_channels_have_no_memory():
    x = torch.randn(1, 64, 112, 112)
    program = fuse(lowered(nn.MaxPool2d(3, 2, 1), x))
    lay_out(program, host())
    assert place(phased(program)).arena < place(program).arena / 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_that_downsamples_so(threads):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.BatchNorm2d(16), nn.ReLU6(),
        nn.Conv2d(16, 24, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(24, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip
    x = torch.randn(3, 3, 65, 63)
    with compile(model, (x,), threads=threads) as engine:
        torch.testing.assert_close(engine(x), model(x).detach(), rtol=1e-4, atol=1e-5)
