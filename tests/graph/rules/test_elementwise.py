"""Ops element by element: the groups of tiny networks, written out."""

import pytest
import torch
from tiny import PICTURES, TOKENS, VECTORS, Net, check, weight
from torch import nn
from torch.nn import Linear
from torch.nn import functional as F

from attar.graph import couple, trace

FUNCTIONS = [
    *(torch.relu, F.gelu, F.silu, torch.tanh, F.hardswish, F.leaky_relu, F.elu, F.mish, torch.sin, torch.abs, torch.neg, torch.sign),
    *(torch.sigmoid, F.hardsigmoid, torch.exp, torch.cos, F.softplus, F.logsigmoid, torch.clone, torch.zeros_like, torch.ones_like),
    *(lambda x: x**2, lambda x: 2.0**x, lambda x: 1 - x, lambda x: x.clamp(0.1, 1), lambda x: F.hardtanh(x), lambda x: x / 3),
    *(lambda x: F.dropout(x, 0.5, False), lambda x: x.to(torch.float64).float(), lambda x: x.masked_fill(x > 0, 0.5)),
]
PAIRS = [
    *(torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum, torch.atan2, lambda a, b: a / (b.abs() + 1)),
    *(lambda a, b: torch.where(a > 0, a, b), lambda a, b: a.masked_fill(b > 0, 0.0), lambda a, b: torch.lerp(a, b, 0.3)),
]
ONE = {"a": "4 channel: a.weight.0 a.bias.0 > b.weight.1"}
BOTH = {"a": "4 channel: a.weight.0 a.bias.0 b.weight.0 b.bias.0 > o.weight.1"}


def outer_sum(net, x):
    return net.o((net.a(x)[:, :, None] * net.b(x)[:, None]).flatten(1, 2).unflatten(1, (4, 5)))


CASES = {
    "each function": (Net(lambda net, x: net.b(sum(f(net.a(x)) for f in FUNCTIONS)), a=Linear(3, 4), b=Linear(4, 2)), VECTORS, ONE),
    "each pair": (
        Net(lambda net, x: net.o(sum(f(net.a(x), net.b(x)) for f in PAIRS)), a=Linear(3, 4), b=Linear(3, 4), o=Linear(4, 2)),
        VECTORS,
        BOTH,
    ),
    "prelu": (
        Net(lambda net, x: net.b(net.p(net.a(x))), a=nn.Conv2d(2, 4, 1), p=nn.PReLU(4), b=nn.Conv2d(4, 2, 1)),
        PICTURES,
        {"a": "4 channel: a.weight.0 a.bias.0 p.weight.0 > b.weight.1"},
    ),
    "prelu with one slope": (
        Net(lambda net, x: net.b(net.p(net.a(x))), a=nn.Conv2d(2, 4, 1), p=nn.PReLU(), b=nn.Conv2d(4, 2, 1)),
        PICTURES,
        ONE,
    ),
    "broadcast": (
        Net(lambda net, x: net.b(net.a(x) * net.p[:, None] + net.q), a=Linear(3, 4), p=weight(5), q=weight(4), b=Linear(4, 2)),
        TOKENS,
        {"a": "4 channel: q.0 a.weight.0 a.bias.0 > b.weight.1"},
    ),
    "outer product, one side read": (
        Net(outer_sum, a=Linear(3, 4), b=Linear(3, 5), o=Linear(5, 2)),
        VECTORS,
        {"b": "5 channel: b.weight.0 b.bias.0 > o.weight.1"},
    ),
    "created": (
        Net(lambda net, x: net.b(net.a(x) * x.new_ones(2, 4) + torch.zeros(2, 4)), a=Linear(3, 4), b=Linear(4, 2)),
        VECTORS,
        ONE,
    ),
    "constant": (
        Net(lambda net, x: net.b(net.a(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])), a=Linear(3, 4), b=Linear(4, 2)),
        VECTORS,
        {"a": "4 channel: a.weight.0 a.bias.0 lifted_tensor_0.0 > b.weight.1"},
    ),
    "output": (Net(lambda net, x: net.a(x), a=Linear(3, 4)), VECTORS, {}),
    "several outputs": (
        Net(lambda net, x: {"y": net.b(net.a(x)), "z": [net.c(net.a(x))]}, a=Linear(3, 4), b=Linear(4, 2), c=Linear(4, 3)),
        VECTORS,
        {"a": "4 channel: a.weight.0 a.bias.0 > b.weight.1 c.weight.1"},
    ),
    "partly an output": (
        Net(lambda net, x: (net.b(net.a(x)), net.a(x)[:, :2]), a=Linear(3, 4), b=Linear(4, 2)),
        VECTORS,
        {"a": "2 channel: a.weight.0 a.bias.0 > b.weight.1"},
    ),
}


@pytest.mark.parametrize(("model", "inputs", "expected"), CASES.values(), ids=CASES)
def test_groups(model, inputs, expected):
    check(model, inputs, expected)


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda x: torch.fft.rfft(x).real, "fft_rfft"),
        (lambda x: torch.kthvalue(x, 2, keepdim=True)[0], "kthvalue"),
        (lambda x: x.view(torch.int32).float(), "view"),
    ],
)
def test_an_op_without_a_rule_keeps_what_enters_it_and_is_named(function, op):
    width = function(torch.zeros(1, 4)).shape[-1]
    net = Net(lambda net, x: net.b(function(net.a(x))), a=Linear(3, 4), b=Linear(width, 2))
    coupling = couple(trace(net, (VECTORS,)))
    assert not coupling.groups
    assert [(spot.op, spot.reason) for spot in coupling.spots] == [(op, f"{op} has no coupling rule")]
    assert coupling.fixed("a.weight", 0) == [f"{op} has no coupling rule"]


def test_an_op_without_a_rule_is_not_named_where_nothing_enters_that_could_go():
    net = Net(lambda net, x: net.b(net.a(torch.fft.rfft(x).real)), a=Linear(2, 4), b=Linear(4, 2))
    coupling = couple(trace(net, (VECTORS,)))
    assert not coupling.spots
    assert [group.units for group in coupling.groups] == [4]


def test_outputs_say_why_they_stay():
    coupling = couple(trace(Net(lambda net, x: net.a(x), a=Linear(3, 4)), (VECTORS,)))
    assert coupling.fixed("a.weight", 0) == ["it is the network's output"]
    assert coupling.fixed("a.weight", 1) == []
