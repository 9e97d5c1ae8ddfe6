import pytest
import torch

from attar.errors import AttarError
from attar.names import members
from attar.pruning._evidence import layer_seed, needed, score


def test_a_criterion_gets_what_its_parameters_name():
    def taylor(weight, grad, *, seed=7):
        return weight * grad + seed

    given = {"weight": torch.ones(2), "grad": torch.full((2,), 3.0), "hessian_diag": torch.zeros(2)}
    assert score(taylor, given).tolist() == [10.0, 10.0]
    assert score(taylor, given | {"seed": 1}).tolist() == [4.0, 4.0]


def test_what_is_to_be_collected_is_what_the_parameters_name():
    def everything(weight, grad, inputs_sq=None, *, home_made, power=2, seed=0, **more):
        return weight

    assert needed(everything) == {"grad", "inputs_sq", "home_made"}
    for name, criterion in members("saliency").items():
        if name in ("magnitude", "random"):
            assert needed(criterion) == set()


def test_scores_are_expanded_to_the_weight():
    def of_filter(weight):
        return weight.abs().sum(1, keepdim=True)

    assert score(of_filter, {"weight": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}).tolist() == [[3.0, 3.0], [1.0, 1.0]]


def test_missing_evidence_is_named():
    def taylor(weight, grad):
        return weight * grad

    with pytest.raises(AttarError, match="'taylor' needs grad, and only seed, weight can be had here"):
        score(taylor, {"weight": torch.ones(2), "seed": 0})


def test_scores_of_another_shape_are_refused():
    def flat(weight):
        return weight.flatten()

    with pytest.raises(AttarError, match=r"of shape \[2, 2\]: saliency 'flat' gave \[4\]"):
        score(flat, {"weight": torch.ones(2, 2)})


def test_every_layer_has_its_own_seed():
    assert len({layer_seed(seed, name) for seed in range(20) for name in ("conv1", "conv2", "fc")}) == 60
