"""Language models and encoder-decoders by hand: rotary places, shared keys, tied embeddings, relative biases, soft experts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpus.examples import Table, tokens

__all__ = ["LANGUAGE", "Translator"]

VOCABULARY, LENGTH = 48, 12


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def repeat_kv(x: Tensor, repeats: int) -> Tensor:
    batch, heads, length, width = x.shape
    return x[:, :, None, :, :].expand(batch, heads, repeats, length, width).reshape(batch, heads * repeats, length, width)


class GroupedAttention(nn.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, dim // heads
        self.q_proj, self.o_proj = nn.Linear(dim, heads * self.width, bias=False), nn.Linear(heads * self.width, dim, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(dim, kv_heads * self.width, bias=False) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q_proj(x).view(b, n, self.heads, self.width).transpose(1, 2)
        k = self.k_proj(x).view(b, n, self.kv_heads, self.width).transpose(1, 2)
        v = self.v_proj(x).view(b, n, self.kv_heads, self.width).transpose(1, 2)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = repeat_kv(k, self.heads // self.kv_heads), repeat_kv(v, self.heads // self.kv_heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).contiguous().view(b, n, self.heads * self.width))


class GroupedDecoder(nn.Module):
    """As Llama: heads share keys and values, rotary places, an MLP gated by SiLU, RMS norms."""

    cos: Tensor
    sin: Tensor

    def __init__(self, dim: int = 32, heads: int = 4, kv_heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, dim)
        self.attention = nn.ModuleList(GroupedAttention(dim, heads, kv_heads) for _ in range(2))
        self.norms = nn.ModuleList(RMSNorm(dim) for _ in range(5))
        self.gate, self.up = (nn.ModuleList(nn.Linear(dim, 96, bias=False) for _ in range(2)) for _ in range(2))
        self.down, self.head = nn.ModuleList(nn.Linear(96, dim, bias=False) for _ in range(2)), nn.Linear(dim, VOCABULARY, bias=False)
        width = dim // heads
        angles = torch.outer(torch.arange(32), 10000 ** (-torch.arange(0, width, 2) / width))
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x, n = self.embed(ids), ids.shape[1]
        for i, attention in enumerate(self.attention):
            x = x + attention(self.norms[2 * i](x), self.cos[:n], self.sin[:n])
            y = self.norms[2 * i + 1](x)
            x = x + self.down[i](F.silu(self.gate[i](y)) * self.up[i](y))
        return self.head(self.norms[4](x))


class CausalSelfAttention(nn.Module):
    mask: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.n_head, self.n_embd = heads, dim
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.register_buffer("mask", torch.tril(torch.ones(32, 32)).view(1, 1, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class TiedDecoder(nn.Module):
    """As nanoGPT: queries, keys and values split from one layer, a causal mask held as a buffer, the head tied to the embedding."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, dim), nn.Embedding(32, dim)
        self.h = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(dim),
                    "attn": CausalSelfAttention(dim, heads),
                    "ln_2": nn.LayerNorm(dim),
                    "mlp": nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim)),
                }
            )
            for _ in range(2)
        )
        self.ln_f, self.lm_head = nn.LayerNorm(dim), nn.Linear(dim, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor) -> Tensor:
        x = self.wte(idx) + self.wpe(torch.arange(idx.size(1), device=idx.device))
        for block in self.h:
            x = x + block["attn"](block["ln_1"](x))
            x = x + block["mlp"](block["ln_2"](x))
        return self.lm_head(self.ln_f(x))


class MultiQuery(nn.Module):
    """All heads read one key and one value; attention and MLP side by side from one norm, as PaLM has them."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.embed, self.norm = nn.Embedding(VOCABULARY, dim), nn.LayerNorm(dim)
        self.fused = nn.ModuleList(nn.Linear(dim, dim + 2 * self.width + 128) for _ in range(2))
        self.attn_out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(2))
        self.ff_out = nn.ModuleList(nn.Linear(64, dim) for _ in range(2))
        self.head = nn.Linear(dim, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, n, d = x.shape
        causal = torch.ones(n, n, dtype=torch.bool).triu(1)
        for fused, attn_out, ff_out in zip(self.fused, self.attn_out, self.ff_out, strict=True):
            q, k, v, ff = fused(self.norm(x)).split((d, self.width, self.width, 128), dim=-1)
            q = q.view(b, n, self.heads, self.width).transpose(1, 2)
            scores = torch.einsum("bhid,bjd->bhij", q, k) * self.width**-0.5
            weights = scores.masked_fill(causal, -torch.finfo(scores.dtype).max).softmax(-1)
            y = torch.einsum("bhij,bjd->bhid", weights, v).transpose(1, 2).reshape(b, n, d)
            value, gate = ff.chunk(2, dim=-1)
            x = x + attn_out(y) + ff_out(F.silu(gate) * value)
        return self.head(x)


class Translator(nn.Module):
    """`nn.Transformer` between two embeddings, sines for places, a causal mask (which PyTorch looks into, unless told that it is one)."""

    places: Tensor

    def __init__(self, causal: bool | None = True, dim: int = 32) -> None:
        super().__init__()
        self.causal = causal
        self.source, self.target = nn.Embedding(VOCABULARY, dim), nn.Embedding(VOCABULARY, dim)
        self.transformer = nn.Transformer(dim, 4, 2, 2, 96, batch_first=True, norm_first=True)
        angles = torch.arange(32).unsqueeze(1) * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
        self.register_buffer("places", torch.stack((angles.sin(), angles.cos()), -1).flatten(1))
        self.generator = nn.Linear(dim, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        a = self.source(source) * math.sqrt(32) + self.places[: source.shape[1]]
        b = self.target(target) * math.sqrt(32) + self.places[: target.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.generator(self.transformer(a, b, tgt_mask=mask, tgt_is_causal=self.causal))


class BiasedAttention(nn.Module):
    """As T5: no scale, a bias for each head by the bucket of the distance, one bias for all layers."""

    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.n_heads, self.key_value_proj_dim, self.inner_dim = heads, width, heads * width
        self.q, self.k, self.v = (nn.Linear(dim, self.inner_dim, bias=False) for _ in range(3))
        self.o = nn.Linear(self.inner_dim, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch = x.shape[0]
        q, k, v = (p(x).view(batch, -1, self.n_heads, self.key_value_proj_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        weights = F.softmax(torch.matmul(q, k.transpose(3, 2)) + bias, dim=-1)
        return self.o(torch.matmul(weights, v).transpose(1, 2).contiguous().view(batch, -1, self.inner_dim))


class RelativeEncoder(nn.Module):
    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.shared, self.relative = nn.Embedding(VOCABULARY, dim), nn.Embedding(9, heads)
        self.norms = nn.ModuleList(RMSNorm(dim) for _ in range(5))
        self.layers = nn.ModuleList(BiasedAttention(dim, heads, 16) for _ in range(2))
        self.wi, self.wo = nn.ModuleList(nn.Linear(dim, 96) for _ in range(2)), nn.ModuleList(nn.Linear(96, dim) for _ in range(2))
        self.classifier = nn.Linear(dim, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.shared(ids)
        place = torch.arange(ids.shape[1])
        bias = self.relative((place[None, :] - place[:, None]).clamp(-4, 4) + 4).permute(2, 0, 1).unsqueeze(0)
        for i, layer in enumerate(self.layers):
            x = x + layer(self.norms[2 * i](x), bias)
            x = x + self.wo[i](F.relu(self.wi[i](self.norms[2 * i + 1](x))))
        return self.classifier(self.norms[4](x)[:, 0])


class Experts(nn.Module):
    """Soft mixture: every expert runs, a router weighs them; experts as a list, and as one stacked tensor."""

    def __init__(self, dim: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.embed, self.router, self.router2 = nn.Embedding(VOCABULARY, dim), nn.Linear(dim, experts), nn.Linear(dim, experts)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, dim)) for _ in range(experts))
        self.up, self.down = nn.Parameter(torch.randn(experts, dim, 32) / 6), nn.Parameter(torch.randn(experts, 32, dim) / 6)
        self.head = nn.Linear(dim, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        weights = self.router(x).softmax(-1)
        x = x + (torch.stack([expert(x) for expert in self.experts], dim=-1) * weights.unsqueeze(-2)).sum(-1)
        flat = x.flatten(0, 1)
        y = torch.bmm(F.gelu(torch.bmm(flat.expand(4, -1, -1), self.up)), self.down)
        x = flat + (y * self.router2(flat).softmax(-1).t().unsqueeze(-1)).sum(0)
        return self.head(x.view(ids.shape[0], -1, 32).mean(1))


class ConformerBlock(nn.Module):
    """Half-step MLPs around attention and a gated depthwise convolution over time."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ff1 = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 96), nn.SiLU(), nn.Linear(96, dim))
        self.ff2 = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 96), nn.SiLU(), nn.Linear(96, dim))
        self.norm_attn, self.attn = nn.LayerNorm(dim), nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm_conv, self.pointwise1 = nn.LayerNorm(dim), nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise, self.batch_norm = nn.Conv1d(dim, dim, 5, padding=2, groups=dim), nn.BatchNorm1d(dim)
        self.pointwise2, self.norm = nn.Conv1d(dim, dim, 1), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.ff1(x)
        y = self.norm_attn(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = F.glu(self.pointwise1(self.norm_conv(x).transpose(1, 2)), dim=1)
        x = x + self.pointwise2(F.silu(self.batch_norm(self.depthwise(y)))).transpose(1, 2)
        return self.norm(x + 0.5 * self.ff2(x))


class Conformer(nn.Module):
    """A spectrogram subsampled by 2-D convolutions, channels and frequencies joined, two blocks, a head for CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.subsample = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.linear, self.blocks, self.ctc = (
            nn.Linear(16 * 5, 32),
            nn.Sequential(ConformerBlock(32, 4), ConformerBlock(32, 4)),
            nn.Linear(32, 20),
        )

    def forward(self, spectrogram: Tensor) -> Tensor:
        x = self.subsample(spectrogram.unsqueeze(1))
        b, c, t, f = x.size()
        x = self.linear(x.transpose(1, 2).contiguous().view(b, t, c * f))
        return self.ctc(self.blocks(x)).log_softmax(dim=-1)


_IDS = tokens(LENGTH, VOCABULARY)

LANGUAGE: Table = {
    "grouped_decoder": (GroupedDecoder, (_IDS,)),
    "tied_decoder": (TiedDecoder, (_IDS,)),
    "multi_query": (MultiQuery, (_IDS,)),
    "translator": (Translator, (_IDS, tokens(9, VOCABULARY, seed=1))),
    "relative_encoder": (RelativeEncoder, (_IDS,)),
    "experts": (Experts, (_IDS,)),
    "conformer": (Conformer, (torch.rand(2, 24, 20, generator=torch.Generator().manual_seed(0)),)),
}
