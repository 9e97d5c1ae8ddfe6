"""Norms, reductions, pooling, sorting: the groups of tiny networks, written out."""

import pytest
import torch
from tiny import PICTURES, TOKENS, VECTORS, Net, check, weight
from torch import nn
from torch.nn import Linear
from torch.nn import functional as F

from attar.graph import couple, trace

CHANNELS = "a.weight.0 a.bias.0 > b.weight.1"
EIGHT = {"a": f"8 channel: {CHANNELS}"}
AFFINE = "a.weight.0 a.bias.0 n.weight.0 n.bias.0 > b.weight.1"


def norm(layer):
    return Net(lambda net, x: net.b(net.n(net.a(x))), a=nn.Conv2d(2, 8, 1), n=layer, b=nn.Conv2d(8, 2, 1)), PICTURES


def tokens(function, width=8, **held):
    return Net(lambda net, x: net.b(function(net, net.a(x))), a=Linear(3, 8), b=Linear(width, 2), **held), TOKENS


def rms_norm(net, x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * net.w


def pools(net, x):
    y = net.a(x)
    sides = [F.max_pool2d(y, 2), F.avg_pool2d(y, 2), F.adaptive_avg_pool2d(y, 2), F.adaptive_max_pool2d(y, 2, return_indices=True)[0]]
    sides += [F.max_pool2d(y, 2, return_indices=True)[0], F.interpolate(F.adaptive_avg_pool2d(y, 1), scale_factor=2, mode="bilinear")]
    return net.b(sum(sides) + F.interpolate(F.adaptive_avg_pool2d(y, 1), scale_factor=2))


def along_tokens(net, x):
    return (
        x.mean(1) + x.max(1)[0] + x.amax(1) + x.var(1) + x.logsumexp(1) + x.softmax(1).sum(1) + x.cumsum(1)[:, -1] + x.topk(2, 1)[0][:, 0]
    )


def along_channels(function, width=8):
    return (*tokens(lambda net, x: function(x), width), {})


weight_norm = nn.utils.parametrizations.weight_norm
V, G = "parametrizations.weight.original1", "parametrizations.weight.original0"


def cosine(first, second):
    """The cosine of two layers' results, beside another layer that reads the first."""
    return Net(
        lambda net, x: (F.cosine_similarity(first(net.a(x)), second(net.c(x)), -1), net.b(net.a(x))),
        a=Linear(3, 8),
        c=Linear(3, 8),
        b=Linear(8, 2),
    ), VECTORS


CASES = {
    "cosine": (*cosine(F.relu, torch.tanh), {"a": "8 channel: a.weight.0 a.bias.0 c.weight.0 c.bias.0 > b.weight.1"}),
    "cosine of what is not zero": (*cosine(torch.sigmoid, torch.tanh), {}),
    "cosine with a number": (*cosine(F.relu, lambda x: x.mean(-1, keepdim=True)), {}),
    "cosine over tokens": (
        Net(lambda net, x: net.b(F.cosine_similarity(net.a(x), net.c(x), 1)), a=Linear(3, 8), c=Linear(3, 8), b=Linear(8, 2)),
        TOKENS,
        {"a": "8 channel: a.weight.0 a.bias.0 c.weight.0 c.bias.0 > b.weight.1"},
    ),
    "batch norm": (*norm(nn.BatchNorm2d(8)), {"a": f"8 channel: {AFFINE}"}),
    "batch norm without weights": (*norm(nn.BatchNorm2d(8, affine=False)), EIGHT),
    "batch norm without statistics": (*norm(nn.BatchNorm2d(8, track_running_stats=False)), {"a": f"8 channel: {AFFINE}"}),
    "instance norm": (*norm(nn.InstanceNorm2d(8)), EIGHT),
    "instance norm with weights": (*norm(nn.InstanceNorm2d(8, affine=True)), {"a": f"8 channel: {AFFINE}"}),
    "instance norm with statistics": (*norm(nn.InstanceNorm2d(8, track_running_stats=True)), EIGHT),
    "group norm": (*norm(nn.GroupNorm(4, 8)), {"a": f"4 channel: {AFFINE}"}),
    "group norm without weights": (*norm(nn.GroupNorm(2, 8, affine=False)), {"a": f"2 channel: {CHANNELS}"}),
    "group norm of one group": (*norm(nn.GroupNorm(1, 8)), {}),
    "norm over neighbours": (*norm(nn.LocalResponseNorm(3)), {}),
    "layer norm": (*tokens(lambda net, x: net.n(x), n=nn.LayerNorm(8)), {}),
    "rms norm": (*tokens(lambda net, x: net.n(x), n=nn.RMSNorm(8)), {}),
    "rms norm by hand": (*tokens(rms_norm, w=weight(8)), {}),
    "mean": along_channels(lambda x: x.mean(-1, keepdim=True), 1),
    "max": along_channels(lambda x: x.amax(-1, keepdim=True), 1),
    "sum of what is not zero": along_channels(lambda x: x.sigmoid().sum(-1, keepdim=True), 1),
    "largest norm": along_channels(lambda x: x / (torch.linalg.vector_norm(x, -1, -1, keepdim=True) + 1)),
    "softmax": along_channels(lambda x: x.softmax(-1)),
    "cumulative sum": along_channels(lambda x: x.cumsum(-1)),
    "sort": along_channels(lambda x: x.sort(-1)[0]),
    "sum of zeros": (*tokens(lambda net, x: x.sum(-1, keepdim=True), 1), {"a": "8 channel: a.weight.0 a.bias.0 >"}),
    "norm": (*tokens(lambda net, x: x / (x.norm(dim=-1, keepdim=True) + 1)), EIGHT),
    "unit length": (*tokens(lambda net, x: F.normalize(x, dim=-1)), EIGHT),
    "along tokens": (*tokens(along_tokens), EIGHT),
    "gated half": (*tokens(lambda net, x: F.glu(x, -1), 4), {"a": f"4 channel: {CHANNELS}"}),
    "pools": (Net(pools, a=nn.Conv2d(2, 8, 1), b=nn.Conv2d(8, 2, 1)), PICTURES, EIGHT),
    "weight norm": (
        Net(lambda net, x: net.b(net.a(x).relu()), a=weight_norm(Linear(3, 4)), b=weight_norm(Linear(4, 2))),
        VECTORS,
        {f"a.{G}": f"4 channel: a.bias.0 a.{G}.0 a.{V}.0 > b.{V}.1"},
    ),
    "weight norm, the product summed by itself": (
        Net(lambda net, x: net.b(net.a(x) @ net.c(x).t()), a=weight_norm(Linear(3, 4)), c=Linear(3, 4), b=Linear(2, 2)),
        VECTORS,
        {f"a.{G}": f"4 channel: a.bias.0 a.{G}.0 a.{V}.0 c.weight.0 c.bias.0 >"},
    ),
    "weight norm over inputs": (
        Net(lambda net, x: net.b(net.a(x).relu()), a=Linear(3, 4), b=weight_norm(Linear(4, 2), dim=1)),
        VECTORS,
        {"a": f"4 channel: a.weight.0 a.bias.0 b.{G}.1 > b.{V}.1"},
    ),
    "weight norm over all": (Net(lambda net, x: net.b(net.a(x)), a=weight_norm(Linear(3, 4), dim=None), b=Linear(4, 2)), VECTORS, {}),
}
APPROXIMATE = {
    "layer norm": {"a": f"8 channel: {AFFINE}"},
    "rms norm": {"a": "8 channel: a.weight.0 a.bias.0 n.weight.0 > b.weight.1"},
    "rms norm by hand": {"a": "8 channel: w.0 a.weight.0 a.bias.0 > b.weight.1"},
    "mean": {"a": "8 channel: a.weight.0 a.bias.0 >"},
}


@pytest.mark.parametrize(("model", "inputs", "expected"), CASES.values(), ids=CASES)
def test_groups(model, inputs, expected):
    check(model, inputs, expected)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_groups_where_cuts_need_not_be_exact(name):
    model, inputs, _ = CASES[name]
    check(model, inputs, APPROXIMATE[name], exact=False)


@pytest.mark.parametrize("layer", [nn.LayerNorm((5, 8)), nn.LayerNorm(8, elementwise_affine=False)])
def test_layer_norms_of_other_shapes_where_cuts_need_not_be_exact(layer):
    model, _ = tokens(lambda net, x: net.n(x), n=layer)
    groups = couple(trace(model, (TOKENS,)), exact=False).groups
    assert [group.units for group in groups] == [8]


def test_reasons_of_what_stays():
    def why(name):
        model, inputs, _ = CASES[name]
        return couple(trace(model, (inputs,))).fixed("a.weight", 0)

    assert why("layer norm") == ["layer_norm averages over it: exact=False cuts it, which is not exact"]
    assert why("softmax") == ["a softmax normalises over it"]
    assert why("group norm of one group") == ["group_norm averages over the channels of a group"]


def test_a_group_norm_remembers_its_groups():
    for name in ("group norm", "group norm without weights"):
        surgery = check(*CASES[name])
        before, after = CASES[name][0].n, surgery.model.n
        assert surgery.eager
        assert after.num_groups == before.num_groups - 1
