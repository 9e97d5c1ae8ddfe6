import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attar import forms
from attar.errors import AttarError
from attar.quantization.kmeans import kmeans

INITS = ["linear", "density", "random", "exact"]
weights = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=60).map(lambda values: torch.tensor(values, dtype=torch.float64))


def laplace(size, *, seed=0, dtype=torch.float64):
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    return (-uniform.sign() * torch.log1p(-2 * uniform.abs())).to(dtype)


def pruned_laplace(size, *, seed=0):
    """Kept values of a pruned layer: two tails with a gap around zero."""
    drawn = laplace(size, seed=seed)
    return drawn[drawn.abs() > 1]


def wcss(form, weight):
    return float((form().detach().double() - weight.double()).square().sum())


def reference(x, k, *, iterations=3000):
    """METHODS, appendix A: Lloyd from equally spaced centres, by the distances of all pairs."""
    c = np.linspace(x.min(), x.max(), k)
    for _ in range(iterations):
        label = np.abs(x[:, None] - c[None]).argmin(1)
        new = np.array([x[label == j].mean() if (label == j).any() else c[j] for j in range(k)])
        if np.allclose(new, c, rtol=0, atol=1e-15):
            break
        c = new
    return c, np.abs(x[:, None] - c[None]).argmin(1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_it_is_lloyds_iteration(bits):
    weight = laplace(700, seed=bits)
    centres, labels = reference(weight.numpy(), 2**bits)
    form = kmeans(weight, bits=bits)
    np.testing.assert_allclose(form.centroids().detach().numpy(), centres, atol=1e-12)
    assert form.indices.tolist() == labels.tolist()


def test_what_is_halfway_goes_to_the_lower_centroid():
    form = kmeans(torch.tensor([0.0, 1.0, 2.0]), bits=1)
    assert form.centroids().tolist() == [0.5, 2.0]
    assert form.indices.tolist() == [0, 0, 1]


def test_centroids_that_start_at_the_same_place_become_one():
    weight = torch.cat([torch.zeros(500), torch.arange(1.0, 21.0)])
    form = kmeans(weight, bits=4, init="density")
    assert form.centroids().unique().numel() == form.centroids.shape[0] < 16
    assert kmeans(weight, bits=4, init="density", empty="split").centroids.shape == (16,)


@given(weights, st.integers(1, 5), st.sampled_from(INITS), st.sampled_from(["keep", "split"]))
def test_any_weights(weight, bits, init, empty):
    form = kmeans(weight, bits=bits, init=init, empty=empty, seed=3)
    centres = form.centroids().detach()
    assert centres.numel() <= 2**bits
    assert torch.equal(centres, centres.unique())  # sorted, no two the same
    assert float(centres.min()) >= float(weight.min())
    assert float(centres.max()) <= float(weight.max())
    nearest = (weight[:, None] - centres).abs().min(1).values
    torch.testing.assert_close((form().detach() - weight).abs(), nearest, rtol=0, atol=1e-12)


@given(weights, st.integers(1, 5), st.sampled_from(INITS))
def test_few_distinct_values_are_kept_exactly(weight, bits, init):
    weight = (weight * 2**bits / 9).round()
    distinct = weight.unique()
    form = kmeans(weight, bits=bits, init=init)
    if distinct.numel() <= 2**bits:
        assert torch.equal(form(), weight)
        assert form.centroids.shape == (distinct.numel(),)


def test_as_many_distinct_values_as_centroids_are_exact_where_linear_lloyd_stops_short():
    weight = torch.tensor([0.0, 0.1, 0.2, 10.0])
    assert torch.equal(kmeans(weight, bits=2)(), weight)


@pytest.mark.parametrize("empty", ["keep", "split"])
@pytest.mark.parametrize("init", ["linear", "density", "random"])
def test_every_iteration_lowers_the_error(init, empty):
    weight = laplace(3000, seed=1)
    errors = [wcss(kmeans(weight, bits=5, init=init, empty=empty, iterations=i), weight) for i in range(40)]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]
    settled = wcss(kmeans(weight, bits=5, init=init, empty=empty), weight)
    assert settled == wcss(kmeans(weight, bits=5, init=init, empty=empty, iterations=10**6), weight)


def test_a_settled_codebook_is_a_fixed_point():
    """Every centroid is the mean of what is nearest to it."""
    weight = laplace(2000)
    form = kmeans(weight, bits=4)
    for code, centre in enumerate(form.centroids().tolist()):
        members = weight[form.indices == code]
        if members.numel():
            assert centre == pytest.approx(float(members.mean()), abs=1e-12)


def test_linear_starts_equally_spaced_from_the_smallest_to_the_largest():
    weight = laplace(500)
    centres = kmeans(weight, bits=3, iterations=0).centroids().detach()
    assert centres[0] == weight.min()
    assert centres[-1] == weight.max()
    np.testing.assert_allclose(np.diff(centres.numpy()), float(weight.max() - weight.min()) / 7, rtol=1e-12)


def test_density_starts_at_equal_steps_of_the_distribution():
    weight = laplace(801)
    centres = kmeans(weight, bits=3, init="density", iterations=0).centroids().detach().numpy()
    np.testing.assert_allclose(centres, np.quantile(weight.numpy(), (np.arange(8) + 0.5) / 8), rtol=1e-12)


def test_random_starts_at_weights_drawn_by_the_seed():
    weight = laplace(500)
    starts = [kmeans(weight, bits=3, init="random", iterations=0, seed=seed).centroids().detach() for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert bool(torch.isin(starts[0], weight).all())


def test_two_bits_linear_beats_forgy_on_average():
    """METHODS Q5, on the kept values of a pruned Laplace layer, before fine-tuning."""
    linear, forgy = [], []
    for seed in range(20):
        weight = pruned_laplace(2000, seed=seed)
        linear.append(wcss(kmeans(weight, bits=2), weight))
        forgy.append(wcss(kmeans(weight, bits=2, init="random", seed=seed), weight))
    assert np.mean(linear) < 0.95 * np.mean(forgy)


def test_exact_is_never_worse():
    for seed in range(10):
        weight = laplace(300, seed=seed)
        best = wcss(kmeans(weight, bits=3, init="exact"), weight)
        for init in ("linear", "density", "random"):
            for empty in ("keep", "split"):
                assert best <= wcss(kmeans(weight, bits=3, init=init, empty=empty, seed=seed), weight) * (1 + 1e-12)


def test_empty_clusters_are_kept_or_split():
    weight = torch.cat([torch.linspace(0, 1, 200, dtype=torch.float64), torch.tensor([100.0], dtype=torch.float64)])
    kept, split = kmeans(weight, bits=4), kmeans(weight, bits=4, empty="split")
    assert kept.indices.unique().numel() == 2 < kept.centroids.shape[0] == 16
    assert split.indices.unique().numel() == 16
    assert wcss(split, weight) < wcss(kept, weight) / 100


@given(st.lists(st.integers(0, 30).map(lambda i: 1.5**i), min_size=5, max_size=40), st.integers(1, 4))
def test_split_leaves_no_centroid_empty(values, bits):
    weight = torch.tensor(values, dtype=torch.float64)
    form = kmeans(weight, bits=bits, empty="split", iterations=1)
    assert form.centroids.shape[0] == min(2**bits, weight.unique().numel())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_chooses_the_nearest_of_the_rounded_centroids(dtype):
    weight = laplace(4000, dtype=dtype).view(40, 100)
    form = kmeans(weight, bits=6)
    centres = form.centroids().detach()
    assert centres.dtype == dtype
    assert torch.equal(centres, centres.unique())
    nearest = (weight.double().flatten()[:, None] - centres.double()).abs().min(1).values
    assert torch.equal((form().detach().double() - weight.double()).abs().flatten(), nearest)


def test_the_gradient_of_a_centroid_is_the_sum_over_its_cluster():
    """METHODS Q5: against finite differences, and the sum of the gradients of its weights."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 5).double()
    data, target = torch.randn(7, 12, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    form = kmeans(layer.weight, bits=3)
    dense = nn.Parameter(form().detach())
    nn.functional.mse_loss(data @ dense.T + layer.bias, target).backward()
    forms.attach(layer, "weight", form)
    nn.functional.mse_loss(layer(data), target).backward()
    centres, step = form.centroids.values, 1e-6
    for code in range(8):
        assert float(centres.grad[code]) == pytest.approx(float(dense.grad[form.indices == code].sum()), abs=1e-14)
        losses = []
        for move in (step, -step):
            with torch.no_grad():
                centres[code] += move
                losses.append(float(nn.functional.mse_loss(layer(data), target)))
                centres[code] -= move
        assert float(centres.grad[code]) == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-7)


def test_fine_tuning_moves_centroids_and_no_index():
    torch.manual_seed(0)
    layer = nn.Linear(12, 5)
    form = kmeans(layer.weight, bits=2)
    forms.attach(layer, "weight", form)
    data, target, indices = torch.randn(50, 12), torch.randn(50, 5), form.indices.clone()
    optimizer = torch.optim.SGD(layer.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(data), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(form.indices, indices)
    assert layer.weight.unique().numel() == 4


def test_sixteen_bits():
    weight = laplace(200_000, dtype=torch.float32)
    form = kmeans(weight, bits=16, iterations=5)
    assert 256 < form.centroids.shape[0] <= 1 << 16
    assert wcss(form, weight) < 1e-6 * float(weight.double().square().sum())


@settings(max_examples=30)
@given(weights, st.sampled_from(INITS))
def test_scaling_the_weights_scales_the_codebook(weight, init):
    """By a power of two, so that no rounding differs; the smallest numbers are left out, as they have no room to scale."""
    weight = torch.where(weight.abs() < 1e-30, 0.0, weight)
    one, two = kmeans(weight, bits=2, init=init), kmeans(weight * 4, bits=2, init=init)
    assert torch.equal(one.indices, two.indices)
    assert torch.equal(one() * 4, two())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits must be a whole number from 1 to 16, got 0"),
        ({"bits": 17}, "bits must be a whole number from 1 to 16, got 17"),
        ({"bits": 4.0}, "bits must be a whole number"),
        ({"init": "liner"}, "no init 'liner', did you mean 'linear'"),
        ({"empty": "drop"}, "empty must be 'keep' or 'split', got 'drop'"),
        ({"iterations": -1}, "iterations must be at least 0, got -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(AttarError, match=message) as caught:
        kmeans(torch.randn(4), **options)
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_refused():
    with pytest.raises(AttarError, match=r"weight of real numbers, got torch\.int64"):
        kmeans(torch.arange(10))
