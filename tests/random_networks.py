"""Random networks made of all that the coupling rules know, for whatever must hold for each: a hypothesis strategy.

A network is a list of layers, each reading one or two earlier values. Values are pictures (N, C, H, W), token sequences
(N, L, C) or vectors (N, C); channel counts are 2 to 16.

>>> import hypothesis
>>> @hypothesis.settings(max_examples=2, database=None)
... @hypothesis.given(random_networks(depth=2))
... def runs(made):
...     model, example = made
...     assert model(*example) is not None
>>> runs()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Chain", "random_networks"]

MOST = 16  # channels


@dataclass(frozen=True)
class Picture:
    """(N, channels, size, size)."""

    channels: int
    size: int


@dataclass(frozen=True)
class Tokens:
    """(N, length, channels); `size` squared is the length where the tokens came from a picture."""

    channels: int
    length: int
    size: int = 0


@dataclass(frozen=True)
class Flat:
    """(N, channels)."""

    channels: int


Kind = Picture | Tokens | Flat


class Apply(nn.Module):
    """A function of the inputs, with layers that it may call as `self.layers`."""

    def __init__(self, name: str, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.name, self.function, self.layers = name, function, nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, *self.layers)

    def extra_repr(self) -> str:
        return self.name


class Chain(nn.Module):
    """Layers in order; `sources` are, for each, the values that it reads (0: the input), `outputs` those that are returned."""

    def __init__(self, layers: Sequence[nn.Module], sources: Sequence[tuple[int, ...]], outputs: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.sources, self.outputs = tuple(sources), tuple(outputs)

    def forward(self, x: Tensor) -> Any:
        values = [x]
        for layer, sources in zip(self.layers, self.sources, strict=True):
            values.append(layer(*(values[s] for s in sources)))
        found = tuple(values[o] for o in self.outputs)
        return found if len(found) > 1 else found[0]

    def extra_repr(self) -> str:
        return f"sources={self.sources}, outputs={self.outputs}"


Draw = Callable[[st.SearchStrategy[Any]], Any]
Made = tuple[nn.Module, Kind]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "softplus": F.softplus,
    "silu": F.silu,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "exp_neg": lambda x: torch.exp(-x.abs()),
    "scaled": lambda x: x * 0.5 + 1.0,
    "clamp": lambda x: x.clamp(0.1, 2.0),
    "square": lambda x: x**2,
}


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _count(draw: Draw, multiple: int = 1) -> int:
    return multiple * draw(st.integers(max(1, -(-2 // multiple)), max(1, MOST // multiple)))


# one picture


def conv(draw: Draw, x: Picture) -> Made:
    groups = draw(st.sampled_from(_divisors(x.channels)))
    out, kernel = _count(draw, groups), draw(st.sampled_from([1, 3]))
    stride, dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]))
    bias = draw(st.booleans())
    layer = nn.Conv2d(x.channels, out, kernel, stride, dilation * (kernel // 2), dilation, groups, bias)
    return layer, Picture(out, (x.size - 1) // stride + 1)


def depthwise(draw: Draw, x: Picture) -> Made:
    multiplier = draw(st.sampled_from([1, 1, 2])) if x.channels * 2 <= MOST else 1
    layer = nn.Conv2d(x.channels, x.channels * multiplier, 3, padding=1, groups=x.channels, bias=draw(st.booleans()))
    return layer, Picture(x.channels * multiplier, x.size)


def transposed(draw: Draw, x: Picture) -> Made:
    groups = draw(st.sampled_from(_divisors(x.channels)))
    out, stride = _count(draw, groups), 2 if x.size <= 3 else 1
    layer = nn.ConvTranspose2d(x.channels, out, 3, stride, 1, stride - 1, groups, draw(st.booleans()))
    return layer, Picture(out, x.size * stride)


def batch_norm(draw: Draw, x: Picture) -> Made:
    return nn.BatchNorm2d(x.channels, affine=draw(st.booleans())), x


def group_norm(draw: Draw, x: Picture) -> Made:
    return nn.GroupNorm(draw(st.sampled_from(_divisors(x.channels))), x.channels, affine=draw(st.booleans())), x


def instance_norm(draw: Draw, x: Picture) -> Made:
    return nn.InstanceNorm2d(x.channels, affine=draw(st.booleans()), track_running_stats=x.size == 1 or draw(st.booleans())), x


def squeeze_excite(draw: Draw, x: Picture) -> Made:
    hidden = _count(draw)
    gate = draw(st.sampled_from(["sigmoid", "hardsigmoid"]))

    def function(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
        return x * ACTIVATIONS[gate](up(F.relu(down(x.mean((2, 3))))))[:, :, None, None]

    return Apply("squeeze_excite", function, nn.Linear(x.channels, hidden), nn.Linear(hidden, x.channels)), x


def channel_shuffle(draw: Draw, x: Picture) -> Made:
    groups = draw(st.sampled_from(_divisors(x.channels)))

    def function(x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return x.view(n, groups, -1, h, w).transpose(1, 2).reshape(n, -1, h, w)

    return Apply(f"channel_shuffle {groups}", function), x


def pixel_shuffle(draw: Draw, x: Picture) -> Made:
    if x.channels % 4 or x.channels < 8 or x.size > 3:
        return nn.Conv2d(x.channels, 8, 1), Picture(8, x.size)
    return nn.PixelShuffle(2), Picture(x.channels // 4, x.size * 2)


def pixel_unshuffle(draw: Draw, x: Picture) -> Made:
    if x.size % 2 or x.channels * 4 > MOST:
        return nn.Conv2d(x.channels, 3, 1), Picture(3, x.size)
    return nn.PixelUnshuffle(2), Picture(x.channels * 4, x.size // 2)


def pooling(draw: Draw, x: Picture) -> Made:
    layers: list[Made] = [(nn.AvgPool2d(3, 1, 1), x), (nn.MaxPool2d(3, 1, 1), x), (nn.AdaptiveAvgPool2d(2), Picture(x.channels, 2))]
    if x.size <= 3:
        layers.append((nn.Upsample(scale_factor=2), Picture(x.channels, x.size * 2)))
    return draw(st.sampled_from(layers))


def padded(draw: Draw, x: Picture) -> Made:
    """Channels of zeros added, as in the shortcuts of the first residual networks."""
    more = draw(st.integers(0, MOST - x.channels)) if x.channels < MOST else 0
    return Apply("padded", lambda x: F.pad(x, (0, 0, 0, 0, 0, more))), Picture(x.channels + more, x.size)


def prelu(draw: Draw, x: Picture) -> Made:
    return nn.PReLU(draw(st.sampled_from([1, x.channels]))), x


def to_tokens(draw: Draw, x: Picture) -> Made:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]),
    ]
    return Apply("to_tokens", draw(st.sampled_from(functions))), Tokens(x.channels, x.size**2, x.size)


def flatten(draw: Draw, x: Picture) -> Made:
    out = _count(draw)
    return nn.Sequential(nn.Flatten(), nn.Linear(x.channels * x.size**2, out)), Flat(out)


def pooled(draw: Draw, x: Picture) -> Made:
    return Apply("pooled", lambda x: x.mean((2, 3))), Flat(x.channels)


# tokens


def gated_mlp(draw: Draw, x: Tokens) -> Made:
    hidden = _count(draw)

    def function(x: Tensor, gate: nn.Module, up: nn.Module, down: nn.Module) -> Tensor:
        return x + down(F.silu(gate(x)) * up(x))

    layers = [nn.Linear(x.channels, hidden), nn.Linear(x.channels, hidden), nn.Linear(hidden, x.channels)]
    return Apply("gated_mlp", function, *layers), x


def glu(draw: Draw, x: Kind) -> Made:
    out = _count(draw)
    return nn.Sequential(nn.Linear(x.channels, 2 * out), nn.GLU(-1)), _resized(x, out)


def layer_norm(draw: Draw, x: Tokens) -> Made:
    made: list[nn.Module] = [nn.LayerNorm(x.channels), nn.LayerNorm(x.channels, elementwise_affine=False), nn.RMSNorm(x.channels)]
    return draw(st.sampled_from(made)), x


def attention(draw: Draw, x: Tokens) -> Made:
    """Heads from one fused projection or from three, by the fused op or by its parts, keys perhaps shared by several queries."""
    heads, width = draw(st.sampled_from([(2, 2), (2, 4), (4, 2), (1, 4), (3, 2)]))
    if draw(st.booleans()):
        return Apply(
            "fused_attention", _fused(draw, heads), nn.Linear(x.channels, 3 * heads * width), nn.Linear(heads * width, x.channels)
        ), x
    shared = draw(st.sampled_from(_divisors(heads)))
    layers = [nn.Linear(x.channels, n * width, bias=draw(st.booleans())) for n in (heads, shared, shared)]
    return Apply("attention", _separate(draw, heads, shared), *layers, nn.Linear(heads * width, x.channels)), x


def _fused(draw: Draw, heads: int) -> Callable[..., Tensor]:
    attend = _attend(draw)

    def function(x: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
        n, length, _ = x.shape
        q, k, v = qkv(x).reshape(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        return x + out(attend(q, k, v).transpose(1, 2).reshape(n, length, -1))

    return function


def _separate(draw: Draw, heads: int, shared: int) -> Callable[..., Tensor]:
    attend, expands = _attend(draw), draw(st.booleans())

    def function(x: Tensor, query: nn.Module, key: nn.Module, value: nn.Module, out: nn.Module) -> Tensor:
        n, length, _ = x.shape
        q = query(x).view(n, length, heads, -1).transpose(1, 2)
        k, v = (layer(x).view(n, length, shared, -1).transpose(1, 2) for layer in (key, value))
        if shared < heads and not expands:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        elif shared < heads:
            y = attend(q, *(t.repeat_interleave(heads // shared, 1) for t in (k, v)))
        else:
            y = attend(q, k, v)
        return x + out(y.transpose(1, 2).flatten(2))

    return function


def _attend(draw: Draw) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    functions: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [
        F.scaled_dot_product_attention,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5),
        lambda q, k, v: ((q @ k.transpose(-2, -1)) * 0.7).softmax(-1) @ v,
        lambda q, k, v: torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v),
    ]
    return draw(st.sampled_from(functions))


def recurrent(draw: Draw, x: Tokens) -> Made:
    hidden = draw(st.integers(2, 6))
    both, layers = draw(st.booleans()), draw(st.integers(1, 2))
    if draw(st.booleans()):
        projected = draw(st.integers(0, hidden - 1))
        layer: nn.Module = nn.LSTM(x.channels, hidden, layers, batch_first=True, bidirectional=both, proj_size=projected)
        hidden = projected or hidden
    else:
        layer = nn.GRU(x.channels, hidden, layers, batch_first=True, bidirectional=both, bias=draw(st.booleans()))
    return Apply("recurrent", lambda x, layer: layer(x)[0], layer), Tokens(hidden * (1 + both), x.length, x.size)


class Positions(nn.Module):
    """A learnt table of positions, added."""

    def __init__(self, length: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, length, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


def positions(draw: Draw, x: Tokens) -> Made:
    return Positions(x.length, x.channels), x


def mixer(draw: Draw, x: Tokens) -> Made:
    """A small network along the sequence."""
    hidden = _count(draw)

    def function(x: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
        return x + down(F.gelu(up(x.transpose(1, 2)))).transpose(1, 2)

    return Apply("mixer", function, nn.Linear(x.length, hidden), nn.Linear(hidden, x.length)), x


def convolution_1d(draw: Draw, x: Tokens) -> Made:
    out = _count(draw)
    function = lambda x, layer: layer(x.transpose(1, 2)).transpose(1, 2)  # noqa: E731
    return Apply("convolution_1d", function, nn.Conv1d(x.channels, out, 3, padding=1)), Tokens(out, x.length, x.size)


class Einsum(nn.Module):
    """A product over channels spelled out."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, out) * channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...c,cd->...d", x, self.weight)


def einsum(draw: Draw, x: Kind) -> Made:
    out = _count(draw)
    return Einsum(x.channels, out), _resized(x, out)


class Tied(nn.Module):
    """There and back by one weight."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, channels) * channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.weight)), self.weight.t())


def tied(draw: Draw, x: Kind) -> Made:
    return Tied(x.channels, _count(draw)), x


def to_picture(draw: Draw, x: Tokens) -> Made:
    size = x.size
    if not size or size * size != x.length:
        return linear(draw, x)
    return Apply("to_picture", lambda x: x.transpose(1, 2).reshape(x.shape[0], -1, size, size)), Picture(x.channels, size)


def summary(draw: Draw, x: Tokens) -> Made:
    functions: list[Callable[[Tensor], Tensor]] = [lambda x: x.mean(1), lambda x: x[:, 0], lambda x: x.amax(1), lambda x: x[:, -1]]
    return Apply("summary", draw(st.sampled_from(functions))), Flat(x.channels)


# any kind


def _resized(x: Kind, channels: int) -> Kind:
    return type(x)(**{**vars(x), "channels": channels})


def _dim(x: Kind) -> int:
    return 1 if isinstance(x, Picture) else -1


def activation(draw: Draw, x: Kind) -> Made:
    name = draw(st.sampled_from(list(ACTIVATIONS)))
    return Apply(name, ACTIVATIONS[name]), x


def linear(draw: Draw, x: Kind) -> Made:
    out = _count(draw)
    return nn.Linear(x.channels, out, bias=draw(st.booleans())), _resized(x, out)


def halves(draw: Draw, x: Kind) -> Made:
    """The channels in two pieces, which are gated, exchanged, or thinned out."""
    d, half = _dim(x), x.channels // 2
    functions: list[tuple[str, Callable[[Tensor], Tensor], int]] = [
        ("strided", lambda x: x.narrow(d, 0, 2 * half).unflatten(d, (half, 2)).select(d + 1 if d == 1 else d, 0), half),
        ("rest", lambda x: x.narrow(d, 1, x.shape[d] - 1), x.channels - 1),
        ("flip", lambda x: x.flip(d), x.channels),
        ("every_second", lambda x: x[:, ::2] if d == 1 else x[..., ::2], (x.channels + 1) // 2),
    ]
    if x.channels % 2 == 0:
        functions += [
            ("gated", lambda x: torch.mul(x.chunk(2, d)[0], torch.sigmoid(x.chunk(2, d)[1])), half),
            ("exchanged", lambda x: torch.cat(x.split(half, d)[::-1], d), x.channels),
            ("half_processed", lambda x: torch.cat([torch.tanh(x.chunk(2, d)[0]), x.chunk(2, d)[1]], d), x.channels),
        ]
    fitting = [f for f in functions if f[2] >= 2] or functions[2:3]
    name, function, channels = draw(st.sampled_from(fitting))
    return Apply(name, function), _resized(x, channels)


ONE: dict[type, list[Any]] = {
    Picture: [conv, conv, conv, depthwise, transposed, batch_norm, group_norm, instance_norm, squeeze_excite, channel_shuffle]
    + [pixel_shuffle, pixel_unshuffle, pooling, padded, prelu, to_tokens, to_tokens, flatten, pooled, activation, activation, halves],
    Tokens: [linear, linear, gated_mlp, glu, layer_norm, attention, attention, recurrent, positions, mixer, convolution_1d, einsum, tied]
    + [to_picture, summary, activation, halves],
    Flat: [linear, linear, glu, einsum, tied, activation, halves],
}


def _combine(draw: Draw, a: Kind, b: Kind) -> Made:
    """Two values of one kind but for their channels: added or multiplied, the second projected where it must be, or joined."""
    d = _dim(a)
    if a.channels + b.channels <= MOST and draw(st.booleans()):
        return Apply("cat", lambda x, y: torch.cat([x, y], d)), _resized(a, a.channels + b.channels)
    project = nn.Identity() if a.channels == b.channels else _projection(a, b.channels)
    functions: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
        ("add", torch.add),
        ("sub", torch.sub),
        ("mul", torch.mul),
        ("gate", lambda x, y: x * torch.sigmoid(y)),
        ("maximum", torch.maximum),
        ("where", lambda x, y: torch.where(x > 0, x, y)),
    ]
    name, function = draw(st.sampled_from(functions))
    return Apply(name, lambda x, y, layer: function(layer(x), y), project), b


def _projection(a: Kind, channels: int) -> nn.Module:
    return nn.Conv2d(a.channels, channels, 1) if isinstance(a, Picture) else nn.Linear(a.channels, channels)


def _fits(a: Kind, b: Kind) -> bool:
    return _resized(a, 0) == _resized(b, 0)


def _head(draw: Draw, x: Kind) -> nn.Module:
    """A last layer, so that what it reads can be cut."""
    if isinstance(x, Picture):
        return nn.Conv2d(x.channels, 3, 1)
    if isinstance(x, Tokens) and draw(st.booleans()):
        return nn.Sequential(nn.Flatten(), nn.Linear(x.channels * x.length, 3))
    return nn.Linear(x.channels, 3)


@st.composite
def random_networks(draw: Draw, depth: int = 8) -> tuple[nn.Module, tuple[Tensor]]:
    """A network in eval mode of at most `depth` layers besides the first and the last, and an example of two samples."""
    torch.manual_seed(draw(st.integers(0, 9)))
    start = draw(st.sampled_from(["picture", "picture", "tokens", "words"]))
    channels = _count(draw)
    first: nn.Module
    kinds: list[Kind]
    if start == "picture":
        first, kinds = nn.Conv2d(2, channels, 3, padding=1), [Picture(2, 4), Picture(channels, 4)]
        example = torch.randn(2, 2, 4, 4)
    elif start == "tokens":
        first, kinds, example = nn.Linear(3, channels), [Tokens(3, 4, 2), Tokens(channels, 4, 2)], torch.randn(2, 4, 3)
    else:
        first, kinds, example = nn.Embedding(7, channels), [Flat(0), Tokens(channels, 4, 2)], torch.randint(7, (2, 4))
    layers: list[nn.Module] = [first]
    sources: list[tuple[int, ...]] = [(0,)]
    for _ in range(draw(st.integers(1, depth))):
        layer, kind, used = _step(draw, kinds, layers, sources)
        layers.append(layer)
        kinds.append(kind)
        sources.append(used)
    outputs = []
    for at in {len(kinds) - 1, draw(st.integers(1, len(kinds) - 1)) if draw(st.booleans()) else len(kinds) - 1}:
        layers.append(_head(draw, kinds[at]))
        sources.append((at,))
        outputs.append(len(layers))
    model = Chain(layers, sources, outputs).eval()
    _vary(model)
    return model, (example,)


def _step(
    draw: Draw, kinds: list[Kind], layers: list[nn.Module], sources: list[tuple[int, ...]]
) -> tuple[nn.Module, Kind, tuple[int, ...]]:
    """One more layer: a new one of the last value, one that is there already, or two values combined."""
    last, at = kinds[-1], len(kinds) - 1
    again = [k for k, s in enumerate(sources) if k and len(s) == 1 and kinds[s[0]] == last]
    partners = [k for k in range(1, at) if _fits(kinds[k], last)]
    choices = ["one"] * 4 + ["again"] * bool(again) + ["two"] * (2 * bool(partners))
    choice = draw(st.sampled_from(choices))
    if choice == "again":
        k = draw(st.sampled_from(again))
        return layers[k], kinds[k + 1], (at,)
    if choice == "two":
        k = draw(st.sampled_from(partners))
        layer, kind = _combine(draw, kinds[k], last)
        return layer, kind, (k, at)
    layer, kind = draw(st.sampled_from(ONE[type(last)]))(draw, last)
    return layer, kind, (at,)


@torch.no_grad()
def _vary(model: nn.Module) -> None:
    """Tell channels apart that a fresh network treats alike."""
    for module in model.modules():
        mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(var, Tensor):
            mean.normal_(0, 0.3)
            var.uniform_(0.5, 1.5)
    for weight in model.parameters():
        if weight.ndim == 1:
            weight.add_(0.3 * torch.randn_like(weight))
