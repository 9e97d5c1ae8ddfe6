import copy

import pytest
import torch
from torch import nn

from attar import forms
from attar.errors import AttarError
from attar.pruning import prune_structure, sensitivity, within_drop


def test_each_layer_is_pruned_alone():
    torch.manual_seed(0)
    model = nn.ModuleDict({"conv": nn.Conv2d(2, 5, 1), "fc": nn.Linear(5, 4)})
    before = copy.deepcopy(model.state_dict())
    seen = []

    def score(trial):
        seen.append((int(trial["conv"].weight.count_nonzero()), int(trial["fc"].weight.count_nonzero())))
        return len(seen)

    scan = sensitivity(model, score, grid=(1.0, 0.5, 0.1))
    assert seen == [(10, 20), (5, 20), (1, 20), (10, 20), (10, 10), (10, 2)]
    assert scan == {"conv": [(1.0, 1.0), (0.5, 2.0), (0.1, 3.0)], "fc": [(1.0, 4.0), (0.5, 5.0), (0.1, 6.0)]}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(forms.names(layer) for layer in model.modules())


def test_layers_and_saliency():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    scan = sensitivity(model, lambda trial: float(trial[1].weight[3].count_nonzero()), grid=(0.25,), saliency=_of_position, layers=["1"])
    assert scan == {"1": [(0.25, 4.0)]}


def _of_position(weight):
    return torch.arange(float(weight.numel())).view(weight.shape)


def test_a_bad_grid():
    with pytest.raises(AttarError, match="keep must be in"):
        sensitivity(nn.Linear(2, 2), lambda trial: 0.0, grid=(0.0,))


def test_within_drop_stops_at_the_first_loss():
    scan = {"a": [(1.0, 0.9), (0.5, 0.89), (0.25, 0.7), (0.1, 0.9)], "b": [(0.1, 0.9), (1.0, 0.9)]}
    assert within_drop(scan, 0.02) == {"a": 0.5, "b": 0.1}
    assert within_drop(scan, 0.0) == {"a": 1.0, "b": 0.1}


def test_filters_are_pruned_group_by_group_and_the_scan_equals_cutting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    scan = sensitivity(model, lambda trial: trial(x).sum().item(), example=(x,), grid=(1.0, 0.5, 0.25))
    assert list(scan) == ["0", "2"]
    assert scan["0"][0] == scan["2"][0] == (1.0, pytest.approx(model(x).sum().item()))
    for group, points in scan.items():
        for keep, value in points[1:]:
            small = prune_structure(model, (x,), keep=keep, allocation="layer", layers=group).model
            assert value == pytest.approx(small(x).sum().item(), abs=1e-9)
    assert list(sensitivity(model, lambda trial: 0.0, example=(x,), grid=(0.5,), layers=["2"])) == ["2"]
