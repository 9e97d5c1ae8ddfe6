"""The exact optimum of one-dimensional k-means: dynamic programming, divide and conquer, level by level in NumPy."""

import numpy as np

from attar.errors import AttarError

__all__ = ["exact_centres"]

_LARGEST_TABLE = 1 << 27


def exact_centres(values: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """The k centres that minimise `sum counts * (value - nearest centre)^2`; `values` are distinct and sorted, more than k.

    `best_c[j] = min_i best_{c-1}[i] + cost(i, j)`, the cost of one cluster of `values[i:j]`. The best i never falls as
    j grows, so the middle j of a range halves the candidates of all others: k m log m in time, 4 k m bytes.

    Raises AttarError above 2^27 values x centres.

    >>> exact_centres(np.array([0.0, 1.0, 10.0]), np.array([1, 1, 1]), 2).tolist()
    [0.5, 10.0]
    """
    m = values.size
    if m * k > _LARGEST_TABLE:
        raise AttarError(
            f"the exact optimum needs distinct values x centroids <= {_LARGEST_TABLE}, got {m} x {k}: use another init, or fewer bits"
        )
    middle = np.average(values, weights=counts)  # the prefix sums of centred values cancel less
    weight, first, second = (np.concatenate([[0.0], np.cumsum(counts * (values - middle) ** power)]) for power in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        best = second - first**2 / weight
    best[0] = 0.0
    choices = []
    for clusters in range(2, k + 1):
        ends = np.arange(clusters, m - (k - clusters) + 1) if clusters < k else np.array([m])
        found, choice = _layer(best, clusters - 1, ends, weight, first, second)
        best = np.full(m + 1, np.inf)
        best[ends] = found
        choices.append((clusters, choice))
    backwards = [m]
    for clusters, choice in reversed(choices):
        backwards.append(int(choice[backwards[-1] - clusters if clusters < k else 0]))
    edges = np.array([0, *reversed(backwards)])
    return middle + np.diff(first[edges]) / np.diff(weight[edges])


def _layer(
    best: np.ndarray, lowest: int, ends: np.ndarray, weight: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each end j, the least `best[i] + cost(i, j)` over i >= lowest, and its i."""
    n = ends.size  # places in `ends` are counted from 1 below, with a sentinel at each side
    choice = np.empty(n + 2, dtype=np.int64)
    choice[0], choice[-1] = lowest, ends[-1] - 1
    least = np.empty(n + 2)
    rest = best - second
    half = 1 << (n.bit_length() - 1)
    while half:
        places = np.arange(half, n + 1, 2 * half)
        j = ends[places - 1]
        low = choice[places - half]
        high = np.minimum(choice[np.minimum(places + half, n + 1)], j - 1)
        lengths = high - low + 1
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        i = np.arange(lengths.sum()) + np.repeat(low - starts, lengths)
        costs = rest[i] - (np.repeat(first[j], lengths) - first[i]) ** 2 / (np.repeat(weight[j], lengths) - weight[i])
        minima = np.minimum.reduceat(costs, starts)
        hits = np.flatnonzero(costs == np.repeat(minima, lengths))
        choice[places] = i[hits[np.searchsorted(hits, starts)]]
        least[places] = minima + second[j]
        half //= 2
    return least[1:-1], choice[1:-1].astype(np.int32)
