"""Programs in bytes: what becomes bytes and what does not, the ranges that are observed, and results equal to NumPy's integers."""

import dataclasses

import numpy as np
import pytest
import torch
from compiling import execute, lowered
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from integers import reference
from torch import nn

from attar.compiler.build import build
from attar.compiler.emit import emit
from attar.compiler.fuse import fuse
from attar.compiler.ir import Lanes, check
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.convolution8 import Convolution8
from attar.compiler.kernels.depthwise8 import Depthwise8, excess
from attar.compiler.kernels.lanes import Move, Pool
from attar.compiler.kernels.taps8 import PAIR, pairs
from attar.compiler.kernels.words import MoveWords, Pack, PoolWords, Unpack
from attar.compiler.plan import lay_out, place
from attar.compiler.quantize import observe, quantize
from attar.compiler.run import Engine, Signature
from attar.compiler.target import TARGETS, host
from attar.errors import AttarError

HERE = [name for name, one in TARGETS.items() if one.runs_here]
EXACT = {Convolution8, Depthwise8, Move, MoveWords, Pack, PoolWords, Unpack}  # what the reference has
numbers = st.integers


def spread(program, limit=3.0):
    """A range for every map, as observing would find, wide enough for normal numbers."""
    return {op.output.buffer: (-limit, limit) for op in program.ops if isinstance(op.output, Lanes)}


def quantized(model, x, target=None, ranges=None, *, weigh=False):
    program = fuse(lowered(model.eval(), x))
    made = quantize(program, spread(program) if ranges is None else ranges(program), TARGETS[target] if target else host(), weigh=weigh)
    check(made)
    return made


def run(program, x, target=None):
    where = TARGETS[target] if target else host()
    lay_out(program, where)
    check(program)
    return execute(program, [x], 2, where)[0]


def kinds(program):
    return [type(op) for op in program.ops]


class Residual(nn.Module):
    """Two branches of a stride of 2, pooled before, summed, and read again."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.pool = nn.Conv2d(3, 6, 3, stride=2), nn.MaxPool2d(3, 2, 1)
        self.one, self.two = nn.Conv2d(6, 10, 3, stride=2, padding=1), nn.Conv2d(10, 9, 3, padding=1)
        self.side, self.last = nn.Conv2d(6, 9, 1, stride=2), nn.Conv2d(9, 5, 1)

    def forward(self, x):
        x = self.pool(torch.relu(self.stem(x)))
        x = torch.relu(self.two(torch.relu(self.one(x))) + self.side(x))
        return self.last(x)


@st.composite
def networks(draw):
    """(network, input): two convolutions of any kind, an activation and a pooling between, channels no multiple of 4."""
    torch.manual_seed(draw(numbers(0, 99)))
    inputs, middle, outputs = draw(numbers(2, 11)), draw(numbers(2, 11)), draw(numbers(1, 9))
    middle = inputs if draw(st.booleans()) else middle  # depthwise, where groups are as many
    kernel, stride, dilation, padding = ([draw(numbers(a, b)) for _ in range(2)] for a, b in ((1, 3), (1, 3), (1, 2), (0, 2)))
    groups = draw(st.sampled_from([n for n in (1, 2, 3, inputs) if inputs % n == 0 and middle % n == 0]))
    first = nn.Conv2d(inputs, middle, kernel, stride, padding, dilation, groups, bool(draw(numbers(0, 1))))
    if draw(st.booleans()) and draw(st.booleans()):
        first = nn.ConvTranspose2d(inputs, middle, kernel, stride, 0, 0, groups)
    between = draw(st.sampled_from([[], [nn.ReLU()], [nn.ReLU6()], [nn.ReLU(), nn.MaxPool2d(3, 2, 1)], [nn.MaxPool2d(2, ceil_mode=True)]]))
    last = nn.Conv2d(middle, outputs, draw(numbers(1, 3)), padding=1)
    for layer in (first, last):
        layer.weight.data *= torch.rand_like(layer.weight) >= draw(st.sampled_from([0, 0.6, 1]))
    sizes = [draw(numbers(12, 21)) for _ in range(2)]
    return nn.Sequential(first, *between, last), torch.randn(1, inputs, *sizes)


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(networks())
def test_networks_in_bytes_equal_integers(case):
    model, x = case
    for target in HERE:
        made = quantized(model, x, target)
        assume(set(kinds(made)) <= EXACT)
        np.testing.assert_array_equal(run(made, x, target).numpy(), reference(made, x.numpy())[0])


def test_a_residual_network_stays_in_bytes_from_its_input_to_its_output():
    x = torch.randn(1, 3, 37, 41)
    for target in HERE:
        made = quantized(Residual(), x, target)
        assert made.notes == []
        assert kinds(made)[0] is Pack
        assert set(kinds(made)[1:-1]) == {Convolution8, MoveWords, PoolWords}
        assert [op.affine is None for op in made.ops if isinstance(op, Convolution8)] == [False] * 4 + [True]
        np.testing.assert_array_equal(run(made, x, target).numpy(), reference(made, x.numpy())[0])


@pytest.fixture
def observed(tmp_path):
    def make(model, x, **options):
        program = fuse(lowered(model.eval(), x[:1]))
        lay_out(program, host())
        memory = place(program)
        inputs = [Signature("x", a.shape, a.dtype) for a in program.inputs]
        outputs = [Signature("y", a.shape, a.dtype) for a in program.outputs]
        library = build(emit(program), dataclasses.replace(host(), flags=(*host().flags, "-O1")), tmp_path)
        with Engine(library, memory.constants, memory.arena, inputs=inputs, outputs=outputs, steps=len(program.ops), batched=True) as made:
            return program, observe(program, made, [x], **options)

    return make


def test_ranges_are_those_of_all_samples(observed):
    model = Residual()
    x = torch.randn(4, 3, 19, 21)
    program, ranges = observed(model, x)
    with torch.no_grad():
        stem = torch.relu(model.stem(x))
        pooled = model.pool(stem)
    low, high = zip(*(ranges[op.output.buffer] for op in program.ops if isinstance(op.output, Lanes)), strict=True)
    assert high[0] == pytest.approx(float(x.max()))
    assert low[0] == pytest.approx(float(x.min()))
    assert ranges[program.ops[1].output.buffer] == pytest.approx((0.0, float(stem.max())), rel=1e-5)
    pool = next(op for op in program.ops if isinstance(op, Pool))
    assert ranges[pool.inputs[0].buffer] == pytest.approx((0.0, float(stem.max())), rel=1e-5)  # not the -inf that pads it
    assert ranges[pool.output.buffer] == pytest.approx((0.0, float(pooled.max())), rel=1e-5)


def test_a_percentile_leaves_stray_values_out(observed):
    x = torch.rand(1, 2, 50, 50)
    x[0, 0, 0, 0] = 1000
    program, ranges = observed(nn.Conv2d(2, 3, 1), x, percentile=99)
    assert 0.9 < ranges[program.ops[0].output.buffer][1] < 1
    with pytest.raises(AttarError, match=r"percentile must be in \(50, 100\], got 50"):
        observed(nn.Conv2d(2, 3, 1), x, percentile=50)


def test_values_that_are_not_finite_have_no_range(observed):
    with pytest.raises(AttarError, match="not finite after move"):
        observed(nn.Conv2d(2, 3, 1), torch.full((1, 2, 5, 5), float("nan")))


@pytest.mark.parametrize("target", HERE)
def test_a_network_in_bytes_is_near_its_float32(observed, target):
    model = Residual()
    x = torch.randn(5, 3, 37, 41)
    program, ranges = observed(model, x)
    made = quantize(program, ranges, TARGETS[target])
    with torch.no_grad():
        wanted = model(x[:1])
    error = (run(made, x[:1], target) - wanted).norm() / wanted.norm()
    assert 1e-4 < error < 0.03


def test_weights_fit_the_processor():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(8, 16, 3), torch.randn(1, 8, 9, 9)
    wide, narrow = (quantized(conv, x, name).ops[1] for name in ("avx512", "avx2"))
    assert np.abs(wide.weight.astype(int)).max((1, 2)).tolist() == [127] * 16
    assert (pairs(narrow.weight.astype(int)) <= PAIR).all()
    for op in (wide, narrow):  # in the order of the words: (2 words, 9 taps, 4 channels)
        real = conv.weight.detach().numpy().reshape(16, 2, 4, 9).transpose(0, 1, 3, 2).reshape(16, 18, 4)
        step = op.scale / np.float32(6 / 255)  # of the input, by the range that `spread` gives
        assert (np.abs(op.weight * step[:, None, None] - real) <= step[:, None, None] * 0.5001).all()


def test_networks_of_depthwise_convolutions_stay_in_bytes():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 10, 3, 2, 1), nn.ReLU6(), nn.Conv2d(10, 10, 5, 2, 2, groups=10), nn.ReLU6(), nn.Conv2d(10, 6, 1)]
    model = nn.Sequential(*layers, nn.Conv2d(6, 6, (3, 2), padding=1, dilation=(1, 2), groups=6, bias=False), nn.Conv2d(6, 4, 1))
    x = torch.randn(1, 3, 37, 41)
    for target in HERE:
        made = quantized(model, x, target)
        assert made.notes == []
        assert kinds(made) == [Pack, Convolution8, MoveWords, Depthwise8, Convolution8, Depthwise8, Convolution8, Move]
        np.testing.assert_array_equal(run(made, x, target).numpy(), reference(made, x.numpy())[0])


def test_depthwise_weights_fit_the_processor():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(8, 8, 5, groups=8), torch.randn(1, 8, 9, 9)
    conv.weight.data[3] = 1.0
    wide, narrow = (quantized(conv, x, name).ops[1] for name in ("avx512", "avx2"))
    channel = np.arange(8)
    assert np.abs(wide.weight.astype(int)).max((1, 2)).tolist() == [127] * 8
    assert excess(narrow.weight[channel, :, channel % 4].astype(int)).max() <= 1
    real = conv.weight.detach().numpy().reshape(8, 25)
    for op in (wide, narrow):
        taps = (op.shift[0] @ np.array([0, 5, 1])).astype(int)  # no padding: shifts are places in the kernel
        step = op.scale / np.float32(6 / 255)  # of the input, by the range that `spread` gives
        found = op.weight[channel, :, channel % 4] * step[:, None]
        assert (np.abs(found - real[:, taps]) <= step[:, None] * 0.5001).all()


def test_what_gains_nothing_stays_float32_and_says_why():
    x = torch.randn(1, 8, 9, 9)
    doubling = quantized(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)), x)
    assert kinds(doubling).count(Convolution) == 1
    assert kinds(doubling).count(Convolution8) == 2
    assert len(doubling.notes) == 1
    assert doubling.notes[0].endswith("a group reads one channel of a word")
    assert quantized(nn.Conv2d(1, 8, 3), x[:, :1]).notes[0].endswith("it reads one channel")
    assert quantized(nn.Conv2d(8, 8, 8), x).notes[0].endswith("it has few pixels")
    assert quantized(nn.Conv2d(8, 8, 1), x, ranges=lambda program: {}).notes[0].endswith("no range of its values was observed")
    huge = nn.Conv2d(72, 1, 31, bias=False)
    torch.nn.init.ones_(huge.weight)
    assert quantized(huge, torch.randn(1, 72, 33, 33), "generic").notes[0].endswith("its sums may not fit 32 bits")


def test_what_reads_float32_gets_float32():
    model = nn.Sequential(nn.Conv2d(6, 7, 3), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(7, 4, 1), nn.AdaptiveAvgPool2d(1))
    x = torch.randn(1, 6, 23, 25)
    made = quantized(model, x, ranges=lambda program: spread(program, 2.0))
    assert Unpack in kinds(made) or Pool in kinds(made)
    with torch.no_grad():
        wanted = model(x)
    assert float((run(made, x) - wanted).norm() / wanted.norm()) < 0.1


def test_outputs_that_are_maps_are_unpacked():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 5, 1)

        def forward(self, x):
            y = torch.relu(self.one(x))
            return self.two(y), y

    x = torch.randn(1, 4, 7, 9)
    made = quantized(Two(), x)
    assert kinds(made).count(Unpack) == 1
    lay_out(made, host())
    for found, wanted in zip(execute(made, [x], 2), reference(made, x.numpy()), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted)


def test_a_layer_without_weights_left_gives_its_bias():
    conv = nn.Conv2d(4, 5, 3)
    torch.nn.init.zeros_(conv.weight)
    made = quantized(conv, torch.randn(1, 4, 9, 9))
    found = run(made, torch.randn(1, 4, 9, 9))
    np.testing.assert_allclose(found[0, :, 0, 0].numpy(), conv.bias.detach().numpy(), rtol=1e-6)
    assert (found == found[..., :1, :1]).all()
