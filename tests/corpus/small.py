"""Small networks, each of one or two habits of writing that a tool must take as they come."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpus.examples import TOKENS, Table, image, ramp

__all__ = ["SMALL"]


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
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.conv, self.down, self.up = nn.Conv2d(32, 16, 3), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.conv(F.silu(self.stem(x))))
        gate = F.hardsigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return F.log_softmax((x * gate).flatten(1), 1), gate


class DenseConcat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Conv2d(15, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.elu(layer(x))], 1)
        return self.head(F.avg_pool2d(x, 2))


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
        self.left = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))
        self.right = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))

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
        self.head = nn.Conv3d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool3d(self.prelu(self.norm(self.conv(x))), 2))


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()
        self.small = nn.Parameter(torch.randn(3).to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.double()).to(torch.float32) + self.small


SMALL: Table = {
    "residual": (Residual, image(8)),
    "unet": (UNet, image(8)),
    "shuffle": (Shuffle, image(6, 6)),
    "squeeze_excite": (SqueezeExcite, image(8)),
    "dense_concat": (DenseConcat, image(8)),
    "wavenet": (WaveNet, ramp(2, 1, 20)),
    "recurrent": (Recurrent, (TOKENS,)),
    "attention": (Attention, ramp(2, 5, 16)),
    "encoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2), ramp(2, 5, 16)),
    "decoder": (lambda: nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), ramp(2, 5, 16) * 2),
    "tied": (Tied, (TOKENS,)),
    "nested": (Nested, {"pair": (torch.ones(2, 3), {"right": torch.full((2, 2), 0.5)}), "scale": 3.0}),
    "einsum": (Einsum, ramp(2, 5, 16)),
    "mixer": (Mixer, ramp(2, 9, 8)),
    "functional": (Functional, image(8) * 2),
    "volume": (Volume, ramp(2, 1, 6, 6, 6)),
    "double": (Double, ramp(2, 5)),
}
