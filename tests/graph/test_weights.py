"""Weights are listed by name and pattern, before and after forms are attached."""

import pytest
import torch
from torch import nn

from attar import forms, graph
from attar.errors import AttarError


def network():
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(7, 4),
            "conv1": nn.Conv2d(1, 2, 3),
            "norm": nn.BatchNorm2d(2),
            "lstm": nn.LSTM(4, 3),
            "fc1": nn.Linear(4, 3),
            "fc2": nn.Linear(3, 3),
        }
    )


def test_default_weights_are_those_that_multiply():
    assert [w.name for w in graph.weights(network())] == ["conv1", "lstm.weight_hh_l0", "lstm.weight_ih_l0", "fc1", "fc2"]


def test_patterns_choose_and_embeddings_need_one():
    assert [w.name for w in graph.weights(network(), ["fc*", "embed"])] == ["embed", "fc1", "fc2"]


def test_order_does_not_change_when_forms_come():
    model = network()
    before = [w.name for w in graph.weights(model)]
    graph.weights(model, ["fc1"])[0].become(forms.Dense(torch.ones(3, 4)))
    assert [w.name for w in graph.weights(model)] == before
    assert graph.weights(model, ["fc1"])[0].form is not None


def test_first_matching_pattern_gives_the_value():
    assert graph.by_pattern(network(), {"fc1": 0.1, "fc*": 0.2}) == {"fc1": 0.1, "fc2": 0.2}
    assert set(graph.by_pattern(network(), 0.5).values()) == {0.5}


def test_pattern_without_match_names_the_nearest():
    with pytest.raises(AttarError, match="'conv' matches nothing, did you mean 'conv1'"):
        graph.weights(network(), ["conv"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_weights_are_named(bad):
    model = network()
    with torch.no_grad():
        model["fc2"].weight[0, 0] = bad
    with pytest.raises(AttarError, match=r"fc2\.weight holds NaN or infinite"):
        graph.require_finite(model)
