"""Graphs that get smaller: the numbers written in them that must change, and those that cannot."""

import copy

import numpy as np
import pytest
import torch
from tiny import TOKENS, VECTORS, Net, noise
from torch import nn
from torch.nn import Linear

from attar.errors import SurgeryError
from attar.graph import Kept, couple, trace
from attar.graph.rewrite import Literal, cut_network, cut_tensor


def without(coupling, tensor, row) -> Kept:
    """What stays when the unit goes that has this row of a tensor."""
    for group in coupling.groups:
        for unit in range(group.units):
            kept = coupling.kept({group.name: [unit]})
            if row not in kept.indices.get(tensor, {}).get(0, [row]):
                return kept
    raise AssertionError(f"row {row} of {tensor} is in no group")


def zeroed(model, rows):
    """The model with rows of its layer `a` zero."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.a.weight[rows], model.a.bias[rows] = 0.0, 0.0
    return model


# op -> (a function of 8 channels that leaves numbers in the graph, channels after it, the numbers that change without channel 1)
NUMBERS = {
    "view": (lambda x: x.view(2, 5, 8).relu(), 8, {(8, 7)}),
    "view, one to be inferred": (lambda x: x.view(2, 5, -1).relu(), 8, set()),
    "reshape": (lambda x: x.mT.reshape(2, 40).unflatten(1, (8, 5)).mT, 8, {(40, 35), (8, 7)}),
    "expand": (lambda x: x[:, None].expand(2, 3, 5, 8).sum(1), 8, {(8, 7)}),
    "zeros": (lambda x: x + torch.zeros(2, 5, 8), 8, {(8, 7)}),
    "ones": (lambda x: x * x.new_ones(2, 5, 8) * torch.ones(8), 8, {(8, 7)}),
    "full": (lambda x: x * torch.full((8,), 0.5) + x.new_full((8,), 0.0), 8, {(8, 7)}),
    "slice": (lambda x: x[..., 1:7], 6, {(7, 6)}),
    "slice from the end": (lambda x: x[..., -6:], 6, {(2, 1), (8, 7)}),
    "slice with steps": (lambda x: x[..., ::3], 3, set()),
    "narrow": (lambda x: x.narrow(-1, 2, 4), 4, {(2, 1), (6, 5)}),
    "split": (lambda x: torch.cat(x.split([3, 5], -1), -1), 8, {(3, 2)}),
    "split of one size": (lambda x: torch.cat(x.split(3, -1), -1), 8, {(3, 2)}),
    "chunk": (lambda x: torch.cat(x.chunk(2, -1)[::-1], -1), 8, {(4, 3)}),
    "select": (lambda x: x * x.select(-1, 5)[..., None], 8, {(5, 4)}),
}


@pytest.mark.parametrize(("function", "width", "numbers"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_that_change(function, width, numbers):
    model = Net(lambda net, x: net.b(function(net.a(x))), a=Linear(3, 8), b=Linear(width, 2)).eval()
    coupling = couple(trace(model, (TOKENS,)))
    kept = without(coupling, "a.weight", 1)
    result, literals = cut_network(coupling, kept, [tuple(TOKENS.shape)])
    assert {(literal.old, literal.new) for literal in literals} == numbers
    assert all(literal.layer == "" for literal in literals)
    gone = np.setdiff1d(np.arange(8), kept.indices["a.weight"][0])
    assert gone.tolist() == [1]
    assert torch.allclose(result.program()(TOKENS), zeroed(model, gone)(TOKENS), atol=1e-5)


def test_the_batch_stays_free():
    model = Net(lambda net, x: net.b(net.a(x).view(x.shape[0], 2, 4).flatten(1)), a=Linear(3, 8), b=Linear(8, 2)).eval()
    coupling = couple(trace(model, (VECTORS,)))
    kept = without(coupling, "a.weight", 1)
    result, literals = cut_network(coupling, kept, [(2, 3)])
    assert result.program()(noise(5, 3)).shape == (5, 2)
    assert literals == [Literal("", "view", 2, 1)]  # the first group is of the two halves


def test_groups_of_convolutions_and_norms_change():
    stem, grouped, norm, head = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 1, groups=3), nn.GroupNorm(3, 6), nn.Conv2d(6, 2, 1)
    model = nn.Sequential(stem, grouped, norm, head).eval()
    example = noise(2, 2, 3, 3)
    coupling = couple(trace(model, (example,)))
    kept = without(coupling, "1.weight", 0)
    result, _ = cut_network(coupling, kept, [tuple(example.shape)])
    assert result.tensors["1.weight"].shape == (4, 2, 1, 1)
    assert result.program()(example).shape == (2, 2, 3, 3)


def test_what_repeats_to_a_cut_size_is_refused_or_kept():
    """One column repeated eight times has nothing to cut; the sum with eight channels keeps these."""
    model = Net(lambda net, x: net.b(net.a(x) + net.c(x).expand(2, 5, 8)), a=Linear(3, 8), c=Linear(3, 1), b=Linear(8, 2))
    assert not couple(trace(model, (TOKENS,))).groups


def test_a_promise_that_is_not_kept_is_refused():
    model = nn.Sequential(Linear(3, 4), nn.ReLU(), Linear(4, 2)).eval()
    coupling = couple(trace(model, (VECTORS,)))
    kept = coupling.kept({"0": [1]})
    kept.indices["0.weight"][0] = kept.indices["0.bias"][0] = kept.indices["2.weight"][1] = np.array([0])
    with pytest.raises(SurgeryError, match=r"linear in layer '0' has shape \[\(2, 1\)\] after the cut, where \[\(2, 3\)\] was promised"):
        cut_network(coupling, kept, [(2, 3)])


def test_the_original_network_is_not_touched():
    model = nn.Sequential(Linear(3, 4), nn.ReLU(), Linear(4, 2)).eval()
    network = trace(model, (VECTORS,))
    before = str(network.graph)
    cut_network(couple(network), couple(network).kept({"0": [1]}), [(2, 3)])
    assert str(network.graph) == before
    assert network.tensors["0.weight"] is model[0].weight


def test_a_cut_tensor_is_a_contiguous_copy():
    tensor = torch.arange(24.0).reshape(4, 6)
    cut = cut_tensor(tensor, {0: np.array([0, 2]), 1: np.array([1, 5])})
    assert cut.tolist() == [[1, 5], [13, 17]]
    assert cut.is_contiguous()
    whole = cut_tensor(tensor.t(), {})
    assert whole.is_contiguous()
