"""Coupling rules of ops that normalise, pool, sort or sum within a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from attar.graph.labels import Call, Labels, Propagation, Rule, still
from attar.graph.rules.elementwise import binary

__all__ = [
    "along",
    "batch_norm",
    "cosine_similarity",
    "glu",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "pool",
    "reduce",
    "softmax",
    "vector_norm",
    "weight_norm",
]

_ONE = np.zeros(1, dtype=np.int64)


def batch_norm(run: Propagation, call: Call) -> Any:
    """Each channel by its own statistics, those that it has learned or those of what it is given."""
    x = call["input"]
    if call.get("running_mean") is None or call.get("training"):
        run.fix(x, [d for d in range(len(x.dims)) if d != 1], "a norm averages over it")
    own = [call[name] for name in ("weight", "bias", "running_mean", "running_var")]
    for labels in own:
        if labels is not None:
            run.ids.unite(x.dims[1], labels.dims[0])
    zero = all(labels is not None and labels.zero[0] for labels in own[:2])
    result = Labels(x.dims, tuple(zero and d == 1 for d in range(len(x.dims))))
    return result if len(call.shapes) == 1 else [result, *(still(shape) for shape in call.shapes[1:])]


def instance_norm(run: Propagation, call: Call) -> Labels:
    """Each channel of each sample by its own statistics over the positions."""
    x = call["input"]
    run.fix(x, range(2, len(x.dims)), "a norm averages over it")
    result = batch_norm(run, call)
    assert isinstance(result, Labels)
    return x if call["bias"] is None else result


def group_norm(run: Propagation, call: Call) -> Labels:
    """Channels by the statistics of their group: a whole group can go, and not a part of it."""
    x, groups = call["input"], call["num_groups"]
    run.fix(x, range(2, len(x.dims)), "a norm averages over it")
    for labels in (call["weight"], call["bias"]):
        if labels is not None:
            run.ids.unite(x.dims[1], labels.dims[0])
    group, inside = run.ids.factor(x.dims[1].reshape(groups, -1))
    run.ids.fix(inside, f"{call.name} averages over the channels of a group")
    run.sizes[call.node] = group
    zero = all(labels is not None and labels.zero[0] for labels in (call["weight"], call["bias"]))
    return Labels(x.dims, tuple(zero and d == 1 for d in range(len(x.dims))))


def layer_norm(run: Propagation, call: Call) -> Any:
    """Averages over its last dimensions, which stay whole: what is left of them has other statistics."""
    x, count = call["input"], len(call["normalized_shape"])
    last = range(len(x.dims) - count, len(x.dims))
    own = [labels for labels in (call["weight"], call.get("bias")) if labels is not None]
    for labels in own:
        for d, vector in zip(last, labels.dims, strict=True):
            run.ids.unite(x.dims[d], vector)
    _average(run, call, x, last)
    scaled = call["weight"] is not None and all(all(labels.zero) for labels in own)
    result = Labels(x.dims, tuple(scaled and d in last for d in range(len(x.dims))))
    return result if len(call.shapes) == 1 else [result, *(still(shape) for shape in call.shapes[1:])]


def _average(run: Propagation, call: Call, x: Labels, dims: Sequence[int]) -> None:
    """What an average is over stays, unless approximate cuts are asked for."""
    if run.exact:
        run.fix(x, dims, f"{call.name} averages over it: exact=False cuts it, which is not exact")
    elif live := run.live_dims(x, dims):
        run.approximate[call.node] = tuple(live)


def reduce(name: str) -> Rule:
    """`sum` may leave out what is zero; every other reduction needs all of its dimension."""

    def rule(run: Propagation, call: Call) -> Any:
        x = next(call.tensors())
        given = call.get("dim")
        chosen = range(len(x.dims)) if given is None or given == [] else [given] if isinstance(given, int) else given
        dims = sorted({d % len(x.dims) for d in chosen}) if x.dims else []
        if name == "mean":
            _average(run, call, x, dims)
        else:
            run.fix(x, [d for d in dims if not (name == "sum" and x.zero[d])], f"{call.name} runs over it")
        places = [d for d in range(len(x.dims)) if call.get("keepdim") or d not in dims]
        zero = tuple(d not in dims and x.zero[d] and name in ("sum", "mean", "max") for d in places)
        result = Labels(tuple(_ONE if d in dims else x.dims[d] for d in places), zero)
        return [result if shape == result.shape else still(shape) for shape in call.shapes] if len(call.shapes) > 1 else result

    return rule


def vector_norm(run: Propagation, call: Call) -> Labels:
    """A norm over dimensions: zeros add nothing to it."""
    order = call.get("ord", "p")
    result = reduce("sum" if order is None or order > 0 else "other")(run, call)
    assert isinstance(result, Labels)
    return result


def cosine_similarity(run: Propagation, call: Call) -> Labels:
    """Products summed over one dimension and divided by both norms, to which only what is zero in both adds nothing."""
    a, b = call["x1"], call["x2"]
    products = binary(all)(run, Call(call.node, "mul", {"a": a, "b": b}, (torch.broadcast_shapes(a.shape, b.shape),)))
    result = reduce("sum")(run, Call(call.node, call.name, {"x": products, "dim": call["dim"]}, call.shapes))
    assert isinstance(result, Labels)
    return result


def softmax(run: Propagation, call: Call) -> Labels:
    """Normalises over one dimension, which stays whole."""
    x = call["self"]
    run.fix(x, [call["dim"]], "a softmax normalises over it")
    return Labels(x.dims)


def along(run: Propagation, call: Call) -> Any:
    """Cumulative sums, sorting, the largest few: one dimension is ordered and stays whole."""
    x = call["self"]
    given = call.get("dim")
    d = (-1 if given is None else given) % max(1, len(x.dims))
    run.fix(x, [d], f"{call.name} runs along it")
    results = [x.replace(d, np.zeros(shape[d], dtype=np.int64)) for shape in call.shapes if shape is not None]
    results = [Labels(r.dims, x.zero if call.name == "cumsum" else ()) for r in results]
    return results if isinstance(call.node.meta["val"], list | tuple) else results[0]


def pool(spatial: int) -> Rule:
    """Pooling or resizing over the last `spatial` dimensions; channels pass."""

    def rule(run: Propagation, call: Call) -> Any:
        x = next(call.tensors())
        lead = len(x.dims) - spatial
        run.fix(x, range(lead, len(x.dims)), f"{call.name} slides over it")
        results = []
        for shape in call.shapes:
            space = still((shape or ())[lead:])
            assert space is not None
            results.append(Labels((*x.dims[:lead], *space.dims), (*x.zero[:lead], *space.zero)))
        return results if isinstance(call.node.meta["val"], list | tuple) else results[0]

    return rule


def glu(run: Propagation, call: Call) -> Labels:
    """The first half times the sigmoid of the second: halves go together."""
    x = call["self"]
    d = call["dim"] % len(x.dims)
    first, second = np.split(x.dims[d], 2)
    run.ids.unite(first, second)
    return Labels(x.replace(d, first).dims, x.zero)


def weight_norm(run: Propagation, call: Call) -> Labels:
    """`g * v / ||v||`: the norm is over all but one dimension, and zeros add nothing to it."""
    v, g, dim = call["v"], call["g"], call["dim"]
    if dim < 0:
        run.fix(v, None, "a weight norm is over all of it")
        return v
    run.fix(v, [d for d in range(len(v.dims)) if d != dim and not v.zero[d]], "a weight norm is over it")
    run.ids.unite(v.dims[dim], g.dims[dim])
    if (origin := v.origin[dim]) is not None:  # zeros of g are enough, and those of v would divide by zero
        run.unmasked.add(origin)
    return Labels(v.dims, tuple(g.zero[d] if d == dim else zero for d, zero in enumerate(v.zero)), v.origin)
