"""Sums of products: the groups of tiny networks, written out."""

import pytest
import torch
from tiny import PICTURES, TOKENS, VECTORS, Net, check, noise, weight
from torch import nn
from torch.nn import Linear
from torch.nn import functional as F

from attar.graph import couple, trace


def conv(*args, **kwargs):
    return nn.Conv2d(*args, **kwargs)


def chain(*names):
    """A forward that runs the layers of those names in order."""

    def forward(net, x):
        for name in names:
            x = torch.relu(getattr(net, name)(x))
        return x

    return forward


def fused(heads, **options):
    """Queries, keys and values by one layer `a`, put together by `b`."""

    def forward(net, x):
        n, length, _ = x.shape
        q, k, v = net.a(x).reshape(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        return net.b(F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2))

    return forward


def separate(heads, shared, *, expands=False, **options):
    """Layers `q`, `k`, `v` and `o`; each head of keys serves several of queries."""

    def forward(net, x):
        q = net.q(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        k, v = (layer(x).unflatten(-1, (shared, -1)).transpose(1, 2) for layer in (net.k, net.v))
        if expands:
            k, v = (t[:, :, None].expand(-1, -1, heads // shared, -1, -1).flatten(1, 2) for t in (k, v))
        return net.o(F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2))

    return forward


def qkvo(q, k, v, o):
    return {"q": Linear(3, q), "k": Linear(3, k), "v": Linear(3, v), "o": Linear(o, 2)}


def by_parts(net, x):
    return net.o((net.q(x) @ net.k(x).transpose(1, 2)).mul(0.5).softmax(-1) @ net.v(x))


def latents(net, x):
    q = net.lat.expand(x.shape[0], 6, -1)
    return net.o(F.scaled_dot_product_attention(q, net.k(x), net.v(x), scale=1.0).flatten(1))


def squeeze_excite(net, x):
    h = net.a(x)
    return net.o(h * torch.sigmoid(net.u(torch.relu(net.d(h.mean((2, 3))))))[:, :, None, None])


def tied_to_embedding(net, x):
    return F.linear(torch.relu(net.b(net.a(x))), net.a.weight)


WORDS = torch.tensor([[0, 1], [2, 3]])
HEADS = "q.weight.0 q.bias.0 k.weight.0 k.bias.0 v.weight.0 v.bias.0 > o.weight.1"
CASES = {
    "linear": (Net(chain("a", "b"), a=Linear(3, 4), b=Linear(4, 2)), VECTORS, {"a": "4 channel: a.weight.0 a.bias.0 > b.weight.1"}),
    "residual": (
        Net(lambda net, x: net.c(net.a(x) + net.b(net.a(x))), a=Linear(3, 4), b=Linear(4, 4), c=Linear(4, 2)),
        VECTORS,
        {"a": "4 channel: a.weight.0 a.bias.0 b.weight.0 b.bias.0 > b.weight.1 c.weight.1"},
    ),
    "a layer used twice": (
        Net(chain("a", "b", "b", "c"), a=Linear(3, 4), b=Linear(4, 4), c=Linear(4, 2)),
        VECTORS,
        {"a": "4 channel: a.weight.0 a.bias.0 b.weight.0 b.bias.0 > b.weight.1 c.weight.1"},
    ),
    "convolution": (Net(chain("a", "b"), a=conv(2, 4, 3), b=conv(4, 3, 1)), PICTURES, {"a": "4 channel: a.weight.0 a.bias.0 > b.weight.1"}),
    "convolution of one picture": (
        Net(chain("a", "b"), a=conv(2, 4, 3), b=conv(4, 3, 1)),
        PICTURES[0],
        {"a": "4 channel: a.weight.0 a.bias.0 > b.weight.1"},
    ),
    "depthwise": (
        Net(chain("a", "d", "b"), a=conv(2, 4, 1), d=conv(4, 4, 3, groups=4), b=conv(4, 3, 1)),
        PICTURES,
        {"a": "4 channel: a.weight.0 a.bias.0 d.weight.0 d.bias.0 > b.weight.1"},
    ),
    "depthwise with a multiplier": (
        Net(chain("a", "d", "b"), a=conv(2, 4, 1), d=conv(4, 8, 3, groups=4), b=conv(8, 3, 1)),
        PICTURES,
        {
            "a": "4 channel: a.weight.0 a.bias.0 d.weight.0 d.bias.0 > b.weight.1",
            "d/inner": "2 inner of a: d.weight.0 d.bias.0 > b.weight.1",
        },
    ),
    "grouped": (
        Net(chain("a", "g", "b"), a=conv(2, 6, 1), g=conv(6, 8, 3, groups=2), b=conv(8, 3, 1)),
        PICTURES,
        {
            "a": "3 channel: a.weight.0 a.bias.0 > g.weight.1",
            "a/inner": "2 inner of g: a.weight.0 a.bias.0 g.weight.0 g.bias.0 > b.weight.1",
            "g": "4 channel: g.weight.0 g.bias.0 > b.weight.1",
        },
    ),
    "transposed": (
        Net(chain("a", "g", "b"), a=conv(2, 6, 1), g=nn.ConvTranspose2d(6, 4, 2, 2), b=conv(4, 3, 1)),
        PICTURES,
        {"a": "6 channel: a.weight.0 a.bias.0 > g.weight.0", "g": "4 channel: g.weight.1 g.bias.0 > b.weight.1"},
    ),
    "transposed grouped": (
        Net(chain("a", "g", "b"), a=conv(2, 6, 1), g=nn.ConvTranspose2d(6, 8, 2, 2, groups=2), b=conv(8, 3, 1)),
        PICTURES,
        {
            "a": "3 channel: a.weight.0 a.bias.0 > g.weight.0",
            "a/inner": "2 inner of a: a.weight.0 a.bias.0 g.bias.0 > g.weight.0 b.weight.1",
            "g": "4 channel: g.weight.1 g.bias.0 > b.weight.1",
        },
    ),
    "product of two vectors": (
        Net(lambda net, x: torch.vdot(net.a(x), net.b(x)), a=Linear(3, 4), b=Linear(3, 4)),
        noise(3),
        {"a": "4 channel: a.weight.0 a.bias.0 b.weight.0 b.bias.0 >"},
    ),
    "matmul over the sequence": (
        Net(lambda net, x: net.c(net.a(x).transpose(1, 2) @ net.b(x)), a=Linear(3, 4), b=Linear(3, 6), c=Linear(6, 2)),
        TOKENS,
        {"b": "6 channel: b.weight.0 b.bias.0 > c.weight.1"},
    ),
    "addmm": (
        Net(
            lambda net, x: torch.addmm(net.bias, torch.addmm(net.q, x, net.w).relu(), net.v),
            q=weight(4),
            w=weight(3, 4),
            bias=weight(2),
            v=weight(4, 2),
        ),
        VECTORS,
        {"w": "4 channel: q.0 w.1 > v.0"},
    ),
    "einsum": (
        Net(
            lambda net, x: torch.einsum("...h,ho->...o", torch.einsum("b...c, ch->b...h", x, net.w), net.v), w=weight(3, 4), v=weight(4, 2)
        ),
        TOKENS,
        {"w": "4 channel: w.1 > v.0"},
    ),
    "einsum without an arrow": (
        Net(lambda net, x: torch.einsum("ij,ki", net.w, x).t() @ net.v, w=weight(3, 4), v=weight(4, 2)),
        VECTORS,
        {"w": "4 channel: w.1 > v.0"},
    ),
    "einsum of a diagonal": (
        Net(lambda net, x: net.b(torch.einsum("bii->bi", torch.einsum("bl,ij->bij", x, net.w))), w=weight(4, 4), b=Linear(4, 2)),
        VECTORS,
        {},
    ),
    "embedding": (
        Net(lambda net, x: net.b(net.a(x)), a=nn.Embedding(5, 4), b=Linear(4, 2)),
        WORDS,
        {"a": "4 channel: a.weight.1 > b.weight.1"},
    ),
    "bag of embeddings": (
        Net(lambda net, x: net.b(net.a(x)), a=nn.EmbeddingBag(5, 4), b=Linear(4, 2)),
        WORDS,
        {"a": "4 channel: a.weight.1 > b.weight.1"},
    ),
    "embedding tied to the last layer": (
        Net(tied_to_embedding, a=nn.Embedding(5, 4), b=Linear(4, 4)),
        WORDS,
        {"b": "4 channel: b.weight.0 b.bias.0 > a.weight.1 b.weight.1"},
    ),
    "tied autoencoder": (
        Net(lambda net, x: F.linear(F.linear(x, net.w).relu(), net.w.t()), w=weight(4, 3)),
        VECTORS,
        {"w": "4 channel:  > w.0"},
    ),
    "heads of one layer": (
        Net(fused(2), a=Linear(3, 24), b=Linear(8, 2)),
        TOKENS,
        {"a/heads": "2 head: a.weight.0 a.bias.0 > b.weight.1"},
    ),
    "heads of one layer, their scale given": (
        Net(fused(2, scale=0.5), a=Linear(3, 24), b=Linear(8, 2)),
        TOKENS,
        {
            "a/heads": "2 head: a.weight.0 a.bias.0 > b.weight.1",
            "a/inner": "4 inner of a/heads: a.weight.0 a.bias.0 > b.weight.1",
        },
    ),
    "heads of three layers, their scale given": (
        Net(separate(2, 2, scale=0.5), **qkvo(8, 8, 12, 12)),
        TOKENS,
        {
            "q/inner": "4 inner of q/heads: q.weight.0 q.bias.0 k.weight.0 k.bias.0 >",
            "q/heads": f"2 head: {HEADS}",
            "v/inner": "6 inner of q/heads: v.weight.0 v.bias.0 > o.weight.1",
        },
    ),
    "grouped queries": (
        Net(separate(4, 2, enable_gqa=True), **qkvo(8, 4, 4, 8)),
        TOKENS,
        {
            "q/inner": "2 inner of q/heads: q.weight.0 q.bias.0 > o.weight.1",
            "q/heads": f"2 head: {HEADS}",
            "v/inner": "2 inner of q/heads: v.weight.0 v.bias.0 > o.weight.1",
        },
    ),
    "grouped queries, keys repeated": (
        Net(separate(4, 2, expands=True), **qkvo(8, 4, 4, 8)),
        TOKENS,
        {"q/heads": f"2 head: {HEADS}", "v/inner": "2 inner of q/heads: v.weight.0 v.bias.0 > o.weight.1"},
    ),
    "attention by its parts": (
        Net(by_parts, **qkvo(4, 4, 6, 6)),
        TOKENS,
        {
            "q": "4 channel: q.weight.0 q.bias.0 k.weight.0 k.bias.0 >",
            "v": "6 channel: v.weight.0 v.bias.0 > o.weight.1",
        },
    ),
    "learnt queries": (
        Net(latents, lat=weight(6, 4), k=Linear(3, 4), v=Linear(3, 4), o=Linear(24, 2)),
        TOKENS,
        {
            "lat": "6 channel: lat.0 > o.weight.1",
            "k": "4 channel: k.weight.0 k.bias.0 > lat.1",
            "v/inner": "4 inner of lat: v.weight.0 v.bias.0 > o.weight.1",
        },
    ),
    "gated": (
        Net(lambda net, x: net.d(F.silu(net.g(x)) * net.u(x)), g=Linear(3, 4), u=Linear(3, 4), d=Linear(4, 2)),
        VECTORS,
        {"g": "4 channel: g.weight.0 g.bias.0 u.weight.0 u.bias.0 > d.weight.1"},
    ),
    "squeeze and excite": (
        Net(squeeze_excite, a=conv(2, 4, 1), d=Linear(4, 3), u=Linear(3, 4), o=conv(4, 2, 1)),
        PICTURES,
        {
            "a": "4 channel: a.weight.0 a.bias.0 u.weight.0 u.bias.0 > d.weight.1 o.weight.1",
            "d": "3 channel: d.weight.0 d.bias.0 > u.weight.1",
        },
    ),
    "positions": (
        Net(lambda net, x: net.o(net.a(x) + net.p), a=Linear(3, 4), p=weight(1, 5, 4), o=Linear(4, 2)),
        TOKENS,
        {"p": "4 channel: p.2 a.weight.0 a.bias.0 > o.weight.1"},
    ),
    "a product summed by itself": (
        Net(lambda net, x: net.c((net.a(x) * net.b(x)).sum(-1, keepdim=True)), a=Linear(3, 4), b=Linear(3, 4), c=Linear(1, 2)),
        VECTORS,
        {"a": "4 channel: a.weight.0 a.bias.0 b.weight.0 b.bias.0 >"},
    ),
}


@pytest.mark.parametrize(("model", "inputs", "expected"), CASES.values(), ids=CASES)
def test_groups(model, inputs, expected):
    check(model, inputs, expected)


def test_a_causal_mask_keeps_its_positions():
    """Queries that are parameters could lose rows, were these not ordered by the mask."""
    forward = lambda net, x: net.o(  # noqa: E731
        (net.lat * F.scaled_dot_product_attention(net.lat.expand(2, 1, 5, 4), x[:, None], x[:, None], is_causal=True)).flatten(1)
    )
    coupling = couple(trace(Net(forward, lat=weight(5, 4), o=Linear(20, 2)), (noise(2, 5, 4),)))
    assert "a causal mask orders it" in coupling.fixed("lat", 0)


def test_the_default_scale_keeps_the_width_of_heads_and_says_so():
    coupling = couple(trace(CASES["heads of one layer"][0], (TOKENS,)))
    assert "attention's default scale is read from its size: give scale=" in coupling.fixed("a.weight", 0)
