"""Maps of bytes in lanes: a word of 32 bits holds four channels of a pixel, so that words move as float32 values do.

Four bytes that stand for real numbers by a scale and a zero point: packed of float32, unpacked, moved, pooled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from attar.compiler.ir import Buffer, Lanes
from attar.compiler.kernels.lanes import RUN, Move, Pool, mover, pointer, tile_loop

__all__ = ["CLEAN_WORDS", "Affine", "MoveWords", "Pack", "PoolWords", "Unpack", "clean_words"]

Pointer = Callable[[Buffer], str]


@dataclass(frozen=True)
class Affine:
    """Bytes for real numbers: x = (byte - zero) * scale.

    >>> Affine.between(-1.0, 4.1).zero
    50
    """

    scale: float
    zero: int

    @classmethod
    def between(cls, low: float, high: float) -> Affine:
        """For numbers from `low` to `high`, and 0, which is a byte exactly."""
        low, high = min(0.0, float(low)), max(0.0, float(high))
        scale = float(np.float32((high - low) / 255))
        if scale < 1e-30:  # all zero, or so near to it that 1 / scale is no float32
            scale = 1.0
        return cls(scale, int(np.clip(round(-low / scale), 0, 255)))

    @property
    def word(self) -> int:
        """Four zero points as a signed word."""
        return int(np.frombuffer(bytes([self.zero] * 4), np.int32)[0])

    def bytes(self, x: NDArray[np.float32]) -> NDArray[np.uint8]:
        """To the nearest, ties to even, held in the range; NaN is the smallest. Bit for bit what C does."""
        inverse = np.float32(1) / np.float32(self.scale)
        scaled = np.nan_to_num(np.asarray(x, np.float32) * inverse, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        return (np.rint(np.clip(scaled, -self.zero, 255 - self.zero)) + self.zero).astype(np.uint8)

    def real(self, q: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The numbers that bytes stand for."""
        return (q.astype(np.float32) - np.float32(self.zero)) * np.float32(self.scale)


CLEAN_WORDS = """
static inline void clean_words_row(int32_t *restrict y, long n, int32_t value) {
    if (n < 5) {  // as between rows, mostly
        y[0] = y[n - 1] = value;
        if (n > 2) y[1] = y[n - 2] = value;
        return;
    }
    for (long i = 0; i < n; i++) y[i] = value;
}
// sets what is no pixel to `value`, in runs [first, last) of (offset, length) from a channel's start, in channels [lo, hi)
static void clean_words(int32_t *y, long channel, const int32_t *runs, long first, long last, long lo, long hi, int32_t value) {
    for (long c = lo; c < hi; c++)
        for (long r = first; r < last; r++) clean_words_row(y + c * channel + runs[2 * r], runs[2 * r + 1], value);
}
"""


def clean_words(value: Lanes, at: Pointer, channels: str, fill: int) -> str:
    """C that fills the padding of one tile, for channels "from, to"."""
    runs, index = value.padding
    which = f"({at(index.buffer)})[tile], ({at(index.buffer)})[tile + 1]"
    text = f"clean_words({pointer(value, at)}, {value.channel_stride}, {at(runs.buffer)}, {which}, {channels}, {fill});"
    if value.buffer.tiled or not value.space.before:
        return text
    lo, hi = channels.split(", ")
    begin = pointer(value, at, -value.space.before)
    return f"{text} if (tile == 0 && {lo} == 0 && {hi} > 0) clean_words_row({begin}, {value.space.before}, {fill});"


@dataclass(frozen=True, eq=False)
class MoveWords(Move):
    """A `Move` of words: channels are words; what is no pixel becomes `fill`, where it is given a word."""

    verb: ClassVar[str] = "move_words"
    kind: ClassVar[str] = "int32_t"

    def functions(self) -> dict[str, str]:
        return {"run": RUN, "clean_words": CLEAN_WORDS} | self._movers()

    @property
    def _cleaner(self) -> tuple[str, str]:
        return "clean_words", str(int(self.fill or 0))


BYTE = """
// to the nearest whole number, ties to even, between low and high; NaN is low
static inline uint32_t byte_of(float v, float low, float high, int32_t zero) {
    v = v > low ? v : low;
    v = v < high ? v : high;
    return (uint32_t)(attar_bits(v + 12582912.0f) - 0x4B400000 + zero);
}
"""


@dataclass(frozen=True, eq=False)
class Pack(MoveWords):
    """Pixels of float32 moved into words: a part's `channels` and `start` are words, its `source` is a channel; `counts` are the
    channels of each part; where they are no multiple of 4, the last word repeats its first channel."""

    affine: Affine = Affine(1.0, 0)
    counts: tuple[int, ...] = ()

    verb: ClassVar[str] = "pack"

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return []  # four rows are read at once already

    def functions(self) -> dict[str, str]:
        return {"byte_of": BYTE} | super().functions()

    def _numbers(self, part: int) -> tuple:
        low, high = f"{-self.affine.zero}.0f", f"{255 - self.affine.zero}.0f"
        inverse = np.float32(1) / np.float32(self.affine.scale)
        return (self.parts[part].channels, self.counts[part], f"{_literal(inverse)}", low, high, self.affine.zero)

    def _text(self, step: int, out_step: int) -> str:
        loads = "".join(f" | byte_of(a{i}[i * {step}] * inverse, low, high, zero) << {8 * i}" for i in range(1, 4))
        return mover(
            f"packs bytes of four channels into words; pixels lie {step} apart where they are read and {out_step} where they are written",
            f"{self._name(step, out_step)}(const float *x, long x_channel, int32_t *y, long y_channel,\n"
            "    const run *table, long runs, long channels, long count, float inverse, float low, float high, int32_t zero",
            f"""const long left = count - 4 * c;
            const float *a0 = x + 4 * c * x_channel + table[r].from;
            const float *a1 = left > 1 ? a0 + x_channel : a0, *a2 = left > 2 ? a0 + 2 * x_channel : a0;
            const float *a3 = left > 3 ? a0 + 3 * x_channel : a0;
            int32_t *restrict b = y + c * y_channel + table[r].to;
            const long n = table[r].length;
            for (long i = 0; i < n; i++)
                b[i * {out_step}] = (int32_t)(byte_of(a0[i * {step}] * inverse, low, high, zero){loads});""",
        )


@dataclass(frozen=True, eq=False)
class Unpack(Move):
    """Words moved out as float32: a part's `source` is a word, its `channels` and `start` are of the output; what is no pixel
    becomes 0."""

    affine: Affine = Affine(1.0, 0)

    verb: ClassVar[str] = "unpack"

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return []

    def _numbers(self, part: int) -> tuple:
        return (self.parts[part].channels, _literal(np.float32(self.affine.scale)), self.affine.zero)

    def _text(self, step: int, out_step: int) -> str:
        return mover(
            f"unpacks channels of words; pixels lie {step} apart where they are read and {out_step} where they are written",
            f"{self._name(step, out_step)}(const int32_t *x, long x_channel, float *y, long y_channel,\n"
            "    const run *table, long runs, long channels, float scale, int32_t zero",
            f"""const int32_t *a = x + c / 4 * x_channel + table[r].from;
            float *restrict b = y + c * y_channel + table[r].to;
            const long n = table[r].length;
            const uint32_t shift = (uint32_t)(c % 4) * 8;
            for (long i = 0; i < n; i++) b[i * {out_step}] = (float)((int32_t)((uint32_t)a[i * {step}] >> shift & 255) - zero) * scale;""",
        )


@dataclass(frozen=True, eq=False)
class PoolWords(Pool):
    """The largest of the bytes at `shifts`; what is no pixel of the output becomes the word `fill`."""

    fill: int = 0

    def functions(self) -> dict[str, str]:
        return {"clean_words": CLEAN_WORDS} if self.output.buffer.clean else {}

    def over_tiles(self, at: Pointer) -> str:
        x, y = self.inputs[0], self.output
        offsets = [4 * offset for offset in self.offsets]
        terms = [f"x[i{f' + {o}' if o > 0 else f' - {-o}' if o else ''}]" for o in offsets]
        lines = [f"uint8_t v = {terms[0]};", *(f"v = {t} > v ? {t} : v;" for t in terms[1:])]
        body = "\n                ".join(lines)
        inside = f"""    for (long c = from; c < to; c++) {{
            const uint8_t *x = (const uint8_t *)({pointer(x, at)} + tile * {x.tile_stride} + c * {x.channel_stride});
            uint8_t *restrict y = (uint8_t *)({pointer(y, at)} + tile * {y.tile_stride} + c * {y.channel_stride});
            for (long i = 0; i < {4 * y.space.tile}; i++) {{
                {body}
                y[i] = v;
            }}
    }}"""
        if y.buffer.clean:
            inside += "\n    " + clean_words(y, at, "from, to", self.fill)
        return tile_loop(y, inside)


def _literal(value: np.float32) -> str:
    return f"{np.format_float_scientific(value, unique=True, trim='0')}f"
