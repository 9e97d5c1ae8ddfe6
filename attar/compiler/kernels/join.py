"""Maps in lanes joined along channels: what could not be written where it belongs is copied there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

from attar.compiler.ir import Buffer, Lanes, Op
from attar.compiler.kernels.lanes import MapLanes, Pointer

__all__ = ["Join"]


@dataclass(frozen=True, eq=False)
class Join(Op):
    """The channels of the inputs one after another; all are lanes of the output's space and sizes."""

    @cached_property
    def copies(self) -> tuple[MapLanes, ...]:
        """The copy of each input to its channels of the output."""
        y = self.output
        starts = itertools.accumulate((x.channels for x in self.inputs), initial=y.first)
        return tuple(
            MapLanes(Lanes(y.buffer, x.channels, y.sizes, first), (x,), "{0}") for x, first in zip(self.inputs, starts, strict=False)
        )

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        return tuple(buffer for copy in self.copies for buffer in copy.constants)

    def functions(self) -> dict[str, str]:
        return self.copies[0].functions()

    def source(self, at: Pointer) -> str:
        return "\n".join(f"{{\n{copy.source(at)}\n}}" for copy in self.copies)
