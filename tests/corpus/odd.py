"""Networks that couple their weights in odd ways: tied, shared, functional, over graphs, points, tables and pairs."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpus.examples import Example, Table, noise, tokens
from corpus.language import Translator

__all__ = ["ODD", "REFUSED"]


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's weights transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder1, self.encoder2 = nn.Linear(24, 64), nn.Linear(64, 16)
        self.bias1, self.bias2 = nn.Parameter(torch.randn(64) * 0.1), nn.Parameter(torch.randn(24) * 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder2(torch.relu(self.encoder1(x)))
        hidden = torch.relu(F.linear(code, self.encoder2.weight.t(), self.bias1))
        return F.linear(hidden, self.encoder1.weight.t(), self.bias2), code


class Variational(nn.Module):
    """Mean and log-variance from one trunk; in eval mode the mean is decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten())
        self.mean, self.log_variance = nn.Linear(32 * 9, 8), nn.Linear(32 * 9, 8)
        self.expand, self.decoder = nn.Linear(8, 32 * 9), nn.Sequential(nn.Unflatten(1, (32, 3, 3)), nn.ConvTranspose2d(32, 16, 4, 2, 1))
        self.out = nn.ConvTranspose2d(16, 1, 4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encoder(x)
        mean, log_variance = self.mean(x), self.log_variance(x)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) if self.training else mean
        return torch.sigmoid(self.out(F.relu(self.decoder(F.relu(self.expand(z)))))), mean, log_variance


class Siamese(nn.Module):
    """One trunk for two pictures, compared by distance and by product."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.embed, self.compare = nn.Linear(32, 32), nn.Sequential(nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.embed(self.trunk(left)), self.embed(self.trunk(right))
        return self.compare(torch.cat([a * b, torch.abs(a - b), a + b], 1)).squeeze(1), F.cosine_similarity(a, b)


class TwoTower(nn.Module):
    """A user and an item, each by its own tower, meet in all inner products; in-batch scores."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 16))
        self.item = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 16))
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, v = F.normalize(self.user(user), dim=-1), F.normalize(self.item(item), dim=-1)
        return u @ v.t() * self.temperature.exp()


class Tabular(nn.Module):
    """An embedding for each category, numbers by a batch norm, and an MLP over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(size, width) for size, width in ((10, 4), (6, 4), (20, 8)))
        self.bn_cont = nn.BatchNorm1d(8)
        self.layers = nn.Sequential(
            nn.Linear(24, 64), nn.ReLU(inplace=True), nn.BatchNorm1d(64), nn.Linear(64, 32), nn.ReLU(inplace=True), nn.BatchNorm1d(32)
        )
        self.out = nn.Linear(32, 3)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        x = torch.cat([embed(categories[:, i]) for i, embed in enumerate(self.embeds)], 1)
        return self.out(self.layers(torch.cat([x, self.bn_cont(numbers)], 1)))


class WideAndDeep(nn.Module):
    """Bags of words summed, crossed by a factorisation machine, beside a deep part."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.wide, self.fields = nn.EmbeddingBag(30, 24, mode="mean"), nn.Embedding(30, 1), nn.Embedding(30, 8)
        self.deep = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, ids: Tensor) -> Tensor:
        factors = self.fields(ids)
        crossed = 0.5 * (factors.sum(1).pow(2) - factors.pow(2).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.deep(self.bag(ids)) + self.wide(ids).sum(1) + crossed)


class GraphConvolution(nn.Module):
    """Node features multiplied by weights that are plain parameters, then by a normalised adjacency."""

    def __init__(self) -> None:
        super().__init__()
        self.weight1, self.weight2 = nn.Parameter(torch.randn(12, 32) / 4), nn.Parameter(torch.randn(32, 32) / 6)
        self.bias1, self.bias2 = nn.Parameter(torch.randn(32) / 6), nn.Parameter(torch.randn(32) / 6)
        self.loop, self.readout = nn.Linear(32, 32, bias=False), nn.Linear(32, 4)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        adjacency = adjacency + torch.eye(adjacency.shape[-1])
        degree = adjacency.sum(-1).clamp(min=1).rsqrt()
        adjacency = degree.unsqueeze(-1) * adjacency * degree.unsqueeze(-2)
        x = F.relu(torch.matmul(adjacency, torch.matmul(nodes, self.weight1)) + self.bias1)
        x = F.relu(torch.matmul(adjacency, x @ self.weight2) + self.bias2 + self.loop(x))
        return self.readout(x.max(dim=1).values)


class EdgeAttention(nn.Module):
    """As GAT: scores of pairs of nodes by two halves of a vector, heads concatenated."""

    def __init__(self, heads: int = 4, width: int = 8) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.project, self.skip = nn.Linear(12, heads * width, bias=False), nn.Linear(12, heads * width)
        self.source, self.target = nn.Parameter(torch.randn(1, 1, heads, width)), nn.Parameter(torch.randn(1, 1, heads, width))
        self.hidden, self.out = nn.Linear(heads * width, 32), nn.Linear(32, 4)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        b, n, _ = nodes.shape
        h = self.project(nodes).view(b, n, self.heads, self.width)
        scores = (h * self.source).sum(-1).unsqueeze(2) + (h * self.target).sum(-1).unsqueeze(1)
        scores = F.leaky_relu(scores, 0.2).masked_fill(adjacency.unsqueeze(-1) == 0, -1e9)
        x = torch.einsum("bijh,bjhd->bihd", scores.softmax(dim=2), h).reshape(b, n, -1)
        return self.out(F.elu(self.hidden(F.elu(x + self.skip(nodes)))))


class PointNet(nn.Module):
    """A learned transform of the points, 1-D convolutions, a maximum over points repeated beside each point's features."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU())
        self.matrix = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 9))
        self.conv1, self.bn1, self.conv2, self.bn2 = nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.Conv1d(32, 64, 1), nn.BatchNorm1d(64)
        self.segment = nn.Sequential(nn.Conv1d(96, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 5, 1))

    def forward(self, points: Tensor) -> Tensor:
        matrix = self.matrix(torch.max(self.transform(points), 2)[0]).view(-1, 3, 3) + torch.eye(3).view(1, 3, 3)
        x = torch.bmm(points.transpose(2, 1), matrix).transpose(2, 1)
        local = F.relu(self.bn1(self.conv1(x)))
        whole = torch.max(self.bn2(self.conv2(local)), 2, keepdim=True)[0]
        whole = whole.view(-1, 64, 1).repeat(1, 1, points.shape[2])
        return self.segment(torch.cat([local, whole], 1)).transpose(2, 1)


class Recycled(nn.Module):
    """One layer used twice in a `Sequential`, and one block used at each of three steps."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(32, 32)
        self.net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU())
        self.step, self.norm, self.out = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)), nn.LayerNorm(32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x)
        for _ in range(3):
            x = self.norm(x + self.step(x))
        return self.out(x)


class FunctionalWeights(nn.Module):
    """No layers at all: weights in a dict of parameters, standardised kernels, a batch norm by function."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        shapes = {"conv1": (16, 3, 3, 3), "conv2": (32, 16, 3, 3), "fc": (10, 32), "b1": (16,), "b2": (32,), "scale": (32,)}
        self.params = nn.ParameterDict({name: nn.Parameter(torch.randn(shape) * 0.1) for name, shape in shapes.items()})
        self.register_buffer("mean", torch.randn(32) * 0.1)
        self.register_buffer("variance", torch.rand(32) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        p, kernel = self.params, self.params["conv1"]
        kernel = (kernel - kernel.mean((1, 2, 3), keepdim=True)) / (kernel.std((1, 2, 3), keepdim=True) + 1e-5)
        x = F.relu(F.conv2d(x, kernel, p["b1"], stride=1, padding=1))
        x = F.batch_norm(F.conv2d(x, p["conv2"], stride=2), self.mean, self.variance, p["scale"], p["b2"], False)
        return F.relu(x).flatten(2).mean(-1).matmul(p["fc"].t())


class Modulated(nn.Module):
    """As FiLM: a condition scales and shifts the channels of each block, by one layer cut in two."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = nn.Sequential(nn.Embedding(8, 16), nn.Linear(16, 32), nn.SiLU())
        self.stem, self.convs = nn.Conv2d(3, 32, 3, padding=1), nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(8, 32, affine=False) for _ in range(2))
        self.films, self.out = nn.ModuleList(nn.Linear(32, 64) for _ in range(2)), nn.Conv2d(32, 3, 1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        c, x = self.condition(label), self.stem(x)
        for conv, norm, film in zip(self.convs, self.norms, self.films, strict=True):
            scale, shift = film(c)[:, :, None, None].chunk(2, dim=1)
            x = x + F.silu(norm(conv(x)) * (1 + scale) + shift)
        return self.out(x)


class Highway(nn.Module):
    """Carry gates, and layers held in a dict and looked up by name."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(12, 32)
        self.layers = nn.ModuleDict({f"{kind}{i}": nn.Linear(32, 32) for i in range(3) for kind in ("transform", "gate")})
        self.out = nn.Bilinear(32, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = first = torch.tanh(self.inputs(x))
        for i in range(3):
            gate = torch.sigmoid(self.layers[f"gate{i}"](x) - 1)
            x = gate * F.relu(self.layers[f"transform{i}"](x)) + (1 - gate) * x
        return self.out(x, first)


class Slotted(nn.Module):
    """Channels cut at uneven places, each piece by its own convolution, put back out of order and picked by an index."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.pieces = nn.ModuleList(nn.Conv2d(width, width, size, padding=size // 2) for width, size in ((8, 1), (16, 3), (8, 5)))
        self.register_buffer("order", torch.randperm(32, generator=torch.Generator().manual_seed(0)))
        self.mix, self.out = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        parts = [piece(part) for piece, part in zip(self.pieces, torch.split(x, [8, 16, 8], dim=1), strict=True)]
        x = torch.index_select(torch.cat(parts[::-1], 1), 1, self.order)
        return self.out(F.relu(self.mix(F.relu(x))).amax((2, 3)))


class Halting(nn.Module):
    """Runs a layer again while its output is large: no single graph says what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        while x.norm() > 1:
            x = torch.tanh(self.layer(x)) * 0.5
        return self.out(x)


class Routed(nn.Module):
    """A hard mixture of experts, each on the rows that are sent to it."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(8, 3), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        choice, out = self.router(x).argmax(-1), torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = (choice == i).nonzero(as_tuple=True)[0]
            if rows.numel() > 0:
                out[rows] = expert(x[rows])
        return out


class Remembering(nn.Module):
    """Writes to a buffer each time it runs."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.layer(x) / self.seen


_ADJACENCY = (noise(2, 10, 10) > 0.3).float() + torch.eye(10)

ODD: Table = {
    "tied_autoencoder": (TiedAutoencoder, (noise(2, 24),)),
    "variational": (Variational, (noise(2, 1, 12, 12),)),
    "siamese": (Siamese, (noise(2, 1, 14, 14), noise(2, 1, 14, 14, seed=1))),
    "two_tower": (TwoTower, (noise(2, 12), noise(2, 20, seed=1))),
    "tabular": (Tabular, (tokens(3, 6), noise(2, 8))),
    "wide_and_deep": (WideAndDeep, (tokens(6, 30),)),
    "graph_convolution": (GraphConvolution, (noise(2, 10, 12), _ADJACENCY)),
    "edge_attention": (EdgeAttention, (noise(2, 10, 12), _ADJACENCY)),
    "pointnet": (PointNet, (noise(2, 3, 20),)),
    "recycled": (Recycled, (noise(2, 10),)),
    "functional_weights": (FunctionalWeights, (noise(2, 3, 12, 12),)),
    "modulated": (Modulated, (noise(2, 3, 8, 8), tokens(1, 8)[:, 0])),
    "highway": (Highway, (noise(2, 12),)),
    "slotted": (Slotted, (noise(2, 3, 12, 12),)),
}

# those that have no graph, with a part of the reason that is given
REFUSED: dict[str, tuple[Callable[[], nn.Module], Example, str]] = {
    "halting": (Halting, (noise(2, 8),), "data-dependent expression"),
    "routed": (Routed, (noise(2, 8),), "data-dependent expression"),
    "remembering": (Remembering, (noise(2, 8),), "writes to its own state"),
    "masked_translator": (partial(Translator, causal=None), (tokens(12, 48), tokens(9, 48, seed=1)), "data-dependent expression"),
}
