"""Convolutions over lanes: each output is a sum of weighted, shifted inputs, whatever the convolution was.

Kernels differ in how many output channels share the positions of their weights: one (`stream`: any zeros are skipped, a
weight is broadcast over all vectors of a tile), or a block of 2, 4 or 8 (a column of the block is skipped where all its
weights are zero; with no zeros this is the dense kernel). Input channels come in chunks, so that a tile of them stays in
the first cache; between chunks the sums lie in the output.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import numpy as np

from attar.compiler.ir import C_TYPES, Array, Buffer, Op, constant
from attar.compiler.kernels.lanes import CLEAN, ByTiles, clean, pointer
from attar.compiler.kernels.taps import TERM, kernel, linear

__all__ = ["BLOCKS", "Blocked", "Convolution", "InPlaceOf", "runs"]

BLOCKS = (1, 2, 4, 8)  # output channels of a kernel
_NEAR = 192 << 10  # bytes of a map that stay in the second cache
_CACHE = 24 << 10  # bytes of input that stay in the first cache beside the weights that pass


@dataclass(frozen=True, eq=False)
class Blocked(ByTiles):
    """A convolution over lanes, `block` of whose outputs share the positions of their weights."""

    shares = "outputs"

    block: int = field(default=1, kw_only=True)

    @property
    def offsets(self) -> np.ndarray:
        """Where each column of each group lies, from the start of a tile."""
        raise NotImplementedError

    @property
    def kernel(self) -> str:
        """The name of its kernel."""
        return "stream" if self.block == 1 else f"block{self.block}"

    @property
    def reads(self) -> tuple[int, int]:
        return int(self.offsets.min()), int(self.offsets.max())

    def blocked(self, block: int) -> Self:
        """The same convolution by another kernel."""
        return dataclasses.replace(self, block=block)


@dataclass(frozen=True, eq=False)
class Convolution(Blocked):
    """`output[o][p] = epilogue(bias[o] + sum over k of weight[o, k] * input[channel[group[o], k]][p + shift[k]])` over lanes.

    `weight` is (outputs, columns), with `taps` columns for each channel that a group reads; `channel` is (groups, columns);
    `shift` (columns, dimensions) has the distance in pixels along each dimension; `group` has the group of each output. The
    inputs are the map, the bias, and the maps that the epilogue reads as {1}, {2} ... beside the sum {0}. `block` is the kernel.
    """

    weight: np.ndarray
    channel: np.ndarray
    shift: np.ndarray
    group: np.ndarray
    taps: int
    epilogue: str = "{0}"

    def __str__(self) -> str:
        return self.about(self.kernel)

    def about(self, kernel: str) -> str:
        """What it is, done by `kernel`."""
        kept = np.count_nonzero(self.weight) / max(1, self.weight.size)
        return f"{super().__str__()}, {self.weight.shape[1]} columns, {kept:.1%} of the weights not zero, {kernel}"

    @property
    def overwrites(self) -> tuple[tuple[Any, Any], ...]:
        sides = self.inputs[2:]  # a sum begins with the side that it adds
        return ((self.output, sides[0]),) if sides and linear(self.epilogue, len(sides)) else ()

    @property
    def shifted(self) -> bool:
        return bool(self.shift.any())

    @property
    def separate(self) -> bool:
        """Whether each output reads few channels of its own (depthwise): outputs then come one after the other, not tiles."""
        return self.block == 1 and len(self.channel) > 1 and self.weight.shape[1] <= 4 * self.taps

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of columns whose channels fit the cache; columns are in the order of channels."""
        columns, space = self.weight.shape[1], self.inputs[0].space
        one = np.column_stack([self.channel[0, : self.taps], self.shift[: self.taps, :-1]])
        rows = len(np.unique(one, axis=0))  # that the taps of a channel read, in all its phases
        most = max(8, _CACHE // (4 * rows * (space.tile + int(np.ptp(self.shift[:, -1])))))
        channels = columns // self.taps
        fit = -(-channels // -(-channels // most)) * self.taps  # chunks of one size
        return [(a, min(columns, a + fit)) for a in range(0, columns, fit)]

    @property
    def _ahead(self) -> int:
        """Bytes of a chunk, which in a tiled map the next chunk follows: to be fetched in time, where the map fits no near cache.

        Outputs read their inputs in no order, so that the processor does not guess what comes next.
        """
        x = self.inputs[0]
        far = x.buffer.tiled and len(self.channel) == 1 and 4 * x.buffer.size > _NEAR
        return 4 * (self.chunks[0][1] - self.chunks[0][0]) * x.space.tile if far else 0

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each column of each group lies, from the start of a tile."""
        x = self.inputs[0]
        return self.channel.astype(np.int64) * x.channel_stride + self.shift.astype(np.int64) @ np.asarray(x.space.steps)

    @cached_property
    def _packed(self) -> list[tuple[Array, ...]]:
        """The tables of each kernel in turn."""
        return [
            (_pack_terms if block == 1 else partial(_pack, block=block))(
                self.weight[start:stop], self.offsets[self.group[start:stop:block]], self.chunks
            )
            for block, start, stop in self._blocks
        ]

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        padding = self.output.padding if self.output.buffer.clean else ()
        return tuple(value.buffer for value in (*itertools.chain(*self._packed), *padding))

    def functions(self) -> dict[str, str]:
        space, others = self.output.space, len(self.inputs) - 2
        found = {"clean": CLEAN, "term": TERM}
        for block, _, _ in self._blocks:
            found[self._name(block)] = kernel(self._name(block), block, space.tile // space.lanes, space.registers, self.epilogue, others)
        return found

    @property
    def _blocks(self) -> list[tuple[int, int, int]]:
        """(outputs of a block, first output, one past the last): whole blocks, then single outputs."""
        whole = len(self.weight) // self.block * self.block
        parts = [(self.block, 0, whole), (1, whole, len(self.weight))]
        return [part for part in parts if part[1] < part[2]]

    def _name(self, block: int) -> str:
        about = "" if self.epilogue == "{0}" else "_" + hashlib.sha256(f"{self.epilogue} {len(self.inputs)}".encode()).hexdigest()[:8]
        return f"{self.blocked(block).kernel}_{self.output.space.tile}{about}"

    def over_tiles(self, at: Callable[[Buffer], str]) -> str:
        clean_up = self.output.buffer.clean
        body = []
        for (block, start, stop), tables in zip(self._blocks, self._packed, strict=True):
            count = (stop - start) // block
            share = "o, o + 1" if self.separate else f"{count} * p / n, {count} * (p + 1) / n"
            body.append(self._call(block, start, count, tables, share, at))
            if clean_up:
                outputs = "o, o + 1" if self.separate else f"{start} + {count} * p / n * {block}, {start} + {count} * (p + 1) / n * {block}"
                body.append(clean(self.output, at, outputs))
        loop = "for (long tile = first; tile < end; tile++) {"
        if self.separate:
            loop = f"for (long o = {len(self.weight)} * p / n; o < {len(self.weight)} * (p + 1) / n; o++) {loop}"
        return "\n".join([loop, *(f"    {line}" for line in body), "}"])

    def _call(self, block: int, start: int, count: int, tables: tuple[Array, ...], share: str, at: Callable[[Buffer], str]) -> str:
        x, bias, *others = self.inputs
        y = self.output
        arguments = [
            f"{pointer(x, at)} + tile * {x.tile_stride}",
            f"{pointer(y, at, start * y.channel_stride)} + tile * {y.tile_stride}",
            str(y.channel_stride),
            f"{at(bias.buffer)} + {bias.offset + start}",
            *(f"({'const term' if block == 1 and i else 'const ' + C_TYPES[t.dtype]} *){at(t.buffer)}" for i, t in enumerate(tables)),
            str(len(self.chunks)),
            str(count),
            share,
            str(self._ahead),
        ]
        for r in others:
            arguments += [f"{pointer(r, at, start * r.channel_stride)} + tile * {r.tile_stride}", str(r.channel_stride)]
        return f"{self._name(block)}({', '.join(arguments)});"

    def takes(self, block: int) -> bool:
        """Whether the outputs of each block are of one group."""
        whole = self.group[: len(self.group) // block * block].reshape(-1, block)
        return len(whole) > 0 and bool((whole == whole[:, :1]).all())

    def products(self, block: int) -> int:
        """Multiplications for a pixel by the kernel of this block."""
        rows = len(self.weight) // block * block
        whole = self.weight[:rows].reshape(-1, block, self.weight.shape[1]) != 0
        return block * int(whole.any(1).sum()) + int(np.count_nonzero(self.weight[rows:]))


class InPlaceOf(Op):
    """An op that computes what its `convolution` says, by a kernel of its own."""

    convolution: Convolution
    kernel: ClassVar[str]

    def __str__(self) -> str:
        return self.convolution.about(self.kernel)

    @property
    def overwrites(self) -> tuple[tuple[Any, Any], ...]:
        return self.convolution.overwrites

    @property
    def shifted(self) -> bool:
        return self.convolution.shifted

    @property
    def reads(self) -> tuple[int, int]:
        return self.convolution.reads


def runs(group: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of outputs of one group.

    >>> runs(np.array([0, 0, 1]))
    [(0, 2), (2, 3)]
    """
    cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(group)]
    return list(itertools.pairwise(cuts))


def _pack_terms(weight: np.ndarray, offsets: np.ndarray, chunks: list[tuple[int, int]]) -> tuple[Array, ...]:
    """The nonzero weights of each output in each chunk, as pairs (offset, weight), and where each output's begin."""
    starts, terms, total = [np.zeros(1, np.int32)], [], 0
    for a, b in chunks:
        rows, columns = np.nonzero(weight[:, a:b])
        pairs = np.empty((len(rows), 2), np.int32)
        pairs[:, 0] = offsets[rows, columns + a]
        pairs[:, 1] = weight[:, a:b][rows, columns].astype(np.float32).view(np.int32)
        terms.append(pairs)
        starts.append((total + np.cumsum(np.bincount(rows, minlength=len(weight)))).astype(np.int32))
        total += len(rows)
    return constant(np.concatenate(starts)), constant(np.concatenate(terms) if total else np.zeros((1, 2), np.int32))


def _pack(weight: np.ndarray, offsets: np.ndarray, chunks: list[tuple[int, int]], *, block: int) -> tuple[Array, ...]:
    """The columns of each block of outputs in each chunk that hold a weight: where they begin, their offsets, `block` weights each."""
    grouped = weight.reshape(-1, block, weight.shape[1])
    starts, where, values, total = [np.zeros(1, np.int32)], [], [], 0
    for a, b in chunks:
        part = grouped[:, :, a:b]
        rows, columns = np.nonzero(part.any(1))
        where.append(offsets[rows, columns + a].astype(np.int32))
        values.append(part.transpose(0, 2, 1)[rows, columns].astype(np.float32))
        starts.append((total + np.cumsum(np.bincount(rows, minlength=len(grouped)))).astype(np.int32))
        total += len(rows)
    return constant(np.concatenate(starts)), constant(np.concatenate(where)), constant(np.concatenate(values))
