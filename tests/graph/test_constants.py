"""Every claim holds on whatever the network is given, and what a constant gave is in a bias before it is cut."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from attar import forms
from attar.graph import Network, trace
from attar.graph.constants import absorb, along, constants
from attar.graph.fold import fold_batch_norms, layer_at


def values(network: Network, *inputs):
    """What each node of the graph really gives."""
    found, given = {}, iter(inputs)
    for node in network.graph.nodes:
        if node.op == "placeholder":
            found[node] = next(given)
        elif node.op == "get_attr":
            found[node] = network.tensors[node.target]
        elif node.op == "call_function":
            args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), found.__getitem__)
            with torch.no_grad():
                found[node] = node.target(*args, **kwargs)
    return found


def assert_true(network: Network, *inputs):
    """Every number in `constants` is the value at its place."""
    found = values(network, *inputs)
    for node, known in constants(network).items():
        claimed = known.expand(found[node].shape)
        where = claimed.isfinite()
        torch.testing.assert_close(found[node].double()[where], claimed[where], rtol=1e-10, atol=1e-10, msg=f"{node.name}: {known}")


def silenced(layer: nn.Module, channels, *, transposed=False) -> nn.Module:
    """`layer` with nothing reaching the output `channels`: they are what their biases are."""
    with torch.no_grad():
        rows = layer.weight.transpose(0, 1) if transposed else layer.weight
        rows[list(channels)] = 0
        if layer.bias is not None:
            layer.bias.uniform_(0.5, 2.0)
    return layer


def ordinary(norm: nn.Module) -> nn.Module:
    """`norm` as after some training."""
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


class Ops(nn.Module):
    """One op after another on a picture whose channels 1 and 4 are constant, and on its means over space."""

    def __init__(self, ops):
        super().__init__()
        self.conv = silenced(nn.Conv2d(3, 6, 3, padding=1), (1, 4))
        self.grouped = silenced(nn.Conv2d(6, 4, 1, groups=2), ())
        self.prelu, self.group_norm, self.layer_norm, self.batch_norm = (
            nn.PReLU(6),
            nn.GroupNorm(2, 6),
            nn.LayerNorm(6),
            ordinary(nn.BatchNorm2d(6)),
        )
        self.batch_only = nn.BatchNorm2d(6, track_running_stats=False)
        self.up = nn.ConvTranspose2d(6, 2, 2)
        self.own = silenced(nn.Conv2d(6, 6, 3, groups=6, padding=1), (2,))
        with torch.no_grad():
            for norm in (self.group_norm, self.layer_norm, self.batch_norm, self.batch_only):
                norm.weight[2] = 0
                norm.bias[2] = 0.25
            self.grouped.weight[:2] = 0
            self.grouped.weight[:2, 1] = 3.0
        self.register_buffer("position", torch.randn(6, 1, 1))
        self.register_buffer("gate", torch.tensor([0.0, 1, 0, 1, 1, 1]).reshape(6, 1, 1))
        self.ops = ops

    def forward(self, x):
        y = self.conv(x)
        return {name: op(self, y) for name, (op, _) in self.ops.items()}


CASES = {
    "relu": (lambda m, y: F.relu(y - 1), {1, 4}),
    "clamp": (lambda m, y: y.clamp(min=0.6), {1, 4}),
    "gate": (lambda m, y: F.silu(y) * F.hardsigmoid(y) / (1 + y * y), {1, 4}),
    "other activations": (lambda m, y: F.hardswish(F.elu(F.leaky_relu(F.gelu(F.relu6(y)), 0.1))), {1, 4}),
    "scalars": (lambda m, y: 1 - (2 * y + 3) ** 2, {1, 4}),
    "prelu": (lambda m, y: m.prelu(-y), {1, 4}),
    "dropout": (lambda m, y: F.dropout(y, 0.5, m.training).contiguous().clone(), {1, 4}),
    "type": (lambda m, y: y.float().double().to(torch.float64) * 0 + 1, set(range(6))),
    "through integers": (lambda m, y: y.long().double(), set()),
    "a step": (lambda m, y: y.round(), set()),
    "position": (lambda m, y: y + m.position, {1, 4}),
    "zero gate": (lambda m, y: y * m.gate, {0, 1, 2, 4}),
    "self": (lambda m, y: y + y.flip(1), {1, 4}),
    "softmax": (lambda m, y: y.softmax(1), set()),
    "max_pool": (lambda m, y: F.max_pool2d(y, 3, 2, 1), {1, 4}),
    "max_pool with indices": (lambda m, y: F.adaptive_max_pool2d(y, 2, return_indices=True)[0], {1, 4}),
    "indices": (lambda m, y: F.adaptive_max_pool2d(y, 2, return_indices=True)[1].double(), set()),
    "avg_pool": (lambda m, y: F.avg_pool2d(y, 2, ceil_mode=True), {1, 4}),
    "padded avg_pool": (lambda m, y: F.avg_pool2d(y, 3, 1, 1), set()),
    "padded avg_pool of zeros": (lambda m, y: F.avg_pool2d(y * m.gate, 3, 1, 1), {0, 2}),
    "padded avg_pool, zeros not counted": (lambda m, y: F.avg_pool2d(y, 3, 1, 1, count_include_pad=False), {1, 4}),
    "avg_pool, another divisor": (lambda m, y: F.avg_pool2d(y, 3, 1, divisor_override=2), set()),
    "adaptive": (lambda m, y: F.adaptive_avg_pool2d(y, (2, 3)), {1, 4}),
    "global": (lambda m, y: y * F.adaptive_avg_pool2d(y, 1), {1, 4}),
    "mean": (lambda m, y: y.mean((2, 3)), {1, 4}),
    "mean, kept": (lambda m, y: y.mean((-1, -2), keepdim=True), {1, 4}),
    "amax": (lambda m, y: y.amax((2, 3)) - y.amin((2, 3)), {1, 4}),
    "mean over channels": (lambda m, y: y.mean(1, keepdim=True), set()),
    "mean over pictures": (lambda m, y: y.mean(0)[None], {1, 4}),
    "flat": (lambda m, y: y.flatten(1), set(range(25, 50)) | set(range(100, 125))),
    "view": (lambda m, y: F.adaptive_avg_pool2d(y, 1).view(y.shape[0], -1), {1, 4}),
    "shuffle": (lambda m, y: y.view(y.shape[0], 2, 3, 5, 5).transpose(1, 2).reshape(y.shape[0], 6, 5, 5), {2, 3}),
    "channels last": (lambda m, y: y.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2), {1, 4}),
    "tokens": (lambda m, y: y.flatten(2).transpose(1, 2).transpose(1, 2), {1, 4}),
    "cat": (lambda m, y: torch.cat([y[:, :3], F.relu(y)], 1), {1, 4, 7}),
    "cat over space": (lambda m, y: torch.cat([y, y], 2), {1, 4}),
    "cat over different space": (lambda m, y: torch.cat([y, y + 1], 2), set()),
    "chunk": (lambda m, y: torch.cat(y.chunk(2, 1)[::-1], 1), {1, 4}),
    "split": (lambda m, y: torch.cat([torch.tanh(part) for part in y.split([1, 5], 1)], 1), {1, 4}),
    "parts that are not followed": (lambda m, y: torch.cat(y.tensor_split(2, 1), 1), set()),
    "pad": (lambda m, y: F.pad(y, (1, 1, 1, 1)), set()),
    "pad of zeros": (lambda m, y: F.pad(y * m.gate, (1, 1, 1, 1)), {0, 2}),
    "reflection": (lambda m, y: F.pad(F.pad(y, (1, 1, 1, 1), "reflect"), (1, 1, 1, 1), "replicate"), {1, 4}),
    "circular": (lambda m, y: F.pad(y, (1, 1, 1, 1), "circular"), {1, 4}),
    "nearest": (lambda m, y: F.interpolate(y, scale_factor=2), {1, 4}),
    "bilinear": (lambda m, y: F.interpolate(F.interpolate(y, scale_factor=2, mode="bilinear"), size=(7, 9), mode="bicubic"), {1, 4}),
    "pixel_shuffle": (lambda m, y: F.pixel_shuffle(y[:, [1, 1, 1, 1]], 2), set()),  # indices are not followed
    "pixel_shuffle of slices": (lambda m, y: F.pixel_shuffle(torch.cat([y[:, 1:2]] * 4, 1), 2), {0}),
    "batch_norm": (lambda m, y: m.batch_norm(y), {1, 2, 4}),
    "batch_norm by the batch": (lambda m, y: m.batch_only(y), {2}),
    "group_norm": (lambda m, y: m.group_norm(y), {2}),
    "layer_norm": (lambda m, y: m.layer_norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), {2}),
    "instance_norm": (lambda m, y: F.instance_norm(y, weight=m.group_norm.weight, bias=m.group_norm.bias), {2}),
    "grouped": (lambda m, y: m.grouped(y), {0, 1}),
    "depthwise, padded": (lambda m, y: m.own(y), {2}),
    "depthwise": (lambda m, y: F.conv2d(y, m.own.weight, m.own.bias, groups=6), {1, 2, 4}),
    "depthwise of zeros, padded": (lambda m, y: m.own(y * m.gate), {0, 2}),
    "transposed": (lambda m, y: m.up(y), set()),
    "transposed, of zeros": (lambda m, y: m.up(y * 0), {0, 1}),
    "computed weight": (lambda m, y: F.conv2d(y, m.own.weight * m.gate[..., None], m.own.bias, groups=6), {0, 1, 2, 4}),
    "unknown weight": (lambda m, y: F.conv2d(y, y.mean((0, 2, 3)).expand(1, 6)[..., None, None]), set()),
    "infinite": (lambda m, y: y / (y * 0), set()),
    "by the rows": (lambda m, y: torch.cat([y[:1], y[:1] * 0], 0), set()),
}


@pytest.fixture(scope="module")
def ops():
    """The traced network of all cases, and what is known of it."""
    torch.manual_seed(0)
    model = Ops(CASES).double().eval()
    network = trace(model, (torch.randn(2, 3, 5, 5).double(),))
    return network, constants(network)


def test_every_op_tells_the_truth(ops):
    for batch in (2, 5):
        assert_true(ops[0], 10 * torch.randn(batch, 3, 5, 5).double())


@pytest.mark.parametrize("case", CASES)
def test_every_op_passes_on_what_it_can(ops, case):
    network, known = ops
    output = next(node for node in network.graph.nodes if node.op == "output").args[0][case]
    channels = along(known.get(output), 1, output.meta["val"].shape[1])
    assert set(torch.nonzero(channels.isfinite()).flatten().tolist()) == CASES[case][1]


def test_the_numbers_are_the_networks():
    model = nn.Sequential(silenced(nn.Conv2d(3, 4, 3), (2,)), nn.ReLU(), silenced(nn.Conv2d(4, 2, 2), ())).double()
    with torch.no_grad():
        model[0].bias[2] = 1.5
        model[2].weight[1, [0, 1, 3]] = 0
    network = trace(model, (torch.randn(1, 3, 6, 6).double(),))
    known = list(constants(network).values())
    assert [tuple(k.shape) for k in known] == [(1, 4, 1, 1), (1, 4, 1, 1), (1, 2, 1, 1)]
    expected = (model[2].bias[1] + 1.5 * model[2].weight[1, 2].sum()).item()
    assert math.isclose(along(known[2], 1, 2)[1].item(), expected)


def test_a_constant_row_of_the_batch_is_not_a_claim():
    """`x[:1] * 0` is known, and so would be the row of the concatenation at this batch size only."""

    class Rows(nn.Module):
        def forward(self, x):
            return torch.cat([x, x[:1] * 0, x], 0)

    network = trace(Rows(), (torch.randn(3, 2).double(),))
    assert_true(network, torch.randn(4, 2).double())
    assert "cat" not in {node.name for node in constants(network)}


def test_nothing_is_known_of_a_network_without_zeros():
    network = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (torch.randn(1, 3, 6, 6),))
    assert constants(network) == {}
    result = absorb(network)
    assert (result.tensors, result.dead, result.left) == ({}, {}, ())


# Absorbing.


def with_dead_slices_at_zero(network: Network) -> Network:
    """The network with the new tensors of `absorb`, and every weight's slices of its dead input channels at zero."""
    result = absorb(network)
    tensors = {**network.tensors, **result.tensors}
    layers = {layer.weight.target: layer for node in network.graph.nodes if (layer := layer_at(node))}
    for name, mask in result.dead.items():
        weight = tensors[name].detach().clone()
        kernel = layers[name].kernel(weight)
        kernel *= ~mask.reshape(kernel.shape[0], 1, -1, 1)
        tensors[name] = weight
    return dataclasses.replace(network, tensors=tensors)


def assert_exact(model: nn.Module, x: torch.Tensor) -> tuple[dict, dict]:
    """Masking changes nothing; gives the number of dead channels of each weight, and what is left."""
    network = trace(model, (x,))
    with torch.no_grad():
        for batch in (x, 3 * torch.randn_like(torch.cat([x, x]))):
            want, got = model(batch), with_dead_slices_at_zero(network).program()(batch)
            assert (want - got).abs().max() <= 1e-10 * want.abs().max()
    result = absorb(network)
    return {name: int(mask.sum()) for name, mask in result.dead.items()}, dict(result.left)


@st.composite
def chains(draw):
    """Layers with constant channels, norms, activations and a second layer that reads them."""
    torch.manual_seed(draw(st.integers(0, 2**32)))
    rank, groups = draw(st.integers(0, 3)), draw(st.sampled_from([1, 2]))
    silent = draw(st.sets(st.integers(0, 7), min_size=1, max_size=4))
    activation = draw(st.sampled_from([nn.ReLU, nn.ReLU6, nn.Hardsigmoid, nn.Sigmoid, nn.GELU, nn.Hardswish, nn.Tanh, nn.Identity]))()
    normed, bias, padding = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 1))
    convolution = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank]
    norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank]
    first = silenced(nn.Linear(3, 8) if rank == 0 else convolution(3, 8, 2), silent)
    options = {} if rank == 0 else {"kernel_size": 2, "groups": groups, "padding": padding, "stride": draw(st.integers(1, 2))}
    second = convolution(8, 4, bias=bias, **options)
    middle = [ordinary(norm(8))] if normed else []
    last = [ordinary(norm(4))] if draw(st.booleans()) else []
    return nn.Sequential(first, *middle, activation, second, *last).double().eval(), torch.randn(2, 3, *[6] * rank).double()


@settings(max_examples=15)
@given(chains())
def test_absorbing_is_exact(drawn):
    model, x = drawn
    network = trace(model, (x,))
    assert_true(network, 3 * torch.randn_like(x))
    dead, left = assert_exact(model, x)
    assert dead or left


def pair(second: nn.Module, activation: nn.Module, *after: nn.Module) -> nn.Module:
    first = silenced(nn.Conv2d(3, 4, 3), (1, 2))
    with torch.no_grad():
        first.bias.copy_(torch.tensor([1.0, -1.0, 2.0, 3.0]))
    return nn.Sequential(first, activation, second, *after).double().eval()


@pytest.mark.parametrize(
    ("second", "activation", "dead", "reason"),
    [
        (nn.Conv2d(4, 3, 3), nn.ReLU(), 2, None),
        (nn.Conv2d(4, 3, 3, stride=2, dilation=2), nn.Hardsigmoid(), 2, None),
        (nn.Conv2d(4, 4, 2, groups=4), nn.Sigmoid(), 2, None),
        (nn.Conv2d(4, 2, 1, groups=2), nn.Hardswish(), 2, None),
        (nn.Conv2d(4, 3, 3, padding="valid"), nn.ReLU(), 2, None),
        (nn.Conv2d(4, 3, 1, padding="same"), nn.ReLU(), 2, None),
        (nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), nn.ReLU(), 2, None),
        (nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(), 1, "1 constant input channels are not zero, and the layer's zero padding meets them"),
        (nn.Conv2d(4, 3, 3, padding="same"), nn.ReLU(), 1, "1 constant input channels are not zero, and the layer's zero padding"),
        (nn.Conv2d(4, 3, 3, padding=1), nn.Sigmoid(), 0, "2 constant input channels are not zero, and the layer's zero padding meets"),
        (nn.ConvTranspose2d(4, 2, 2, groups=2), nn.ReLU(), 1, "1 constant input channels are not zero"),
        (nn.Conv2d(4, 3, 3, bias=False), nn.ReLU(), 1, "1 constant input channels stay: the layer has no bias and no batch norm"),
    ],
)
def test_what_can_be_absorbed(second, activation, dead, reason):
    found, left = assert_exact(pair(second, activation), torch.randn(2, 3, 9, 9).double())
    assert found == ({"2.weight": dead} if dead else {})
    assert [*left] == (["2.weight"] if reason else [])
    assert left.get("2.weight", "").startswith(reason or "")


def test_a_batch_norm_takes_what_a_layer_without_bias_cannot():
    model = pair(nn.Conv2d(4, 3, 3, bias=False), nn.ReLU(), ordinary(nn.BatchNorm2d(3)))
    x = torch.randn(2, 3, 9, 9).double()
    assert assert_exact(model, x) == ({"2.weight": 2}, {})
    assert list(absorb(trace(model, (x,))).tensors) == ["3.running_mean"]
    folded = fold_batch_norms(model, (x,)).model
    assert assert_exact(folded, x) == ({"2.weight": 2}, {})
    assert list(absorb(trace(folded, (x,))).tensors) == ["2.bias"]


def test_a_linear_layer_after_flatten_loses_all_columns_of_a_channel():
    first = silenced(nn.Conv2d(3, 4, 3), (1, 2))
    model = nn.Sequential(first, nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5)).double()
    x = torch.randn(1, 3, 6, 6).double()
    assert assert_exact(model, x) == ({"4.weight": 8}, {})


def test_slices_that_are_zero_already_are_free():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 3, padding=1)).double()
    with torch.no_grad():
        model[2].weight[:, 3] = 0
    assert assert_exact(model, torch.randn(1, 3, 6, 6).double()) == ({"2.weight": 1}, {})


class Shared(nn.Module):
    """A layer called on two values, with a constant in common and one that differs."""

    def __init__(self):
        super().__init__()
        self.left, self.right = silenced(nn.Linear(3, 4), (0, 1)), silenced(nn.Linear(3, 4), (0, 1))
        self.both, self.other = nn.Linear(4, 5), nn.Linear(4, 5)
        with torch.no_grad():
            self.left.bias[0] = self.right.bias[0] = 2.0
            self.left.bias[1], self.right.bias[1] = 1.0, 3.0

    def forward(self, x):
        return self.both(self.left(x)) + 2 * self.both(self.right(x)) + self.other(self.left(x))


def test_a_shared_layer_absorbs_what_all_its_calls_agree_on():
    model, x = Shared().double(), torch.randn(2, 3).double()
    assert assert_exact(model, x) == ({"both.weight": 1, "other.weight": 2}, {})
    model.other.bias = model.both.bias
    dead, left = assert_exact(model, x)
    assert dead == {}
    assert left == {
        f"{n}.weight": f"{k} constant input channels stay: both.bias is shared with another layer" for n, k in (("both", 1), ("other", 2))
    }
    model.other.weight = nn.Parameter(model.other.weight.detach())
    model.other.bias = nn.Parameter(model.both.bias.detach() * 1)
    model.forward = lambda x: model.both(model.left(x)) + model.both.weight.sum(1)
    dead, left = assert_exact(model, x)
    assert (dead, left) == ({}, {"both.weight": "it is also used by sum_1"})


def test_a_formed_bias_is_left():
    model = pair(nn.Conv2d(4, 3, 3), nn.ReLU())
    forms.attach(model[2], "bias", forms.Codebook(torch.tensor([0, 1, 0]), torch.randn(2).double()))
    dead, left = assert_exact(model, torch.randn(2, 3, 9, 9).double())
    assert dead == {"2.weight": 1}
    assert left == {"2.weight": "1 constant input channels stay: 2.bias carries a Codebook"}


def test_a_network_traced_again_says_the_same():
    model = pair(nn.Conv2d(4, 3, 3), nn.ReLU()).float()
    network = trace(model, (torch.randn(2, 3, 9, 9),))
    again = trace(network.program(), (torch.randn(2, 3, 9, 9),))
    assert torch.equal(absorb(network).tensors["2.bias"], absorb(again).tensors["2.bias"])
    assert isinstance(absorb(network).tensors["2.bias"], nn.Parameter)
    assert absorb(network).tensors["2.bias"].dtype == torch.float32
