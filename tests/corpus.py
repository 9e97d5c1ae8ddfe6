"""Networks of many kinds, for whatever must hold for all: name -> (how to build it, an example for it).

Hand-written awkward ones, the zoo's, and tiny configurations of `transformers`. Weights are random, by a fixed seed.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.names import members

Example = tuple | Mapping[str, Any]


class Residual(nn.Module):
    """A batch-normalised residual net with in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.body(x)
        x += 0.5
        return self.head(F.relu_(x).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.merge, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        low = F.leaky_relu(self.deep(F.max_pool2d(skip, 2)), 0.1)
        low = F.interpolate(low, scale_factor=2, mode="bilinear")[:, :8] + self.up(low)
        return torch.sigmoid(self.out(self.merge(torch.cat([low, skip], 1))))


class Shuffle(nn.Module):
    """Grouped and depthwise convolutions with a channel shuffle by views."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise, self.last = (
            nn.Conv2d(6, 12, 1, groups=3),
            nn.Conv2d(12, 12, 3, groups=12),
            nn.Conv2d(12, 4, 1, groups=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.pixel_shuffle(self.last(F.hardswish(self.depthwise(x))), 2)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.conv(x))
        gate = F.hardsigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return F.log_softmax((x * gate).flatten(1), 1), gate


class DenseConcat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.elu(layer(x))], 1)
        return F.avg_pool2d(x, 2)


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.filters, self.gates = nn.Conv1d(1, 6, 1), nn.Conv1d(6, 6, 2, dilation=2), nn.Conv1d(6, 6, 2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(F.pad(x, (2, 0)))
        return torch.tanh(self.filters(x)) * torch.sigmoid(self.gates(x))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(30, 8), nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True, dropout=0.5)
        self.gru, self.rnn = nn.GRU(12, 5), nn.RNN(5, 4, nonlinearity="relu")

    def forward(self, tokens: Tensor) -> Tensor:
        x, (hidden, _) = self.lstm(self.embed(tokens))
        return self.rnn(self.gru(x.transpose(0, 1))[0])[1].sum(0) + hidden.mean()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(16, 4, batch_first=True), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.attention(x, x, x)
        return self.norm(x + y), weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("causal", torch.ones(8, 8, dtype=torch.bool).tril())
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        scores = (x @ x.transpose(1, 2)).masked_fill(~self.causal[: x.shape[1], : x.shape[1]], -torch.inf)
        return self.head(scores.softmax(-1) @ x) * self.steps


class Nested(nn.Module):
    """Nested inputs and outputs, a constant argument, an output that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, pair: tuple[Tensor, dict[str, Tensor]], *, scale: float = 2.0) -> dict:
        a, b = self.left(pair[0]), self.right(pair[1]["right"])
        return {"sum": a + b * scale, "parts": (a, [b, {"same": pair[0]}]), "none": None}


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Parameter(torch.randn(4, 8, 16)), nn.Parameter(torch.randn(4, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        q, k = torch.einsum("bnd,hed->bhne", x, self.query), torch.einsum("bnd,hed->bhne", x, self.key)
        return torch.einsum("bhne,bhme->bhnm", q, k).softmax(-1).amax(-1).cumsum(-1)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.channels, self.norm = nn.Linear(9, 9), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)), nn.RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        first, second = self.norm(x + self.channels(x)).chunk(2, dim=-1)
        return F.glu(torch.stack([first, second], -1).flatten(-2), -1)


class Functional(nn.Module):
    """Weights that no layer owns, normalised and shared between branches; weight norm by torch's own parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        kernel = F.normalize(self.kernel.flatten(1)).view_as(self.kernel)
        a, b = (F.conv2d(x, kernel).mean((2, 3)) for x in (left, right))
        return self.head(torch.where(a > b, a, b) - (a - b).abs())


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.prelu = nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4, affine=True), nn.PReLU(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(self.prelu(self.norm(self.conv(x))), 2)


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3).double()
        self.small = nn.Parameter(torch.randn(3).to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.double()).to(torch.float32) + self.small


def _image(size: int, channels: int = 3) -> tuple[Tensor]:
    return (torch.linspace(-1, 1, 2 * channels * size * size).reshape(2, channels, size, size),)


def _sequence(*shape: int) -> tuple[Tensor]:
    return (torch.linspace(-1, 1, int(torch.Size(shape).numel())).reshape(shape),)


TOKENS = torch.arange(16).reshape(2, 8) % 11

HAND_WRITTEN: dict[str, tuple[Callable[[], nn.Module], Example]] = {
    "residual": (Residual, _image(8)),
    "unet": (UNet, _image(8)),
    "shuffle": (Shuffle, _image(6, 6)),
    "squeeze_excite": (SqueezeExcite, _image(8)),
    "dense_concat": (DenseConcat, _image(8)),
    "wavenet": (WaveNet, _sequence(2, 1, 20)),
    "recurrent": (Recurrent, (TOKENS,)),
    "attention": (Attention, _sequence(2, 5, 16)),
    "encoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2), _sequence(2, 5, 16)),
    "decoder": (lambda: nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), _sequence(2, 5, 16) * 2),
    "tied": (Tied, (TOKENS,)),
    "nested": (Nested, {"pair": (torch.ones(2, 3), {"right": torch.full((2, 2), 0.5)}), "scale": 3.0}),
    "einsum": (Einsum, _sequence(2, 5, 16)),
    "mixer": (Mixer, _sequence(2, 9, 8)),
    "functional": (Functional, _image(8) * 2),
    "volume": (Volume, _sequence(2, 1, 6, 6, 6)),
    "double": (Double, _sequence(2, 5)),
}

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
_TEXT = _SMALL | {"vocab_size": 99, "max_position_embeddings": 64}
_CAUSAL = _TEXT | {"use_cache": False}
_GROUPED = _CAUSAL | {"num_key_value_heads": 2}
_VISION = _SMALL | {"image_size": 32, "patch_size": 8}
_IDS, _PIXELS = {"input_ids": TOKENS}, {"pixel_values": _image(32)[0]}

TRANSFORMERS: dict[str, tuple[str, dict[str, Any], Example]] = {
    "Bert": ("Model", _TEXT, _IDS | {"attention_mask": torch.ones(2, 8, dtype=torch.long)}),
    "Electra": ("Model", _TEXT | {"embedding_size": 16}, _IDS),
    "Albert": ("Model", _TEXT | {"embedding_size": 16}, _IDS),
    "GPT2": ("LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 64, "use_cache": False}, _IDS),
    "GPTNeoX": ("ForCausalLM", _CAUSAL, _IDS),
    "Llama": ("ForCausalLM", _GROUPED, _IDS),
    "Qwen2": ("ForCausalLM", _GROUPED, _IDS),
    "Gemma2": ("ForCausalLM", _GROUPED | {"head_dim": 8}, _IDS),
    "T5": ("EncoderModel", {"d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4, "vocab_size": 99}, _IDS),
    "ViT": ("Model", _VISION, _PIXELS),
    "Dinov2": ("Model", _SMALL | {"image_size": 32, "patch_size": 8, "mlp_ratio": 2}, _PIXELS),
    "Swin": (
        "Model",
        {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
        _PIXELS,
    ),
    "ConvNext": ("Model", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, _PIXELS),
    "MobileNetV2": ("Model", {"image_size": 32, "depth_multiplier": 0.25}, _PIXELS),
}


def networks() -> Iterator[tuple[str, nn.Module, Example]]:
    """(name, network in eval mode, example) of each; `transformers` is imported here, because it takes seconds."""
    import transformers

    transformers.logging.set_verbosity_error()
    for name, (make, example) in HAND_WRITTEN.items():
        torch.manual_seed(0)
        yield name, make().eval(), example
    for name, make in members("zoo").items():
        torch.manual_seed(0)
        model = make().eval()
        yield f"zoo_{name}", model, _sequence(2, *model.example_shape)
    for name, (head, options, example) in TRANSFORMERS.items():
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**options)
        yield f"transformers_{name}", getattr(transformers, f"{name}{head}")(config).eval(), example
