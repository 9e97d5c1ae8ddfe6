"""Convolutions of bytes: as `convolution`, over words of four channels, in integers, to bytes or to float32.

The kernels: one output at a time, whose columns of four zeros are skipped, or blocks of 2 or 4 outputs that share their
columns. Four outputs make a word of the output. The sums stay in registers from the first column to the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attar.compiler.ir import Array, Buffer, constant
from attar.compiler.kernels.convolution import Blocked
from attar.compiler.kernels.lanes import CLEAN, clean, pointer
from attar.compiler.kernels.taps import TERM, linear
from attar.compiler.kernels.taps8 import DOT, PAIR, Finish, chains, kernel, pairs
from attar.compiler.kernels.words import CLEAN_WORDS, Affine, clean_words
from attar.errors import AttarError

__all__ = ["BLOCKS8", "Convolution8"]

BLOCKS8 = (1, 2, 4)  # output channels of a kernel
_LENGTHS = (1, 2, 4)  # of chains
_COST = {1: 4.0, 2: 3.3, 4: 2.8}  # time for a column and a vector, by the columns of a chain


@dataclass(frozen=True, eq=False)
class Convolution8(Blocked):
    """`sum[o][p] = begin[o] + sum over k, i of weight[o, k, i] * byte i of input[word[g, k]][p + shift[g, k]]`, g = group[o].

    The inputs are a map of words and the maps that the epilogue reads as {1}, {2} ... beside `sum * scale` as {0}: words that
    stand for numbers by `sides`, or float32 where that is None. The output is words by `affine`, or float32 where it is None.

    Where the epilogue is {0}, or {0} plus one map, held between bounds at most, bytes are
    round(sum * (scale / affine.scale) + (side - zero) * (side scale / affine.scale)) + affine.zero, held between the bounds,
    in float32 with each product rounded, to the nearest, ties to even: bit for bit the same everywhere. What is no pixel
    of a clean map has the zero point in each byte.
    """

    weight: np.ndarray
    word: np.ndarray
    shift: np.ndarray
    group: np.ndarray
    begin: np.ndarray
    scale: np.ndarray
    affine: Affine | None = None
    sides: tuple[Affine | None, ...] = ()
    epilogue: str = "{0}"

    def __str__(self) -> str:
        kept = np.count_nonzero(self.weight) / max(1, self.weight.size)
        groups = np.count_nonzero((self.weight != 0).any(-1)) / max(1, self.weight[..., 0].size)
        return f"{super().__str__()}, {self.weight.shape[1]} columns of 4, {groups:.1%} not zero ({kept:.1%} of the weights), {self.kernel}"

    @property
    def shifted(self) -> bool:
        return bool(self.shift.any())

    @cached_property
    def finish(self) -> Finish:
        """What becomes of the sums."""
        out = self.affine
        real: tuple[tuple[int | None, float], ...] = tuple((None, 1.0) if side is None else (side.zero, side.scale) for side in self.sides)
        if out is None:
            return Finish(self.epilogue, real)
        inverse = np.float32(1) / np.float32(out.scale)
        bounds = linear(self.epilogue, len(self.sides))
        if bounds is None:
            return Finish(self.epilogue, real, out.zero, float(inverse))
        low, high = (int(np.clip(np.rint(bound / out.scale), -out.zero, 255 - out.zero)) for bound in bounds)
        sides = tuple((zero, float(np.float32(scale) * inverse)) for zero, scale in real)
        return Finish(self.epilogue, sides, out.zero, float(inverse), low, high)

    @property
    def factors(self) -> np.ndarray:
        """What a sum is multiplied by, for each output: to the real number, or to steps of the output's bytes."""
        return self.scale if self.finish.low is None else self.scale * np.float32(self.finish.inverse or 1)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each column of each group lies, from the start of a tile."""
        x = self.inputs[0]
        return self.word.astype(np.int64) * x.channel_stride + self.shift.astype(np.int64) @ np.asarray(x.space.steps)

    @property
    def _outputs(self) -> int:
        """Outputs with those that fill the last word."""
        return -(-len(self.weight) // 4) * 4

    @cached_property
    def _grouped(self) -> np.ndarray:
        """Weights (blocks, outputs of a block, columns, 4)."""
        return _filled(self.weight, self._outputs).reshape(-1, self.block, *self.weight.shape[1:])

    @cached_property
    def _chains(self) -> tuple[np.ndarray, np.ndarray]:
        """The block of each chain and its columns; the length of a chain that takes the fewest instructions."""
        if self.output.space.lanes != 8:  # 16-bit sums are AVX2's
            return chains(self._grouped, 1)
        if (pairs(self.weight.astype(np.int32)) > PAIR).any():
            raise AttarError(f"weights of AVX2's int8 kernels must keep neighbours within {PAIR} together: quantise them for that")
        lengths = _LENGTHS if self.block == 1 else _LENGTHS[:2]
        return min((chains(self._grouped, n) for n in lengths), key=lambda made: made[1].size * _COST[made[1].shape[1]])

    @cached_property
    def _tables(self) -> tuple[Array, Array, Array, Array]:
        """Where the chains of each block begin; offsets and weights of each chain; the first sum and the factor of each output."""
        rows, columns = self._chains
        groups = _filled(self.group, self._outputs)[:: self.block]
        empty = columns < 0
        columns = np.where(empty, columns.max(1, initial=0, keepdims=True), columns)
        offsets = self.offsets[groups[rows][:, None], columns]
        weights = self._grouped[rows[:, None], :, columns] * ~empty[:, :, None, None]  # (chains, length, outputs, 4)
        packed = np.ascontiguousarray(weights.astype(np.int8)).view(np.int32).reshape(len(rows), self.block * columns.shape[1])
        table = np.concatenate([offsets.astype(np.int32), packed], 1) if len(rows) else np.zeros((1, 1), np.int32)
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(groups)))]).astype(np.int32)
        numbers = _filled(self.begin.astype(np.int32), self._outputs), _filled(self.factors.astype(np.float32), self._outputs)
        return constant(starts), constant(table), constant(numbers[0]), constant(numbers[1])

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        padding = self.output.padding if self.output.buffer.clean else ()
        return tuple(value.buffer for value in (*self._tables, *padding))

    def functions(self) -> dict[str, str]:
        space = self.output.space
        chain = self._chains[1].shape[1]
        found = {"clean": CLEAN, "clean_words": CLEAN_WORDS, "term": TERM, "dot": DOT}
        found[self._name] = kernel(self._name, self.block, chain, space.tile // space.lanes, space.registers, self.finish)
        return found

    @property
    def _name(self) -> str:
        about = hashlib.sha256(repr(self.finish).encode()).hexdigest()[:6]
        return f"{self.kernel}_int8_{self._chains[1].shape[1]}_{self.output.space.tile}_{about}"

    def over_tiles(self, at: Callable[[Buffer], str]) -> str:
        x, y, words = self.inputs[0], self.output, self._outputs // 4
        share = f"{words} * p / n, {words} * (p + 1) / n"
        starts, table, begin, scale = (at(value.buffer) for value in self._tables)
        arguments = [f"{pointer(x, at)} + tile * {x.tile_stride}", f"{pointer(y, at)} + tile * {y.tile_stride}", str(y.channel_stride)]
        arguments += [starts, table, begin, scale, str(len(self.weight)), share]
        for side in self.inputs[1:]:
            arguments += [f"{pointer(side, at)} + tile * {side.tile_stride}", str(side.channel_stride)]
        lines = [f"{self._name}({', '.join(arguments)});"]
        if y.buffer.clean and self.affine is not None:
            lines.append(clean_words(y, at, share, self.affine.word))
        elif y.buffer.clean:
            last = f"p + 1 == n ? {len(self.weight)} : {words} * (p + 1) / n * 4"
            lines.append(clean(y, at, f"{words} * p / n * 4, {last}"))
        body = "\n".join(f"    {line}" for line in lines)
        return f"""for (long tile = first; tile < end; tile++) {{
{body}
}}"""

    def takes(self, block: int) -> bool:
        """Whether the outputs of each block are of one group."""
        whole = _filled(self.group, self._outputs).reshape(-1, block)
        return bool((whole == whole[:, :1]).all())

    def products(self, block: int) -> int:
        """Columns for a pixel by the kernel of this block, each of four products."""
        whole = _filled(self.weight, self._outputs).reshape(-1, block, *self.weight.shape[1:])
        return block * int((whole != 0).any((1, 3)).sum())


def _filled(values: np.ndarray, outputs: int) -> np.ndarray:
    """With zeros for the outputs that are none; for groups, the last one's."""
    more = outputs - len(values)
    if not more:
        return values
    last = values.ndim == 1 and np.issubdtype(values.dtype, np.integer)
    return np.concatenate([values, np.repeat(values[-1:], more, 0) if last else np.zeros((more, *values.shape[1:]), values.dtype)])
