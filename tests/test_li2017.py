"""The plans of Li et al. 2017 by count: METHODS P13 (c), and the recipes that carry two of them out."""

import importlib.util
from pathlib import Path

import pytest
import torch

from attar.evaluation import count
from attar.pruning import plan
from attar.recipes import load_recipe

FOLDER = Path(__file__).parents[1] / "papers" / "li2017_pruning_filters"
# parameters and multiply-accumulates, before and after
COUNTS = {
    "VGG-16-A": ((14_991_946, 5_399_690), (313_463_808, 206_279_680)),
    "ResNet-56-A": ((853_018, 773_336), (125_485_696, 112_435_840)),
    "ResNet-56-B": ((853_018, 735_712), (125_485_696, 90_907_264)),
    "ResNet-110-A": ((1_727_962, 1_688_522), (252_887_680, 212_779_648)),
    "ResNet-110-B": ((1_727_962, 1_168_424), (252_887_680, 155_124_352)),
    "ResNet-34-A": ((21_797_672, 20_151_764), (3_663_761_408, 3_100_184_576)),
    "ResNet-34-B": ((21_797_672, 19_469_372), (3_663_761_408, 2_782_269_440)),
}
PROJECTIONS = (172_032 + 1_792, 19_267_584)  # of ResNet-34, which the paper's counts leave out


@pytest.fixture(scope="module")
def reproduce():
    spec = importlib.util.spec_from_file_location("li2017", FOLDER / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def known(reproduce):
    """Each network's groups."""
    return reproduce.couplings(list(reproduce.PLANS))


@pytest.fixture(scope="module")
def selections(reproduce, known):
    return {name: plan(known[p.build], keep=p.keep, allocation="layer") for name, p in reproduce.PLANS.items()}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_macs_are_exact_and_the_papers(reproduce, selections, name):
    found, paper = selections[name], reproduce.PLANS[name]
    assert (found.parameters, found.macs) == COUNTS[name]
    for (before, after), left_out, claim in zip((found.parameters, found.macs), PROJECTIONS, (paper.parameters, paper.macs), strict=True):
        saved = 100 * (before - after) / (before - (left_out if "34" in name else 0))
        assert abs(saved - claim) < 0.07  # the paper gives one digit, some of them cut off or from rounded counts


def test_the_baselines_agree_with_the_counter(known):
    for coupling in known.values():
        counted = count(coupling.network)
        kept = coupling.kept({})
        assert counted.total.macs == kept.macs


def test_vgg_by_weights_and_convolutions_alone(reproduce, known, selections):
    coupling = known[reproduce.PLANS["VGG-16-A"].build]
    sizes = []
    for removed in ({}, selections["VGG-16-A"].removed):
        kept = coupling.kept(removed)
        shapes = {name: kept.shape(name) for name in coupling.network.tensors if name.endswith("weight") and len(kept.shape(name)) > 1}
        linear = sum(torch.Size(shapes[name]).numel() for name in ("fc1.weight", "fc2.weight"))
        sizes.append((sum(torch.Size(shape).numel() for shape in shapes.values()), kept.macs - linear))
    assert sizes == [(14_977_728, 313_196_544), (5_390_176, 206_143_488)]


def test_layers_are_numbered_as_the_paper_numbers_them(reproduce):
    """Layer 2k is the first convolution of block k, of 27; what is skipped lies at and near the changes of size."""
    a, b = (set(reproduce.PLANS[f"ResNet-56-{letter}"].keep) for letter in "AB")
    blocks = {f"layer{stage}.{k}.conv1" for stage in (1, 2, 3) for k in range(9)}
    assert blocks - a == {"layer1.7.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer3.8.conv1"}
    assert a - b == {"layer1.8.conv1", "layer2.7.conv1"}
    assert b < a


@pytest.mark.parametrize(
    ("letter", "file"), [("A", "resnet56_a.yaml"), ("B", "resnet56_b.yaml"), ("B", "resnet56_b_full.yaml")], ids=lambda value: value
)
def test_the_recipes_are_the_plans(reproduce, known, selections, letter, file):
    stages = load_recipe(FOLDER / file).stages
    assert [stage.verb for stage in stages] == ["prune", "finetune"]
    arguments = dict(stages[0].arguments)
    name = f"ResNet-56-{letter}"
    found = plan(known[reproduce.PLANS[name].build], **arguments)
    assert {cut.group: len(cut.removed) for cut in found.cuts} == {cut.group: len(cut.removed) for cut in selections[name].cuts}
    assert stages[1].arguments["epochs"] == (40 if "full" in file else 1)


def test_the_control_is_the_recipe_without_pruning(reproduce):
    control, pruned = (reproduce.recipe(letter, 3).stages for letter in ("control", "B"))
    assert [stage.verb for stage in control] == ["finetune"]
    assert control[0] == pruned[1]
    assert control[0].arguments["epochs"] == 3
