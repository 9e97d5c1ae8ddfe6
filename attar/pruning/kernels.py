"""Pruning whole kernels of convolutions: the connections between an input map and an output map."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from attar.graph import Program, Weight, op_name, require_finite
from attar.graph.fold import arguments
from attar.names import find
from attar.pruning._targets import groups, kept, sparsify
from attar.pruning.allocation import global_, per_filter, per_layer, require_keep
from attar.pruning.weights import element_scores, require_allocation

__all__ = ["prune_kernels"]

_ALLOCATIONS = ("layer", "global", "filter")


def prune_kernels(
    model: nn.Module,
    *,
    keep: float | Mapping[str, float],
    saliency: str | Callable[..., Tensor] = "magnitude",
    allocation: str = "layer",
    layers: str | Iterable[str] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Attach a `Sparse` form whose mask is whole kernels, in place, to each convolution; return the masks by the weight's name.

    A kernel is what a weight [out, in / groups, *size] holds for one pair (out, in); its score is the sum of its
    elements' scores, `S[o, i] = sum_yx |W[o, i, y, x]|` for the magnitude. Of `keep`, a fraction of the kernels (one
    number, or one for each pattern on layer names), `allocation` makes a choice:

    - "layer": the same fraction of each layer;
    - "global": one threshold for all layers, or for those of one pattern, on scores divided by the mean of their
      layer's sizes, because kernels of different layers have different scales;
    - "filter": the same number of inputs for every filter, which keeps the work of all filters alike.

    Transposed convolutions have kernels too, of a weight [in, out / groups, *size]; the kernel of a 1x1 convolution is
    one weight. Linear layers have none: prune their weights, or units. What earlier pruning has removed stays removed,
    and counts as nothing in its kernel's score.

    Raises AttarError for keep outside (0, 1], a pattern that matches no convolution, NaN or infinite weights, a network
    without convolutions, or a weight that carries another form.

    Reference: S. Anwar, K. Hwang, W. Sung, "Structured Pruning of Deep Convolutional Neural Networks", 2015 (the
    granularity); H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets", 2017
    (the sum of magnitudes).

    >>> model = nn.Conv2d(2, 2, 2)
    >>> _ = nn.init.ones_(model.weight).data[0, 1].fill_(-2.0)
    >>> prune_kernels(model, keep=0.25)["weight"].flatten(2).tolist()
    [[[False, False, False, False], [True, True, True, True]], [[False, False, False, False], [False, False, False, False]]]
    """
    criterion = find("saliency", saliency)
    require_finite(model)
    require_keep(keep, of="kernels")
    require_allocation(allocation, _ALLOCATIONS)
    known = _convolutions(model)
    chosen = groups(model, keep, layers, accepts=lambda weight: _role(weight, known) is not None, needs="convolution")
    masks: dict[str, Tensor] = {}
    for group in chosen:
        alive = {weight.name: kept(weight) for weight in group.weights}
        scores = {w.name: _sums(element_scores(w, criterion, seed), alive[w.name]) for w in group.weights}
        kernels = _allocate(scores, group.budget, allocation, {w.name: _role(w, known) for w in group.weights})
        masks |= {name: mask[(...,) + (None,) * (alive[name].ndim - 2)] & alive[name] for name, mask in kernels.items()}
    for weight in [w for group in chosen for w in group.weights]:
        sparsify(weight, masks[weight.name])
    return masks


@dataclass(frozen=True)
class _Role:
    """What a convolution makes of its weight."""

    groups: int
    transposed: bool


def _convolutions(model: nn.Module) -> dict[str, _Role]:
    """The convolutions of a network by the full names of their weights; of a graph module, by its ops."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        if isinstance(module, _ConvNd):
            found[f"{prefix}weight"] = _Role(module.groups, module.transposed)
        elif isinstance(module, Program):
            for node in module._graph.nodes:
                if op_name(node).startswith("aten.conv"):
                    given = arguments(node)
                    transposed = bool(given.get("transposed", "transpose" in op_name(node)))
                    found[f"{prefix}{given['weight'].target}"] = _Role(given["groups"], transposed)
    return found


def _role(weight: Weight, known: Mapping[str, _Role]) -> _Role | None:
    return next((known[holder.full_name] for holder in weight.holders if holder.full_name in known), None)


def _sums(scores: Tensor, alive: Tensor) -> Tensor:
    """The score of each kernel, in float64; minus infinity where nothing of it is left."""
    sums = scores.double().masked_fill(~alive, 0.0).flatten(2).sum(2)
    return sums.masked_fill(~alive.flatten(2).any(2), -torch.inf)


def _allocate(scores: Mapping[str, Tensor], keep: float, allocation: str, roles: Mapping[str, _Role | None]) -> dict[str, Tensor]:
    if allocation == "layer":
        return per_layer(scores, keep)
    if allocation == "global":
        return global_({name: _normalised(values) for name, values in scores.items()}, keep)
    masks = per_filter({name: _filters(values, roles[name]) for name, values in scores.items()}, keep)
    return {name: mask.transpose(1, 2).flatten(0, 1) if mask.ndim == 3 else mask for name, mask in masks.items()}


def _normalised(scores: Tensor) -> Tensor:
    """Scores over the mean of their sizes, of the kernels that are left; a layer of zeros stays as it is."""
    mean = scores[scores > -torch.inf].abs().mean()
    return scores / mean if mean > 0 else scores


def _filters(scores: Tensor, role: _Role | None) -> Tensor:
    """Scores with a row for each filter; a transposed convolution has its filters in columns, group by group."""
    return scores.unflatten(0, (role.groups, -1)).transpose(1, 2) if role is not None and role.transposed else scores
