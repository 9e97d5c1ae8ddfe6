"""ResNet-56 with its published weights, cut by Li's plan B."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from attar import zoo
from attar.data.cifar import cifar10
from attar.evaluation import count, evaluate
from attar.graph import trace
from attar.pruning import prune_structure
from attar.task import Task
from attar.zoo.cifar_resnet import resnet56

pytestmark = [pytest.mark.slow, pytest.mark.skipif("ATTAR_DATA" not in os.environ, reason="needs real data in $ATTAR_DATA")]
FOLDER = Path(__file__).parents[2] / "papers" / "li2017_pruning_filters"


def plans() -> dict:
    spec = importlib.util.spec_from_file_location("li2017", FOLDER / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PLANS


def test_plan_b_on_the_published_weights():
    model = zoo.load_weights(resnet56(), zoo.weights("resnet56")).eval()
    task = cifar10(**zoo.preprocessing(model))
    keep = plans()["ResNet-56-B"].keep
    smallest = prune_structure(model, task.example(), keep=keep, allocation="layer")
    assert smallest.eager
    assert smallest.error <= 1e-9
    counted = count(trace(smallest.model, task.example()))
    assert (counted.parameters, counted.total.macs) == (735_712, 90_907_264)
    assert (smallest.selection.parameters[1], smallest.selection.macs[1]) == (735_712, 90_907_264)
    largest = prune_structure(model, task.example(), keep=keep, allocation="layer", saliency=lambda weight: -weight.abs())
    before, after, worst = (accuracy(network, task, 500) for network in (model, smallest.model, largest.model))
    assert before > 0.97  # it was trained on these pictures; 93.39 % on the test split (tests/zoo)
    assert before > after > 0.85  # measured: 95.05 % of 2,000
    assert worst < 0.3


def test_greedy_scores_choose_the_same_where_every_first_convolution_reads_the_whole_stream():
    model = zoo.load_weights(resnet56(), zoo.weights("resnet56")).eval()
    example = (torch.zeros(1, 3, 32, 32),)
    keep = plans()["ResNet-56-B"].keep
    one, other = (prune_structure(model, example, keep=keep, allocation="layer", greedy=greedy).selection for greedy in (False, True))
    assert one == other


def accuracy(model: torch.nn.Module, task: Task, samples: int) -> float:
    split = torch.utils.data.Subset(task.validation, range(samples))
    return float(evaluate(model, split, task).metrics["top-1"].mean())
