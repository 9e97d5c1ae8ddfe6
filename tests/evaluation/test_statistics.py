"""Intervals cover what they promise, comparisons are symmetric, and known cases come out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import AttarError, DataError
from attar.evaluation.statistics import estimate, mcnemar, paired, spread, student_p, student_quantile, wilson

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50)


def test_wilson_known_values():
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3
    for k, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]:
        assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 1000), st.data())
def test_wilson_holds_the_proportion_and_is_symmetric(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))
    wide = wilson(k, n, 0.99)
    assert wide[0] <= low <= high <= wide[1]


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_wilson_covers(p):
    counts = np.random.default_rng(0).binomial(500, p, size=3000)
    bounds = {int(k): wilson(int(k), 500) for k in set(counts)}
    assert np.mean([bounds[k][0] <= p <= bounds[k][1] for k in map(int, counts)]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("rates", [(0.01, 0.01), (0.02, 0.06), (0.002, 0.002)])
def test_paired_proportions_cover(rates):
    gain, loss = rates
    rng, covered = np.random.default_rng(1), 0
    for _ in range(1500):
        gained, lost, _ = rng.multinomial(1000, [gain, loss, 1 - gain - loss])
        before = np.array([0] * gained + [1] * (1000 - gained))
        after = np.array([1] * gained + [0] * lost + [1] * (1000 - gained - lost))
        result = paired(before, after)
        covered += result.low <= gain - loss <= result.high
    assert covered / 1500 >= 0.94


def test_paired_means_cover():
    rng, covered = np.random.default_rng(2), 0
    for _ in range(1500):
        before = rng.normal(size=12)
        result = paired(before, before + rng.normal(0.3, 1.0, size=12))
        covered += result.low <= 0.3 <= result.high
    assert covered / 1500 == pytest.approx(0.95, abs=0.02)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(3)
    means = [paired(rng.normal(size=10), rng.normal(size=10)).p for _ in range(2000)]
    assert np.mean(np.array(means) < 0.05) == pytest.approx(0.05, abs=0.015)
    exact = [mcnemar(int(k), 40 - int(k)) for k in rng.binomial(40, 0.5, size=4000)]
    assert np.mean(np.array(exact) <= 0.05) <= 0.05 + 0.01  # exact tests never reject too often


@given(outcomes)
def test_comparison_is_antisymmetric(pairs):
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    there, back = paired(a, b), paired(b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == back.p
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert there.low <= there.difference <= there.high
    assert there.low >= -1
    assert there.high <= 1


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20))
def test_identical_networks_do_not_differ(values):
    result = paired(values, values)
    assert (result.difference, result.p, result.worse, result.better) == (0.0, 1.0, False, False)


def test_identical_correct_networks_still_have_an_interval():
    result = paired([1.0] * 100, [1.0] * 100)
    assert (result.difference, result.p) == (0.0, 1.0)
    assert result.low == -result.high < 0  # a hundred samples cannot show that nothing ever differs


def test_paired_proportions_by_hand():
    # 3 gained, 9 lost of 98: b' = 4/100, c' = 10/100, d = -0.06
    before = [0] * 3 + [1] * 95
    after = [1] * 3 + [0] * 9 + [1] * 86
    result = paired(before, after)
    reach = 1.959964 * math.sqrt((0.14 - 0.0036) / 100)
    assert (result.low, result.high) == pytest.approx((-0.06 - reach, -0.06 + reach), abs=1e-6)
    assert result.difference == pytest.approx(-6 / 98)
    assert result.p == pytest.approx(2 * sum(math.comb(12, k) for k in range(4)) / 2**12)
    assert (result.gained, result.lost, result.samples) == (3, 9, 98)


def test_paired_means_by_hand():
    # Student's sleep data, 1908: differences of ten patients
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    result = paired(first, second)
    assert result.difference == pytest.approx(1.58)
    assert (result.low, result.high) == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert result.p == pytest.approx(0.002833, abs=1e-6)
    assert result.better


def test_a_constant_shift_is_certain():
    assert paired([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]).p == 0.0


def test_mcnemar_known_and_large():
    assert mcnemar(0, 0) == mcnemar(7, 7) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(5000, 5400) == pytest.approx(math.erfc((400 - 1) / math.sqrt(2 * 10400)), rel=1e-2)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706205), (2, 4.302653), (3, 3.182446), (9, 2.262157), (30, 2.042272), (9999, 1.960201)]
)
def test_student_quantiles_from_the_tables(freedom, expected):
    assert student_quantile(freedom) == pytest.approx(expected, abs=1e-5)
    assert student_p(expected, freedom) == pytest.approx(0.05, abs=1e-6)


@given(st.integers(1, 200), st.floats(0, 50), st.floats(0, 50))
def test_student_p_falls_from_one(freedom, t, further):
    assert student_p(0, freedom) == 1.0
    assert student_p(t + further, freedom) <= student_p(t, freedom) + 1e-12
    assert student_p(-t, freedom) == student_p(t, freedom)


def test_estimates():
    binary = estimate([1, 1, 1, 0])
    assert (binary.mean, binary.low, binary.high) == (0.75, *wilson(3, 4))
    assert binary.proportion
    real = estimate([1.0, 2.0, 3.0])
    assert (real.low, real.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    assert not real.proportion
    assert estimate([2.5]).high == math.inf


def test_spread_over_seeds():
    result = spread([51.0, 52.0, 54.0])
    assert result.mean == pytest.approx(157 / 3)
    assert result.deviation == pytest.approx(1.527525, abs=1e-6)
    assert (result.low, result.high, result.seeds) == (51.0, 54.0, 3)
    assert spread([3.0]).deviation == 0.0


def test_bad_input_is_named():
    with pytest.raises(AttarError, match="got 5 of 4"):
        wilson(5, 4)
    with pytest.raises(AttarError, match=r"level must lie in \(0, 1\), got 95"):
        wilson(1, 4, 95)
    with pytest.raises(DataError, match="got 2 and 3"):
        paired([0, 1], [0, 1, 1])
    with pytest.raises(DataError, match="at least one sample"):
        estimate([])
