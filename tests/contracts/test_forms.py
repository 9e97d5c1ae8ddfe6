"""Every form keeps the contract of forms/base.py; forms are discovered, and nested ones stand beside plain ones."""

import copy

import pytest
import torch
from torch import nn

from attar import forms

SHAPE = (6, 10)


def _examples() -> dict[str, forms.Form]:
    torch.manual_seed(0)
    weight = torch.randn(SHAPE)
    mask = weight.abs() > 0.8
    kept = int(mask.sum())
    return {
        "dense": forms.Dense(weight),
        "sparse": forms.Sparse(mask, weight[mask]),
        "codebook": forms.Codebook(torch.randint(0, 5, SHAPE), torch.linspace(-1, 1, 5)),
        "sparse of codebook": forms.Sparse(mask, forms.Codebook(torch.randint(0, 4, (kept,)), torch.randn(4))),
        "codebook of a sparse codebook": forms.Codebook(
            torch.randint(0, 4, SHAPE), forms.Sparse(torch.tensor([True, False, True, True]), torch.randn(3))
        ),
        "large codebook": forms.Codebook(torch.randint(0, 1000, SHAPE), torch.randn(1000)),
    }


@pytest.fixture(params=_examples())
def form(request):
    return _examples()[request.param]


def _layer(form):
    torch.manual_seed(1)
    layer = nn.Linear(SHAPE[1], SHAPE[0])
    forms.attach(layer, "weight", form)
    return layer


def test_every_kind_has_an_example():
    assert {type(form) for form in _examples().values()} == set(forms.KINDS.values())


def test_numbers_are_the_files_and_never_change():
    assert {number: kind.__name__ for number, kind in forms.KINDS.items()} == {0: "Dense", 1: "Sparse", 2: "Codebook"}


def test_shape_is_the_dense_weights(form):
    assert form.shape == tuple(form().shape) == SHAPE


def test_described_and_rebuilt_is_bit_equal(form):
    description, arrays = forms.describe(form)
    rebuilt = forms.rebuild(description, arrays)
    assert type(rebuilt) is type(form)
    assert torch.equal(rebuilt(), form())
    assert torch.equal(forms.rebuild(*forms.describe(rebuilt))(), form())


def test_nonzeros_bound_the_dense_weight(form):
    assert int((form() != 0).sum()) <= form.nonzeros() <= form().numel()


def test_work_grows_with_positions(form):
    assert form.work(6).multiplications == 6 * form.work(1).multiplications > 0


def test_parameters_train_and_buffers_do_not(form):
    layer = _layer(form)
    layer(torch.randn(3, SHAPE[1])).square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    before = layer.weight.detach().clone()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert not torch.equal(layer.weight, before)


def test_layer_stays_itself(form):
    layer = _layer(form)
    assert type(layer).__name__ == "Linear"
    assert isinstance(layer, nn.Linear)
    assert "weight" not in layer.state_dict()
    assert forms.of(layer, "weight") is form
    x = torch.randn(2, SHAPE[1])
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_state_dict_restores_the_weight(form):
    layer, other = _layer(form), _layer(copy.deepcopy(form))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


def test_exports(form):
    layer = _layer(form)
    x = torch.randn(2, SHAPE[1])
    exported = torch.export.export(layer, (x,)).module()
    assert torch.equal(exported(x), layer(x))


def test_dense_context_gives_one_parameter_and_comes_back(form):
    layer = _layer(form)
    weight, state = layer.weight.detach().clone(), set(layer.state_dict())
    with forms.dense(layer) as pairs:
        assert pairs[layer.weight] is form
        assert torch.equal(layer.weight, weight)
        assert set(layer.state_dict()) == {"weight", "bias"}
    assert set(layer.state_dict()) == state
    assert forms.of(layer, "weight") is form


def test_bake_gives_an_ordinary_parameter(form):
    layer = _layer(form)
    weight = layer.weight.detach().clone()
    forms.bake(layer, "weight")
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer.weight, weight)
    assert type(layer) is nn.Linear
