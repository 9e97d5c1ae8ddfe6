import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attar import forms
from attar.errors import AttarError
from attar.graph import trace
from attar.pruning import prune_weights
from attar.pruning.kernels import prune_kernels

CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 2))


def kernels(mask):
    """Of each kernel whether it is kept; fails where a kernel is kept in part."""
    flat = mask.flatten(2)
    assert torch.equal(flat.any(2), flat.all(2))
    return flat.all(2)


def test_the_best_approximation_by_that_many_kernels():
    """Of all choices of k kernels, the one kept loses least of the sum of magnitudes."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3)
    sums = layer.weight.detach().double().abs().sum((2, 3)).flatten()
    mask = prune_kernels(layer, keep=3 / 8)["weight"]
    best = max(itertools.combinations(range(8), 3), key=lambda chosen: float(sums[list(chosen)].sum()))
    assert kernels(mask).flatten().nonzero().flatten().tolist() == list(best)
    assert float(layer.weight.detach().double().abs().sum()) == pytest.approx(float(sums[list(best)].sum()))


def test_opposite_signs_tie_and_do_not_cancel():
    layer = nn.Conv2d(3, 1, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0], [0.9, 0.9, 0.9, 0.9]]).view(1, 3, 2, 2))
    assert kernels(prune_kernels(layer, keep=1 / 3)["weight"]).tolist() == [[True, False, False]]  # a tie: the first stays
    assert kernels(prune_kernels(nn.Sequential(layer), keep=2 / 3)["0"]).tolist() == [[True, False, False]]  # what is gone stays gone
    layer = nn.Conv2d(2, 1, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, -1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]]).view(1, 2, 2, 2))
    assert kernels(prune_kernels(layer, keep=1 / 2)["weight"]).tolist() == [[True, False]]


@settings(max_examples=40)
@given(
    kind=st.sampled_from(CONVOLUTIONS),
    groups=st.integers(1, 3),
    inside=st.integers(1, 4),
    outside=st.integers(1, 4),
    size=st.integers(1, 3),
    keep=st.floats(0.05, 1.0),
    allocation=st.sampled_from(["layer", "global", "filter"]),
)
def test_whole_kernels_of_any_convolution(kind, groups, inside, outside, size, keep, allocation):
    layer = kind(groups * inside, groups * outside, size, groups=groups)
    before = layer.weight.detach().clone()
    mask = prune_kernels(layer, keep=keep, allocation=allocation)["weight"]
    chosen = kernels(mask)
    assert isinstance(forms.of(layer, "weight"), forms.Sparse)
    assert torch.equal(layer.weight.detach(), before * mask)
    if allocation == "filter":
        if layer.transposed:
            chosen = chosen.unflatten(0, (groups, inside)).transpose(1, 2).flatten(0, 1)
        assert chosen.shape == (groups * outside, inside)
        assert set(chosen.sum(1).tolist()) == {max(1, int(keep * inside + 0.5))}
    else:
        assert int(chosen.sum()) == max(1, int(keep * chosen.numel() + 0.5))
    layer(torch.randn(1, groups * inside, *[4] * (layer.weight.ndim - 2)))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_filter_keeps_its_largest_kernels(transposed):
    torch.manual_seed(0)
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(6, 4, 3, groups=2)
    sums = layer.weight.detach().abs().sum((2, 3))
    chosen = kernels(prune_kernels(layer, keep=0.4, allocation="filter")["weight"])
    if transposed:
        sums, chosen = (x.view(2, 3, 2).transpose(1, 2).flatten(0, 1) for x in (sums, chosen))
    assert torch.equal(chosen, sums == sums.max(1, keepdim=True).values)


def test_global_compares_relative_to_the_layers_mean():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 1))
    with torch.no_grad():
        for layer, scale in zip(model, (1.0, 1000.0), strict=True):
            layer.weight.copy_(scale * torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None].expand_as(layer.weight))
    masks = prune_kernels(model, keep=0.5, allocation="global")
    assert [kernels(mask).tolist() for mask in masks.values()] == [[[False, False], [True, True]]] * 2
    with torch.no_grad():
        skewed = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
        skewed[0].weight.copy_(torch.tensor([0.0, 0.0, 0.0, 4.0]).view(2, 2, 1, 1))
        skewed[1].weight.copy_(torch.tensor([1.0, 1.1, 1.2, 1.3]).view(2, 2, 1, 1))
    counts = [int(mask.sum()) for mask in prune_kernels(skewed, keep=5 / 8, allocation="global").values()]
    assert counts == [1, 4]


def test_a_layer_of_zeros_keeps_one_kernel():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
    nn.init.zeros_(model[0].weight)
    masks = prune_kernels(model, keep=0.5, allocation="global")
    assert [int(kernels(mask).sum()) for mask in masks.values()] == [1, 3]


def test_only_convolutions_are_pruned():
    model = network()
    masks = prune_kernels(model, keep=0.5)
    assert list(masks) == ["0", "2"]
    assert [int(kernels(mask).sum()) for mask in masks.values()] == [12, 12]
    assert forms.of(model[4], "weight") is None
    assert list(prune_kernels(network(), keep={"2": 0.25, "*": 0.5})) == ["0", "2"]  # a linear layer is passed over
    assert list(prune_kernels(network(), keep=0.5, layers="2")) == ["2"]


def test_a_graph_module_has_its_convolutions_by_their_ops():
    torch.manual_seed(0)
    eager = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(36, 2))
    program = nn.Sequential(trace(eager, (torch.zeros(1, 4, 3, 3),)).program())
    theirs = prune_kernels(program, keep=0.5, allocation="filter")
    ours = prune_kernels(eager, keep=0.5, allocation="filter")
    assert {f"0.{name}": mask.tolist() for name, mask in ours.items()} == {name: mask.tolist() for name, mask in theirs.items()}


def test_after_weights_were_pruned_only_what_is_left_counts():
    model = network()
    first = prune_weights(model, keep=0.3, allocation="layer", layers=["0", "2"])
    values = model[0].weight.detach().clone()
    second = prune_kernels(model, keep=0.5, saliency=lambda weight: torch.ones_like(weight))
    assert not any(bool((second[name] & ~first[name]).any()) for name in first)
    left = first["0"].sum((2, 3))
    chosen = second["0"].flatten(2).any(2)
    assert int(left[chosen].min()) >= int(left[~chosen].max())  # with equal scores, those that most is left of
    assert torch.equal(model[0].weight.detach(), values * second["0"])


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    assert list(prune_kernels(model, keep=0.5)) == ["0"]
    assert forms.of(model[0], "weight") is forms.of(model[1], "weight")


def test_random_is_by_seed():
    def masks(seed):
        return prune_kernels(network(), keep=0.5, saliency="random", seed=seed)["0"]

    assert torch.equal(masks(0), masks(0))
    assert not torch.equal(masks(0), masks(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 1.5}, r"keep must be in \(0, 1\], got 1.5: it is the fraction of kernels that stays"),
        ({"keep": {"0": 0.0}}, r"keep must be in \(0, 1\], got 0.0"),
        ({"keep": 0.5, "allocation": "std"}, "no allocation 'std'.*give one of layer, global, filter"),
        ({"keep": 0.5, "saliency": "magnitud"}, "no saliency 'magnitud', did you mean 'magnitude'"),
        ({"keep": 0.5, "layers": "4"}, "layer pattern '4' matches no convolution"),
        ({"keep": {"0": 0.5, "4": 0.5}}, "layer pattern '4' matches no convolution"),
        ({"keep": 0.5, "layers": "conv*"}, r"layer pattern 'conv\*' matches nothing"),
        ({"keep": {}}, "has no weight to prune: it needs a convolution"),
    ],
)
def test_bad_settings(settings, message):
    model = network()
    with pytest.raises(AttarError, match=message) as caught:
        prune_kernels(model, **settings)
    assert "\n" not in str(caught.value)
    assert not any(forms.names(layer) for layer in model.modules())


def test_a_network_without_convolutions():
    with pytest.raises(AttarError, match="Sequential has no weight to prune: it needs a convolution"):
        prune_kernels(nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2)), keep=0.5)
