"""The C of the convolution kernels: blocks of outputs over the vectors of a tile, as many at a time as registers hold."""

import re

import numpy as np

__all__ = ["TERM", "kernel", "linear", "widths"]

_NUMBER = r"\(?(-?[\d.]+(?:e[-+]?\d+)?)f?\)?"
_BOUNDED = rf"attar_boundf\(V, {_NUMBER}, {_NUMBER}\)"

TERM = """
// one weight, and where its input lies from the start of the tile
typedef struct { int32_t offset; float weight; } term;

static inline vf load(const float *p) { return *(const vf *)p; }
static inline void store(float *p, vf v) { *(vf *)p = v; }
// w - 0 is a broadcast; 0 + w would be an addition, for the sake of -0
static inline vf every(float w) { return w - (vf){0}; }

// ReLU and its kin, for floats and for vectors; a NaN stays, as in PyTorch
static inline float attar_reluf(float x) { return x < 0 ? 0 : x; }
static inline float attar_leakyf(float x, float slope) { return x > 0 ? x : x * slope; }
static inline float attar_boundf(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
static inline vf pick(vi which, vf a, vf b) { return (vf)((which & (vi)a) | (~which & (vi)b)); }
static inline vf vector_reluf(vf v) { return (vf)((vi)v & ~(v < 0)); }
static inline vf vector_leakyf(vf v, float slope) { return pick(v > 0, v, v * slope); }
static inline vf vector_boundf(vf v, float low, float high) { return pick(v < low, every(low), pick(v > high, every(high), v)); }
"""


def kernel(name: str, block: int, vectors: int, registers: int, epilogue: str, others: int) -> str:
    """A function for tiles of `vectors` vectors, `block` outputs at a time; `others` maps are read by the epilogue."""
    tables = "const term *terms" if block == 1 else "const int32_t *offsets, const float *weights"
    given = "terms" if block == 1 else "offsets, weights"
    rests = range(1, others + 1)
    arguments = "".join(f", const float *r{i}, long r{i}_channel" for i in rests)
    passes = widths(vectors, block, registers)
    one = [_pass(name, block, width, tables, epilogue, others, apart=passes.count(width) > 1) for width in sorted(set(passes))]
    calls, first = [], 0
    for width in passes:
        beside = "".join(f", r{i} + g * {block} * r{i}_channel + {first} * VL, r{i}_channel" for i in rests)
        calls.append(
            f"{name}_{width}(x + {first} * VL, y + g * {block} * y_channel + {first} * VL, y_channel, bias + g * {block}, {given}, "
            f"starts[g], starts[g + 1], chunk == 0, chunk == chunks - 1{beside});"
        )
        first += width
    body = "\n            ".join(calls)
    return (
        "".join(one)
        + f"""
// {vectors} vectors of each output, chunk by chunk of the inputs, which then stay in the cache; blocks [lo, hi) of the outputs
static __attribute__((noinline)) void {name}(const float *x, float *y, long y_channel, const float *bias, const int32_t *starts, {tables},
                   long chunks, long blocks, long lo, long hi, long ahead{arguments}) {{
    const long share = (ahead / (hi > lo ? hi - lo : 1) + 63) & ~63l;  // bytes of the next chunk that each block asks for in time
    for (long chunk = 0; chunk < chunks; chunk++, starts += blocks)
        for (long g = lo; g < hi; g++) {{
            for (long b = (g - lo) * share; b < (g - lo + 1) * share && b < ahead; b += 64)
                __builtin_prefetch((const char *)x + (chunk + 1) * ahead + b);
            {body}
        }}
}}
"""
    )


def widths(vectors: int, block: int, registers: int) -> list[int]:
    """The vectors of a tile in the fewest passes whose sums, inputs and one weight fit the registers.

    >>> widths(7, 4, 16), widths(7, 1, 16), widths(6, 8, 32)
    ([3, 2, 2], [7], [3, 3])
    """
    most = registers - 2 if block == 1 else max(1, (registers - 1) // (block + 1))
    passes = -(-vectors // most)
    return [vectors // passes + (i < vectors % passes) for i in range(passes)]


def _pass(name: str, block: int, width: int, tables: str, epilogue: str, others: int, *, apart: bool) -> str:
    """One block of outputs over `width` vectors, all sums in registers; `apart` where it is called more than once."""
    inline = "__attribute__((noinline))" if apart else "inline"
    rests = range(1, others + 1)
    arguments = "".join(f", const float *r{i}, long r{i}_channel" for i in rests)
    begin = "every(bias[b])"
    if others == 1 and linear(epilogue, 1):  # as what is added is read at once, the sums may take its place
        begin += " + load(r1 + b * r1_channel + t * VL)"
        epilogue = epilogue.replace("{0} + {1}", "{0}").replace("{1} + {0}", "{0}")
    vector = _vectorised(epilogue)
    if vector is None:  # the sums go to memory, where a loop of scalars, which the C compiler makes vectors of, finishes them
        finish = ""
        scalar = epilogue.format("row[i]", *(f"r{i}[b * r{i}_channel + i]" for i in rests))
        rows = f"for (long b = 0; b < {block}; b++) {{ float *row = y + b * y_channel; "
        rows += f"for (long i = 0; i < {width} * VL; i++) row[i] = {scalar}; }}"
        after = f"    if (last) {rows}\n"
    else:
        value = vector.format("a[b][t]", *(f"load(r{i} + b * r{i}_channel + t * VL)" for i in rests))
        finish = f"    if (last) EACH a[b][t] = {value};\n" if vector != "{0}" else ""
        after = ""
    if block == 1:
        loop = """    for (const term *s = terms + start, *stop = terms + end; s < stop; s++) {
        const float *p = x + s->offset;
        const vf w = every(s->weight);
        VECTORS a[0][t] += w * load(p + t * VL);
    }"""
    else:
        loop = f"""    const float *w = weights + (long)start * {block};
    for (long n = start; n < end; n++, w += {block}) {{
        const float *p = x + offsets[n];
        vf in[{width}];
        VECTORS in[t] = load(p + t * VL);
        _Pragma("GCC unroll 16") for (long b = 0; b < {block}; b++) {{ const vf c = every(w[b]); VECTORS a[b][t] += c * in[t]; }}
    }}"""
    return f"""
#define VECTORS _Pragma("GCC unroll 16") for (long t = 0; t < {width}; t++)
#define EACH _Pragma("GCC unroll 16") for (long b = 0; b < {block}; b++) VECTORS
static {inline} void {name}_{width}(const float *x, float *y, long y_channel, const float *bias, {tables},
                                  int32_t start, int32_t end, int first, int last{arguments}) {{
    vf a[{block}][{width}];
    if (first) EACH a[b][t] = {begin};
    else EACH a[b][t] = load(y + b * y_channel + t * VL);
{loop}
{finish}    EACH store(y + b * y_channel + t * VL, a[b][t]);
{after}}}
#undef EACH
#undef VECTORS
"""


# functions of floats that have a twin for vectors
_TWINS = ("reluf", "leakyf", "boundf")


def _vectorised(epilogue: str) -> str | None:
    """The epilogue for vectors, where it is made of sums, products and what `_TWINS` has; else None.

    >>> _vectorised("attar_reluf(({0} + {1}))"), _vectorised("attar_sigmoidf({0})")
    ('vector_reluf(({0} + {1}))', None)
    """
    text = epilogue
    for name in _TWINS:
        text = text.replace(f"attar_{name}", f"vector_{name}")
    names = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"\d[\d.]*(e[+-]?\d+)?f?", "", text)))
    return text if names <= {f"vector_{name}" for name in _TWINS} and not re.search(r"[?<>=!&|%]", text) else None


def linear(epilogue: str, sides: int) -> tuple[float, float] | None:
    """The bounds of an epilogue that is a sum, held between bounds at most; None for any other.

    >>> linear("attar_reluf({0})", 0), linear("attar_boundf(({0} + {1}), 0.0f, 6.0f)", 1), linear("{0} * {0}", 0)
    ((0.0, inf), (0.0, 6.0), None)
    """
    plain = ("{0}",) if not sides else ("{0} + {1}", "{1} + {0}") if sides == 1 else ()
    for text in (made for one in plain for made in (one, f"({one})", f"(({one}))")):
        v = re.escape(text)
        if epilogue == text:
            return (-np.inf, np.inf)
        for pattern in (_BOUNDED.replace("V", v), rf"{v} < {_NUMBER} \? \1 : {v} > {_NUMBER} \? \2 : {v}"):
            if found := re.fullmatch(pattern, epilogue):
                return (float(found[1]), float(found[2]))
        if re.fullmatch(rf"attar_reluf\({v}\)|{v} < 0 \? 0 : {v}", epilogue):
            return (0.0, np.inf)
    return None
