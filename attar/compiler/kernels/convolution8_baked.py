"""Convolutions of bytes as baked code: as `convolution_baked`, with an instruction for each column of four weights that are not all zero.

The sums are Convolution8's integers, and its bytes are made of them by the same roundings: the code gives the same bits.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from attar.compiler.baked import LANES, Baked, Epilogue, Strides, bake
from attar.compiler.ir import Buffer, Lanes
from attar.compiler.kernels.convolution8 import Convolution8
from attar.compiler.kernels.convolution_baked import BakedConvolution, near, step, worth
from attar.compiler.kernels.taps import linear
from attar.compiler.kernels.words import CLEAN_WORDS, clean_words

__all__ = ["BakedConvolution8", "baked8"]


@dataclass(frozen=True, eq=False)
class BakedConvolution8(BakedConvolution):
    """`convolution`, of bytes, by baked code; its epilogue holds a sum, which may have one side, within `bounds`."""

    convolution: Convolution8  # type: ignore[assignment]  # in place of the one of float32

    def __str__(self) -> str:
        return f"{str(self.convolution).rpartition(', ')[0]}, {self.kernel}"

    @property
    def maps(self) -> list[Lanes]:
        """The map that is read, the one that is written, and the side where there is one."""
        x, *sides = self.inputs
        return [x, self.output, *sides]

    @property
    def overwrites(self) -> tuple[tuple[Lanes, Lanes], ...]:
        _, output, *sides = self.maps
        return tuple((output, side) for side in sides)

    @property
    def _word_out(self) -> int:
        return 1 if self.convolution.affine is None else 4

    @property
    def _word_beside(self) -> int:
        return 4 if any(side is not None for side in self.convolution.sides) else 1

    @property
    def read(self) -> np.ndarray:
        """The words that it reads."""
        return self.convolution.word

    @cached_property
    def layers(self) -> list[tuple[str, int, Baked]]:
        """For each run of outputs whose groups share no word with another's: a name, the first output, the code."""
        op, found = self.convolution, []
        x, y, *sides = self.maps
        strides = Strides(step(x), step(y), 4 * y.channel_stride)
        for side in sides:
            strides = replace(strides, residual_tile=step(side), residual_channel=4 * side.channel_stride)
        call = y.space.tile // LANES * (self.group if self.even else 1)
        for a, b in _segments(op.group, max(self._word_out, self._word_beside)):
            weight, offset = _one_layer(op, a, b)
            begin = op.begin[a:b].astype(np.int32)
            layer = bake(weight, offset, bias=begin, strides=strides, epilogue=self._epilogue(a, b), prefetch=call)
            found.append((f"baked8_{hashlib.sha256(layer.program.tobytes()).hexdigest()[:12]}", a, layer))
        return found

    def _epilogue(self, a: int, b: int) -> Epilogue:
        """What becomes of the sums of outputs [a, b)."""
        finish = self.convolution.finish
        low, high = (bound if math.isfinite(bound) else None for bound in self.bounds)
        if finish.low is not None:
            low, high = finish.low + finish.zero, finish.high + finish.zero
        zero, factor = finish.sides[0] if finish.sides else (None, 1.0)
        return Epilogue(
            "uint8" if self._word_out == 4 else "float32",
            low,
            high,
            scale=self.convolution.factors[a:b].astype(np.float32),
            zero=finish.zero,
            residual=bool(finish.sides),
            residual_type="float32" if zero is None else "uint8",
            residual_zero=zero or 0,
            residual_scale=factor,
        )

    def functions(self) -> dict[str, str]:
        return {"clean_words": CLEAN_WORDS} | super().functions()

    def _clean(self, at: Callable[[Buffer], str], share: str) -> str:
        affine = self.convolution.affine
        return super()._clean(at, share) if affine is None else clean_words(self.output, at, share, affine.word)


def baked8(op: Convolution8) -> BakedConvolution8 | None:
    """The convolution of bytes by baked code, for a program that is laid out; None where that cannot do it, or cannot gain.

    A kind of Convolution8 with kernels of its own (depthwise) keeps them.
    """
    bounds = linear(op.epilogue, len(op.sides))
    fits = op.inputs[0].space.lanes == LANES and bool(np.isfinite(op.factors).all())
    gains = type(op) is Convolution8 and worth(op.group, int((op.weight != 0).any(-1).sum()), op.weight[..., 0].size)
    reached = near(*op.inputs, op.output)
    return BakedConvolution8(op.output, op.inputs, op, bounds) if bounds and bounds[0] <= bounds[1] and fits and gains and reached else None


def _segments(group: np.ndarray, unit: int) -> list[tuple[int, int]]:
    """Ranges of outputs, as small as they can be when each begins with a group and at a multiple of `unit`."""
    cuts = np.flatnonzero(np.diff(group)) + 1
    return list(itertools.pairwise([0, *cuts[cuts % unit == 0].tolist(), len(group)]))


def _one_layer(op: Convolution8, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and offsets of outputs [a, b): the columns of their groups side by side, each output's weights in its own group's."""
    groups, which = np.unique(op.group[a:b], return_inverse=True)
    outputs, columns = np.arange(b - a), op.weight.shape[1]
    weight = np.zeros((b - a, len(groups), columns, 4), np.int8)
    weight[outputs, which] = op.weight[a:b]
    return weight.reshape(b - a, -1, 4), op.offsets[groups].reshape(-1)
