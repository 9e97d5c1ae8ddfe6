"""Whether a convolution gains from bytes: what it takes in bytes and in float32, and what packing its input takes.

The costs are nanoseconds on one core, for a vector of pixels (a target's lanes); only their ratios matter. AVX2's come from layers
timed alone on a Zen 3 that was busy otherwise; AVX-512's are estimates from counts of instructions, not timed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.compiler.ir import Lanes, Op, Program
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.lanes import Move, Pool
from attar.compiler.target import Target

__all__ = ["losers"]


@dataclass(frozen=True)
class Costs:
    """What a vector of pixels takes: a product in float32, by the outputs of a block, or of an output that reads one channel; in
    bytes a column of four products, what makes a byte of a sum, and a tap of a depthwise sum; an output written in float32; a
    channel packed."""

    product: Mapping[int, float]
    alone: float
    column: float
    output: float
    tap: float
    store: float
    pack: float


_COSTS = {
    "avx2": Costs({1: 0.30, 2: 0.25, 4: 0.21, 8: 0.28}, alone=0.40, column=0.43, output=0.7, tap=0.18, store=0.8, pack=1.5),
    "avx512": Costs({1: 0.30, 2: 0.25, 4: 0.20, 8: 0.19}, alone=0.40, column=0.27, output=0.7, tap=0.12, store=0.8, pack=1.5),
}


def losers(program: Program, columns: Mapping[Convolution, int], target: Target) -> dict[Convolution, str]:
    """The convolutions that lose by bytes, and why; `columns` are those that can be bytes, with the words' columns that they multiply.

    Only those are weighed whose neighbours are all float32: among neighbours in bytes even a layer that is slower in bytes gains, since
    maps of a fourth of the size stay in caches, and nothing is packed. A depthwise convolution has no columns.
    """
    costs = _COSTS.get(target.name)
    if costs is None:  # plain C shows what bytes give; it is fast in neither
        return {}
    weighed, found = _Weighed(program, costs, target.lanes), {}
    for op, count in columns.items():
        if weighed.apart(op, columns):
            real, whole = weighed.real(op), weighed.bytes(op, count) + weighed.packing(op)
            if whole >= real:
                found[op] = f"it gains nothing: {real / 1000:.3g} us against {whole / 1000:.3g} us in bytes, by what its products cost"
    return found


class _Weighed:
    def __init__(self, program: Program, costs: Costs, lanes: int) -> None:
        self.costs, self.lanes = costs, lanes
        self.made = {op.output.buffer: op for op in program.ops}
        self.users: dict[Op | None, set[Op]] = {}
        for op in program.ops:
            if not _passes(op):
                for value in op.inputs:
                    self.users.setdefault(self.origin(value), set()).add(op)

    def origin(self, value: Any) -> Op | None:
        """What computes a map that is then only moved or pooled; None for the network's input."""
        op = self.made.get(value.buffer)
        while op is not None and _passes(op):
            op = self.made.get(op.inputs[0].buffer)
        return op

    def vectors(self, value: Lanes) -> float:
        return float(np.prod(value.sizes)) / self.lanes

    def real(self, op: Convolution) -> float:
        """Nanoseconds in float32."""
        if op.separate:
            products = self.costs.alone * int(np.count_nonzero(op.weight))
        else:
            blocks = [block for block in self.costs.product if block == 1 or op.takes(block)]
            products = min(self.costs.product[block] * op.products(block) for block in blocks)
        return self.vectors(op.output) * (products + self.costs.store * len(op.weight))

    def bytes(self, op: Convolution, columns: int) -> float:
        """Nanoseconds in bytes."""
        products = self.costs.column * columns if columns else self.costs.tap * op.weight.size
        return self.vectors(op.output) * (products + self.costs.output * len(op.weight))

    def apart(self, op: Convolution, whole: Collection[Op]) -> bool:
        """Whether no neighbour, before or after or beside, is among `whole`."""
        before = self.origin(op.inputs[0])
        near = {before, *self.users.get(op, ()), *(self.users.get(before, set()) - {op})}
        return near.isdisjoint(whole)

    def packing(self, op: Convolution) -> float:
        """Nanoseconds for its input, which is float32; the network's own input has to be moved anyway."""
        x = op.inputs[0]
        return 0.0 if self.origin(x) is None else self.vectors(x) * self.costs.pack * x.channels


def _passes(op: Op) -> bool:
    """Whether it moves bytes as they are."""
    return (type(op) is Move or (type(op) is Pool and op.kind == "max")) and isinstance(op.inputs[0], Lanes)
