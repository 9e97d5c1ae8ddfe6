"""Ops that move elements: the groups of tiny networks, written out."""

import pytest
import torch
from tiny import PICTURES, TOKENS, VECTORS, Net, check, weight
from torch import nn
from torch.nn import Linear
from torch.nn import functional as F

from attar.graph import couple, trace

CHANNELS = "a.weight.0 a.bias.0 > b.weight.1"
EIGHT = {"a": f"8 channel: {CHANNELS}"}
FOUR = {"a": f"4 channel: {CHANNELS}"}


def tokens(function, width=8):
    return Net(lambda net, x: net.b(function(net.a(x))), a=Linear(3, 8), b=Linear(width, 2)), TOKENS


def pictures(function, width=8):
    return Net(lambda net, x: net.b(function(net.a(x))), a=nn.Conv2d(2, 8, 1), b=nn.Conv2d(width, 2, 1)), PICTURES


def flattened(function, width):
    return Net(lambda net, x: net.b(function(net.a(x)).flatten(1)), a=nn.Conv2d(2, 8, 1), b=Linear(width, 2)), PICTURES


def two(function, width=4):
    return Net(lambda net, x: net.o(function(net.a(x), net.b(x))), a=Linear(3, 4), b=Linear(3, 4), o=Linear(width, 2)), VECTORS


def by_view(x):
    n, _, h, w = x.shape
    return x.view(n, 2, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, 2, 2 * h, 2 * w)


def option_a(net, x):
    h = net.a(x)
    return net.o(F.pad(h, (0, 0, 0, 0, 0, 4)) + net.b(h))


def rotated(net, x):
    y = torch.view_as_complex(net.a(x).unflatten(-1, (-1, 2)))
    return net.b(torch.view_as_real(y * net.turn).flatten(2))


JOINED = {"a": "4 channel: a.weight.0 a.bias.0 b.weight.0 b.bias.0 > o.weight.1"}
CASES = {
    "dimensions in another order": (
        *tokens(lambda x: x.permute(2, 0, 1).transpose(0, 1).transpose(1, 2).movedim(-1, 1).swapaxes(1, 2).mT.mT),
        EIGHT,
    ),
    "dimensions of one": (*tokens(lambda x: x[:, None].squeeze(1).unsqueeze(-1).squeeze()), EIGHT),
    "heads": (
        *tokens(lambda x: x.view(2, 5, 2, 4).tanh().transpose(2, 3).reshape(2, 5, 8)),
        {"a/inner": f"2 inner of a: {CHANNELS}", "a": f"4 channel: {CHANNELS}"},
    ),
    "flatten of tokens": (*tokens(lambda x: x.flatten(1), 40), EIGHT),
    "flatten of pictures": (*flattened(lambda x: F.max_pool2d(x, 2), 32), EIGHT),
    "channel shuffle": (
        *pictures(lambda x: x.view(2, 2, 4, 4, 4).transpose(1, 2).reshape(2, 8, 4, 4)),
        {"a/inner": f"2 inner of a: {CHANNELS}", "a": f"4 channel: {CHANNELS}"},
    ),
    "pixel shuffle": (*pictures(lambda x: F.pixel_shuffle(x, 2), 2), {"a": f"2 channel: {CHANNELS}"}),
    "pixel shuffle by views": (*pictures(by_view, 2), {"a": f"2 channel: {CHANNELS}"}),
    "pixel unshuffle": (*pictures(lambda x: F.pixel_unshuffle(x, 2), 32), EIGHT),
    "patches": (*pictures(lambda x: F.unfold(x, 2).unflatten(2, (3, 3)), 32), EIGHT),
    "windows": (*tokens(lambda x: x.unfold(1, 2, 1).flatten(2), 16), EIGHT),
    "concatenation": (
        Net(lambda net, x: net.o(torch.cat([net.a(x), net.b(x)], 1)), a=nn.Conv2d(2, 4, 1), b=nn.Conv2d(2, 3, 1), o=nn.Conv2d(7, 2, 1)),
        PICTURES,
        {"a": "4 channel: a.weight.0 a.bias.0 > o.weight.1", "b": "3 channel: b.weight.0 b.bias.0 > o.weight.1"},
    ),
    "dense concatenation": (
        Net(
            lambda net, x: net.o(torch.cat([net.a(x), net.b(net.a(x))], 1)),
            a=nn.Conv2d(2, 4, 1),
            b=nn.Conv2d(4, 3, 1),
            o=nn.Conv2d(7, 2, 1),
        ),
        PICTURES,
        {"a": "4 channel: a.weight.0 a.bias.0 > b.weight.1 o.weight.1", "b": "3 channel: b.weight.0 b.bias.0 > o.weight.1"},
    ),
    "stack": (*two(lambda a, b: torch.stack([a, b], -1).flatten(1), 8), JOINED),
    "chunks multiplied": (*tokens(lambda x: torch.mul(*x.chunk(2, -1)), 4), FOUR),
    "pieces exchanged": (
        *tokens(lambda x: torch.cat(x.split([3, 5], -1)[::-1], -1)),
        {"a[0:3]": f"3 channel: {CHANNELS}", "a[3:8]": f"5 channel: {CHANNELS}"},
    ),
    "overlapping slices": (
        *tokens(lambda x: torch.cat([x[..., :6], x[..., 2:]], -1), 12),
        {"a[0:2]": f"2 channel: {CHANNELS}", "a[2:6]": f"4 channel: {CHANNELS}", "a[6:8]": f"2 channel: {CHANNELS}"},
    ),
    "every second": (
        *tokens(lambda x: x[..., ::2], 4),
        {"a[0:7]": f"4 channel: {CHANNELS}", "a[1:8]": "4 channel: a.weight.0 a.bias.0 >"},
    ),
    "narrow from the end": (
        *tokens(lambda x: x.narrow(-1, -4, 4), 4),
        {"a[0:4]": "4 channel: a.weight.0 a.bias.0 >", "a[4:8]": f"4 channel: {CHANNELS}"},
    ),
    "one of them": (*tokens(lambda x: x * x.select(-1, 3)[..., None]), {"a": f"7 channel: {CHANNELS}"}),
    "unbind": (*tokens(lambda x: sum(x.unbind(1))), EIGHT),
    "flip": (*tokens(lambda x: x.flip(-1, 0)), EIGHT),
    "roll of tokens": (*tokens(lambda x: x.roll(1, 1)), EIGHT),
    "roll of channels": (*tokens(lambda x: x.roll(1, -1)), {}),
    "index of tokens": (*tokens(lambda x: x[:, [0, 3]].index_select(1, torch.tensor([1, 0]))), EIGHT),
    "index of channels": (*tokens(lambda x: x[..., [0, 3]], 2), {}),
    "gather": (*tokens(lambda x: x.gather(1, torch.zeros(x.shape[0], 1, 8, dtype=torch.long))), {}),
    "repeat": (*tokens(lambda x: torch.tile(x.repeat(1, 1, 2), (2,)), 32), EIGHT),
    "repeat each": (*tokens(lambda x: x.repeat_interleave(2, -1), 16), EIGHT),
    "repeat by numbers": (*tokens(lambda x: x.repeat_interleave(torch.tensor([2] * 8), -1, output_size=16), 16), {}),
    "padding": (*pictures(lambda x: F.pad(F.pad(x, (1, 1, 1, 1), mode="reflect"), (0, 0, 0, 0, 1, 2)), 11), EIGHT),
    "padding of channels by themselves": (*tokens(lambda x: F.pad(x, (1, 1), mode="circular"), 10), {}),
    "shortcut with channels of zeros": (
        Net(option_a, a=nn.Conv2d(2, 4, 1), b=nn.Conv2d(4, 8, 1), o=nn.Conv2d(8, 2, 1)),
        PICTURES,
        {"a": "4 channel: a.weight.0 a.bias.0 b.weight.0 b.bias.0 > b.weight.1 o.weight.1"},
    ),
    "triangle": (*tokens(lambda x: (x.mT @ x).triu(), 8), {}),
    "complex numbers": (
        Net(rotated, a=Linear(3, 8), b=Linear(8, 2), turn=nn.Parameter(torch.randn(5, 1, dtype=torch.cfloat))),
        TOKENS,
        FOUR,
    ),
    "expanded to another": (*two(lambda a, b: a[None].expand_as(b.expand(3, 2, 4)) * 1.0), JOINED),
    "one expanded to all": (*tokens(lambda x: x * x[..., :1].expand_as(x)), {"a[1:8]": f"7 channel: {CHANNELS}"}),
    "viewed as another": (*two(lambda a, b: a[:, None].view_as(b)), JOINED),
    "broadcast together": (*two(lambda a, b: torch.cat(torch.broadcast_tensors(a, b[None]), -1), 8), JOINED),
    "unflatten": (
        *tokens(lambda x: x.unflatten(-1, (2, 4)).sum(-2), 4),
        {"a": f"4 channel: {CHANNELS}", "a/inner": "2 inner of a: a.weight.0 a.bias.0 >"},
    ),
    "a table": (
        Net(lambda net, x: net.b(net.p.expand(2, -1) * net.a(x)), p=weight(1, 4), a=Linear(3, 4), b=Linear(4, 2)),
        VECTORS,
        {"p": "4 channel: p.1 a.weight.0 a.bias.0 > b.weight.1"},
    ),
}


@pytest.mark.parametrize(("model", "inputs", "expected"), CASES.values(), ids=CASES)
def test_groups(model, inputs, expected):
    check(model, inputs, expected)


def test_reasons_of_what_stays():
    def why(name):
        model, inputs, _ = CASES[name]
        return couple(trace(model, (inputs,))).fixed("a.weight", 0)

    assert why("roll of channels") == ["it is rolled"]
    assert why("index of channels") == ["it is indexed by numbers"]
    assert why("pixel shuffle") == ["it becomes a position in the picture"]
    assert why("chunks multiplied") == []
