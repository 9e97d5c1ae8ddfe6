"""The pairwise steps that an einsum is computed in, and what each multiplies and adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Step", "contractions"]

_DOTS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # stand for the dimensions of an ellipsis, where the equation does not use them


@dataclass(frozen=True)
class Step:
    """One contraction: `products` multiplications, each added to a sum if `summed`; `additions` for sums taken before.

    `operands` are the positions of the einsum's own tensors that the step reads as they are.
    """

    products: int
    summed: bool
    additions: int
    operands: tuple[int, ...]


def contractions(equation: str, shapes: Sequence[tuple[int, ...]], path: Sequence[int] | None = None) -> list[Step]:
    """The steps of `einsum(equation, ...)`: two operands at a time, from the left, or in the order of `path`.

    An index that only one of the two operands has, and that nobody needs later, is summed before the product.

    >>> contractions("ij,jk->ik", [(2, 3), (3, 4)])
    [Step(products=24, summed=True, additions=0, operands=(0, 1))]
    """
    terms, output = _parse(equation, [len(s) for s in shapes])
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(sizes.get(index, 1), size)
    waiting: list[tuple[set[str], int | None]] = [(set(term), i) for i, term in enumerate(terms)]
    order = iter(path or ())
    steps = []
    while len(waiting) > 1:
        i, j = sorted((next(order), next(order))) if path else (0, 1)
        (b, place_b), (a, place_a) = waiting.pop(j), waiting.pop(i)
        needed = set(output).union(*(term for term, _ in waiting))
        alone = (a - b - needed, b - a - needed)
        additions = sum(_numel(term, sizes) - _numel(term - gone, sizes) for term, gone in zip((a, b), alone, strict=True))
        union = (a | b) - alone[0] - alone[1]
        own = tuple(p for p in (place_a, place_b) if p is not None)
        steps.append(Step(_numel(union, sizes), bool(union - needed), additions, own))
        waiting.insert(len(waiting) if path else 0, (union & needed, None))
    if len(terms) == 1:  # nothing to multiply: a sum, a diagonal or a transposition
        steps.append(Step(0, False, _numel(set(terms[0]), sizes) - _numel(set(output), sizes), ()))
    return steps


def _numel(indices: set[str], sizes: dict[str, int]) -> int:
    return math.prod(sizes[i] for i in indices)


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The indices of each operand and of the output, an ellipsis spelled out, aligned at its right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    free = "".join(c for c in _DOTS if c not in equation)
    terms, longest = [], ""
    for term, rank in zip(left.split(","), ranks, strict=True):
        missing = rank - len(term.replace("...", ""))
        dots = free[len(free) - missing :] if missing else ""
        longest = max(longest, dots, key=len)
        terms.append(term.replace("...", dots))
    if arrow:
        return terms, right.replace("...", longest)
    every = left.replace(",", "").replace("...", "")
    return terms, longest + "".join(sorted(c for c in set(every) if every.count(c) == 1))
