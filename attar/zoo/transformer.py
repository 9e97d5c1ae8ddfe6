"""The encoder of the Transformer: Vaswani et al., "Attention Is All You Need", 2017, section 3, at the size of BERT-mini."""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["transformer_encoder"]

LAYERS, WIDTH, HEADS, TOKENS = 4, 256, 4, 128


def transformer_encoder() -> nn.Module:
    """A Transformer encoder of 4 layers, 3,159,040 parameters, from embedded tokens (n, 128, 256) to as many features of 256.

    Width 256, 4 heads of 64, a hidden layer of 1,024 with GELU, no dropout; each norm stands after its sum, as in the paper.
    Embedding and positions are left to the caller, and there is no `mean` and `std`: the inputs are not pictures.

    Source: A. Vaswani, N. Shazeer, N. Parmar et al., "Attention Is All You Need", 2017; the size is BERT-mini's, I. Turc,
    M.-W. Chang, K. Lee, K. Toutanova, "Well-Read Students Learn Better", 2019.

    >>> sum(p.numel() for p in transformer_encoder().parameters())
    3159040
    """
    return TransformerEncoder()


class TransformerEncoder(nn.Module):
    example_shape = (TOKENS, WIDTH)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(EncoderLayer() for _ in range(LAYERS)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class EncoderLayer(nn.Module):
    """Self-attention and two linear layers, each added to its input and normed."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.projection = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.hidden, self.output = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = (layer(x).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.projection(mixed))
        return self.norm2(x + self.output(functional.gelu(self.hidden(x))))
