"""Coupling rules of ops that move elements: the same is done to the identities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attar.graph.identities import Vector
from attar.graph.labels import Call, Labels, Propagation, flat, still

__all__ = [
    "as_complex",
    "as_real",
    "broadcast",
    "concatenate",
    "expand",
    "flip",
    "gather",
    "index",
    "pad",
    "permute",
    "pixel_shuffle",
    "pixel_unshuffle",
    "repeat",
    "repeat_each",
    "roll",
    "select",
    "slice_",
    "split",
    "squeeze",
    "stack",
    "swap",
    "triangle",
    "unbind",
    "unfold",
    "unsqueeze",
    "view",
]

_ONE = np.zeros(1, dtype=np.int64)


def permute(run: Propagation, call: Call) -> Labels:
    """Dimensions in another order."""
    x = next(call.tensors())
    if call.name == "movedim":
        order = _moved(len(x.dims), call["source"], call["destination"])
        return x.take(order)
    order = call.get("dims")
    return x.take([d % len(x.dims) for d in (order if order is not None else range(len(x.dims) - 1, -1, -1))])


def _moved(rank: int, source: Any, destination: Any) -> list[int]:
    sources, places = ([v % rank for v in ([a] if isinstance(a, int) else a)] for a in (source, destination))
    rest = iter(d for d in range(rank) if d not in sources)
    where = dict(zip(places, sources, strict=True))
    return [where[d] if d in where else next(rest) for d in range(rank)]


def swap(run: Propagation, call: Call) -> Labels:
    """Two dimensions exchanged; without arguments the last two."""
    x = next(call.tensors())
    order = list(range(len(x.dims)))
    a, b = call.get("dim0", "axis0"), call.get("dim1", "axis1")
    if a is None:
        a, b = (-1, -2) if len(order) > 1 else (0, 0)
    order[a], order[b] = order[b], order[a]
    return x.take(order)


def unsqueeze(run: Propagation, call: Call) -> Labels:
    """A new dimension of size 1."""
    x, d = call["self"], call["dim"] % len(call.shape)
    return _inserted(x, d)


def _inserted(x: Labels, d: int) -> Labels:
    return Labels((*x.dims[:d], _ONE, *x.dims[d:]), (*x.zero[:d], False, *x.zero[d:]), (*x.origin[:d], None, *x.origin[d:]))


def as_complex(run: Propagation, call: Call) -> Labels:
    """A last dimension of two becomes one complex number."""
    x = call["self"]
    run.fix(x, [-1], "it is the real and the imaginary part")
    return x.take(range(len(x.dims) - 1))


def as_real(run: Propagation, call: Call) -> Labels:
    """A complex number becomes a last dimension of two."""
    x = call["self"]
    return Labels((*x.dims, np.zeros(2, dtype=np.int64)), (*x.zero, False))


def squeeze(run: Propagation, call: Call) -> Labels:
    """Dimensions of size 1 left out."""
    x = call["self"]
    given = call.get("dim")
    chosen = range(len(x.dims)) if given is None else [given] if isinstance(given, int) else given
    gone = {d % len(x.dims) for d in chosen if len(x.dims[d]) == 1} if x.dims else set()
    return x.take([d for d in range(len(x.dims)) if d not in gone])


def expand(run: Propagation, call: Call) -> Labels:
    """Dimensions of size 1 repeated; every copy stays, or goes with the tensor whose size is taken."""
    x, other = call["self"], call.get("other")
    result = _expanded(x, call.shape)
    if other is None:
        return result
    lead = len(other.dims) - len(x.dims)
    repeated = [d < lead or len(x.dims[d - lead]) < len(vector) for d, vector in enumerate(other.dims)]
    dims = []
    for own, wanted, again in zip(result.dims, other.dims, repeated, strict=True):
        if not again:
            run.ids.unite(own, wanted)
        dims.append(wanted if again else own)
    return Labels(tuple(dims), result.zero, result.origin)


def broadcast(run: Propagation, call: Call) -> Any:
    """Several tensors expanded to one shape: where none is of size 1 they go together."""
    results = [_expanded(x, shape or ()) for x, shape in zip(call.tensors(), call.shapes, strict=True)]
    for result in results[1:]:
        for own, first in zip(result.dims, results[0].dims, strict=True):
            run.ids.unite(own, first)
    return results


def _expanded(x: Labels, shape: Sequence[int]) -> Labels:
    lead = len(shape) - len(x.dims)
    same = [d >= lead and len(x.dims[d - lead]) == n for d, n in enumerate(shape)]
    dims = tuple(x.dims[d - lead] if same[d] else np.zeros(n, dtype=np.int64) for d, n in enumerate(shape))
    zero = tuple(same[d] and x.zero[d - lead] for d in range(len(shape)))
    return Labels(dims, zero, tuple(x.origin[d - lead] if same[d] else None for d in range(len(shape))))


def view(run: Propagation, call: Call) -> Labels:
    """Dimensions merged and split: a merged one is kept where all its parts are, a split one is factored."""
    x = call["self"]
    dims: list[Vector] = []
    zero: list[bool] = []
    origin: list[Any] = []
    for before, after in _segments(x.shape, call.shape):
        old = x.dims[before.start : before.stop]
        if len(old) == 1 and len(after) == 1:
            dims.append(old[0])
        elif len(after):
            dims += run.ids.factor(run.ids.outer(old).reshape(call.shape[after.start : after.stop]))
        zero += [all(x.zero[d] or not run.live(x, d) for d in before)] * len(after)
        of = {x.origin[d] for d in before if x.shape[d] > 1}
        origin += [next(iter(of)) if len(of) == 1 else None] * len(after)
    if isinstance(other := call.get("other"), Labels):  # its sizes are taken
        for own, wanted in zip(dims, other.dims, strict=True):
            run.ids.unite(own, wanted)
    return Labels(tuple(dims), tuple(zero), tuple(origin))


def _segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """The smallest runs of dimensions that hold the same elements before and after."""
    found, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start, end, a, b = i, j, 1, 1
        if i < len(old):
            a, i = old[i], i + 1
        if j < len(new):
            b, j = new[j], j + 1
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        found.append((range(start, i), range(end, j)))
    return found


def concatenate(run: Propagation, call: Call) -> Labels:
    """Vectors one after the other; the other dimensions go together."""
    parts = [x for x in call.tensors() if x.shape != (0,)]
    d = call.get("dim", "axis")
    d = _default_dim(call.name) if d is None else d
    return _joined(run, parts, d % len(call.shape))


def _default_dim(name: str) -> int:
    return {"hstack": 1, "vstack": 0}.get(name, 0)


def stack(run: Propagation, call: Call) -> Labels:
    """Tensors along a new dimension, which stays whole."""
    d = call["dim"] % len(call.shape)
    parts = [_inserted(x, d) for x in call.tensors()]
    return _joined(run, parts, d)


def _joined(run: Propagation, parts: Sequence[Labels], d: int) -> Labels:
    for k in range(len(parts[0].dims)):
        if k != d:
            for x in parts[1:]:
                run.ids.unite(parts[0].dims[k], x.dims[k])
    whole = parts[0].replace(d, np.concatenate([x.dims[d] for x in parts]))
    return Labels(whole.dims, tuple(all(x.zero[k] or not run.live(x, k) for x in parts) for k in range(len(whole.dims))))


def slice_(run: Propagation, call: Call) -> Labels:
    """A range of a dimension."""
    x = call["self"]
    d = call["dim"] % len(x.dims)
    if call.name == "narrow":
        start = call["start"] % max(1, len(x.dims[d]))
        return x.replace(d, x.dims[d][start : start + call["length"]])
    start, end = call["start"], call["end"]
    return x.replace(d, x.dims[d][slice(start, end, call["step"])])


def select(run: Propagation, call: Call) -> Labels:
    """One index of a dimension, which must then stay."""
    x = call["self"]
    return _one(run, x, call["dim"] % len(x.dims), call["index"])


def _one(run: Propagation, x: Labels, d: int, at: int) -> Labels:
    run.ids.fix(x.dims[d][[at]], "a single index of it is read")
    return x.take([k for k in range(len(x.dims)) if k != d])


def unbind(run: Propagation, call: Call) -> list[Labels]:
    """Every index of a dimension on its own."""
    x = call["self"]
    d = call["dim"] % len(x.dims)
    return [_one(run, x, d, at) for at in range(len(x.dims[d]))]


def split(run: Propagation, call: Call) -> list[Labels]:
    """A dimension in consecutive pieces."""
    x = call["self"]
    d = call["dim"] % len(x.dims)
    ends = np.cumsum([shape[d] for shape in call.shapes if shape is not None])
    return [x.replace(d, piece) for piece in np.split(x.dims[d], ends[:-1])]


def flip(run: Propagation, call: Call) -> Labels:
    """Dimensions read backwards."""
    x = call["self"]
    for d in call["dims"]:
        x = x.replace(d % len(x.dims), x.dims[d][::-1])
    return x


def roll(run: Propagation, call: Call) -> Labels:
    """Dimensions shifted, which must keep their length."""
    x = call["self"]
    dims = call["dims"] or range(len(x.dims))
    run.fix(x, dims, "it is rolled")
    return x


def index(run: Propagation, call: Call) -> Labels:
    """Rows chosen by tensors of numbers: what is indexed, and the numbers, stay whole."""
    x, given = call["self"], call.get("indices", "index")
    indices = list(given) if isinstance(given, list) else [None] * (call["dim"] % len(x.dims)) + [given]
    at = [d for d, labels in enumerate(indices) if isinstance(labels, Labels)]
    for labels in flat(indices):
        run.fix(labels, None, "it is an index")
    run.fix(x, at, "it is indexed by numbers")
    rest = [d for d in range(len(x.dims)) if d not in at]
    new = len(call.shape) - len(rest)
    lead = at[0] if at == list(range(at[0], at[-1] + 1)) else 0
    middle = still(call.shape[lead : lead + new])
    assert middle is not None
    outside = x.take(rest)
    dims = (*outside.dims[:lead], *middle.dims, *outside.dims[lead:])
    return Labels(dims, (*outside.zero[:lead], *middle.zero, *outside.zero[lead:]))


def gather(run: Propagation, call: Call) -> Labels:
    """Along one dimension by numbers; nothing of either tensor can be left out."""
    for labels in call.tensors():
        run.fix(labels, None, "it is gathered by numbers")
    result = still(call.shape)
    assert result is not None
    return result


def repeat(run: Propagation, call: Call) -> Labels:
    """Whole copies one after the other; copies of an index go with it."""
    x = call["self"]
    lead = len(call.shape) - len(x.dims)
    dims = []
    for d, length in enumerate(call.shape):
        old = x.dims[d - lead] if d >= lead else _ONE
        dims.append(np.tile(old, length // len(old)))
    return Labels(tuple(dims), (*[False] * lead, *x.zero))


def repeat_each(run: Propagation, call: Call) -> Labels:
    """Each index several times in a row."""
    x, times, d = call["self"], call.get("repeats"), call.get("dim")
    if d is None or not isinstance(times, int):
        for labels in call.tensors():
            run.fix(labels, None, "it is repeated by numbers, or flattened on the way")
        result = still(call.shape)
        assert result is not None
        return result
    d %= len(x.dims)
    return Labels(x.replace(d, np.repeat(x.dims[d], times)).dims, x.zero)


def pad(run: Propagation, call: Call) -> Labels:
    """A margin around dimensions: of a constant it stays, else what is padded must keep its order and stays whole."""
    x, pads = call["self"], call.get("pad", "padding")
    value = call.get("value")
    constant = call.get("mode") in (None, "constant") and call.name in ("pad", "constant_pad_nd")
    result = x
    for k in range(len(pads) // 2):
        d, low, high = len(x.dims) - 1 - k, pads[2 * k], pads[2 * k + 1]
        if not low and not high:
            continue
        if not constant:
            run.fix(x, [d], "it is padded by its own values")
        inner = x.dims[d][max(0, -low) : len(x.dims[d]) - max(0, -high)]
        margin = [np.zeros(max(0, n), dtype=np.int64) for n in (low, high)]
        result = result.replace(d, np.concatenate([margin[0], inner, margin[1]]))
    return Labels(result.dims, x.zero if not value else (), result.origin)


def pixel_shuffle(run: Propagation, call: Call) -> Labels:
    """Channels as (channel, row, column): the latter two move into the picture, whole."""
    x, r = call["self"], call["upscale_factor"]
    lead = len(x.dims) - 3
    channel, row, column = run.ids.factor(x.dims[lead].reshape(-1, r, r))
    for vector in (row, column, *x.dims[lead + 1 :]):
        run.ids.fix(vector, "it becomes a position in the picture")
    space = still(call.shape[lead + 1 :])
    assert space is not None
    return Labels((*x.dims[:lead], channel, *space.dims), (*x.zero[: lead + 1], *space.zero))


def pixel_unshuffle(run: Propagation, call: Call) -> Labels:
    """Blocks of the picture become channels; all of one channel go together."""
    x, r = call["self"], call["downscale_factor"]
    lead = len(x.dims) - 3
    run.fix(x, range(lead + 1, len(x.dims)), "it is a position in the picture")
    space = still(call.shape[lead + 1 :])
    assert space is not None
    return Labels((*x.dims[:lead], np.repeat(x.dims[lead], r * r), *space.dims), (*x.zero[: lead + 1], *space.zero))


def unfold(run: Propagation, call: Call) -> Labels:
    """Patches as columns (im2col): (channel, row, column) by position."""
    x = call["self"]
    if call.name == "unfold":  # windows along one dimension
        d = call["dimension"] % len(x.dims)
        run.fix(x, [d], "windows slide over it")
        result = still(call.shape)
        assert result is not None
        dims = [x.dims[k] if k != d else result.dims[k] for k in range(len(x.dims))]
        return Labels((*dims, result.dims[-1]), (*x.zero, False))
    run.fix(x, range(len(x.dims) - 2, len(x.dims)), "patches slide over it")
    lead = len(x.dims) - 3
    rows = np.repeat(x.dims[lead], call.shape[-2] // len(x.dims[lead]))
    return Labels((*x.dims[:lead], rows, np.zeros(call.shape[-1], dtype=np.int64)), (*x.zero[: lead + 1], False))


def triangle(run: Propagation, call: Call) -> Labels:
    """The upper or lower triangle of matrices, which stay whole."""
    x = call["self"]
    run.fix(x, [-1, -2], "a triangle of it is taken")
    return Labels(x.dims, x.zero)
