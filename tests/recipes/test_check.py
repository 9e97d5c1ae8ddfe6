"""A recipe is checked whole: every fault of every stage at once, with the nearest valid name, before anything runs."""

import copy

import pytest
import torch
from torch import nn

from attar.errors import RecipeError
from attar.recipes import check_recipe, load_recipe


def network():
    return nn.ModuleDict({"conv1": nn.Conv2d(1, 4, 3), "fc1": nn.Linear(8, 8), "fc2": nn.Linear(8, 4)})


GOOD = [
    {"train": {"epochs": 1, "lr": 0.1, "weight_decay": 0.001}},
    {"prune": {"keep": {"conv1": 0.5, "fc*": 0.2}, "schedule": "cubic", "epochs": 2, "lr": 0.1, "lr_schedule": "constant"}},
    {"prune": {"keep": 0.1}},
    {"finetune": {"epochs": 1, "lr": 0.1}},
    {"quantize": {"bits": {"conv1": 8, "fc*": 4}, "init": "density"}},
    {"finetune": {"epochs": 1, "lr": 0.001, "optimizer": "adam"}},
]


def test_a_good_recipe_passes_and_changes_nothing():
    model = network()
    before = copy.deepcopy(model.state_dict())
    check_recipe(load_recipe(GOOD), model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"prun": {"keep": 0.1}}, "stage 1 (prun): there is no such verb, did you mean 'prune'"),
        ({"prune": {"kep": 0.1}}, "there is no argument 'kep', did you mean 'keep'"),
        ({"prune": {"keep": 1.5}}, "keep must be in (0, 1], got 1.5"),
        ({"prune": {"keep": 0}}, "keep must be in (0, 1], got 0"),
        ({"prune": {"keep": {"conv2": 0.5}}}, "'conv2' matches nothing, did you mean 'conv1'"),
        ({"prune": {"keep": 0.5, "saliency": "magnitud"}}, "no saliency 'magnitud', did you mean 'magnitude'"),
        ({"prune": {"keep": 0.5, "schedule": "cubik", "epochs": 1, "lr": 0.1}}, "no schedule 'cubik', did you mean 'cubic'"),
        ({"prune": {"keep": 0.5, "epochs": 2}}, "lr must be given"),
        ({"prune": {"keep": 0.5, "lr": 0.1}}, "with epochs only"),
        ({"prune": {}}, "give keep, or quality"),
        ({"prune": {"quality": 1.0, "epochs": 1, "lr": 0.1}}, "a threshold by quality is applied at once"),
        ({"prune": {"keep": 0.5, "allocation": "globl"}}, "no allocation 'globl', did you mean 'global'"),
        ({"quantize": {"bits": 0}}, "bits must be"),
        ({"quantize": {"bits": 17}}, "bits must be"),
        ({"quantize": {"bits": 4, "method": "kmean"}}, "no quantization 'kmean', did you mean 'kmeans'"),
        ({"quantize": {"bits": 4, "init": "linar"}}, "linar"),
        ({"quantize": {"bitts": 4}}, "there is no argument 'bitts', did you mean 'bits'"),
        ({"finetune": {"lr": 0.1}}, "epochs must be given"),
        ({"train": {"epochs": -1, "lr": 0.1}}, "epochs must be a whole number"),
        ({"train": {"epochs": 1, "lr": 0.1, "optimizer": "sdg"}}, "did you mean 'sgd'"),
    ],
)
def test_one_fault_is_named(stage, says):
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe([stage]), network())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_are_listed_together():
    recipe = [
        {"train": {"epochs": 0, "lr": -1, "momentum": 2}},
        {"prune": {"keep": {"conv9": 0.5, "fc1": 7}, "salency": "magnitude"}},
        {"quantise": {}},
        {"quantize": {"bits": {"fc1": 17, "nothing": 2}}},
    ]
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe(recipe), network())
    text = str(caught.value)
    for said in ("9 faults", "epochs must", "lr must", "momentum must", "'conv9'", "got 7", "'salency'", "'quantize'", "17", "'nothing'"):
        assert said in text, said


def test_order_of_forms_is_checked():
    with pytest.raises(RecipeError, match=r"stage 2 \(prune\): conv1 carries a Codebook"):
        check_recipe(load_recipe([{"quantize": {"bits": 2}}, {"prune": {"keep": 0.5}}]), network())
    with pytest.raises(RecipeError, match=r"stage 2 \(quantize\): conv1 carries a Codebook"):
        check_recipe(load_recipe([{"quantize": {"bits": 2}}, {"quantize": {"bits": 1}}]), network())


def test_a_user_s_own_criterion_and_quantizer_are_taken():
    recipe = [{"prune": {"keep": 0.5, "saliency": lambda weight: weight.abs()}}]
    check_recipe(load_recipe(recipe), network())
