import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import AttarError
from attar.quantization._exact import exact_centres


def error(values, counts, centres):
    return float((counts * ((values[:, None] - centres) ** 2).min(1)).sum())


@st.composite
def problems(draw):
    values = draw(st.lists(st.integers(-1000, 1000), min_size=3, max_size=10, unique=True).map(sorted))
    counts = draw(st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values)))
    return np.array(values) / 64, np.array(counts), draw(st.integers(2, len(values) - 1))


@given(problems())
def test_no_partition_is_better(problem):
    values, counts, k = problem
    m = values.size

    def cost(first, last):
        part, share = values[first:last], counts[first:last]
        return float((share * (part - np.average(part, weights=share)) ** 2).sum())

    borders = itertools.combinations(range(1, m), k - 1)
    best = min(sum(cost(a, b) for a, b in itertools.pairwise((0, *inner, m))) for inner in borders)
    centres = exact_centres(values, counts, k)
    assert centres.size == k
    assert bool((np.diff(centres) > 0).all())
    assert error(values, counts, centres) == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("k", [2, 3, 7, 16, 61, 299])
def test_it_equals_the_plain_dynamic_program(k):
    m = 300
    values, counts = np.sort(np.random.default_rng(k).laplace(size=m)), np.ones(m)
    sums, squares = np.concatenate([[0], np.cumsum(values)]), np.concatenate([[0], np.cumsum(values**2)])
    i, j = np.ogrid[: m + 1, : m + 1]
    cost = np.where(i < j, squares[j] - squares[i] - (sums[j] - sums[i]) ** 2 / np.maximum(j - i, 1), np.inf)
    best = cost[0]
    for _ in range(k - 1):
        best = (best[:, None] + cost).min(0)
    assert error(values, counts, exact_centres(values, counts, k)) == pytest.approx(best[-1], rel=1e-7, abs=1e-10)


def test_what_would_not_fit_is_refused_before_it_is_tried():
    with pytest.raises(AttarError, match="got 4194304 x 64: use another init, or fewer bits"):
        exact_centres(np.arange(1 << 22), np.ones(1 << 22, dtype=np.int8), 64)
