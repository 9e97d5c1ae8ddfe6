"""Weight sharing: one-dimensional k-means, by Lloyd's iteration or exactly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.errors import AttarError
from attar.forms import Codebook
from attar.names import nearest
from attar.quantization._exact import exact_centres

__all__ = ["kmeans"]


def kmeans(weight: Tensor, *, bits: int = 4, init: str = "linear", iterations: int = 3000, empty: str = "keep", seed: int = 0) -> Codebook:
    """Cluster the elements around k = 2^bits centroids, so that `sum (w - centroid)^2` is small.

    `init` says where the centroids start: "linear" (equally spaced from the smallest to the largest weight: the few
    large weights matter most), "density" (equal steps of the distribution function), "random" (k of the weights,
    Forgy's; drawn by `seed`) or "exact" (the optimum, by dynamic programming on the distinct values: seconds for
    400,000 of them and 32 centroids; refused above 2^27 distinct values x centroids). Lloyd's iteration then runs
    until nothing moves, or `iterations` times, on sorted float64 values and their prefix sums, so that an iteration
    costs k log n. `empty` says what becomes of a centroid without weights: "keep" leaves it (as the paper), "split"
    uses it to halve a cluster of large error. Any shape; where there are at most k distinct values the codebook is
    these values, and the form is exact. The centroids have the dtype of the weight; the clusters are
    those of the rounded centroids. The rate of n weights of b bits is `n b / (n bits + k b)`; fine-tuning needs no
    code, because autograd sums the gradients of a cluster (lower the learning rate for that).

    Raises AttarError for bits outside 1..16, NaN or infinite weights, or an unknown `init` or `empty`.

    Reference: S. Han, H. Mao, W. Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
    Quantization and Huffman Coding", 2016; X. Wu, "Optimal Quantization by Matrix Searching", 1991 (exact).

    >>> form = kmeans(torch.linspace(-1, 1, 16).view(4, 4), bits=2)
    >>> n, k = form.indices.numel(), form.centroids.shape[0]
    >>> n * 32 / (n * 2 + k * 32)  # the paper's example: 16 weights, 4 clusters
    3.2
    """
    _require_settings(bits, init, iterations, empty)
    flat = _flat(weight)
    values = np.sort(flat).astype(np.float64)
    distinct = _distinct(values)
    k = 2**bits
    if distinct.size <= k:
        centres = distinct if distinct.size else np.zeros(1)
    else:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        centres = _STARTS[init](values, k, seed)
        centres = _lloyd(values, sums, centres, iterations, split=empty == "split")
        # rounding can make two centres one, and moves the borders between clusters
        centres = np.unique(torch.from_numpy(centres).to(weight.dtype).double().numpy())
    borders = torch.from_numpy((centres[:-1] + centres[1:]) / 2)
    indices = torch.bucketize(torch.from_numpy(flat).double(), borders, out_int32=True)
    return Codebook(indices.view(weight.shape).to(weight.device), torch.from_numpy(centres).to(weight.dtype).to(weight.device))


def _require_settings(bits: Any, init: str, iterations: int, empty: str) -> None:
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 16:
        raise AttarError(f"bits must be a whole number from 1 to 16, got {bits!r}: 2^bits values are shared by the weights")
    if init not in _STARTS:
        raise AttarError(f"there is no init {init!r}{nearest(init, _STARTS)}: give one of {', '.join(_STARTS)}")
    if empty not in ("keep", "split"):
        raise AttarError(f"empty must be 'keep' or 'split', got {empty!r}: what becomes of a centroid without weights")
    if iterations < 0:
        raise AttarError(f"iterations must be at least 0, got {iterations}: Lloyd's iteration runs that often at most")


def _flat(weight: Tensor) -> np.ndarray:
    """The elements in one row on the CPU, in a dtype that NumPy has."""
    if not weight.is_floating_point():
        raise AttarError(f"kmeans needs a weight of real numbers, got {weight.dtype}: convert it first")
    values = weight.detach().reshape(-1).cpu()
    array = values.to(torch.promote_types(values.dtype, torch.float32)).numpy()
    if not np.isfinite(array).all():
        raise AttarError("the weight holds NaN or infinite values, and means of them say nothing: train or load the network again")
    return array


def _distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values of a sorted array."""
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if values.size else values


def _linear(values: np.ndarray, k: int, seed: int) -> np.ndarray:  # noqa: ARG001 (all starts are called alike)
    return np.linspace(values[0], values[-1], k)


def _density(values: np.ndarray, k: int, seed: int) -> np.ndarray:  # noqa: ARG001 (all starts are called alike)
    places = (np.arange(k) + 0.5) / k * (values.size - 1)
    below = places.astype(np.int64)
    return values[below] + (places - below) * (values[below + 1] - values[below])


def _random(values: np.ndarray, k: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(values, k, replace=False))


def _optimum(values: np.ndarray, k: int, seed: int) -> np.ndarray:  # noqa: ARG001 (all starts are called alike)
    return exact_centres(*np.unique(values, return_counts=True), k)


_STARTS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "linear": _linear,
    "density": _density,
    "random": _random,
    "exact": _optimum,
}


def _lloyd(values: np.ndarray, sums: np.ndarray, centres: np.ndarray, iterations: int, *, split: bool) -> np.ndarray:
    """Move each centre to the mean of what is nearest to it, until the clusters stay; ties go to the lower centre."""
    before = None
    for _ in range(iterations):
        borders = (centres[:-1] + centres[1:]) / 2
        edges = np.concatenate([[0], np.searchsorted(values, borders, side="right"), [values.size]])
        if before is not None and np.array_equal(edges, before):
            break
        before = edges
        if split and (edges[1:] == edges[:-1]).any():
            edges = _split_empty(values, sums, edges)
        used = edges[1:] > edges[:-1]
        centres = centres.copy()
        centres[used] = _means(values, sums, edges[:-1][used], edges[1:][used])
    return centres


def _means(values: np.ndarray, sums: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The means of `values[first:last]`, kept inside the clusters: a difference of prefix sums may be off in the last digit."""
    return np.clip((sums[last] - sums[first]) / (last - first), values[first], values[last - 1])


def _split_empty(values: np.ndarray, sums: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """As many clusters without an empty one: the empty go, and those of the largest error are halved at their means, once a round."""
    kept = np.unique(edges)
    while kept.size < edges.size:  # ends: there are more distinct values than clusters, so some cluster can be halved
        first, last = kept[:-1], kept[1:]
        means = _means(values, sums, first, last)
        errors = np.add.reduceat((values - np.repeat(means, last - first)) ** 2, first)
        errors[values[first] == values[last - 1]] = -1  # one value: nothing to halve, whatever rounding says
        largest = np.argsort(-errors, kind="stable")[: min(edges.size - kept.size, int((errors >= 0).sum()))]
        kept = np.sort(np.concatenate([kept, np.searchsorted(values, means[largest], side="right")]))
    return kept
