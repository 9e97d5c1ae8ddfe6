"""Whole units by their scores: what METHODS P13 asks of filters, the budgets, and what cannot be."""

import copy
import functools
import itertools

import corpus
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Net, noise
from torch import nn

from attar.errors import AttarError
from attar.graph import couple, trace
from attar.pruning import plan, prune_structure
from attar.pruning.allocation import share_count
from attar.pruning.granularity import scores

PICTURE = (torch.zeros(1, 3, 8, 8),)


def chain(activation=nn.ReLU, norm=False, widths=(6, 9, 5), seed=0):
    """Convolutions one after another, then a linear layer."""
    torch.manual_seed(seed)
    layers, inside = [], 3
    for width in widths:
        layers += [nn.Conv2d(inside, width, 3, padding=1), *([nn.BatchNorm2d(width)] if norm else []), activation()]
        inside = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * inside, 4)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def coupled(model, example=PICTURE):
    return couple(trace(model, example))


@functools.cache
def residual():
    """The coupling of a network with a residual stream of 8, free convolutions of 5 and 12, and a neuron layer of 7."""
    torch.manual_seed(0)

    def forward(net, x):
        x = net.stem(x)
        x = x + net.b(torch.relu(net.a(x)))
        x = x + net.d(torch.relu(net.c(x)))
        return net.fc2(torch.relu(net.fc1(x.mean((2, 3)))))

    convs = {name: nn.Conv2d(i, o, 3, padding=1) for name, i, o in [("stem", 3, 8), ("a", 8, 5), ("b", 5, 8), ("c", 8, 12), ("d", 12, 8)]}
    return coupled(Net(forward, **convs, fc1=nn.Linear(8, 7), fc2=nn.Linear(7, 3)))


def units(coupling):
    return {group.name: group.units for group in coupling.groups}


def test_a_filter_is_scored_by_its_l1_norm_and_tied_ones_by_their_sum():
    coupling = residual()
    found = scores(coupling, coupling.groups, criterion=lambda weight: weight.abs(), evidence={})
    tensors = coupling.network.tensors
    norms = {name: tensors[f"{name}.weight"].detach().double().abs().flatten(1).sum(1) for name in ("stem", "a", "b", "c", "d", "fc1")}
    assert units(coupling) == {"stem": 8, "a": 5, "c": 12, "fc1": 7}
    torch.testing.assert_close(found["stem"], norms["stem"] + norms["b"] + norms["d"])
    for name in ("a", "c", "fc1"):
        torch.testing.assert_close(found[name], norms[name])


@settings(max_examples=8)
@given(st.floats(0.01, 0.85), st.sampled_from([nn.ReLU, nn.Sigmoid, nn.Hardswish]), st.booleans(), st.integers(0, 99))
def test_the_smallest_filters_go_and_the_rest_computes_as_if_their_maps_were_zero(keep, activation, norm, seed):
    """METHODS P13 (a), with the reference of 0.3: every consumer's slices of what went are zero."""
    model = chain(activation, norm, seed=seed).double()
    example = (torch.zeros(1, 3, 8, 8, dtype=torch.float64),)
    masked = copy.deepcopy(model)
    layers = [k for k, layer in enumerate(model) if isinstance(layer, nn.Conv2d | nn.Linear)]
    surgery = prune_structure(model, example, keep=keep, allocation="layer")
    for layer, consumer in itertools.pairwise(layers):
        norms = model[layer].weight.abs().sum((1, 2, 3))
        gone = norms.argsort()[: len(norms) - share_count(keep, len(norms))]
        assert surgery.selection.removed.get(str(layer), ()) == tuple(sorted(gone.tolist()))
        with torch.no_grad():
            masked[consumer].weight.unflatten(1, (len(norms), -1))[:, gone] = 0
    x = noise(3, 3, 8, 8).double()
    torch.testing.assert_close(surgery.model(x), masked(x), rtol=1e-10, atol=1e-10)
    assert surgery.eager


def test_greedy_is_independent_for_one_layer():
    """METHODS P13 (b)."""
    coupling = residual()
    for name in units(coupling):
        one, other = (plan(coupling, keep=0.5, allocation="layer", layers=name, greedy=greedy) for greedy in (False, True))
        assert one == other


def test_greedy_does_not_count_what_reads_removed_maps():
    """METHODS P13 (b): the first filter of the second layer has its mass on the map that goes."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        model[2].weight.copy_(torch.tensor([[5.0, 1.0], [0.0, 3.0]]).view(2, 2, 1, 1))
    coupling = coupled(model, (torch.zeros(1, 1, 4, 4),))
    assert plan(coupling, keep=0.5, allocation="layer").removed == {"0": (0,), "2": (1,)}
    assert plan(coupling, keep=0.5, allocation="layer", greedy=True).removed == {"0": (0,), "2": (0,)}


@pytest.mark.parametrize("norm", [False, True])
def test_rescaling_a_filter_changes_the_ranking_and_not_the_function(norm):
    """METHODS P13 (d): with batch norm the function does not see the filter's own scale at all, without it the next slice undoes it."""
    model = chain(norm=norm).double()
    example = (torch.zeros(1, 3, 8, 8, dtype=torch.float64),)
    before = plan(coupled(model, example), keep=0.5, allocation="layer", layers="0").removed["0"]
    scaled, layers = copy.deepcopy(model), [layer for layer in model if isinstance(layer, nn.Conv2d)]
    chosen, factor = before[0], 100.0
    first, second = (scaled[list(model).index(layer)] for layer in layers[:2])
    with torch.no_grad():
        first.weight[chosen] *= factor
        first.bias[chosen] *= factor
        if norm:
            scaled[1].running_mean[chosen] *= factor
            scaled[1].running_var[chosen] = factor**2 * (model[1].running_var[chosen] + model[1].eps) - model[1].eps
        else:
            second.weight[:, chosen] /= factor
    x = noise(2, 3, 8, 8).double()
    torch.testing.assert_close(scaled(x), model(x), rtol=1e-10, atol=1e-10)
    assert chosen not in plan(coupled(scaled, example), keep=0.5, allocation="layer", layers="0").removed["0"]


@given(st.floats(0.01, 1.0), st.integers(0, 9))
def test_layer_keeps_its_share_of_every_group(keep, seed):
    coupling = residual()
    expected = {name: n - share_count(keep, n) for name, n in units(coupling).items()}
    if not any(expected.values()):
        with pytest.raises(AttarError, match="removes nothing: the largest of 4 groups has 12 units"):
            plan(coupling, keep=keep, allocation="layer", saliency="random", seed=seed)
        return
    removed = plan(coupling, keep=keep, allocation="layer", saliency="random", seed=seed).removed
    assert {name: len(removed.get(name, ())) for name in expected} == expected


@given(st.floats(0.01, 0.95), st.integers(0, 9))
def test_global_keeps_its_share_of_all_units(keep, seed):
    coupling = residual()
    of = units(coupling)
    removed = plan(coupling, keep=keep, saliency="random", seed=seed).removed
    total = sum(of.values())
    assert total - sum(map(len, removed.values())) == max(len(of), share_count(keep, total))
    assert all(len(gone) < of[name] for name, gone in removed.items())


def test_global_compares_scores_relative_to_their_groups_mean():
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1))
        model[2].weight.copy_(1000 * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1).expand(4, 4))
    assert plan(coupled(model, (torch.zeros(1, 1),)), keep=0.5).removed == {"0": (0, 1), "2": (0, 1)}


@settings(max_examples=40)
@given(st.floats(0.15, 0.99), st.integers(0, 9))
def test_macs_reach_the_budget_and_no_further(keep, seed):
    """The lowest relative scores go, as few as do; with one unit less the budget would be missed."""
    coupling = residual()
    selection = plan(coupling, keep=keep, allocation="macs", saliency="random", seed=seed)
    before, after = selection.macs
    assert after <= keep * before
    restored = []
    for name, gone in selection.removed.items():
        for unit in gone:
            fewer = {**selection.removed, name: tuple(u for u in gone if u != unit)}
            restored.append(coupling.kept(fewer).macs)
    assert max(restored) > keep * before


def test_macs_take_the_lowest_relative_scores():
    coupling = residual()
    found = scores(coupling, coupling.groups, criterion=lambda weight: weight.abs(), evidence={})
    order = sorted((float(v / values.mean()), name, k) for name, values in found.items() for k, v in enumerate(values))
    removed = plan(coupling, keep=0.6, allocation="macs").removed
    gone = {(name, unit) for name, of in removed.items() for unit in of}
    best = {(name, int(values.argmax())) for name, values in found.items()}
    assert gone == set([(name, unit) for _, name, unit in order if (name, unit) not in best][: len(gone)])


def test_macs_that_cannot_be_reached_are_said():
    with pytest.raises(AttarError, match=r"keep=0.001 .* cannot be reached: with one unit left in each group [0-9,]+ of [0-9,]+ remain"):
        plan(residual(), keep=0.001, allocation="macs")


def test_patterns_have_their_own_budget_and_the_rest_is_left_alone():
    removed = plan(residual(), keep={"a": 0.4, "[cf]*": 0.5}, allocation="layer").removed
    assert {name: len(gone) for name, gone in removed.items()} == {"a": 3, "c": 6, "fc1": 3}
    removed = plan(residual(), keep={"a": 0.4, "*": 0.9}).removed  # the first pattern that fits counts; groups of one share a budget
    assert len(removed["a"]) == 3
    assert sum(len(gone) for name, gone in removed.items() if name != "a") == 27 - share_count(0.9, 27)


@pytest.mark.parametrize("allocation", ["layer", "global", "macs"])
def test_layers_say_which_groups_may_lose_any(allocation):
    removed = plan(residual(), keep=0.8, allocation=allocation, layers=["a", "st*"]).removed
    assert removed
    assert set(removed) <= {"a", "stem"}


def test_random_is_by_seed_and_plans_are_repeatable():
    coupling = residual()
    plans = [plan(coupling, keep=0.5, saliency="random", allocation="layer", seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert plan(coupling, keep=0.5) == plan(coupling, keep=0.5)


def test_random_treats_units_alike():
    """Each of 12 filters goes in half of 200 draws, within 4.5 standard deviations of the binomial."""
    counts = torch.zeros(12)
    for seed in range(200):
        gone = plan(residual(), keep=0.5, saliency="random", allocation="layer", layers="c", seed=seed).removed["c"]
        counts[list(gone)] += 1
    assert float((counts - 100).abs().max()) < 4.5 * 200**0.5 / 2


def test_a_criterion_gets_the_evidence_it_names():
    coupling = residual()
    gradient = torch.zeros(12, 8, 3, 3)
    gradient[3:7] = 1e6  # far beyond what any weight can make up for
    evidence = {"c": {"grad": gradient}}
    selection = plan(
        coupling, keep=0.3, allocation="layer", layers="c", saliency=lambda weight, grad: (weight * grad).abs(), evidence=evidence
    )
    assert set(range(3, 7)).isdisjoint(selection.removed["c"])
    with pytest.raises(AttarError, match="needs grad, and only seed, weight can be had here"):
        plan(coupling, keep=0.3, saliency=lambda weight, grad: (weight * grad).abs())


def encoder():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 4, 16, batch_first=True).eval()


def test_heads_of_a_transformer():
    model = encoder()
    with torch.no_grad():  # the third head is the loudest, then the first
        for head, scale in enumerate((3.0, 1.0, 4.0, 2.0)):
            for part in range(3):
                model.self_attn.in_proj_weight[8 * part + 2 * head : 8 * part + 2 * head + 2] = scale
    surgery = prune_structure(model, (torch.zeros(1, 5, 8),), keep=0.5, granularity="head")
    assert surgery.selection.removed == {"self_attn.in_proj_weight/heads": (1, 3)}
    assert tuple(surgery.kept["self_attn.in_proj_weight"][0]) == tuple(k for k in range(24) if k % 8 // 2 in (0, 2))
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.self_attn.out_proj.weight[:, [2, 3, 6, 7]] = 0
    x = noise(2, 5, 8)
    torch.testing.assert_close(surgery.model(x), masked(x), rtol=1e-5, atol=1e-5)


def test_filters_of_a_transformer_are_heads_and_neurons_and_channels_are_neurons():
    coupling = coupled(encoder(), (torch.zeros(1, 5, 8),))
    kinds = {g: set(plan(coupling, keep=0.5, allocation="layer", granularity=g).removed) for g in ("filter", "channel", "head")}
    assert kinds["head"] == {"self_attn.in_proj_weight/heads"}
    assert kinds["channel"] == {"linear1"}
    assert kinds["filter"] == kinds["head"] | kinds["channel"]


def test_inner_channels_leave_every_group_of_a_resnext():
    ((_, model, example),) = corpus.networks(["resnext"])
    surgery = prune_structure(model, example, keep=0.5, granularity="inner", allocation="layer")
    cuts = {cut.group: (cut.kind, cut.units, len(cut.removed)) for cut in surgery.selection.cuts}
    assert cuts["stage1.0.conv1.0/inner"] == ("inner", 4, 2)
    conv1, conv2 = surgery.model.stage1[0].conv1[0], surgery.model.stage1[0].conv2[0]
    assert (conv1.out_channels, conv2.in_channels, conv2.out_channels, conv2.groups) == (16, 16, 16, 8)
    assert surgery.error <= 1e-9


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": 0.0}, r"keep must be in \(0, 1\], got 0.0"),
        ({"keep": {"a": 1.5}}, r"keep must be in \(0, 1\], got 1.5"),
        ({"keep": 0.5, "granularity": "filtre"}, "granularity must be one of .*, got 'filtre', did you mean 'filter'"),
        ({"keep": 0.5, "allocation": "globl"}, "allocation must be one of .*, got 'globl', did you mean 'global'"),
        ({"keep": 0.5, "saliency": "ll"}, "no saliency 'll', did you mean 'l"),
        ({"keep": {"a": 0.5}, "allocation": "macs"}, "'macs' has one budget for the network: give keep as one number"),
        ({"keep": 0.5, "greedy": True}, "greedy scores one group after another, which needs allocation='layer', got 'global'"),
        ({"keep": 0.5, "layers": "fc2"}, "layer pattern 'fc2' matches no group, did you mean 'fc1'"),
        ({"keep": {"fc2": 0.5}}, "layer pattern 'fc2' matches no group, did you mean 'fc1'"),
        ({"keep": 0.5, "granularity": "head"}, "there is no head that can be cut: "),
        ({"keep": 1.0}, "keep=1.0 removes nothing: the largest of 4 groups has 12 units; keep less"),
        ({"keep": 0.5, "saliency": lambda weight: weight.new_full((), float("nan"))}, "hold NaN"),
        ({"keep": 0.5, "saliency": lambda weight: weight.flatten()}, "scores must broadcast to the weight"),
    ],
)
def test_what_cannot_be_planned_is_said(options, says):
    with pytest.raises(AttarError, match=says) as caught:
        plan(residual(), **options)
    assert "\n" not in str(caught.value)


def test_nothing_to_cut_is_said_with_its_reasons():
    with pytest.raises(AttarError, match=r"there is no filter that can be cut: .*output"):
        prune_structure(nn.Linear(3, 2), (torch.zeros(1, 3),), keep=0.5)


def test_weights_that_are_not_finite_are_refused():
    model = chain()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(AttarError, match=r"0\.weight"):
        prune_structure(model, PICTURE, keep=0.5)


def test_the_model_passed_in_is_not_changed():
    model = chain(norm=True)
    before = copy.deepcopy(model.state_dict())
    prune_structure(model, PICTURE, keep=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_units_that_only_vectors_make_are_scored_by_their_elements():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.last = nn.Parameter(torch.tensor([3.0, 1.0, 2.0, 4.0])), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(x.mean(1, keepdim=True) * self.scale)

    surgery = prune_structure(Scaled(), (torch.randn(3, 5),), keep=0.5, allocation="layer")
    assert surgery.model.scale.tolist() == [3.0, 4.0]
