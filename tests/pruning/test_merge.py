import copy

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from attar import forms
from attar.graph import op_name, trace
from attar.graph.fold import fold_network
from attar.pruning.merge import merge_linear


def layers(network):
    return [node for node in network.graph.nodes if op_name(node).startswith(("aten.linear", "aten.conv"))]


def same(model, result, *inputs):
    program = result.model.program().double()
    model = copy.deepcopy(model).double().eval()
    for x in inputs:
        torch.testing.assert_close(program(x.double()), model(x.double()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
def test_linear_layers(biases):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 9, bias=biases[0]), nn.Dropout(), nn.Linear(9, 3, bias=biases[1]))
    network = trace(model, (torch.zeros(2, 5),))
    result = merge_linear(network)
    assert result.folded == (("0", "2"),)
    assert result.left == ()
    assert {name: tuple(t.shape) for name, t in result.model.tensors.items() if name.endswith("weight")} == {"2.weight": (3, 5)}
    assert len(result.model.tensors) == 1 + any(biases)
    assert all(isinstance(tensor, nn.Parameter) for tensor in result.model.tensors.values())
    same(model, result, torch.randn(4, 5), torch.randn(2, 7, 5))
    assert len(layers(network)) == 2  # as it was


GROUPS = st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (2, 4), (8, 8)])
GEOMETRY = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3))


@settings(max_examples=25, phases=[Phase.generate])  # not shrunk: each example is traced
@given(st.sampled_from([1, 2]), GEOMETRY, GEOMETRY, GROUPS, st.booleans())
def test_convolutions(dims, one, two, groups, bias):
    torch.manual_seed(0)
    kind = (nn.Conv1d, nn.Conv2d)[dims - 1]
    (k1, s1, p1, d1), (k2, s2, _, d2) = one, two
    first = kind(8, 64, k1, stride=s1, padding=p1, dilation=d1, groups=groups[0], bias=bias)  # wide, so that one layer is smaller
    second = kind(64, 8, k2, stride=s2, dilation=d2, groups=groups[1])
    model = nn.Sequential(first, second)
    size = 25  # the second layer's widest kernel covers 7, the first layer's widest leaves (25 - 7) // 3 + 1 = 7
    result = merge_linear(trace(model, (torch.zeros(2, 8, *[size] * dims),)))
    if result.folded:
        assert len(layers(result.model)) == 1
        assert sum(t.numel() for t in result.model.tensors.values()) < sum(p.numel() for p in model.parameters())
        same(model, result, torch.randn(3, 8, *[size] * dims))
    else:
        assert "one layer would have" in result.left[0][1]


def test_same_padding_and_three_dimensions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(2, 16, 3, padding="same", dilation=(1, 2, 1)), nn.Conv3d(16, 2, 1))
    result = merge_linear(trace(model, (torch.zeros(1, 2, 5, 6, 7),)))
    assert result.folded == (("0", "1"),)
    same(model, result, torch.randn(2, 2, 5, 6, 7))


def test_a_chain_becomes_one_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    result = merge_linear(trace(model, (torch.zeros(1, 4),)))
    assert result.folded == (("0", "1"), ("1", "2"))
    assert [name for name in result.model.tensors if name.endswith("weight")] == ["2.weight", "4.weight"]
    same(model, result, torch.randn(6, 4))


def test_behind_a_folded_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)).eval()
    model[1].running_mean.normal_()
    result = merge_linear(fold_network(trace(model, (torch.zeros(1, 2, 5, 5),))).model)
    assert result.folded == (("0", "2"),)
    same(model, result, torch.randn(2, 2, 5, 5))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.a(x)
        return self.b(y) + y


def shared():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def sparse():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    forms.attach(model[0], "weight", forms.Sparse(torch.eye(4).bool(), torch.ones(4)))
    return model


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        (nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8)), (8,), "one layer would have 64 weights, the two have 32"),
        (nn.Sequential(nn.Conv2d(2, 9, 3), nn.Conv2d(9, 2, 3, padding=1)), (2, 6, 6), "the second pads its input"),
        (nn.Sequential(nn.ConvTranspose2d(2, 9, 3), nn.Conv2d(9, 2, 1)), (2, 6, 6), "0 is a transposed convolution"),
        (Twice(), (4,), "the output of the first is read elsewhere too"),
        (shared(), (4,), "0.weight is used 2 times"),
        (sparse(), (4,), "0.weight carries a Sparse"),
        (nn.Sequential(nn.Conv2d(2, 9, 2, padding="same"), nn.Conv2d(9, 2, 1)), (2, 6, 6), "pads more on one side"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_pairs_that_stay_are_named(model, size, reason):
    network = trace(model, (torch.zeros(1, *size),))
    result = merge_linear(network)
    assert result.folded == ()
    assert [reason in why for _, why in result.left] == [True]
    assert len(layers(result.model)) == len(layers(network))


def test_an_activation_between_is_no_pair():
    result = merge_linear(trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), (torch.zeros(1, 4),)))
    assert (result.folded, result.left) == ((), ())
