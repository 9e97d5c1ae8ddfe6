"""The trivial form: every value, as it is."""

import torch
from torch import Tensor, nn

from attar.forms.base import Form, Numbers, Part, Work

__all__ = ["Dense"]


class Dense(Form):
    """A weight stored value by value.

    >>> Dense(torch.tensor([[1.0, 2.0]]))().tolist()
    [[1.0, 2.0]]
    """

    number = 0

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        values = values.detach().clone(memory_format=torch.contiguous_format)
        if values.is_floating_point() or values.is_complex():
            self.values = nn.Parameter(values)
        else:  # only real and complex numbers can be trained
            self.register_buffer("values", values)

    def forward(self) -> Tensor:
        return self.values

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def parts(self) -> dict[str, Part]:
        return {"values": Numbers(self.values.detach())}

    def work(self, positions: int) -> Work:
        return Work(self.values.numel() * positions, self.values.numel() * positions)
