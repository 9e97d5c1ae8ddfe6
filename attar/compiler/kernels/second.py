"""C that takes every second pixel of a row, or splits a row into its even and its odd pixels.

Rows are short (7 to 56 pixels, and less where a tile ends), so that the loops that a C compiler makes spend their time in what
is left over by whole vectors. Here the last vector of a row overlaps the one before it, and short rows take short vectors.
"""

__all__ = ["SECOND"]

_SIZES = (16, 8, 4)  # pixels of a vector; each processor has those up to its own


def _vector(v: int) -> str:
    even, odd = (", ".join(str(n) for n in range(first, 2 * v, 2)) for first in (0, 1))
    # the second vector begins one early, so that nothing is read beyond the last pixel that is taken
    near = ", ".join(str(n) for n in (*range(0, v, 2), *range(v + 1, 2 * v, 2)))
    return f"""
#if VL >= {v}
typedef int32_t words_{v} __attribute__((vector_size({4 * v}), aligned(4), may_alias));
static inline void second_{v}(const word *a, word *b) {{
    const words_{v} u = *(const words_{v} *)a, w = *(const words_{v} *)(a + {v - 1});
    *(words_{v} *)b = PICK(words_{v}, u, w, {near});
}}
static inline void even_odd_{v}(const word *a, word *b, word *d) {{
    const words_{v} u = *(const words_{v} *)a, w = *(const words_{v} *)(a + {v});
    *(words_{v} *)b = PICK(words_{v}, u, w, {even});
    *(words_{v} *)d = PICK(words_{v}, u, w, {odd});
}}
#endif
"""


def _row(v: int, name: str, written: tuple[str, ...]) -> str:
    here, last = (", ".join((f"a + 2 * ({n})", *(f"{to} + {n}" for to in written))) for n in ("i", f"n - {v}"))
    return f"""#if VL >= {v}
    if (n >= {v}) {{
        for (long i = 0; i < n - {v}; i += {v}) {name}_{v}({here});
        {name}_{v}({last});
        return;
    }}
#endif
"""


SECOND = (
    """
typedef int32_t word __attribute__((may_alias));  // a pixel of any type
"""
    + "".join(_vector(v) for v in _SIZES)
    + f"""
// every second of a row's pixels, n of them
static inline void second(const word *a, word *b, long n) {{
{"".join(_row(v, "second", ("b",)) for v in _SIZES)}    for (long i = 0; i < n; i++) b[i] = a[2 * i];
}}

// n even pixels of a row to b, and n odd ones to d
static inline void even_odd(const word *a, word *b, word *d, long n) {{
{"".join(_row(v, "even_odd", ("b", "d")) for v in _SIZES)}    for (long i = 0; i < n; i++) b[i] = a[2 * i], d[i] = a[2 * i + 1];
}}
"""
)
