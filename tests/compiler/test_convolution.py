"""Convolutions and pooling of every kind against PyTorch, over random shapes; every kernel, and every processor's C that runs here."""

import numpy as np
import pytest
import torch
from compiling import execute, lowered
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from attar.compiler.fuse import fuse
from attar.compiler.ir import Program, array, check
from attar.compiler.kernels import convolution_outer
from attar.compiler.kernels.convolution import BLOCKS, Convolution
from attar.compiler.kernels.convolution_outer import OuterConvolution, outer
from attar.compiler.kernels.map import Map
from attar.compiler.plan import lay_out
from attar.compiler.target import TARGETS, host
from attar.errors import AttarError

KINDS = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}
numbers = st.integers


def run(model, x, *, block=1, target=None, parts=2):
    """The model's result by C for a processor, with one kernel for all its convolutions, in the shares of some threads."""
    where = TARGETS[target] if target else host()
    program = fuse(lowered(model.eval(), x))
    assert program.notes == []
    lay_out(program, where)
    kernel = outer if block == "outer" else lambda op: op.blocked(block) if op.takes(block) else None
    program.ops = [(kernel(op) or op) if isinstance(op, Convolution) else op for op in program.ops]
    check(program)
    (result,) = execute(program, [x], parts, where)
    return result


@st.composite
def convolutions(draw):
    """(layer, example): sizes odd and even, 1 to 67 channels, strides, dilations, groups, any padding, weights with zeros."""
    dims = draw(st.sampled_from([1, 2, 2, 2, 3]))
    transposed = draw(st.booleans()) and draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    each = st.integers(1, max(1, 67 // groups))
    inputs, outputs = groups * draw(each), groups * draw(each)
    if draw(st.sampled_from([False, False, True])):
        outputs = inputs = groups = draw(numbers(1, 40))  # depthwise
    kernel = [draw(numbers(1, 4 if dims < 3 else 2)) for _ in range(dims)]
    stride = [draw(numbers(1, 3)) for _ in range(dims)]
    dilation = [draw(numbers(1, 2)) for _ in range(dims)]
    padding = [draw(numbers(0, 3)) for _ in range(dims)]
    sizes = [draw(numbers(1, 17 if dims < 3 else 6)) for _ in range(dims)]
    sizes = [max(n, (k - 1) * d + 1 - 2 * p) for n, k, d, p in zip(sizes, kernel, dilation, padding, strict=True)]
    bias = draw(st.booleans())
    if transposed:
        padding = [min(p, ((k - 1) * d) // 2) for p, k, d in zip(padding, kernel, dilation, strict=True)]
        layer = KINDS[dims][1](inputs, outputs, kernel, stride, padding, [s - 1 for s in stride], groups, bias, dilation)
    else:
        layer = KINDS[dims][0](inputs, outputs, kernel, stride, padding, dilation, groups, bias)
    torch.manual_seed(draw(numbers(0, 99)))
    layer.weight.data *= torch.rand_like(layer.weight) >= draw(st.sampled_from([0, 0.5, 0.9, 1.0]))
    return layer, torch.randn(draw(numbers(1, 3)), inputs, *sizes)


@settings(max_examples=40, phases=[Phase.generate], deadline=None)  # not shrunk: each example is compiled
@given(convolutions(), st.sampled_from(BLOCKS), st.sampled_from(["generic", None]))
def test_random_convolutions(case, block, target):
    layer, x = case
    expected = layer(x).detach()
    found = run(layer, x, block=block, target=target)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


@settings(max_examples=25, phases=[Phase.generate], deadline=None)
@given(convolutions(), st.sampled_from(["generic", None]), numbers(1, 3))
def test_outputs_in_lanes(case, target, parts):
    """Whatever the weights and however full the lanes, which are reasons not to choose it."""
    layer, x = case
    expected = layer(x).detach()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_DENSE", 0), ("_FULL", 2), ("_WASTE", 100), ("_PATTERNS", 100)):
            patch.setattr(convolution_outer, name, value)
        found = run(layer, x, block="outer", target=target, parts=parts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("target", ["generic", None])
@pytest.mark.parametrize("size", [4, 7, 14, 28])
def test_outputs_in_lanes_with_what_stands_around(size, target):
    """A shortcut, bounds, a map that is tiled and one that is read shifted, clean padding for the next."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Conv2d(24, 40, 1), nn.Conv2d(40, 40, 3, padding=1), nn.Conv2d(40, 24, 1)

        def forward(self, x):
            return nn.functional.relu6(x + self.third(torch.relu(self.second(torch.relu(self.first(x))))))

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 24, 1), Block(), Block()).eval(), torch.randn(2, 3, size, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution_outer, "_FULL", 2)
        torch.testing.assert_close(run(model, x, block="outer", target=target, parts=3), model(x).detach(), rtol=1e-4, atol=1e-4)


def test_outputs_are_in_lanes_where_rows_are_short_and_weights_dense():
    def found(size, share):
        layer = nn.Conv2d(64, 64, 3, padding=1)
        layer.weight.data *= torch.rand_like(layer.weight) < share
        program = fuse(lowered(layer.eval(), torch.randn(1, 64, size, size)))
        lay_out(program, host())
        return [type(outer(op)) for op in program.ops if isinstance(op, Convolution)]

    assert found(7, 1) == [OuterConvolution]
    assert found(7, 0.3) == found(56, 1) == [type(None)]


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.MaxPool2d(3, 2, 1), (8, 9, 11)),
        (nn.MaxPool2d(2, 2, ceil_mode=True), (8, 9, 11)),
        (nn.MaxPool2d(3, 1, 1, dilation=2), (5, 9, 11)),
        (nn.MaxPool1d(3, 2), (5, 9)),
        (nn.MaxPool3d(2), (5, 4, 6, 7)),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (8, 9, 11)),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (8, 9, 12)),
        (nn.AvgPool2d(2, divisor_override=3), (8, 9, 12)),
        (nn.AvgPool1d(3, 2, 1), (8, 9)),
        (nn.AdaptiveAvgPool2d((3, 1)), (4, 9, 11)),
        (nn.AdaptiveAvgPool2d(1), (4, 9, 11)),
        (nn.AdaptiveAvgPool2d((2, 4)), (4, 9, 11)),
        (nn.AdaptiveMaxPool2d((3, 1)), (4, 9, 11)),
        (nn.AdaptiveMaxPool2d(1), (4, 9, 11)),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (3, 9, 11)),
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [1, 3])
def test_pooling(layer, size, samples):
    torch.manual_seed(0)
    x = torch.randn(samples, *size) - 3  # all negative: padding must not win
    torch.testing.assert_close(run(layer, x), layer(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d((3, 4), return_indices=True)], ids=str)
@pytest.mark.parametrize("places", [False, True])
def test_where_the_largest_are(layer, places):
    """Hardly any network reads the places: PyTorch does what reads them, and only that."""
    x = torch.randn(2, 3, 9, 8)
    program = lowered(lambda x: layer(x) if places else layer(x)[0], x)
    wanted = layer(x) if places else layer(x)[:1]
    assert bool(program.notes) == places
    lay_out(program, host())
    for found, want in zip(execute(program, [x]), wanted, strict=True):
        assert torch.equal(found, want)


@pytest.mark.parametrize("zeros", [(0, 1, 0, 1), (2, 1, 0, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_zeros_around_a_map_that_a_convolution_reads(zeros, stride):
    """As TensorFlow pads: the convolution reads the map itself, and nothing is copied for the zeros' sake."""

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3, stride), nn.Conv2d(8, 8, 3, stride, groups=8, bias=False)

        def forward(self, x):
            return self.two(nn.functional.pad(self.one(nn.functional.pad(x, zeros)), zeros))

    torch.manual_seed(0)
    model, x = Padded().eval(), torch.randn(2, 3, 31, 30)
    program = fuse(lowered(model, x))
    plain = fuse(lowered(nn.Sequential(model.one, model.two), x))
    assert [type(op) for op in program.ops] == [type(op) for op in plain.ops]
    torch.testing.assert_close(run(model, x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_zeros_around_a_map_that_others_read():
    def function(x):
        y = nn.functional.pad(nn.functional.conv2d(x, torch.ones(4, 3, 1, 1)), (1, 2, 0, 3))
        return nn.functional.max_pool2d(y, 2) + y.mean(), nn.functional.pad(y, (0, 0, 0, 0, 1, 0)), nn.functional.pad(y, (1, 1), value=2.0)

    x = torch.randn(2, 3, 8, 9)
    program = fuse(lowered(function, x))
    lay_out(program, host())
    check(program)
    for found, want in zip(execute(program, [x]), function(x), strict=True):
        torch.testing.assert_close(found, want)


RECTIFIERS = [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(8), nn.Hardtanh(-0.1, 0.2), nn.Hardswish()]
ACTIVATIONS = [*RECTIFIERS, nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.Tanh()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("block", [1, 4])
def test_epilogues(activation, block):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 3, padding=1)
            self.activation = activation

        def forward(self, x):
            return self.last(self.activation(x + self.two(self.activation(self.one(x)))))

    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 8, 9, 10)
    torch.testing.assert_close(run(model, x, block=block), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_a_nan_stays_where_pytorch_keeps_it():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU6(), nn.MaxPool2d(2))
    x = torch.randn(1, 1, 4, 4)
    x[0, 0, 1, 1] = float("nan")
    assert run(model, x).isnan().tolist() == model(x).isnan().tolist()


def test_products_are_those_of_the_weights():
    """The stream kernel has one product for each weight that is not zero, whatever the pattern."""
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 20, 3, padding=1)
    layer.weight.data *= torch.rand_like(layer.weight) > 0.9
    layer.weight.data[3] = 0
    layer.weight.data[:, 5] = 0
    program = lowered(layer, torch.zeros(1, 16, 5, 5))
    (op,) = [op for op in program.ops if isinstance(op, Convolution)]
    assert op.products(1) == int(layer.weight.count_nonzero())
    assert op.products(4) % 4 == 0
    assert op.products(4) >= op.products(1)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 3, 7), nn.Conv2d(2, 3, 9, stride=2, dilation=3), nn.MaxPool2d(9, 1), nn.Conv1d(2, 3, 50)], ids=str
)
@pytest.mark.parametrize("target", TARGETS)
def test_the_rest_of_the_last_tile_reads_within_the_map(layer, target):
    """Kernels compute whole tiles: beyond the last pixel that is written they read, too."""
    x = torch.zeros(1, 2, 64, 64) if not isinstance(layer, nn.Conv1d) else torch.zeros(1, 2, 64)
    program = fuse(lowered(layer.eval(), x))
    lay_out(program, TARGETS[target])
    check(program)
    (op,) = [op for op in program.ops if op.shifted]
    op.inputs[0].buffer.size -= op.inputs[0].space.beyond + 64  # as if the map ended early
    with pytest.raises(AttarError, match="outside of a buffer"):
        check(program)


def test_a_program_that_reads_what_nobody_wrote_is_refused():
    value, out = array((3,), "float32"), array((3,), "float32", argument=0)
    with pytest.raises(AttarError, match="nobody wrote"):
        check(Program((), (out,), [Map(out, (value,), "{0}")]))
    known = array((3,), "float32", data=np.zeros(3, np.float32))
    with pytest.raises(AttarError, match="writes a constant"):
        check(Program((), (), [Map(known, (known,), "{0}")]))
