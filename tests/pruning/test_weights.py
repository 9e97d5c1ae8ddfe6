import copy

import pytest
import torch
from torch import nn

from attar import forms
from attar.errors import AttarError
from attar.pruning import prune_weights


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2))


def dense(model, *layers):
    return [model[i].weight.detach().clone() for i in layers]


def test_global_keeps_the_largest_of_the_whole_network():
    model = network()
    before = torch.cat([w.flatten() for w in dense(model, 0, 3, 4)])
    masks = prune_weights(model, keep=0.25)
    count = round(0.25 * before.numel())
    assert sum(int(mask.sum()) for mask in masks.values()) == count
    after = torch.cat([w.flatten() for w in dense(model, 0, 3, 4)])
    limit = before.abs().topk(count).values.min()
    assert torch.equal(after, before * (before.abs() >= limit))
    assert list(masks) == ["0", "3", "4"]  # neither the batch norm nor a bias
    assert all(isinstance(forms.of(model[i], "weight"), forms.Sparse) for i in (0, 3, 4))


def test_layer_keeps_the_same_share_of_each():
    masks = prune_weights(network(), keep=0.25, allocation="layer")
    assert [int(mask.sum()) for mask in masks.values()] == [9, 32, 4]


@pytest.mark.parametrize("allocation", ["global", "layer"])
def test_keep_by_pattern(allocation):
    masks = prune_weights(network(), keep={"0": 0.5, "3": 0.25}, allocation=allocation)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0": 18, "3": 32}


def test_with_global_the_layers_of_a_pattern_share_a_threshold():
    model = nn.ModuleDict({"fc1": nn.Linear(10, 4), "fc2": nn.Linear(10, 4), "out": nn.Linear(10, 4)})
    with torch.no_grad():
        model["fc1"].weight.copy_(torch.arange(40.0).view(4, 10) + 40)
        model["fc2"].weight.copy_(torch.arange(40.0).view(4, 10))
    masks = prune_weights(model, keep={"fc*": 0.5, "out": 1.0})
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"fc1": 39, "fc2": 1, "out": 40}


def test_std_is_hans_threshold():
    model = network()
    before = dense(model, 0, 3, 4)
    masks = prune_weights(model, quality={"0": 0.5, "*": 1.0}, allocation="std")
    for weight, quality, mask in zip(before, (0.5, 1.0, 1.0), masks.values(), strict=True):
        assert torch.equal(mask, weight.abs() >= quality * weight.std(correction=0))


def test_layers_narrow_what_is_pruned():
    model = network()
    assert list(prune_weights(model, keep=0.5, layers="[34]")) == ["3", "4"]
    assert forms.of(model[0], "weight") is None


def test_random_differs_between_layers_of_one_shape_and_between_seeds():
    def masks(seed):
        return list(
            prune_weights(
                nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20)), keep=0.5, saliency="random", allocation="layer", seed=seed
            ).values()
        )

    first, second = masks(0)
    assert not torch.equal(first, second)
    assert torch.equal(first, masks(0)[0])
    assert not torch.equal(first, masks(1)[0])


def test_a_users_own_criterion():
    model = nn.Linear(4, 4)
    masks = prune_weights(model, keep=0.25, saliency=lambda weight: torch.arange(16.0).view(4, 4))
    assert masks["weight"].tolist() == [[False] * 4] * 3 + [[True] * 4]


@pytest.mark.parametrize("saliency", ["magnitude", "random", lambda weight: -weight.abs()])
def test_pruning_again_only_removes(saliency):
    model = network()
    first = prune_weights(model, keep=0.5, saliency=saliency)
    values = dense(model, 0, 3, 4)
    second = prune_weights(model, keep=0.2, saliency=saliency)
    assert sum(int(mask.sum()) for mask in second.values()) == round(0.2 * (36 + 128 + 16))
    assert not any(bool((second[name] & ~first[name]).any()) for name in first)
    for before, after, mask in zip(values, dense(model, 0, 3, 4), second.values(), strict=True):
        assert torch.equal(after, before * mask)
    third = prune_weights(model, keep=0.9, saliency=saliency)  # more than there is: nothing comes back
    assert all(torch.equal(third[name], second[name]) for name in second)


def test_std_again_only_removes():
    model = network()
    first = prune_weights(model, keep=0.2)
    second = prune_weights(model, quality=1e-6, allocation="std")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_std_brings_nothing_back_where_all_kept_values_are_zero():
    model = nn.Linear(2, 2)
    mask = torch.tensor([[True, False], [False, True]])
    forms.attach(model, "weight", forms.Sparse(mask, torch.zeros(2)))
    assert torch.equal(prune_weights(model, quality=1.0, allocation="std")["weight"], mask)


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    masks = prune_weights(model, keep=0.5)
    assert list(masks) == ["0"]
    assert forms.of(model[0], "weight") is forms.of(model[1], "weight")


def test_the_pruned_network_trains_and_what_is_removed_stays_zero():
    model = network()
    masks = prune_weights(model, keep=0.3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 4, 4)).square().sum().backward()
        optimizer.step()
    for i in (0, 3, 4):
        assert not bool(model[i].weight.detach()[~masks[str(i)]].any())


def test_an_lstm_and_attention():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.attention = nn.LSTM(4, 8), nn.MultiheadAttention(8, 2)

        def forward(self, x):
            x, _ = self.lstm(x)
            return self.attention(x, x, x)[0]

    model = Both()
    masks = prune_weights(model, keep=0.5, allocation="layer")
    assert list(masks) == ["lstm.weight_hh_l0", "lstm.weight_ih_l0", "attention.in_proj_weight", "attention.out_proj"]
    assert all(float(mask.float().mean()) == 0.5 for mask in masks.values())
    assert bool(torch.isfinite(model(torch.randn(3, 2, 4))).all())


def test_a_shared_weight_is_refused_and_nothing_is_changed():
    model = network()
    forms.attach(model[3], "weight", forms.Codebook(torch.zeros(8, 16, dtype=torch.long), torch.ones(1)))
    with pytest.raises(AttarError, match="3 carries a Codebook, which pruning would undo: prune first, or bake"):
        prune_weights(model, keep=0.5)
    assert forms.of(model[0], "weight") is None


def test_shared_kept_values_are_refused():
    model = nn.Linear(2, 2)
    mask = torch.tensor([[True, False], [True, True]])
    forms.attach(model, "weight", forms.Sparse(mask, forms.Codebook(torch.zeros(3, dtype=torch.long), torch.ones(1))))
    with pytest.raises(AttarError, match="carries a Codebook"):
        prune_weights(model, keep=0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_weight_is_named(bad):
    model = network()
    with torch.no_grad():
        model[3].weight[1, 2] = bad
    with pytest.raises(AttarError, match=r"3\.weight holds NaN or infinite"):
        prune_weights(model, keep=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 1.5}, r"keep must be in \(0, 1\], got 1.5: it is the fraction of weights that stays"),
        ({"keep": {"0": 0.5, "3": 0.0}}, r"keep must be in \(0, 1\], got 0.0"),
        ({"quality": -1.0, "allocation": "std"}, "quality must be above 0, got -1.0"),
        ({}, "give keep, or quality"),
        ({"keep": 0.5, "quality": 1.0}, "give keep, or quality"),
        ({"keep": 0.5, "allocation": "std"}, "give keep, or quality"),
        ({"quality": 1.0}, "give keep, or quality"),
        ({"quality": 1.0, "allocation": "std", "saliency": "random"}, "threshold on magnitudes"),
        ({"keep": 0.5, "allocation": "globl"}, "no allocation 'globl', did you mean 'global'"),
        ({"keep": 0.5, "saliency": "magnitud"}, "no saliency 'magnitud', did you mean 'magnitude'"),
        ({"keep": 0.5, "layers": ["conv*"]}, r"layer pattern 'conv\*' matches nothing"),
        ({"keep": {"conv*": 0.5}}, r"layer pattern 'conv\*' matches nothing"),
        ({"keep": {}}, "has no weight to prune"),
        ({"keep": {"0": 0.5}, "layers": "3"}, "has no weight to prune"),
    ],
)
def test_bad_settings(settings, message):
    model = network()
    with pytest.raises(AttarError, match=message) as caught:
        prune_weights(model, **settings)
    assert "\n" not in str(caught.value)
    assert not any(forms.names(layer) for layer in model.modules())


def test_a_network_without_weights():
    with pytest.raises(AttarError, match="Sequential has no weight to prune"):
        prune_weights(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), keep=0.5)


def test_half_precision():
    model = network().to(torch.bfloat16)
    masks = prune_weights(model, keep=0.5)
    assert sum(int(mask.sum()) for mask in masks.values()) == 90
    assert model[0].weight.dtype == torch.bfloat16
    assert copy.deepcopy(model)[0].weight.equal(model[0].weight)
