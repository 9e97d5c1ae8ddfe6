"""Attention over patches, windows, queries and memories, written in each of the ways in which people write it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpus.examples import Table, noise

__all__ = ["ATTENTION"]


class MLP(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class FusedAttention(nn.Module):
    """One linear layer for queries, keys and values, its output seen as (3, heads, width)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))


class SeparateAttention(nn.Module):
    """Three linear layers, and PyTorch's own attention on (batch, heads, places, width)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, self.heads, self.width).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous().view(b, n, -1))


class TorchAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class EinsumAttention(nn.Module):
    """Heads as an axis of the weights, all products by einsum."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.wq, self.wk, self.wv = (nn.Parameter(torch.randn(dim, heads, dim // heads) / dim**0.5) for _ in range(3))
        self.wo = nn.Parameter(torch.randn(heads, dim // heads, dim) / dim**0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnd,dhk->bhnk", x, w) for w in (self.wq, self.wk, self.wv))
        weights = torch.einsum("bhik,bhjk->bhij", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
        return torch.einsum("bhij,bhjk,hkd->bid", weights, v, self.wo)


class LinearAttention(nn.Module):
    """Keys against values first, normalised by the sum of the keys: no weights over pairs of places."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv, self.to_out = nn.Linear(dim, dim * 3, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.to_qkv(x).chunk(3, dim=-1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        context = torch.einsum("bhnd,bhne->bhde", k, v)
        norm = 1 / (torch.einsum("bhnd,bhd->bhn", q, k.sum(dim=2)) + 1e-6)
        out = torch.einsum("bhnd,bhde,bhn->bhne", q, context, norm)
        return self.to_out(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, attention: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(dim), attention(dim, heads), nn.LayerNorm(dim), MLP(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token, learned places; the attention is one of those above."""

    def __init__(self, attention: type[nn.Module], dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, dim) * 0.02), nn.Parameter(torch.randn(1, 17, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, attention) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def window_partition(x: Tensor, size: int) -> Tensor:
    B, H, W, C = x.shape
    x = x.view(B, H // size, size, W // size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, C)


def window_reverse(windows: Tensor, size: int, H: int, W: int) -> Tensor:
    C = windows.shape[-1]
    x = windows.view(-1, H // size, W // size, size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, H, W, C)


class WindowAttention(nn.Module):
    relative_position_index: Tensor

    def __init__(self, dim: int, size: int, heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads, self.area = dim, heads, size * size
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * size - 1) ** 2, heads) * 0.02)
        coords = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + size - 1
        self.register_buffer("relative_position_index", relative[..., 0] * (2 * size - 1) + relative[..., 1])
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        B_, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B_, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        attn = (q * (C // self.num_heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(self.area, self.area, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            nW = mask.shape[0]
            attn = attn.view(-1, nW, self.num_heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, N, N)
        return self.proj((attn.softmax(-1) @ v).transpose(1, 2).reshape(B_, N, C))


class SwinBlock(nn.Module):
    attn_mask: Tensor | None

    def __init__(self, dim: int, heads: int, side: int, *, size: int, shift: int) -> None:
        super().__init__()
        self.side, self.size, self.shift = side, size, shift
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(dim), WindowAttention(dim, size, heads), nn.LayerNorm(dim), MLP(dim, 64)
        mask = None
        if shift:
            regions = torch.zeros(1, side, side, 1)
            slices = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
            for i, rows in enumerate(slices):
                for j, columns in enumerate(slices):
                    regions[:, rows, columns, :] = 3 * i + j
            windows = window_partition(regions, size).view(-1, size * size)
            mask = (windows.unsqueeze(1) != windows.unsqueeze(2)).float() * -100.0
        self.register_buffer("attn_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        H = W = self.side
        B, _, C = x.shape
        shortcut = x
        x = self.norm1(x).view(B, H, W, C)
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = self.attn(window_partition(x, self.size).view(-1, self.size * self.size, C), self.attn_mask)
        x = window_reverse(windows.view(-1, self.size, self.size, C), self.size, H, W)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x.view(B, H * W, C)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.side, self.norm, self.reduction = side, nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, _, C = x.shape
        x = x.view(B, self.side, self.side, C)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduction(self.norm(x.view(B, -1, 4 * C)))


class Swin(nn.Module):
    """Windows by view and permute, shifted by roll, a table of biases by relative place, and patches merged in fours."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm0 = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.stage1 = nn.Sequential(SwinBlock(16, 2, 8, size=4, shift=0), SwinBlock(16, 2, 8, size=4, shift=2))
        self.merge, self.stage2 = PatchMerging(16, 8), SwinBlock(32, 4, 4, size=4, shift=0)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.embed(x).flatten(2).transpose(1, 2))
        x = self.norm(self.stage2(self.merge(self.stage1(x))))
        return self.head(F.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1))


class CrossAttention(nn.Module):
    """Queries from one input, keys and values from another by one layer."""

    def __init__(self, dim: int, memory: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_kv, self.to_out = nn.Linear(dim, dim), nn.Linear(memory, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        (b, n, d), m, h = x.shape, memory.shape[1], self.heads
        q = self.to_q(x).view(b, n, h, d // h).transpose(1, 2)
        k, v = self.to_kv(memory).view(b, m, 2, h, d // h).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(torch.matmul(q, k.transpose(2, 3)) / math.sqrt(d // h), -1)
        return self.to_out(torch.matmul(weights, v).transpose(1, 2).reshape(b, n, d))


class Perceiver(nn.Module):
    """Few learned latents read a long input of other width, then attend to one another."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(8, 32) * 0.02)
        self.cross, self.norm1, self.mlp = CrossAttention(32, 24, 4), nn.LayerNorm(32), MLP(32, 96)
        self.block, self.memory, self.head = Block(32, 4, SeparateAttention), nn.Linear(12, 24), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.unsqueeze(0).repeat(x.shape[0], 1, 1)
        latents = latents + self.cross(self.norm1(latents), F.relu(self.memory(x)))
        return self.head(self.block(latents + self.mlp(latents)).mean(dim=1))


class QueryDetector(nn.Module):
    """As DETR: a convolutional backbone, places added, object queries against `nn.Transformer`, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.project = nn.Conv2d(32, 32, 1)
        self.transformer = nn.Transformer(32, 4, 2, 2, 64)
        self.queries = nn.Parameter(torch.rand(6, 32))
        self.rows, self.columns = nn.Parameter(torch.rand(8, 16)), nn.Parameter(torch.rand(8, 16))
        self.classes = nn.Linear(32, 5)
        self.boxes = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.project(self.backbone(x))
        H, W = h.shape[-2:]
        places = torch.cat([self.columns[:W].unsqueeze(0).repeat(H, 1, 1), self.rows[:H].unsqueeze(1).repeat(1, W, 1)], -1)
        places = places.flatten(0, 1).unsqueeze(1)
        queries = self.queries.unsqueeze(1).repeat(1, x.shape[0], 1)
        y = self.transformer(places + 0.1 * h.flatten(2).permute(2, 0, 1), queries).transpose(0, 1)
        return {"logits": self.classes(y), "boxes": self.boxes(y).sigmoid()}


class MixerBlock(nn.Module):
    def __init__(self, places: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.tokens, self.norm2, self.channels = nn.LayerNorm(dim), MLP(places, 32), nn.LayerNorm(dim), MLP(dim, 96)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MLPMixer(nn.Module):
    """Linear layers over places and over channels by turns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 32, 4, 4), nn.Sequential(MixerBlock(16, 32), MixerBlock(16, 32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.reshape(x.shape[0], x.shape[1], -1).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class SpatialGate(nn.Module):
    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.norm, self.spatial = nn.LayerNorm(width), nn.Conv1d(places, places, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        u, v = x.chunk(2, dim=-1)
        return u * self.spatial(self.norm(v))


class GatedMLP(nn.Module):
    """gMLP: one half gates the other through a mixing of places; then a GLU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.expand = nn.ModuleList(nn.Linear(32, 96) for _ in range(2))
        self.gates = nn.ModuleList(SpatialGate(48, 10) for _ in range(2))
        self.contract = nn.ModuleList(nn.Linear(48, 32) for _ in range(2))
        self.glu, self.head = nn.Linear(32, 64), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, expand, gate, contract in zip(self.norms, self.expand, self.gates, self.contract, strict=True):
            x = x + contract(gate(F.gelu(expand(norm(x)))))
        return self.head(F.glu(self.glu(x), dim=-1).amax(1))


ATTENTION: Table = {
    "vit_fused": (lambda: ViT(FusedAttention), (noise(2, 3, 16, 16),)),
    "vit_separate": (lambda: ViT(SeparateAttention), (noise(2, 3, 16, 16),)),
    "vit_torch": (lambda: ViT(TorchAttention), (noise(2, 3, 16, 16),)),
    "vit_einsum": (lambda: ViT(EinsumAttention), (noise(2, 3, 16, 16),)),
    "vit_linear": (lambda: ViT(LinearAttention), (noise(2, 3, 16, 16),)),
    "swin": (Swin, (noise(2, 3, 16, 16),)),
    "perceiver": (Perceiver, (noise(2, 20, 12),)),
    "query_detector": (QueryDetector, (noise(2, 3, 32, 32),)),
    "mlp_mixer": (MLPMixer, (noise(2, 3, 16, 16),)),
    "gated_mlp": (GatedMLP, (noise(2, 10, 12),)),
}
