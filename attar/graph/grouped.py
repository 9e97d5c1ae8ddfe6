"""`attar::grouped_mm`: consecutive runs of rows, each times a matrix of its own. Mixtures of experts are made of it.

PyTorch's own op leaves the rows behind the last run as it finds them in memory and takes few types and sizes; `transformers` has
another, which no file can name. Traced networks have this one in the place of theirs; it gives the same bits.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

__all__ = ["grouped_mm"]


@torch.library.custom_op("attar::grouped_mm", mutates_args=())
def grouped_mm(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """`input` (rows, k) in runs that end at `offs` (groups), run i times `weight[i]` (groups, k, n); other rows give zeros.

    An end before the one before it, or behind the last row, is moved to it.

    >>> x, w = torch.ones(3, 2), torch.tensor([1.0, 2.0]).reshape(2, 1, 1).expand(2, 2, 1)
    >>> grouped_mm(x, w, torch.tensor([1, 2])).flatten().tolist()
    [2.0, 4.0, 0.0]
    """
    result = input.new_zeros(len(input), weight.shape[2])
    for (start, end), matrix in zip(_runs(offs, len(input)), weight, strict=True):
        if start < end:
            torch.mm(input[start:end], matrix, out=result[start:end])
    return result


def _runs(offs: Tensor, rows: int) -> list[tuple[int, int]]:
    ends = [0]
    for end in offs.tolist():
        ends.append(min(max(end, ends[-1]), rows))
    return list(pairwise(ends))


@grouped_mm.register_fake
def _shapes(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    fit = input.ndim == 2 and weight.ndim == 3 and offs.ndim == 1 and offs.shape[0] == weight.shape[0] and input.shape[1] == weight.shape[1]
    if not fit or input.dtype != weight.dtype or offs.dtype not in (torch.int32, torch.int64):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (input, weight, offs))
        raise ValueError(f"grouped_mm takes (rows, k), (groups, k, n) of one type and (groups) whole numbers, got {shapes}")
    return input.new_empty(input.shape[0], weight.shape[2])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001 (PyTorch gives it by name)
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    input, weight, offs = ctx.saved_tensors
    parts = [input[start:end].T @ gradient[start:end] for start, end in _runs(offs, len(input))]
    return grouped_mm(gradient, weight.transpose(1, 2), offs), torch.stack(parts), None


grouped_mm.register_autograd(_backward, setup_context=_keep)
