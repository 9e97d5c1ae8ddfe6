"""Forms enter and leave modules of every kind."""

import copy
import pickle

import pytest
import torch
from torch import nn

from attar import forms
from attar.errors import AttarError


def half(weight):
    mask = torch.arange(weight.numel()).view(weight.shape) % 2 == 0
    return forms.Sparse(mask, weight.detach()[mask])


@pytest.fixture(autouse=True)
def _no_fused_attention():
    """PyTorch's fused path is taken where no gradient is needed, and computes in another order."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def attach_everywhere(model):
    for owner, holders in forms.owners(model).items():
        if len(owner.shape) >= 2:
            forms.attach(holders[0].layer, holders[0].name, half(owner), model=model)


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True), (torch.randn(2, 3, 4),)),
        (nn.GRU(4, 5), (torch.randn(3, 2, 4),)),
        (nn.MultiheadAttention(8, 2, batch_first=True), (torch.randn(2, 3, 8),) * 3),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0), (torch.randn(2, 3, 8),)),
        (nn.Conv2d(4, 6, 3, groups=2), (torch.randn(1, 4, 5, 5),)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (torch.randn(1, 4, 5, 5),)),
        (nn.Embedding(10, 4), (torch.tensor([1, 2]),)),
        (nn.Bilinear(3, 4, 5), (torch.randn(2, 3), torch.randn(2, 4))),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_formed_layer_equals_the_masked_plain_one(layer, inputs):
    plain, layer = copy.deepcopy(layer), copy.deepcopy(layer)
    attach_everywhere(layer)
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(half(parameter)())
    want, got = plain(*inputs), layer(*inputs)
    want, got = (want[0], got[0]) if isinstance(want, tuple) else (want, got)
    assert torch.equal(got, want)
    got.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    with forms.dense(layer):
        again = layer(*inputs)
    assert torch.equal(again[0] if isinstance(again, tuple) else again, want)
    assert torch.equal(got, layer(*inputs)[0] if isinstance(layer(*inputs), tuple) else layer(*inputs))
    restored = pickle.loads(pickle.dumps(layer))(*inputs)
    assert torch.equal(restored[0] if isinstance(restored, tuple) else restored, want)


def test_tied_weights_share_one_form():
    model = nn.ModuleDict({"a": nn.Embedding(10, 4), "b": nn.Linear(4, 10, bias=False)})
    model["b"].weight = model["a"].weight
    forms.attach(model["a"], "weight", half(model["a"].weight), model=model)
    assert forms.of(model["a"], "weight") is forms.of(model["b"], "weight")
    (holders,) = forms.owners(model).values()
    assert [h.full_name for h in holders] == ["a.weight", "b.weight"]
    with forms.dense(model) as pairs:
        assert len(pairs) == 1
        assert model["a"].weight is model["b"].weight


def test_tied_weights_are_baked_into_one_parameter():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    forms.attach(model[0], "weight", half(model[0].weight), model=model)
    forms.bake(model[0], "weight", model=model)
    assert model[0].weight is model[1].weight
    assert type(model[1]) is nn.Linear


def test_a_frozen_weight_stays_frozen():
    layer = nn.Linear(4, 4)
    layer.weight.requires_grad_(False)
    forms.attach(layer, "weight", half(layer.weight))
    assert not any(p.requires_grad for p in forms.of(layer, "weight").parameters())
    forms.bake(layer, "weight")
    assert not layer.weight.requires_grad


def test_replacing_a_form_replaces_it_in_every_holder():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    forms.attach(model[0], "weight", half(model[0].weight), model=model)
    other = forms.Dense(torch.ones(4, 4))
    forms.attach(model[1], "weight", other, model=model)
    assert forms.of(model[0], "weight") is other


@pytest.mark.parametrize(
    ("layer", "name", "form", "says"),
    [
        (nn.Linear(2, 3), "wieght", forms.Dense(torch.ones(3, 2)), "no parameter 'wieght'"),
        (nn.BatchNorm1d(3), "running_mean", forms.Dense(torch.ones(3)), "is it a buffer"),
        (nn.Linear(2, 3), "weight", forms.Dense(torch.ones(2, 3)), r"\[2, 3\] cannot stand for 'weight' of shape \[3, 2\]"),
        (nn.Embedding(3, 2, sparse=True), "weight", forms.Dense(torch.ones(3, 2)), "sparse=False"),
    ],
)
def test_refusals_leave_the_layer_as_it_was(layer, name, form, says):
    before = set(layer.state_dict())
    with pytest.raises(AttarError, match=says):
        forms.attach(layer, name, form)
    assert set(layer.state_dict()) == before


def test_dense_context_comes_back_after_an_error():
    layer = nn.Linear(4, 4)
    forms.attach(layer, "weight", half(layer.weight))
    with pytest.raises(RuntimeError, match="inside"), forms.dense(layer):
        raise RuntimeError("inside")
    assert forms.of(layer, "weight") is not None


def test_centroid_gradients_are_summed_dense_gradients():
    torch.manual_seed(0)
    indices, centroids = torch.randint(0, 4, (5, 6)), torch.randn(4)
    layer = nn.Linear(6, 5).double()
    forms.attach(layer, "weight", forms.Codebook(indices, centroids.double()))
    x = torch.randn(7, 6, dtype=torch.float64)
    layer(x).square().sum().backward()
    dense = nn.Linear(6, 5).double()
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
        dense.bias.copy_(layer.bias)
    dense(x).square().sum().backward()
    summed = torch.zeros(4, dtype=torch.float64).index_add(0, indices.flatten(), dense.weight.grad.flatten())
    assert torch.allclose(forms.of(layer, "weight").centroids.values.grad, summed, rtol=1e-12)


@pytest.mark.parametrize(
    "build",
    [
        lambda: forms.Sparse(torch.tensor([True, False]), torch.ones(2)),
        lambda: forms.Codebook(torch.tensor([0, 3]), torch.ones(3)),
        lambda: forms.Codebook(torch.tensor([-1, 0]), torch.ones(3)),
        lambda: forms.Codebook(torch.tensor([0]), torch.ones(3, 2)),
        lambda: forms.Codebook(torch.tensor([0]), torch.ones(0)),
    ],
)
def test_parts_that_do_not_fit_are_refused(build):
    with pytest.raises(ValueError, match="must"):
        build()
