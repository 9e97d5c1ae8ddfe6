"""Coupling rules of ops that sum products: convolutions, linear layers, matrix products, attention, embeddings."""

from __future__ import annotations

import math
import string

import numpy as np

from attar.graph.labels import Call, Labels, Product, Propagation, Rule, layer_of, still
from attar.graph.rules.elementwise import binary

__all__ = ["addmm", "attention", "bilinear", "convolution", "einsum", "embedding", "embedding_bag", "grouped", "linear", "matmul", "outer"]

_LETTERS = string.ascii_letters


def linear(run: Propagation, call: Call) -> Labels:
    """`x @ weight.T + bias`: inputs are summed over, outputs are the weight's rows."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    lead = _LETTERS[: len(x.dims) - 1]
    out = "Z" if len(weight.dims) == 2 else ""
    return _add(run, call, run.contract(call, [x, weight], [lead + "Y", out + "Y"], lead + out), bias)


def matmul(run: Propagation, call: Call) -> Labels:
    """A product of matrices, batched and broadcast."""
    a, b = (x for x in list(call.tensors())[:2])
    return _product(run, call, a, b)


def addmm(run: Propagation, call: Call) -> Labels:
    """`self + a @ b`, batched or not."""
    bias, a, b = list(call.tensors())[:3]
    return _add(run, call, _product(run, call, a, b), bias)


def bilinear(run: Propagation, call: Call) -> Labels:
    """`a W b + bias`, one matrix of W for each output."""
    a, b, weight, bias = call["input1"], call["input2"], call["weight"], call["bias"]
    lead = _LETTERS[: len(a.dims) - 1]
    return _add(run, call, run.contract(call, [a, weight, b], [lead + "X", "ZXY", lead + "Y"], lead + "Z"), bias)


def grouped(run: Propagation, call: Call) -> Labels:
    """Rows of one matrix, in consecutive runs, each times a matrix of its own (the experts of a mixture)."""
    a, b = list(call.tensors())[:2]
    for labels in list(call.tensors())[2:]:
        run.fix(labels, None, "it is an index")
    run.fix(b, [0], "rows are sent to it by number")
    return run.contract(call, [a, b.take([1, 2])], ["ni", "io"], "no")


def outer(run: Propagation, call: Call) -> Labels:
    """All products of two vectors."""
    a, b = list(call.tensors())[:2]
    return run.contract(call, [a, b], ["a", "b"], "ab")


def _product(run: Propagation, call: Call, a: Labels, b: Labels) -> Labels:
    lead = max(len(a.dims), len(b.dims)) - 2
    batch = _LETTERS[:lead] if lead > 0 else ""
    left = batch[len(batch) - max(len(a.dims) - 2, 0) :] + ("XY" if len(a.dims) > 1 else "Y")
    right = batch[len(batch) - max(len(b.dims) - 2, 0) :] + ("YZ" if len(b.dims) > 1 else "Y")
    out = batch + ("X" if len(a.dims) > 1 else "") + ("Z" if len(b.dims) > 1 else "")
    return run.contract(call, [a, b], [left, right], out)


def einsum(run: Propagation, call: Call) -> Labels:
    """Any sum of products, by its equation."""
    operands = list(call.tensors())
    letters, out = _equation(call["equation"], [len(x.dims) for x in operands])
    for labels, names in zip(operands, letters, strict=True):
        doubled = [d for d, name in enumerate(names) if names.count(name) > 1]
        run.fix(labels, doubled, "einsum takes a diagonal of it")
    return run.contract(call, operands, letters, out)


def _equation(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, an ellipsis spelled out."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [c for c in _LETTERS if c not in equation]
    longest = max((rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term), default=0)
    dots = "".join(free[:longest])
    letters = []
    for term, rank in zip(terms, ranks, strict=True):
        count = rank - len(term.replace("...", ""))
        letters.append(term.replace("...", dots[len(dots) - count :] if count else ""))
    if not arrow:
        names = "".join(letters)
        right = dots + "".join(sorted(c for c in set(names) - set(dots) if names.count(c) == 1))
    return letters, right.replace("...", dots)


def convolution(transposed: bool) -> Rule:
    """A convolution of any number of dimensions, grouped or not: a product within each group."""

    def rule(run: Propagation, call: Call) -> Labels:
        x, weight, bias = call["input"], call["weight"], call["bias"]
        if len(x.dims) < len(weight.dims):  # a single picture, without the batch
            x = Labels((np.zeros(1, dtype=np.int64), *x.dims), (False, *x.zero), (None, *x.origin))
        across = call.get("transposed")
        flipped = transposed if across is None else bool(across)
        run.fix(x, range(2, len(x.dims)), "a convolution slides over it")
        run.fix(weight, range(2, len(weight.dims)), "it is a position in a convolution's kernel")
        kernel = math.prod(weight.shape[2:])
        space = math.prod(x.shape[2:]) if flipped else math.prod(call.shape[len(call.shape) - len(x.dims) + 2 :])
        groups = call["groups"]
        if groups == 1:
            out = run.contract(call, [x.take([0, 1]), weight.take([0, 1])], ["ni", "io" if flipped else "oi"], "no", work=kernel * space)
        else:
            out = _grouped(run, call, x, weight, groups, flipped, kernel * space)
        spatial = still(call.shape[len(call.shape) - len(x.dims) + 2 :])
        assert spatial is not None
        lead = out if len(call.shape) == len(x.dims) else out.take([1])
        return _add(run, call, Labels((*lead.dims, *spatial.dims), (*lead.zero, *spatial.zero)), bias, channel=len(lead.dims) - 1)

    return rule


def _grouped(run: Propagation, call: Call, x: Labels, weight: Labels, groups: int, flipped: bool, work: int) -> Labels:
    """Channels as (group, channel of the group): a product with the group as a batch dimension."""
    ids = run.ids
    group, inside = ids.factor(x.dims[1].reshape(groups, -1))
    of_weight, row = ids.factor(weight.dims[0].reshape(groups, -1))
    a = Labels((x.dims[0], group, inside), (x.zero[0], x.zero[1], x.zero[1]))
    rows, columns = weight.origin[:2]
    b = Labels((of_weight, row, weight.dims[1]), (weight.zero[0], *weight.zero[:2]), (rows, rows, columns))
    product = run.contract(call, [a, b], ["ngi", "gio" if flipped else "goi"], "ngo", work=work)
    run.sizes[call.node] = product.dims[1]
    channels = ids.conjoin(product.dims[1][:, None], product.dims[2][None]).ravel()
    return Labels((x.dims[0], channels), (product.zero[0], product.zero[1] and product.zero[2]))


def embedding(run: Propagation, call: Call) -> Labels:
    """Rows of a table by number: the rows stay, the columns are the features."""
    weight, indices = call["weight"], call["indices"]
    run.fix(weight, [0], "an embedding is indexed by it")
    return Labels((*indices.dims, weight.dims[1]), (*(False for _ in indices.dims), weight.zero[1]))


def embedding_bag(run: Propagation, call: Call) -> list[Labels | None]:
    """Sums, means or maxima of rows of a table."""
    weight = call["weight"]
    run.fix(weight, [0], "an embedding is indexed by it")
    for labels in call.tensors():
        if labels is not weight:
            run.fix(labels, None, "an embedding is indexed by it")
    first = still(call.shapes[0])
    assert first is not None
    return [Labels((first.dims[0], weight.dims[1]), (False, weight.zero[1])), *(still(shape) for shape in call.shapes[1:])]


def attention(run: Propagation, call: Call) -> Labels:
    """`softmax(q k^T * scale + mask) v`, with grouped queries where asked for: heads go together, positions stay."""
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    if call["scale"] is None:
        run.fix(query, [-1], "attention's default scale is read from its size: give scale=")
        run.fix(key, [-1], "attention's default scale is read from its size: give scale=")
    for x, d in ((key, -2), (value, -2)):
        run.fix(x, [d], "a softmax normalises over it")
    if call["is_causal"]:
        run.fix(query, [-2], "a causal mask orders it")
    batch = _LETTERS[: len(query.dims) - 2]
    if call.get("enable_gqa") and query.dims[-3].shape != key.dims[-3].shape:
        return _grouped_queries(run, call, query, key, value)
    scores = run.contract(call, [query, key], [batch + "XE", batch + "YE"], batch + "XY")
    if mask is not None:
        run.fix(mask, [-1], "a softmax normalises over it")
        scores = binary(all)(run, Call(call.node, "add", {"a": scores, "b": mask}, (scores.shape,)))
    return run.contract(call, [Labels(scores.dims), value], [batch + "XY", batch + "YV"], batch + "XV")


def _grouped_queries(run: Propagation, call: Call, query: Labels, key: Labels, value: Labels) -> Labels:
    """Each head of keys serves several of queries: heads of queries are (head of keys, one of its queries)."""
    heads = key.shape[-3]
    shared, each = run.ids.factor(query.dims[-3].reshape(heads, -1))
    run.ids.unite(shared, key.dims[-3])
    run.ids.unite(shared, value.dims[-3])
    run.fix(query, [-1], "attention with grouped queries") if call["scale"] is None else run.ids.unite(query.dims[-1], key.dims[-1])
    if run.ids.live(shared):
        run.heads.append(shared)
    if call["attn_mask"] is not None:
        run.fix(call["attn_mask"], None, "a mask over grouped queries")
    for last in (query.dims[-1], value.dims[-1]):
        run.products.append(Product(layer_of(call.node), key.shape[-2], (*query.dims[:-1], last)))
    zero = (*(False for _ in query.dims[:-3]), value.zero[-3] and not run.ids.live(each), False, value.zero[-1])
    return Labels((*query.dims[:-1], value.dims[-1]), zero)


def _add(run: Propagation, call: Call, x: Labels, bias: Labels | None, channel: int = -1) -> Labels:
    """A bias along one dimension (or a tensor that broadcasts); the result is zero where both are."""
    if bias is None:
        return x
    if len(bias.dims) == 1:
        if len(bias.dims[0]) == len(x.dims[channel]):
            run.ids.unite(x.dims[channel], bias.dims[0])
            at = channel % len(x.dims)
            return Labels(x.dims, tuple(d == at and zero and bias.zero[0] for d, zero in enumerate(x.zero)))
        return Labels(x.dims)
    return binary(all)(run, Call(call.node, "add", {"a": x, "b": bias}, (x.shape,)))
