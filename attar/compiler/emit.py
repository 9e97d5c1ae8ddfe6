"""A planned program as C: the prelude, the kernels that it uses, one function for each step, and the runtime that calls them.

What is machine code already goes beside the C: the C calls it by its symbols.
"""

from dataclasses import dataclass

import numpy as np

from attar.compiler.ir import C_TYPES, Buffer, Program
from attar.compiler.kernels.prelude import PRELUDE
from attar.compiler.kernels.runtime import RUNTIME
from attar.errors import AttarError

__all__ = ["Source", "emit", "listing"]


_STEP = """
// repeated layers have equal steps; GCC 12 would fold them into one, and has folded some into a function that does nothing
#if defined(__GNUC__) && !defined(__clang__)
#define STEP static __attribute__((no_icf)) void
#else
#define STEP static void
#endif
"""


@dataclass(frozen=True, eq=False)
class Source:
    """What is built: C, and machine code with the place in it of each function that the C calls, by symbol."""

    text: str
    code: np.ndarray
    starts: dict[str, int]


def emit(program: Program, title: str = "a program") -> Source:
    """One C file, and machine code beside it. Steps are numbered in order; `attar_run` runs a range of them on any number of threads."""
    functions: dict[str, str] = {}
    steps = []
    for number, op in enumerate(program.ops):
        for name, text in op.functions().items():
            if functions.setdefault(name, text) != text:
                raise AttarError(f"two kernels are called {name} and differ")
        steps.append(_step(number, str(op), op.source(_pointer)))
    table = ",\n".join(f"    step_{number}" for number in range(len(steps))) or "    0"
    text = "\n".join(
        (
            f"// {title}: compiled by Attar. Each step is one op; `part` of `parts` is the share of one thread.",
            PRELUDE,
            _STEP,
            *functions.values(),
            *steps,
            "typedef void (*step)(char *arena, const char *constants, void *const *arguments, long part, long parts);",
            f"static const step steps[] = {{\n{table}\n}};",
            RUNTIME,
        )
    )
    return Source(text, *_code(program))


def listing(program: Program) -> str:
    """The machine code of a program's steps as assembly text, for people; empty where there is none."""
    listings = ((f"# step {number}: {op}", op.listing()) for number, op in enumerate(program.ops))
    return "\n".join(f"{title}\n{text}" for title, text in listings if text)


def _code(program: Program) -> tuple[np.ndarray, dict[str, int]]:
    """The machine code of all steps, one after the other, and where each function begins."""
    held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for op in program.ops:
        held |= op.code()
    starts: dict[str, int] = {}
    pieces, total = [np.zeros(0, np.uint8)], 0
    for name, (code, places) in held.items():
        starts |= {f"{name}_{number}": total + place for number, place in enumerate(places.tolist())}
        pieces.append(code)
        total += code.size
    return np.concatenate(pieces), starts


def _step(number: int, title: str, body: str) -> str:
    inner = "\n".join(f"    {line}" if line else "" for line in body.strip().splitlines())
    head = f"STEP step_{number}(char *arena, const char *constants, void *const *arguments, long part, long parts) {{"
    unused = "    (void)arena, (void)constants, (void)arguments, (void)part, (void)parts;"
    return f"// {title}\n{head}\n{unused}\n{inner}\n}}\n"


def _pointer(buffer: Buffer) -> str:
    """A C expression: a typed pointer to the first element of `buffer`."""
    kind = C_TYPES[buffer.dtype]
    if buffer.argument is not None:
        return f"(({kind} *)arguments[{buffer.argument}])"
    if buffer.place is None:
        raise AttarError("a buffer of the compiled program has no place: plan the program before it is emitted")
    return f"((const {kind} *)(constants + {buffer.place}))" if buffer.data is not None else f"(({kind} *)(arena + {buffer.place}))"
