"""The oracle itself: what it compares, on what, and that it sees a difference."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import PICTURES, TOKENS, VECTORS, Net, cut_one_of_each, noise
from torch import nn
from torch.nn import Linear

from attar.graph import apply, couple, select, trace, verify


def mlp():
    return nn.Sequential(Linear(3, 8), nn.Sigmoid(), Linear(8, 2)).eval()


def test_the_masked_network_has_zeros_where_something_goes_and_nowhere_else():
    model = mlp()
    coupling = couple(trace(model, (VECTORS,)))
    masked = verify.masked(model, coupling, coupling.kept({"0": [1, 6]}))
    gone = [1, 6]
    assert not masked[0].weight[gone].any()
    assert not masked[0].bias[gone].any()
    assert not masked[2].weight[:, gone].any()
    for name, tensor in masked.named_parameters():
        before = dict(model.named_parameters())[name]
        assert torch.equal(tensor[tensor != 0], before[tensor != 0])
    assert sum(int((t == 0).sum()) for t in masked.parameters()) == 2 * 3 + 2 + 2 * 2


def test_a_norm_of_weights_is_masked_by_its_factor_so_that_nothing_is_divided_by_zero():
    model = Net(lambda net, x: net.b(net.a(x)), a=nn.utils.parametrizations.weight_norm(Linear(3, 4)), b=Linear(4, 2))
    coupling, _ = cut_one_of_each(model, VECTORS)
    masked = verify.masked(model, coupling, coupling.kept({coupling.groups[0].name: [1]}))
    assert masked.a.weight.isfinite().all()
    assert not masked.a.weight[1].any()


@given(st.floats(1e-12, 1e3), st.integers(0, 5))
def test_difference_is_relative_to_the_largest(size, at):
    expected = noise(6).double() * 10
    result = expected.clone()
    result[at] += size
    assert verify.difference([result, expected], [expected, expected]) == pytest.approx(size / float(expected.abs().max()), rel=1e-3)


def test_difference_of_special_values():
    inf, nan = torch.tensor([torch.inf, 1.0]), torch.tensor([torch.nan, 1.0])
    assert verify.difference([inf], [inf.clone()]) == 0
    assert verify.difference([nan], [nan.clone()]) == 0
    assert verify.difference([nan], [inf]) == torch.inf
    assert verify.difference([torch.ones(2)], [torch.zeros(2)]) == torch.inf
    assert verify.difference([torch.ones(2)], [torch.ones(3)]) == torch.inf
    assert verify.difference([], [torch.ones(3)]) == torch.inf
    assert verify.difference([torch.ones(0)], [torch.ones(0)]) == 0


def test_smaller_examples_are_noise_of_the_same_spread():
    network = trace(nn.Conv2d(2, 3, 3), (noise(2, 2, 80, 80) * 5 + 3,))
    (small,) = verify.smaller(network, (noise(2, 2, 80, 80) * 5 + 3,), batch=1)
    assert small.shape == (1, 2, 64, 64)
    assert float(small.mean()) == pytest.approx(3, abs=0.5)
    assert float(small.std()) == pytest.approx(5, abs=0.5)
    (whole,) = verify.smaller(network, (noise(2, 2, 80, 80),), batch=3, shrink=False)
    assert whole.shape == (3, 2, 80, 80)


def test_zeros_become_noise_and_masks_and_words_stay():
    model = Net(lambda net, x, mask, words: net.a(x) * mask + net.e(words), a=Linear(3, 4), e=nn.Embedding(9, 4))
    example = (torch.zeros(2, 5, 3), torch.ones(2, 5, 1), torch.arange(10).reshape(2, 5) % 9)
    x, mask, words = verify.smaller(trace(model, example), example, batch=2)
    assert float(x.std()) > 0.5
    assert torch.equal(mask, example[1])
    assert torch.equal(words, example[2])


def test_sizes_that_a_graph_does_not_take_are_seen():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), Linear(48, 2))
    network = trace(model, (PICTURES,))
    assert verify.legal(network, (noise(5, 2, 4, 4),))
    assert not verify.legal(network, (noise(2, 2, 3, 3),))


def test_float64_holds_through_casts_and_plain_attributes():
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Linear(3, 3)
            self.table = noise(3) / 3  # registered nowhere

        def forward(self, x):
            return self.a(x).to(torch.float32) * self.table + torch.ones(3)

    model = verify.widened(Casting())
    (found,) = verify.outputs(model, (VECTORS,), double=True)
    assert found.dtype == torch.float64
    exact = VECTORS.double() @ model.a.weight.T + model.a.bias
    assert torch.equal(found, exact * model.table + 1)
    assert torch.get_default_dtype() == torch.float32


def test_the_first_op_that_differs_is_found():
    model = nn.Sequential(Linear(3, 8), nn.ReLU(), Linear(8, 6), nn.ReLU(), Linear(6, 2)).eval()
    coupling = couple(trace(model, (VECTORS,)))
    kept = coupling.kept({"2": [1]})
    result = trace(apply(model, select(coupling, {"2": [1]}), (VECTORS,)).model, (VECTORS,))
    assert verify.differs_first(model, coupling, kept, result, (VECTORS,)) is None
    with torch.no_grad():
        result.tensors["2.bias"].add_(1.0)
    assert verify.differs_first(model, coupling, kept, result, (VECTORS,)).name == "linear_1"


def test_outputs_of_any_nesting_are_compared():
    model = Net(lambda net, x: {"a": (net.a(x), [net.a(x) * 2]), "n": x.shape[0]}, a=Linear(3, 2))
    assert [tuple(t.shape) for t in verify.outputs(verify.widened(copy.deepcopy(model)), (VECTORS,), double=True)] == [(2, 2)] * 2


@pytest.mark.parametrize("exact", [True, False])
def test_the_reference_is_the_mask_or_the_norm_over_what_is_left(exact):
    model = Net(lambda net, x: net.b(net.n(net.a(x))), a=Linear(3, 8), n=nn.LayerNorm(8), b=Linear(8, 2)).eval()
    coupling = couple(trace(model, (TOKENS,)), exact=exact)
    kept = coupling.kept({} if exact else {"a": [0, 5]})
    (found,) = verify.reference(model, coupling, kept, double=True)((TOKENS,))
    with torch.no_grad():
        wide = copy.deepcopy(model).double()
        rows = [0, 1, 2, 3, 4, 5, 6, 7] if exact else [1, 2, 3, 4, 6, 7]
        h = nn.functional.linear(TOKENS.double(), wide.a.weight[rows], wide.a.bias[rows])
        h = nn.functional.layer_norm(h, (len(rows),), wide.n.weight[rows], wide.n.bias[rows])
        wanted = nn.functional.linear(h, wide.b.weight[:, rows], wide.b.bias)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
