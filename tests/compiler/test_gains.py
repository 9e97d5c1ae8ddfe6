"""Which convolutions stay float32 since bytes gain nothing: many zeros, too much packing."""

import pytest
import torch
from compiling import lowered
from torch import nn

from attar.compiler.fuse import fuse
from attar.compiler.ir import Lanes
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.convolution8 import Convolution8
from attar.compiler.plan import lay_out
from attar.compiler.quantize import quantize
from attar.compiler.target import TARGETS

FAST = ["avx2", "avx512"]


def sparse(conv, kept, group=1):
    """Zeros drawn for runs of `group` input channels."""
    torch.manual_seed(0)
    outputs, inputs = conv.weight.shape[:2]
    conv.weight.data *= (torch.rand(outputs, inputs // group, 1, 1) < kept).repeat_interleave(group, 1)
    return conv


def weighed(model, x, target):
    """The program in bytes, and which of its convolutions are, in order."""
    program = fuse(lowered(model.eval(), x))
    lay_out(program, TARGETS[target])
    made = quantize(program, {op.output.buffer: (-3.0, 3.0) for op in program.ops if isinstance(op.output, Lanes)}, TARGETS[target])
    return made, [isinstance(op, Convolution8) for op in made.ops if isinstance(op, Convolution | Convolution8)]


@pytest.mark.parametrize("target", FAST)
def test_dense_and_depthwise_networks_are_bytes(target):
    model = nn.Sequential(nn.Conv2d(16, 96, 1), nn.Conv2d(96, 96, 3, padding=1, groups=96), nn.Conv2d(96, 24, 1), nn.Conv2d(24, 8, 3))
    made, whole = weighed(model, torch.randn(1, 16, 28, 28), target)
    assert made.notes == []
    assert whole == [True] * 4


@pytest.mark.parametrize("target", FAST)
def test_scattered_zeros_are_float32_and_zeros_by_words_are_bytes(target):
    x = torch.randn(1, 256, 14, 14)
    made, whole = weighed(nn.Sequential(sparse(nn.Conv2d(256, 256, 1), 0.03), nn.Sigmoid()), x, target)
    assert whole == [False]
    assert "it gains nothing: " in made.notes[0]
    assert weighed(nn.Sequential(sparse(nn.Conv2d(256, 256, 1), 0.1, group=4), nn.Sigmoid()), x, target)[1] == [True]


@pytest.mark.parametrize("target", FAST)
def test_packing_counts(target):
    """A small convolution between maps of float32 gains less than packing costs; beside convolutions in bytes it gains."""
    small, large = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 64, 3, padding=1)
    x = torch.randn(1, 32, 28, 28)
    assert weighed(nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(32, 2, 1), nn.AvgPool2d(3, 1, 1)), x, target)[1] == [False]
    assert weighed(nn.Sequential(large, nn.AvgPool2d(3, 1, 1)), x, target)[1] == [True]
    assert weighed(nn.Sequential(small, large), x, target)[1] == [True, True]


def test_plain_c_is_not_weighed():
    assert weighed(sparse(nn.Conv2d(256, 256, 1), 0.03), torch.randn(1, 256, 14, 14), "generic")[1] == [True]
