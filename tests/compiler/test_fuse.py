"""What follows a convolution becomes its epilogue; maps that are joined along channels are written where they belong."""

import dataclasses

import pytest
import torch
from compiling import execute, lowered
from emulating import LAYOUT, emulator
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from attar.compiler.fuse import fuse, in_place
from attar.compiler.ir import Lanes, Program, check
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.convolution8 import Convolution8
from attar.compiler.kernels.convolution_baked import baked
from attar.compiler.kernels.join import Join
from attar.compiler.kernels.lanes import MapLanes, Move
from attar.compiler.plan import lay_out
from attar.compiler.quantize import quantize
from attar.compiler.target import TARGETS, host
from attar.errors import AttarError

numbers = st.integers


def run(program, x, parts=2, target=None):
    where = target or host()
    lay_out(program, where)
    check(program)
    return execute(program, [x], parts, where)[0]


def agrees(model, x, parts=2, target=None):
    """The program with all maps in place, which gives what PyTorch gives."""
    program = in_place(fuse(lowered(model.eval(), x)))
    assert program.notes == []
    expected = model(x).detach()
    torch.testing.assert_close(run(program, x, parts, target), expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))
    return program


def count(program, *kinds):
    return sum(type(op) in kinds for op in program.ops)


class Call(nn.Module):
    """Layers, and a function of them and the input."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


# ---- epilogues of transposed convolutions


@pytest.mark.parametrize("act", [torch.relu, torch.sigmoid, functional.silu, functional.hardswish, lambda x: functional.leaky_relu(x, 0.1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_an_activation_after_a_transposed_convolution_is_its_epilogue(act, stride):
    torch.manual_seed(0)
    up, after = nn.ConvTranspose2d(5, 6, 3, stride, 1, groups=1, output_padding=stride - 1), nn.Conv2d(6, 4, 3, padding=1)
    # a convolution with padding reads around the map, which stays zero where the activation of 0 is not
    program = agrees(Call(lambda x, up, after: after(act(up(x))), up, after), torch.randn(2, 5, 7, 6))
    assert count(program, MapLanes) == 0
    assert [op.epilogue != "{0}" for op in program.ops if isinstance(op, Convolution)] == [True, False]


def test_a_map_that_others_read_and_a_sum_stay_after_the_move():
    torch.manual_seed(0)
    up, other = nn.ConvTranspose2d(3, 4, 2, 2), nn.Conv2d(3, 4, 1)
    x = torch.randn(1, 3, 6, 5)
    assert count(agrees(Call(lambda x, up: torch.relu(up(x)) + up(x), up), x), MapLanes) == 1  # the sum
    assert count(agrees(Call(lambda x, up: (lambda y: torch.relu(y) * y)(up(x)), up), x), MapLanes) == 2
    summed = Call(lambda x, up, other: torch.relu(up(x) + torch.relu(up(other(x)[:, :3]))), up, other)
    assert count(agrees(summed, x), MapLanes) == 2


# ---- joins


class Dense(nn.Module):
    """Each layer reads the outputs of all before it."""

    def __init__(self, layers=4):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8 + 4 * layers, 12, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(8 + 4 * n, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)) for n in range(layers)
        )

    def forward(self, x):
        maps = [self.stem(x)]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return functional.adaptive_avg_pool2d(functional.avg_pool2d(self.last(torch.relu(torch.cat(maps, 1))), 2), 1)


class UNet(nn.Module):
    """A map that is pooled and joined with what comes back from below."""

    def __init__(self):
        super().__init__()
        self.down, self.low, self.merge = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(13, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(9, 5, 2, 2)

    def forward(self, x):
        skip = torch.relu(self.down(x))
        low = torch.relu(self.low(functional.max_pool2d(skip, 2)))
        return self.merge(torch.cat([functional.leaky_relu(self.up(low), 0.1), skip], 1))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("model", "copies"), [(Dense, 2), (UNet, 4)], ids=["dense", "unet"])
def test_joins_of_whole_networks_copy_nothing(model, copies, parts):
    torch.manual_seed(0)
    program = agrees(model(), torch.randn(2 if model is UNet else 1, 3, 20, 22), parts)
    assert count(program, Join) == 0
    # what comes in, phases of a stride, what goes out
    assert count(program, Move) == copies
    assert not any(op.expression == "{0}" for op in program.ops if isinstance(op, MapLanes))


def test_layers_of_a_dense_block_read_parts_of_one_map():
    program = in_place(fuse(lowered(Dense().eval(), torch.randn(1, 3, 8, 8))))
    read = [op.inputs[0] for op in program.ops if isinstance(op, MapLanes)]
    assert [value.channels for value in read] == [8, 12, 16, 20, 24]
    assert len({value.buffer for value in read}) == 1
    assert {value.first for value in read} == {0}


def test_who_reads_shifted_pixels_of_a_part_makes_the_joined_map_planar():
    torch.manual_seed(0)
    one, two, last, shifted = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(9, 2, 1), nn.Conv2d(4, 2, 3, padding=1)
    x = torch.randn(1, 3, 9, 30)
    alone = agrees(Call(lambda x, a, b, c, d: c(torch.cat([a(x), b(x)], 1)), one, two, last, shifted), x)
    beside = agrees(Call(lambda x, a, b, c, d: (lambda y: c(torch.cat([y, b(x)], 1)) + d(y))(a(x)), one, two, last, shifted), x)
    for program, planar in ((alone, False), (beside, True)):
        (joined,) = {op.output.buffer for op in program.ops if isinstance(op, Convolution) and op.output.buffer.channels == 9}
        assert (not joined.tiled, joined.clean) == (planar, planar)


@pytest.mark.parametrize(
    ("function", "copies"),
    [
        (lambda x, a, b: torch.cat([a(x), b(x)], 1), 0),
        (lambda x, a, b: (lambda y: torch.cat([y, y], 1))(a(x)), 1),  # a map has one place
        (lambda x, a, b: (lambda y, z: torch.cat([y, z], 1) - torch.cat([z, y], 1))(a(x), b(x)), 2),
        (lambda x, a, b: (lambda y, z: torch.cat([torch.cat([y, z], 1), a(y)], 1))(a(x), b(x)), 0),
        (lambda x, a, b: torch.cat([a(x), x, b(x)], 1), 0),  # the input is brought to its place
        (lambda x, a, b: (lambda y: torch.cat([torch.cat([y, b(x)], 1), torch.cat([y, b(y)], 1)], 1))(a(x)), 1),
        (lambda x, a, b: torch.cat([a(x)], 1), 0),
        (lambda x, a, b: torch.cat([a(x)[:, :0], a(x), b(x)], 1), 0),
    ],
)
@pytest.mark.parametrize("after", [nn.Identity(), nn.Conv2d(1, 2, 3, padding=1)], ids=["as it is", "read shifted"])
def test_a_map_has_one_place_and_is_copied_to_others(function, copies, after):
    torch.manual_seed(0)
    one, two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 9, 17)
    channels = function(x, one, two).shape[1]
    last = nn.Conv2d(channels, 2, 3, padding=1) if isinstance(after, nn.Conv2d) else nn.Conv2d(channels, 2, 1)
    program = agrees(Call(lambda x, a, b, c: c(function(x, a, b)), one, two, last), x)
    assert count(program, Join) == 0
    assert sum(op.expression == "{0}" for op in program.ops if isinstance(op, MapLanes)) == copies
    whole = fuse(lowered(Call(lambda x, a, b, c: c(function(x, a, b)), one, two, last).eval(), x))
    torch.testing.assert_close(run(whole, x), last(function(x, one, two)).detach(), rtol=1e-4, atol=1e-5)


def test_few_channels_of_a_map_among_many_of_an_array_become_an_array():
    conv = nn.Conv2d(12, 2, 3)
    program = agrees(Call(lambda x, conv: torch.cat([x[:, :, 2:, 2:], conv(x)], 1), conv), torch.randn(2, 12, 7, 8))
    assert count(program, Join, MapLanes) == 0
    assert not isinstance(program.ops[-1].output, Lanes)


@st.composite
def networks(draw):
    """Layers that each read earlier maps of 9x11: convolutions of several kinds, pools, activations, sums and joins; and what is read."""
    maps, plan = [3], []
    for _ in range(draw(numbers(2, 7))):
        kind = draw(st.sampled_from(["conv1", "conv3", "depthwise", "up", "pool", "act", "cat", "cat", "cat", "sum"]))
        read = [draw(numbers(0, len(maps) - 1)) for _ in range(draw(numbers(2, 4)) if kind == "cat" else 1)]
        if kind == "sum":
            alike = [n for n, channels in enumerate(maps) if channels == maps[read[0]]]
            read.append(draw(st.sampled_from(alike)))
        outputs = (
            draw(numbers(1, 9)) if kind in ("conv1", "conv3", "up") else sum(maps[n] for n in read) if kind == "cat" else maps[read[0]]
        )
        plan.append((kind, read, maps[read[0]], outputs))
        maps.append(outputs)
    return plan, draw(numbers(1, 2)), draw(numbers(1, 3)), draw(st.sampled_from(["generic", None]))


def layer(kind, inputs, outputs):
    made = {
        "conv1": lambda: nn.Conv2d(inputs, outputs, 1),
        "conv3": lambda: nn.Conv2d(inputs, outputs, (3, 5), padding=(1, 2)),
        "depthwise": lambda: nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs),
        "up": lambda: nn.Sequential(
            nn.MaxPool2d(2, ceil_mode=True), nn.ConvTranspose2d(inputs, outputs, 2, 2, (0, 0)), nn.MaxPool2d((2, 2), 1)
        ),
        "pool": lambda: nn.MaxPool2d(3, 1, 1),
        "act": lambda: nn.ELU(),
    }
    return made[kind]() if kind in made else nn.Identity()


class Drawn(nn.Module):
    def __init__(self, plan):
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleList(layer(kind, inputs, outputs) for kind, _, inputs, outputs in plan)

    def forward(self, x):
        maps = [x]
        for (kind, read, _, _), one in zip(self.plan, self.layers, strict=True):
            values = [maps[n] for n in read]
            maps.append(torch.cat(values, 1) if kind == "cat" else values[0] + values[1] if kind == "sum" else one(values[0]))
        return torch.cat([y.mean((2, 3)) if n % 2 else y.amax((2, 3)) for n, y in enumerate(maps)], 1)


@settings(max_examples=15, phases=[Phase.generate], deadline=None)  # not shrunk: each example is compiled
@given(networks())
def test_random_networks_of_joins(case):
    plan, samples, parts, target = case
    torch.manual_seed(0)
    program = agrees(Drawn(plan), torch.randn(samples, 3, 9, 11), parts, TARGETS[target] if target else None)
    assert count(program, Join) == 0


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("model", [Dense, UNet])
def test_baked_code_reads_and_writes_parts_of_a_map(model, parts):
    torch.manual_seed(0)
    net, x = model().eval(), torch.randn(1, 3, 20, 22)
    for one in net.modules():
        if isinstance(one, nn.Conv2d | nn.ConvTranspose2d):
            one.weight.data *= torch.rand_like(one.weight) < 0.3
    program = in_place(fuse(lowered(net, x)))
    lay_out(program, LAYOUT)
    program.ops = [baked(op) or op if isinstance(op, Convolution) else op for op in program.ops]
    check(program)
    parts_written = [op for op in program.ops if not isinstance(op, Convolution) and hasattr(op, "convolution") and op.output.first]
    assert parts_written
    (found,) = execute(program, [x], parts, LAYOUT, baked=emulator(program))
    torch.testing.assert_close(found, net(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [Dense, UNet])
def test_a_program_in_bytes_joins_in_place_after_it_was_quantised(model):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 20, 22)
    plain = fuse(lowered(model().eval(), x))
    ranges = {op.output.buffer: (-3.0, 3.0) for op in plain.ops if isinstance(op.output, Lanes)}
    whole = quantize(plain, ranges, host())
    placed = in_place(whole)
    assert count(whole, Convolution8) == count(placed, Convolution8) > 0
    assert (count(whole, Join) > 0, count(placed, Join)) == (True, 0)
    assert len(placed.ops) < len(whole.ops)
    assert torch.equal(run(whole, x), run(placed, x))


# ---- the rules


def test_channels_are_written_once_and_before_they_are_read():
    program = in_place(fuse(lowered(UNet().eval(), torch.randn(1, 3, 8, 8))))
    check(program)
    first = next(op for op in program.ops if isinstance(op.output, Lanes) and op.output.first == 0 and op.output.buffer.channels == 13)
    with pytest.raises(AttarError, match="writes channels of a map twice"):
        check(dataclasses.replace(program, ops=[op for one in program.ops for op in ((one, one) if one is first else (one,))]))
    with pytest.raises(AttarError, match="reads what nobody wrote"):
        check(Program(program.inputs, program.outputs, [op for op in program.ops if op is not first]))
