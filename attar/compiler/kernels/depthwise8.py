"""Depthwise convolutions of bytes: each channel of a word is summed over taps of its own, four channels at a time.

Neighbouring taps are interleaved, so that the taps of a channel lie side by side, and one instruction sums their products: with
VNNI four taps, in 32 bits; with AVX2 two, in 16 bits, and the sums of a few pairs, a `group`, meet there too. Such a sum may wrap
around: it is told from its last 16 bits, since a group's weights leave it no more than 2^16 values, around a centre that is added.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attar.compiler.ir import Array, Buffer, constant
from attar.compiler.kernels.convolution8 import Convolution8
from attar.compiler.kernels.lanes import CLEAN, clean, pointer
from attar.compiler.kernels.taps import TERM
from attar.compiler.kernels.taps8 import DOT, PAIR, Finish, finished, gathered
from attar.compiler.kernels.words import CLEAN_WORDS, clean_words
from attar.errors import AttarError

__all__ = ["GROUP", "Depthwise8", "excess", "groups", "order"]

GROUP = 257  # what the sizes of a group's weights may sum to: its sums have 255 * 257 + 1 = 2^16 values
_PAIRS = 3  # of a group at most

INTERLEAVE = """
// words in vectors; what takes two interleaves them by bytes or halves: the first or the second half of each 16 bytes
#if defined(__AVX512VNNI__) && VL == 16
#define WIDE(f) _mm512_##f
typedef __m512i wide;
typedef __m512 wide_floats;
static inline wide fours(const void *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)); }
static inline wide read(const int32_t *p) { return _mm512_loadu_si512(p); }
static inline void keep(int32_t *p, wide v) { _mm512_storeu_si512(p, v); }
#elif defined(__AVX2__) && VL == 8
#define WIDE(f) _mm256_##f
typedef __m256i wide;
typedef __m256 wide_floats;
static inline wide fours(const void *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)); }
static inline wide twos(const void *p) { long long v; memcpy(&v, p, 8); return _mm256_set1_epi64x(v); }
// kept apart from the two instructions that use it: each would load it again
static inline wide read(const int32_t *p) { wide v = _mm256_loadu_si256((const __m256i *)p); __asm__("" : "+x"(v)); return v; }
static inline void keep(int32_t *p, wide v) { _mm256_storeu_si256((__m256i *)p, v); }
static inline wide add_pairs(wide sum, wide h) { return _mm256_add_epi32(sum, _mm256_madd_epi16(h, _mm256_set1_epi16(1))); }
static inline wide products(wide x, wide w) { return _mm256_maddubs_epi16(x, w); }
static inline wide add16(wide a, wide b) { return _mm256_add_epi16(a, b); }
#endif
#ifdef WIDE
static const int32_t nothing[4];
static inline wide low8(wide a, wide b) { return WIDE(unpacklo_epi8)(a, b); }
static inline wide high8(wide a, wide b) { return WIDE(unpackhi_epi8)(a, b); }
static inline wide low16(wide a, wide b) { return WIDE(unpacklo_epi16)(a, b); }
static inline wide high16(wide a, wide b) { return WIDE(unpackhi_epi16)(a, b); }

// s[i] holds four channels of each fourth pixel; then s[b] holds channel b of all
static inline void by_channel(wide *s) {
    const wide a = WIDE(unpacklo_epi32)(s[0], s[1]), b = WIDE(unpackhi_epi32)(s[0], s[1]);
    const wide c = WIDE(unpacklo_epi32)(s[2], s[3]), d = WIDE(unpackhi_epi32)(s[2], s[3]);
    s[0] = WIDE(unpacklo_epi64)(a, c), s[1] = WIDE(unpackhi_epi64)(a, c);
    s[2] = WIDE(unpacklo_epi64)(b, d), s[3] = WIDE(unpackhi_epi64)(b, d);
}
static inline wide scaled(wide s, wide_floats scale) { return WIDE(cvtps_epi32)(WIDE(mul_ps)(WIDE(cvtepi32_ps)(s), scale)); }
// words of the whole numbers nearest to s * scale, which must have 32 bits, plus zero, held between low and high
static inline wide bytes_of(const wide *s, wide_floats scale, int zero, int low, int high) {
    const wide z = WIDE(set1_epi16)((short)zero);
    const wide a = WIDE(adds_epi16)(WIDE(packs_epi32)(scaled(s[0], scale), scaled(s[1], scale)), z);
    const wide b = WIDE(adds_epi16)(WIDE(packs_epi32)(scaled(s[2], scale), scaled(s[3], scale)), z);
    wide word = WIDE(packus_epi16)(a, b);
    if (low > 0) word = WIDE(max_epu8)(word, WIDE(set1_epi8)((char)low));
    if (high < 255) word = WIDE(min_epu8)(word, WIDE(set1_epi8)((char)high));
    return word;
}
#endif
"""


def order(weight: np.ndarray) -> np.ndarray:
    """In which order the taps of weights (outputs, taps) are to be summed: the large beside the small, the largest last if they are odd.

    >>> order(np.array([[1.0, 5, 2, 3, 4]]))
    array([4, 0, 3, 2, 1])
    """
    largest = np.abs(weight).max(1, keepdims=True)
    size = (np.abs(weight) / np.where(largest > 0, largest, 1)).mean(0)
    down = np.argsort(-size, kind="stable")
    alone, rest = down[: len(down) % 2], down[len(down) % 2 :]
    half = len(rest) // 2
    return np.concatenate([np.stack([rest[:half], rest[half:][::-1]], 1).reshape(-1), alone])


def groups(taps: int) -> list[range]:
    """The taps whose products meet in 16 bits: a few pairs, and an even number of groups, since two become sums of 32 bits together.

    >>> groups(9), groups(2)
    ([range(0, 6), range(6, 9)], [range(0, 2)])
    """
    pairs = -(-taps // 2)
    count = min(pairs, 2 * -(-pairs // (2 * _PAIRS)))
    ends = [0, *np.cumsum([pairs // count + (i < pairs % count) for i in range(count)]).tolist()]
    return [range(2 * a, min(taps, 2 * b)) for a, b in itertools.pairwise(ends)]


def excess(weight: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """By what factor weights (outputs, taps) are larger than AVX2's sums of 16 bits can hold; `slack` is what each may grow by."""
    spare = np.concatenate([weight, np.zeros((len(weight), weight.shape[1] % 2), weight.dtype)], 1).reshape(len(weight), -1, 2)
    signs = np.maximum(np.maximum(spare, 0).sum(-1), np.maximum(-spare, 0).sum(-1)).max(1, initial=0) / (PAIR - 2 * slack)
    whole = [np.abs(weight[:, g.start : g.stop]).sum(1) / (GROUP - slack * len(g)) for g in groups(weight.shape[1])]
    return np.max([signs, *whole], 0)


@dataclass(frozen=True, eq=False)
class Depthwise8(Convolution8):
    """A `Convolution8` in which byte i of word g of the output sums byte i of the words g + word[0, k] of the input, over taps k.

    `weight[4 * g + i, k]` is zero but for byte i, and shifts are the same for all groups; group is o // 4.
    """

    @property
    def kernel(self) -> str:
        return "depthwise"

    def takes(self, block: int) -> bool:
        return block == 1

    @cached_property
    def _taps(self) -> np.ndarray:
        """Weights (words, 4, taps)."""
        outputs, taps, _ = self.weight.shape
        own = self.weight[np.arange(outputs), :, np.arange(outputs) % 4]
        return np.concatenate([own, np.zeros((self._outputs - outputs, taps), np.int8)]).reshape(-1, 4, taps)

    @cached_property
    def _tables(self) -> tuple[Array, Array, Array, Array]:
        """For each word of the output: weights, as its taps are interleaved; centres of groups; first sums; factors."""
        words, _, taps = self._taps.shape
        begin, factors = np.zeros(4 * words, np.int64), np.zeros(4 * words, np.float32)
        begin[: len(self.begin)], factors[: len(self.factors)] = self.begin, self.factors
        together, centres = 4, np.zeros((words, 0, 4), np.int64)
        if self.output.space.lanes == 8:
            together, centres = 2, self._centres()
            begin -= centres.sum(1).reshape(-1)
        filled = np.concatenate([self._taps, np.zeros((words, 4, -taps % together), np.int8)], 2)
        packed = filled.reshape(words, 4, -1, together).transpose(0, 2, 1, 3)
        held = np.concatenate([centres, np.zeros((words, int(not centres.size), 4), np.int64)], 1).astype(np.int16)
        return constant(packed.reshape(words, -1)), constant(held.reshape(words, -1)), constant(begin.astype(np.int32)), constant(factors)

    def _centres(self) -> np.ndarray:
        """What is added to the sums of each group, (words, groups, 4), that they lie around 0."""
        weight = self._taps.astype(np.int64)
        if (excess(weight.reshape(-1, weight.shape[-1])) > 1).any():
            raise AttarError(f"depthwise weights for AVX2 must keep pairs within {PAIR} and groups within {GROUP}: quantise them for that")
        return np.stack([-255 * weight[..., g.start : g.stop].sum(-1) // 2 for g in groups(weight.shape[-1])], 1)

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        padding = self.output.padding if self.output.buffer.clean else ()
        return tuple(value.buffer for value in (*self._tables, *padding))

    @property
    def _packs(self) -> bool:
        """Whether sums become bytes where they are: no other map is read, and no sum leaves 32 bits when it is scaled."""
        most = (255 * np.abs(self.weight.astype(np.int64)).sum((1, 2)) + np.abs(self.begin.astype(np.int64))) * np.abs(self.factors)
        return self.finish.low is not None and not self.sides and bool((most < 2.0**30).all())

    def functions(self) -> dict[str, str]:
        cleaner = {"clean": CLEAN} if self.affine is None else {"clean_words": CLEAN_WORDS}
        found = cleaner if self.output.buffer.clean else {}
        return {**found, "term": TERM, "dot": DOT, "interleave": INTERLEAVE, self._name: self._text}

    @property
    def _name(self) -> str:
        about = repr((self.offsets[0].tolist(), self.finish, self._packs, self.output.space.tile))
        return f"depthwise_int8_{hashlib.sha256(about.encode()).hexdigest()[:8]}"

    @property
    def _text(self) -> str:
        lanes = self.output.space.lanes
        places, vectors = self.offsets[0].tolist(), self.output.space.tile // lanes
        sums = {8: _sums_of_pairs, 16: _sums_of_fours}.get(lanes, _sums)(places)
        return _kernel(self._name, sums, vectors, self.finish, packs=self._packs and lanes >= 8, wide=lanes >= 8)

    def over_tiles(self, at: Callable[[Buffer], str]) -> str:
        x, y, words = self.inputs[0], self.output, self._outputs // 4
        share = f"{words} * p / n, {words} * (p + 1) / n"
        weight, centre, begin, scale = self._tables
        arguments = [pointer(x, at), str(x.channel_stride), str(x.tile_stride), pointer(y, at), str(y.channel_stride), str(y.tile_stride)]
        arguments += [at(weight.buffer), str(weight.shape[1]), at(centre.buffer), str(centre.shape[1])]
        arguments += [at(begin.buffer), at(scale.buffer), str(len(self.weight)), share, "first, end"]
        for side in self.inputs[1:]:
            arguments += [pointer(side, at), str(side.channel_stride), str(side.tile_stride)]
        lines = [f"{self._name}({', '.join(arguments)});"]
        if y.buffer.clean and self.affine is not None:
            lines.append(f"for (long tile = first; tile < end; tile++) {{ {clean_words(y, at, share, self.affine.word)} }}")
        elif y.buffer.clean:
            last = f"p + 1 == n ? {len(self.weight)} : {words} * (p + 1) / n * 4"
            lines.append(f"for (long tile = first; tile < end; tile++) {{ {clean(y, at, f'{words} * p / n * 4, {last}')} }}")
        return "\n".join(lines)


def _kernel(name: str, sums: tuple[str, str], vectors: int, finish: Finish, *, packs: bool, wide: bool) -> str:
    """A function for words [lo, hi) and tiles [from, to) of `vectors` vectors; `wide` says that the sums of a pixel lie together."""
    arguments, rows = "", []
    for i, (zero, _) in enumerate(finish.sides, 1):
        kind, each = ("float", 4) if zero is None else ("int32_t", 1)
        arguments += f", const {kind} *r{i}_map, long r{i}_channel, long r{i}_tile"
        rows.append(f"const {kind} *r{i} = r{i}_map + g * {each} * r{i}_channel + tile * r{i}_tile + i0;")
    kind, each = ("int32_t", 1) if finish.bytes else ("float", 4)
    if packs:
        held = f"{finish.zero}, {finish.zero + (finish.low or 0)}, {finish.zero + finish.high}"
        rows = [f"keep(y, bytes_of(s, (wide_floats)fours(scale), {held}));"]
    else:
        rows += ["by_channel(s);"] * wide + ["vi a[4][1];", "BLOCK a[b][0] = (vi)s[b];", gathered(1, finish), finished(1, finish)]
        rows += ["*(vu *)y = word[0];"] * finish.bytes
    each_word, each_vector = sums
    after = "\n                ".join(rows)
    return f"""
#define VECTORS for (long t = 0; t < 1; t++)
#define BLOCK _Pragma("GCC unroll 4") for (long b = 0; b < 4; b++)
// {vectors} vectors of words, for words [lo, hi) and tiles [from, to)
static __attribute__((noinline)) void {name}(
    const int32_t *x, long x_channel, long x_tile, {kind} *map, long y_channel, long y_tile, const int8_t *weights, long a_word,
    const int16_t *centres, long groups, const int32_t *begins, const float *scales, long channels, long lo, long hi,
    long from, long to{arguments}) {{
    (void)centres, (void)groups;
    for (long g = lo; g < hi; g++) {{
        const int8_t *w = weights + g * a_word;
        const int32_t *begin = begins + 4 * g;
        const float *scale = scales + 4 * g;
        const long outputs = channels - 4 * g, j = 0;
        (void)outputs, (void)j;
        {each_word}
        for (long tile = from; tile < to; tile++)
            for (long i0 = 0; i0 < {vectors} * VL; i0 += VL) {{
                const int32_t *in = x + g * x_channel + tile * x_tile + i0;
                {kind} *y = map + g * {each} * y_channel + tile * y_tile + i0;
                {each_vector}
                {after}
            }}
    }}
}}
#undef BLOCK
#undef VECTORS
"""


def _sums_of_pairs(places: Sequence[int]) -> tuple[str, str]:
    """C for AVX2: what a word needs, and sums `s` of a vector for taps at these places."""
    parts = groups(len(places))
    once = [f"const wide w{k} = twos(w + {4 * k});" for k in range(0, len(places), 2)]
    once += [f"const wide c{n} = twos(centres + {4 * len(parts)} * g + {4 * n});" for n in range(len(parts))]
    lines = ["wide s[4] = {fours(begin), fours(begin), fours(begin), fours(begin)};"]
    for n, part in enumerate(parts):
        lines.append(f"wide l{n} = c{n}, h{n} = c{n};")
        for k in part[::2]:
            lines.append(f"{{ const wide p = {_read(places, k)}, q = {_read(places, k + 1)};")
            lines.append(f"  l{n} = add16(l{n}, products(low8(p, q), w{k})), h{n} = add16(h{n}, products(high8(p, q), w{k})); }}")
        if n % 2 or n == len(parts) - 1:
            a, b, c, d = (f"l{n - 1}", f"l{n}", f"h{n - 1}", f"h{n}") if n % 2 else (f"l{n}", "fours(nothing)", f"h{n}", "fours(nothing)")
            lines.append(f"s[0] = add_pairs(s[0], low16({a}, {b})), s[1] = add_pairs(s[1], high16({a}, {b}));")
            lines.append(f"s[2] = add_pairs(s[2], low16({c}, {d})), s[3] = add_pairs(s[3], high16({c}, {d}));")
    return "\n        ".join(once), "\n                ".join(lines)


def _sums_of_fours(places: Sequence[int]) -> tuple[str, str]:
    """The same for VNNI."""
    once = [f"const wide w{k} = fours(w + {4 * k});" for k in range(0, len(places), 4)]
    lines = ["wide s[4] = {fours(begin), fours(begin), fours(begin), fours(begin)};"]
    for k in range(0, len(places), 4):
        p, q, r, t = (_read(places, k + i) for i in range(4))
        lines.append(f"{{ const wide p = {p}, q = {q}, r = {r}, t = {t};")
        lines.append("  const wide a = low8(p, q), b = low8(r, t), c = high8(p, q), d = high8(r, t);")
        for i, four in enumerate(("low16(a, b)", "high16(a, b)", "low16(c, d)", "high16(c, d)")):
            lines.append(f"  s[{i}] = WIDE(dpbusd_epi32)(s[{i}], {four}, w{k});")
        lines.append("}")
    return "\n        ".join(once), "\n                ".join(lines)


def _sums(places: Sequence[int]) -> tuple[str, str]:
    """The same in C alone, channel by channel."""
    lines = ["vi s[4];", "BLOCK s[b] = every_word(begin[b]);"]
    for k, place in enumerate(places):
        weight = f"w[{k // 4 * 16 + k % 4} + 4 * b]"
        lines.append(f"{{ const vu p = (vu)words(in + {place}); BLOCK s[b] += (vi)(p >> (unsigned)(8 * b) & 255) * {weight}; }}")
    return "", "\n                ".join(lines)


def _read(places: Sequence[int], k: int) -> str:
    return f"read(in + {places[k]})" if k < len(places) else "fours(nothing)"
