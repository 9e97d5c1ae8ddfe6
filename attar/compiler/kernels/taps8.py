"""The C of the int8 convolution kernels: sums of products of bytes over the vectors of a tile, and what becomes of the sums.

A word holds four channels of a pixel, unsigned bytes; a column has four signed weights for it. `dot` adds the four products
to a sum of 32 bits: one instruction with VNNI; with AVX2 two, of which the first adds two products in 16 bits, so that the
weights must be small enough for it (`fits`), and where several columns together are, their sums meet there too: a chain.
Elsewhere vector extensions say the same. All three give the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["DOT", "PAIR", "Finish", "chains", "finished", "gathered", "kernel", "pairs"]

PAIR = 128  # what the positive (and the negative) weights of two neighbouring channels may sum to: 255 * 128 < 2^15

DOT = """
#if (defined(__AVX512VNNI__) && VL == 16) || (defined(__AVX2__) && VL == 8)
#include <immintrin.h>
#endif
typedef uint32_t vu __attribute__((vector_size(4 * VL), aligned(4), may_alias));

static inline vi words(const int32_t *p) { return *(const vi *)p; }
static inline vi every_word(int32_t w) { return w - (vi){0}; }
static inline vf every_scale(float w) { return w - (vf){0}; }

// sum + the four products of the unsigned bytes of x and the signed bytes of w; dot2 and dot4 do so for several x
#if defined(__AVX512VNNI__) && VL == 16
static inline vi dot(vi sum, vi x, vi w) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w); }
#elif defined(__AVX2__) && VL == 8
static inline __m256i halves(vi x, vi w) { return _mm256_maddubs_epi16((__m256i)x, (__m256i)w); }
static inline vi whole(vi sum, __m256i h) { return sum + (vi)_mm256_madd_epi16(h, _mm256_set1_epi16(1)); }
static inline vi dot(vi sum, vi x, vi w) { return whole(sum, halves(x, w)); }
#else
static inline vi dot(vi sum, vi x, vi w) {
    const vu bytes = (vu)w;
    sum += (x & 255) * ((vi)(bytes << 24) >> 24);
    sum += ((vi)((vu)x >> 8) & 255) * ((vi)(bytes << 16) >> 24);
    sum += ((vi)((vu)x >> 16) & 255) * ((vi)(bytes << 8) >> 24);
    return sum + (vi)((vu)x >> 24) * ((vi)bytes >> 24);
}
#endif
#if defined(__AVX2__) && VL == 8
static inline vi dot2(vi sum, vi x, vi w, vi x1, vi w1) { return whole(sum, _mm256_add_epi16(halves(x, w), halves(x1, w1))); }
static inline vi dot4(vi sum, vi x, vi w, vi x1, vi w1, vi x2, vi w2, vi x3, vi w3) {
    const __m256i one = _mm256_add_epi16(halves(x, w), halves(x1, w1)), two = _mm256_add_epi16(halves(x2, w2), halves(x3, w3));
    return whole(sum, _mm256_add_epi16(one, two));
}
#else
static inline vi dot2(vi sum, vi x, vi w, vi x1, vi w1) { return dot(dot(sum, x, w), x1, w1); }
static inline vi dot4(vi sum, vi x, vi w, vi x1, vi w1, vi x2, vi w2, vi x3, vi w3) {
    return dot2(dot2(sum, x, w, x1, w1), x2, w2, x3, w3);
}
#endif

// keeps a product from being fused with the sum that follows: it is rounded first, everywhere
#if defined(__x86_64__) && defined(__AVX512F__)
#define ROUNDED(v) __asm__("" : "+v"(v))
#elif defined(__x86_64__)
#define ROUNDED(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define ROUNDED(v) __asm__("" : "+w"(v))
#else
#define ROUNDED(v) __asm__("" : "+m"(v))
#endif

// v between low and high
static inline vf between(vf v, float low, float high) {
    const vf l = every_scale(low), h = every_scale(high);
#if defined(__AVX512F__) && VL == 16
    return (vf)_mm512_min_ps(_mm512_max_ps((__m512)v, (__m512)l), (__m512)h);
#elif defined(__AVX2__) && VL == 8
    return (vf)_mm256_min_ps(_mm256_max_ps((__m256)v, (__m256)l), (__m256)h);
#else
    const vi above = v > l;
    v = (vf)(((vi)v & above) | ((vi)l & ~above));
    const vi below = v < h;
    return (vf)(((vi)v & below) | ((vi)h & ~below));
#endif
}

// 0x4B400000 plus the whole number nearest to v, which is below 2^22 in size, ties to even
static inline vu nearest(vf v) { return (vu)(v + 12582912.0f); }
"""


@dataclass(frozen=True)
class Finish:
    """What becomes of a sum s, with `scale` what it counts in.

    Where `low` is given (whole numbers): round(s * scale + the sum over sides of side * factor), held between low and high,
    plus `zero`, as a byte. Else the `expression` of s * scale and the sides as real numbers: a byte, by `inverse`, between
    -zero and 255 - zero, or a float32 where `inverse` is None. `sides` has for each map beside the sum its zero point, or
    None where it is float32, and its factor.
    """

    expression: str
    sides: tuple[tuple[int | None, float], ...]
    zero: int = 0
    inverse: float | None = None
    low: int | None = None
    high: int = 255

    @property
    def bytes(self) -> bool:
        return self.inverse is not None


def pairs(weight: np.ndarray) -> np.ndarray:
    """(..., 4) weights -> (..., 4): what the positive and the negative ones of each half of a word sum to, all as sizes."""
    half = weight.reshape(*weight.shape[:-1], 2, 2)
    return np.concatenate([np.maximum(half, 0).sum(-1), np.maximum(-half, 0).sum(-1)], -1)


def chains(weight: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of each block put together by `length`, so that no sum of 16 bits overflows.

    weight: (blocks, outputs, columns, 4). Gives the blocks (n,) of the chains in order, and their columns (n, length), where
    -1 is none. A column whose weights are all zero is in no chain. Any four inputs of a byte and any chain keep each sum of
    16 bits within 255 * PAIR, if each column alone does.
    """
    rows, columns = np.nonzero((weight != 0).any((1, 3)))
    if length == 1 or not len(rows):
        return rows, np.repeat(columns[:, None], length, 1)
    size = pairs(weight.transpose(0, 2, 1, 3)[rows, columns].astype(np.int16)).reshape(len(rows), -1)
    order = np.lexsort((-size.max(1, initial=0), rows))
    rows, columns, size = rows[order], columns[order], size[order]
    count = np.bincount(rows, minlength=len(weight))
    first = np.cumsum(count) - count
    rank = np.arange(len(rows)) - first[rows]
    bins = -(-count // length)
    level, place = np.divmod(rank, np.maximum(bins, 1)[rows])
    place = np.where(level % 2 == 0, place, bins[rows] - 1 - place)  # the large with the small
    start = np.cumsum(bins) - bins
    members = np.full((int(bins.sum()), length), -1)
    members[start[rows] + place, level] = np.arange(len(rows))
    members = _split(members, np.concatenate([size, np.zeros((1, size.shape[1]), size.dtype)]))
    lead = members.max(1)
    order = np.lexsort((columns[lead], rows[lead]))
    members, lead = members[order], lead[order]
    return rows[lead], np.where(members >= 0, np.append(columns, -1)[members], -1)


def _split(members: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Chains that overflow, halved until none does."""
    length, kept, width = members.shape[1], [], members.shape[1]
    while True:
        members = members[(members >= 0).any(1)]
        fine = (size[members].sum(1) <= PAIR).all(1) if width > 1 else np.ones(len(members), bool)
        kept.append(np.pad(members[fine], ((0, 0), (0, length - width)), constant_values=-1))
        if fine.all():
            return np.concatenate(kept)
        rest, width = members[~fine], width // 2
        members = np.concatenate([rest[:, :width], rest[:, width:]]) if width == 1 else np.concatenate([rest[:, [0, 3]], rest[:, [1, 2]]])


def kernel(name: str, block: int, chain: int, vectors: int, registers: int, finish: Finish) -> str:
    """A function for tiles of `vectors` vectors, four outputs at a time, `block` of them together, `chain` columns together."""
    kinds = ["int32_t" if zero is not None else "float" for zero, _ in finish.sides]
    arguments = "".join(f", const {kind} *r{i}, long r{i}_channel" for i, kind in enumerate(kinds, 1))
    widths = _widths(vectors, block, chain, registers)
    one = [_pass(name, block, chain, width, arguments, finish) for width in sorted(set(widths))]
    steps = [1 if zero is not None else 4 for zero, _ in finish.sides]
    calls, first = [], 0
    for width in widths:
        beside = "".join(f", r{i} + g * {step} * r{i}_channel + {first} * VL, r{i}_channel" for i, step in enumerate(steps, 1))
        out = f"y + g * {1 if finish.bytes else 4} * y_channel + {first} * VL"
        calls.append(
            f"{name}_{width}(x + {first} * VL, {out}, y_channel, starts + g * {4 // block}, table, "
            f"begin + g * 4, scale + g * 4, outputs - g * 4{beside});"
        )
        first += width
    body = "\n        ".join(calls)
    kind = "int32_t" if finish.bytes else "float"
    return (
        "".join(one)
        + f"""
// {vectors} vectors of four outputs each, for fours [lo, hi)
static void {name}(const int32_t *x, {kind} *y, long y_channel, const int32_t *starts, const int32_t *table, const int32_t *begin,
                   const float *scale, long outputs, long lo, long hi{arguments}) {{
    for (long g = lo; g < hi; g++) {{
        {body}
    }}
}}
"""
    )


def _widths(vectors: int, block: int, chain: int, registers: int) -> list[int]:
    """The vectors of a tile in the fewest passes whose sums, inputs and weights fit the registers.

    >>> _widths(7, 1, 4, 16), _widths(7, 4, 2, 16), _widths(7, 4, 1, 32)
    ([7], [2, 2, 2, 1], [4, 3])
    """
    most = registers - chain - 3 if block == 1 else max(1, (registers - chain - 2) // (block + chain))
    passes = -(-vectors // most)
    return [vectors // passes + (i < vectors % passes) for i in range(passes)]


def _pass(name: str, block: int, chain: int, width: int, arguments: str, finish: Finish) -> str:
    """Four outputs over `width` vectors."""
    dot = "dot" if chain == 1 else f"dot{chain}"
    step = chain * (1 + block)
    places = "\n            ".join(f"const int32_t *p{c} = x + s[{c}];" for c in range(chain))
    if block == 1:
        weights = " ".join(f"const vi w{c} = every_word(s[{chain + c}]);" for c in range(chain))
        terms = ", ".join(f"words(p{c} + t * VL), w{c}" for c in range(chain))
        inner = f"{weights}\n            VECTORS a[0][t] = {dot}(a[0][t], {terms});"
    else:
        loads = " ".join(f"vi in{c}[{width}]; VECTORS in{c}[t] = words(p{c} + t * VL);" for c in range(chain))
        weights = " ".join(f"const vi w{c} = every_word(s[{chain + c * block} + b]);" for c in range(chain))
        terms = ", ".join(f"in{c}[t], w{c}" for c in range(chain))
        inner = f"{loads}\n            BLOCK {{ {weights} VECTORS a[b][t] = {dot}(a[b][t], {terms}); }}"
    kind = "int32_t" if finish.bytes else "float"
    result = "\n    VECTORS *(vu *)(y + t * VL) = word[t];\n" if finish.bytes else "\n"
    gather = f"\n    {gathered(width, finish)}" if finish.bytes else ""
    return f"""
#define VECTORS _Pragma("GCC unroll 16") for (long t = 0; t < {width}; t++)
#define BLOCK _Pragma("GCC unroll 4") for (long b = 0; b < {block}; b++)
static inline void {name}_{width}(const int32_t *restrict x, {kind} *y, long y_channel, const int32_t *starts, const int32_t *table,
                                  const int32_t *begin, const float *scale, long outputs{arguments}) {{
    (void)y_channel, (void)outputs;{gather}
    for (long j = 0; j < 4; j += {block}) {{
        vi a[{block}][{width}];
        BLOCK VECTORS a[b][t] = every_word(begin[j + b]);
        const int32_t *s = table + {step} * (long)starts[0], *stop = table + {step} * (long)starts[1];
        starts++;
        for (; s < stop; s += {step}) {{
            {places}
            {inner}
        }}
{finished(width, finish)}
    }}{result}}}
#undef BLOCK
#undef VECTORS
"""


def gathered(width: int, finish: Finish) -> str:
    """C that begins the words to which `finished` adds the bytes of four outputs; nothing for floats."""
    return f"vu word[{width}]; VECTORS word[t] = (vu)every_word(0) + {_start(finish)};" if finish.bytes else ""


def finished(width: int, finish: Finish) -> str:
    """C that makes bytes or floats of the sums `a`."""
    if finish.low is not None:
        lines = ["        BLOCK {", "            const vf c = every_scale(scale[j + b]);", "            VECTORS {"]
        lines.append("                vf v = __builtin_convertvector(a[b][t], vf) * c;")
        for i, (zero, factor) in enumerate(finish.sides, 1):
            if zero is None:
                row = f"attar_mini(j + b, outputs - 1) * r{i}_channel"  # outputs that only fill the last word have no side
                lines.append(f"                vf v{i} = *(const vf *)(r{i} + {row} + t * VL) * {_float(factor)};")
            else:
                byte = f"((vi)((vu)words(r{i} + t * VL) >> (unsigned)(8 * (j + b))) & 255)"
                value = f"{byte} - {zero}" if zero else byte
                lines.append(f"                vf v{i} = __builtin_convertvector({value}, vf) * {_float(factor)};")
            lines.append(f"                ROUNDED(v);\n                ROUNDED(v{i});\n                v += v{i};")
        low, high = _float(finish.low), _float(finish.high)
        lines.append(f"                word[t] += nearest(between(v, {low}, {high})) << (unsigned)(8 * (j + b));")
        return "\n".join([*lines, "            }", "        }"])
    values = ["row[i]"]
    for i, (zero, factor) in enumerate(finish.sides, 1):
        if zero is None:
            values.append(f"r{i}[(j + b) * r{i}_channel + i]")
        else:
            values.append(f"((float)((int32_t)((uint32_t)r{i}[i] >> (8 * (j + b)) & 255) - {zero}) * {_float(factor)})")
    lines = [
        "        BLOCK if (j + b < outputs) {",
        f"            float row[{width} * VL];",
        "            const vf c = every_scale(scale[j + b]);",
        "            VECTORS *(vf *)(row + t * VL) = __builtin_convertvector(a[b][t], vf) * c;",
        f"            for (long i = 0; i < {width} * VL; i++) row[i] = {finish.expression.format(*values)};",
    ]
    if finish.inverse is None:
        lines.append("            VECTORS *(vf *)(y + (j + b) * y_channel + t * VL) = *(const vf *)(row + t * VL);")
    else:
        held = f"between(*(const vf *)(row + t * VL) * {_float(finish.inverse)}, {_float(-finish.zero)}, {_float(255 - finish.zero)})"
        lines.append(f"            VECTORS word[t] += nearest({held}) << (unsigned)(8 * (j + b));")
    return "\n".join([*lines, "        }"])


def _start(finish: Finish) -> str:
    """What a word begins with, so that four bytes, each as `nearest` gives it and without the zero point, make it."""
    return f"{sum((finish.zero - 0x4B400000) << 8 * i for i in range(4)) % 2**32}u"


def _float(value: float) -> str:
    """A number as C of float32, exactly."""
    text = np.format_float_scientific(np.float32(value), unique=True, trim="0")
    return f"({text}f)" if text.startswith("-") else f"{text}f"
