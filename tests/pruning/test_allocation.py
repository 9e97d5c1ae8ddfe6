import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import AttarError
from attar.pruning import global_, per_layer, std_threshold

# few different values, so that ties are the rule
scores = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=30).map(torch.tensor)
networks = st.dictionaries(st.sampled_from("abcd"), scores, min_size=1)
keeps = st.floats(0.001, 1.0)


def rounded(share, size):
    return min(size, max(1, math.floor(share * size + 0.5)))


def is_highest_first_of_ties(values, mask):
    """Whether what stays comes first in the order of falling score, then position."""
    order = sorted(range(len(values)), key=lambda i: (-float(values[i]), i))
    return set(order[: int(mask.sum())]) == set(mask.nonzero().flatten().tolist())


@given(networks, keeps)
def test_per_layer_keeps_exactly_the_highest_of_each(network, keep):
    for name, mask in per_layer(network, keep).items():
        assert int(mask.sum()) == rounded(keep, mask.numel())
        assert is_highest_first_of_ties(network[name], mask)


@given(networks, keeps)
def test_global_keeps_exactly_the_highest_of_all(network, keep):
    masks = global_(network, keep)
    size = sum(values.numel() for values in network.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == max(len(network), rounded(keep, size))
    assert all(bool(mask.any()) for mask in masks.values())
    for name, mask in masks.items():
        assert is_highest_first_of_ties(network[name], mask)


@given(networks, keeps, st.floats(0, 1))
def test_global_leaves_every_layer_its_floor(network, keep, floor):
    for name, mask in global_(network, keep, floor=floor).items():
        assert int(mask.sum()) >= rounded(floor, mask.numel())
        assert is_highest_first_of_ties(network[name], mask)


def test_a_floor_may_differ_by_layer():
    network = {"small": torch.tensor([0.1, 0.2, 0.3, 0.4]), "large": torch.arange(1.0, 17.0)}
    masks = global_(network, 0.5, floor={"small": 0.75, "large": 0.0})
    assert int(masks["small"].sum()) == 3
    assert int(masks["large"].sum()) == 7


def test_half_is_rounded_up():
    assert int(per_layer({"fc": torch.arange(5.0)}, 0.5)["fc"].sum()) == 3
    assert int(per_layer({"fc": torch.arange(5.0)}, 0.01)["fc"].sum()) == 1


def test_each_layer_may_have_its_own_keep():
    masks = per_layer({"a": torch.arange(10.0), "b": torch.arange(10.0)}, {"a": 0.2, "b": 0.9})
    assert [int(mask.sum()) for mask in masks.values()] == [2, 9]
    with pytest.raises(AttarError, match="keep has no value for layer 'b'"):
        per_layer({"a": torch.arange(10.0), "b": torch.arange(10.0)}, {"a": 0.2})


@given(st.lists(st.floats(-3, 3, width=32), min_size=10, max_size=10), st.integers(1, 10))
def test_global_magnitude_is_the_best_approximation(values, count):
    """METHODS P6 (c): no choice of `count` nonzeros is nearer to the weight; compared with all of them."""
    weight = torch.tensor(values, dtype=torch.float64)
    mask = global_({"fc": weight.abs()}, count / 10)["fc"]
    assert int(mask.sum()) == count
    best = min(sum(values[i] ** 2 for i in removed) for removed in itertools.combinations(range(10), 10 - count))
    assert float((weight[~mask] ** 2).sum()) == pytest.approx(best)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_scores_of_any_dtype_and_shape(dtype):
    values = torch.arange(24).view(2, 3, 4).to(dtype)
    for masks in (per_layer({"fc": values}, 0.25), global_({"fc": values}, 0.25)):
        assert masks["fc"].dtype == torch.bool
        assert torch.equal(masks["fc"], values >= 18)


def test_layers_of_different_dtypes_share_one_threshold():
    masks = global_({"a": torch.tensor([1.0, 3.0], dtype=torch.float16), "b": torch.tensor([2.0, 4.0], dtype=torch.float64)}, 0.5)
    assert masks["a"].tolist() == masks["b"].tolist() == [False, True]


@pytest.mark.parametrize("quality", [0.25, 1.0, 2.0])
def test_std_threshold_of_a_gaussian(quality):
    """METHODS P6 (b): the share removed is erf(q / sqrt 2), within 3 sigma."""
    size = 100_000
    mask = std_threshold({"fc": torch.randn(size, generator=torch.Generator().manual_seed(0))}, quality)["fc"]
    expected = math.erf(quality / math.sqrt(2))
    assert abs(1 - float(mask.double().mean()) - expected) < 3 * math.sqrt(expected * (1 - expected) / size)


def test_std_threshold_is_inclusive_and_per_layer():
    weight = torch.tensor([-2.0, -1.0, 1.0, 2.0])  # std^2 = 2.5
    masks = std_threshold({"a": weight, "b": weight}, {"a": 1.0, "b": 0.1})
    assert masks["a"].tolist() == [True, False, False, True]
    assert masks["b"].tolist() == [True] * 4
    assert std_threshold({"a": torch.full((3,), 5.0)}, 3.0)["a"].all()  # no deviation: |w| >= 0


def test_std_threshold_keeps_the_largest_in_any_case():
    assert std_threshold({"fc": torch.tensor([-3.0, 1.0, 2.0])}, 100.0)["fc"].tolist() == [True, False, False]


def test_a_second_std_threshold_removes_nothing():
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    weight = torch.cat([weight, -weight])
    mask = std_threshold({"fc": weight}, 1.0)["fc"]
    assert torch.equal(std_threshold({"fc": weight * mask}, 1.0)["fc"], mask)


@pytest.mark.parametrize("keep", [0, 0.0, -0.1, 1.5, float("nan"), True, "0.5", None, {"fc": 0.0}])
def test_keep_outside_its_range(keep):
    with pytest.raises(AttarError, match=r"keep must be in \(0, 1\], got .*: it is the fraction of weights that stays"):
        per_layer({"fc": torch.ones(3)}, keep)
    with pytest.raises(AttarError, match="keep must be in"):
        global_({"fc": torch.ones(3)}, keep)


@pytest.mark.parametrize("quality", [0, -1.0, float("nan"), float("inf"), True, "1", None, {"fc": -1.0}])
def test_quality_outside_its_range(quality):
    with pytest.raises(AttarError, match="quality must be above 0, got"):
        std_threshold({"fc": torch.ones(3)}, quality)


def test_floor_outside_its_range():
    with pytest.raises(AttarError, match=r"floor must be in \[0, 1\], got 1.5"):
        global_({"fc": torch.ones(3)}, 0.5, floor=1.5)


def test_scores_that_say_nothing_are_refused_by_layer():
    with pytest.raises(AttarError, match="scores of layer 'fc' hold NaN"):
        global_({"conv": torch.ones(3), "fc": torch.tensor([1.0, float("nan")])}, 0.5)
