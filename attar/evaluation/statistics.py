"""Intervals and comparisons: a proportion, a mean, two networks on the same samples, several seeds.

A metric is taken as *more is better*; a difference is result minus baseline.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from torch import Tensor

from attar.errors import AttarError, DataError

__all__ = ["Estimate", "Paired", "Spread", "estimate", "mcnemar", "paired", "spread", "student_p", "student_quantile", "wilson"]


@dataclass(frozen=True)
class Estimate:
    """A mean over samples, with its interval; a `proportion` where every sample's value is 0 or 1."""

    mean: float
    low: float
    high: float
    samples: int
    proportion: bool


@dataclass(frozen=True)
class Paired:
    """How a result differs from its baseline on the same samples: mean difference, its interval, and the p-value of none.

    `gained` and `lost` count the samples whose value rose and fell.
    """

    difference: float
    low: float
    high: float
    p: float
    gained: int
    lost: int
    samples: int

    @property
    def worse(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high < 0

    @property
    def better(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0


@dataclass(frozen=True)
class Spread:
    """The same number from several seeds: mean, sample standard deviation (0 for one seed), extremes."""

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int


def wilson(successes: int, samples: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion p = k / n.

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)

    Raises AttarError unless 0 <= k <= n and n >= 1, or for a level outside (0, 1).

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.

    >>> [round(bound, 4) for bound in wilson(90, 100)]
    [0.8256, 0.9448]
    """
    if not 0 <= successes <= samples or samples < 1:
        raise AttarError(f"successes must lie in [0, samples] with samples at least 1, got {successes} of {samples}")
    z = _normal_quantile(level)
    p = successes / samples
    centre = p + z * z / (2 * samples)
    reach = z * math.sqrt(p * (1 - p) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    # at 0 and at n the bound is exact, whatever rounding makes of it
    return (0.0 if successes == 0 else (centre - reach) / scale, 1.0 if successes == samples else (centre + reach) / scale)


def estimate(values: Tensor | Sequence[float], level: float = 0.95) -> Estimate:
    """The mean of per-sample values: with Wilson's interval where all are 0 or 1, else mean -+ t s / sqrt(n).

    Raises DataError where there is no value.
    """
    x = _array(values)
    if _binary(x):
        return Estimate(float(x.mean()), *wilson(int(x.sum()), len(x), level), len(x), True)
    reach = student_quantile(len(x) - 1, level) * float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else math.inf
    return Estimate(float(x.mean()), float(x.mean()) - reach, float(x.mean()) + reach, len(x), False)


def paired(baseline: Tensor | Sequence[float], result: Tensor | Sequence[float], level: float = 0.95) -> Paired:
    """Compare two networks' values of one metric on the same samples.

    Where all values are 0 or 1, with b samples gained and c lost of n: the interval of Bonett and Price,
    d -+ z sqrt((b' + c' - d^2) / (n + 2)) with b' = (b + 1)/(n + 2), c' = (c + 1)/(n + 2), d = b' - c' (the added
    counts keep it honest where few samples differ), and McNemar's exact p. Otherwise the t interval and the t test
    of the mean difference.

    Raises DataError where the samples are not the same number, or none.

    Source: D. G. Bonett, R. M. Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions
    Based on Paired Data", 2012; Student, "The Probable Error of a Mean", 1908.

    >>> paired([1, 1, 0, 1], [1, 1, 0, 1]).p
    1.0
    """
    before, after = _array(baseline), _array(result)
    if before.shape != after.shape:
        raise DataError(f"both networks must be scored on the same samples, got {len(before)} and {len(after)}")
    change = after - before
    n, gained, lost = len(change), int((change > 0).sum()), int((change < 0).sum())
    difference = float(change.mean())
    if _binary(before) and _binary(after):
        b, c = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
        reach = _normal_quantile(level) * math.sqrt((b + c - (b - c) ** 2) / (n + 2))
        low, high, p = max(b - c - reach, -1.0), min(b - c + reach, 1.0), mcnemar(gained, lost)
        return Paired(difference, min(low, difference), max(high, difference), p, gained, lost, n)
    if n == 1:
        return Paired(difference, -math.inf, math.inf, 1.0, gained, lost, n)
    error = float(change.std(ddof=1)) / math.sqrt(n)
    reach = student_quantile(n - 1, level) * error
    if error == 0.0:
        p = 1.0 if difference == 0.0 else 0.0
    else:
        p = student_p(difference / error, n - 1)
    return Paired(difference, difference - reach, difference + reach, p, gained, lost, n)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value that gains and losses are equally likely: min(1, 2 P(X <= min(b, c))), X ~ B(b + c, 1/2).

    Source: Q. McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions", 1947.

    >>> mcnemar(0, 5)
    0.0625
    """
    n, tail, term = gained + lost, 0, 1
    for k in range(min(gained, lost) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread of one number over seeds.

    Raises DataError where there is no value.

    >>> spread([1.0, 2.0, 3.0])
    Spread(mean=2.0, deviation=1.0, low=1.0, high=3.0, seeds=3)
    """
    x = _array(values)
    return Spread(float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else 0.0, float(x.min()), float(x.max()), len(x))


def student_p(t: float, freedom: int) -> float:
    """P(|T| >= |t|) for Student's T with that many degrees of freedom, from the finite series.

    Source: M. Abramowitz, I. A. Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3 and 26.7.4.

    >>> round(student_p(12.706, 1), 4)
    0.05
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        k = np.arange(1, (freedom - 1) // 2)
        series = np.cumprod(np.append(cosine, 2 * k / (2 * k + 1) * cosine**2)).sum() if freedom > 1 else 0.0
        inside = 2 / math.pi * (angle + sine * series)
    else:
        k = np.arange(1, freedom // 2)
        inside = sine * np.cumprod(np.append(1.0, (2 * k - 1) / (2 * k) * cosine**2)).sum()
    return float(min(max(1 - inside, 0.0), 1.0))


@functools.cache
def student_quantile(freedom: int, level: float = 0.95) -> float:
    """The t with P(|T| <= t) = level, by bisection.

    >>> round(student_quantile(2), 3)
    4.303
    """
    low, high = _normal_quantile(level), 2.0
    while student_p(high, freedom) > 1 - level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > 1 - level else (low, middle)
    return (low + high) / 2


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise AttarError(f"level must lie in (0, 1), got {level}: it is the share of intervals that hold the truth, such as 0.95")
    return NormalDist().inv_cdf(0.5 + level / 2)


def _array(values: Tensor | Sequence[float]) -> np.ndarray:
    x = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64).reshape(-1)
    if not len(x):
        raise DataError("there is no value to average: score at least one sample")
    return x


def _binary(x: np.ndarray) -> bool:
    return bool(np.isin(x, (0.0, 1.0)).all())
