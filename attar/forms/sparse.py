"""A weight most of whose elements are zero: a mask, and the kept values in any form."""

import torch
from torch import Tensor

from attar.forms.base import Form, Part, Symbols, Work
from attar.forms.dense import Dense

__all__ = ["Sparse"]


class Sparse(Form):
    """A mask of the weight's shape, and a form of the kept values, shape [kept], in row-major order.

    Only kept values exist, so training needs no masking: what was removed cannot come back.

    >>> form = Sparse(torch.tensor([[True, False], [False, True]]), torch.tensor([3.0, 4.0]))
    >>> form().tolist()
    [[3.0, 0.0], [0.0, 4.0]]
    """

    number = 1
    mask: Tensor

    def __init__(self, mask: Tensor, values: Tensor | Form) -> None:
        super().__init__()
        self.register_buffer("mask", mask.detach().to(torch.bool).clone(memory_format=torch.contiguous_format))
        self.values = values if isinstance(values, Form) else Dense(values)
        kept = int(self.mask.count_nonzero())
        if self.values.shape != (kept,):
            raise ValueError(f"values must have shape [{kept}], one for each kept element of the mask, got {list(self.values.shape)}")

    def forward(self) -> Tensor:
        values = self.values()
        # masked_scatter needs no index derived from the mask, which would go stale on load_state_dict
        return torch.zeros_like(self.mask, dtype=values.dtype).masked_scatter(self.mask, values)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mask.shape)

    def parts(self) -> dict[str, Part]:
        return {"mask": Symbols(self.mask, 2), "values": self.values}

    def work(self, positions: int) -> Work:
        return self.values.work(positions)

    def nonzeros(self) -> int:
        return self.values.nonzeros()
