"""Small pieces of C text that the kernels share: pointers, indices, nested loops."""

from collections.abc import Callable, Iterable, Sequence

from attar.compiler.ir import C_TYPES, Array, Buffer

__all__ = ["BATCH_ENOUGH", "index", "nest", "numbered", "plus", "pointer", "unsigned"]

BATCH_ENOUGH = 4  # rounds of an outer loop from which threads share it; below, they share the work inside of a round


def pointer(name: str, value: Array, at: Callable[[Buffer], str], *, write: bool = False, kind: str = "") -> str:
    """The declaration of a pointer to an array's first element, in its own type or in `kind`."""
    const = "" if write else "const "
    kind = kind or C_TYPES[value.dtype]
    start = at(value.buffer) if kind == C_TYPES[value.dtype] else f"({const}{kind} *){at(value.buffer)}"
    return f"{const}{kind} *restrict {name} = {start}" + (f" + {value.offset};" if value.offset else ";")


def index(variables: Sequence[str], strides: Sequence[int]) -> str:
    """An element's place: the sum of loop variables times strides.

    >>> index(["i", "j", "k"], [12, 0, 1])
    'i * 12 + k'
    """
    terms = [v if s == 1 else f"{v} * {s}" for v, s in zip(variables, strides, strict=True) if s]
    return " + ".join(terms) or "0"


def numbered(strides: Sequence[int]) -> str:
    """An element's place in loops i0, i1, ...

    >>> numbered((12, 0, 1))
    'i0 * 12 + i2'
    """
    return index([f"i{d}" for d in range(len(strides))], strides)


def plus(start: str, offset: str) -> str:
    """A pointer moved by an offset, which may be 0."""
    return start if offset == "0" else f"{start} + {offset}"


def nest(loops: Iterable[tuple[str, str, str]], body: Sequence[str]) -> list[str]:
    """Lines of nested loops over (variable, start, end), outermost first, with `body` inside.

    >>> print(*nest([("i", "lo", "hi"), ("j", "0", "4")], ["y[i * 4 + j] = 0;"]), sep=chr(10))
    for (long i = lo; i < hi; i++) {
        for (long j = 0; j < 4; j++) {
            y[i * 4 + j] = 0;
        }
    }
    """
    loops = list(loops)
    pads = ["    " * d for d in range(len(loops) + 1)]
    heads = [f"{pads[d]}for (long {v} = {start}; {v} < {end}; {v}++) {{" for d, (v, start, end) in enumerate(loops)]
    return [*heads, *(pads[-1] + line for line in body), *(pads[d] + "}" for d in reversed(range(len(loops))))]


def unsigned(dtype: str) -> str:
    """The C type to add and multiply in: integers wrap, which C promises for unsigned ones only.

    >>> unsigned("int64"), unsigned("float32")
    ('uint64_t', 'float')
    """
    kind = C_TYPES[dtype]
    return f"u{kind}" if kind.startswith("int") else kind
