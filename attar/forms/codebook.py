"""A weight whose elements share a few values: centroids, and an index for each element."""

import torch
from torch import Tensor

from attar.forms.base import Form, Part, Symbols, Work
from attar.forms.dense import Dense

__all__ = ["Codebook"]

_LARGEST = 1 << 16


class Codebook(Form):
    """`weight[i] = centroids[indices[i]]`; `indices` has the weight's shape, `centroids` is a form of shape [k].

    The gradient of a centroid is the sum of the gradients of its elements (Han, Mao, Dally, "Deep Compression", 2016),
    by autograd itself.

    >>> form = Codebook(torch.tensor([[0, 1], [1, 1]]), torch.tensor([-0.5, 2.0]))
    >>> form().tolist()
    [[-0.5, 2.0], [2.0, 2.0]]
    """

    number = 2
    indices: Tensor

    def __init__(self, indices: Tensor, centroids: Tensor | Form) -> None:
        super().__init__()
        self.centroids = centroids if isinstance(centroids, Form) else Dense(centroids)
        if len(self.centroids.shape) != 1 or not 1 <= self.centroids.shape[0] <= _LARGEST:
            raise ValueError(f"centroids must have shape [k] with 1 <= k <= {_LARGEST}, got {list(self.centroids.shape)}")
        k = self.centroids.shape[0]
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < k:
            raise ValueError(f"indices must lie in [0, {k}), got {int(indices.min())} to {int(indices.max())}")
        width = torch.uint8 if k <= 256 else torch.int32
        self.register_buffer("indices", indices.detach().to(width).clone(memory_format=torch.contiguous_format))

    def forward(self) -> Tensor:
        # index_select, not indexing: its backward sums in a fixed order (byte-identical runs) and is five times faster
        return self.centroids().index_select(0, self.indices.flatten().int()).view(self.indices.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.indices.shape)

    def parts(self) -> dict[str, Part]:
        return {"indices": Symbols(self.indices, self.centroids.shape[0]), "centroids": self.centroids}

    def work(self, positions: int) -> Work:
        # A kernel decodes an index and multiplies; the k multiplications a row that sharing would allow are not what runs.
        return Work(self.indices.numel() * positions, self.indices.numel() * positions)
