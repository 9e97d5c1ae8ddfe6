"""Dead filters leave without a trace: their constants go into the biases behind, and the original's outputs stay."""

import copy

import pytest
import torch
from torch import nn

from attar.graph import absorb_, trace
from attar.pruning import prune_structure


def network(padding: int, groups: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Sigmoid(),
        nn.Conv2d(8, 8, 3, padding=padding, groups=groups),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )
    with torch.no_grad():
        model[0].weight[[1, 4, 6, 7]] = 0
        model[0].bias.normal_()
        model[1].running_mean.normal_()
    return model.double().eval()


X = torch.randn(2, 3, 12, 12, dtype=torch.float64)


def test_removing_dead_filters_keeps_the_outputs_of_the_original():
    model = network(padding=0)
    surgery = prune_structure(model, (X,), keep=0.5, allocation="layer", layers="0")
    assert surgery.selection.removed == {"0": (1, 4, 6, 7)}
    assert torch.allclose(surgery.model(X), model(X), rtol=0, atol=1e-12)


def test_padding_makes_the_border_differ_so_that_constants_are_not_absorbed():
    model = network(padding=1)
    surgery = prune_structure(model, (X,), keep=0.5, allocation="layer", layers="0")
    assert surgery.error < 1e-9  # equal to the masked original
    assert not torch.allclose(surgery.model(X), model(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_absorbing_in_place_changes_no_output_and_zeroes_the_columns(groups):
    model = network(padding=0, groups=groups)
    changed = copy.deepcopy(model)
    assert "3.weight" in absorb_(trace(changed, (X,)))
    assert torch.allclose(changed(X), model(X), rtol=0, atol=1e-12)
    per = 8 // groups
    for channel in (1, 4, 6, 7):
        rows = slice(channel // per * per, channel // per * per + per)
        assert not changed[3].weight[rows, channel % per].any()


def test_a_network_without_zeros_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    before = copy.deepcopy(model.state_dict())
    assert absorb_(trace(model, (torch.zeros(1, 4),))) == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
