"""Processors that C is built for: the width of their vectors and what the C compiler is told."""

import platform
from dataclasses import dataclass

from attar.errors import AttarError
from attar.machine import features

__all__ = ["TARGETS", "Target", "host", "target"]

_COMMON = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wall",
    "-Wno-psabi",
)


# Linux' name of an instruction set -> what tells GCC, clang and zig alike to use it: what is built for is what is looked for
_AVX2 = {
    "avx2": "-mavx2",
    "fma": "-mfma",
    "bmi1": "-mbmi",
    "bmi2": "-mbmi2",
    "f16c": "-mf16c",
    "movbe": "-mmovbe",
    "abm": "-mlzcnt",
}
_AVX512 = {
    "avx512f": "-mavx512f",
    "avx512bw": "-mavx512bw",
    "avx512vl": "-mavx512vl",
    "avx512dq": "-mavx512dq",
    "avx512cd": "-mavx512cd",
    "avx512_vnni": "-mavx512vnni",
}


@dataclass(frozen=True)
class Target:
    """A kind of processor: floats in a vector, vector registers, flags of the C compiler, and the features it must have."""

    name: str
    lanes: int
    registers: int
    flags: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run what is built for it."""
        return self.needs <= set(features()) and (self.name == "generic" or platform.machine() in ("x86_64", "AMD64"))

    @property
    def runs_baked(self) -> bool:
        """Whether baked code, which is AVX-512, runs on it."""
        return "avx512f" in self.needs


def _x86(name: str, lanes: int, registers: int, sets: dict[str, str], *more: str) -> Target:
    return Target(name, lanes, registers, (*sets.values(), *more), frozenset(sets))


TARGETS = {
    "avx512": _x86("avx512", 16, 32, _AVX2 | _AVX512, "-mprefer-vector-width=512"),
    "avx2": _x86("avx2", 8, 16, _AVX2),
    "generic": Target("generic", 4, 16),
}


def host() -> Target:
    """The best target that this machine runs."""
    return next(target for target in TARGETS.values() if target.runs_here)


def target(name: str | None) -> Target:
    """The target of this name, or this machine's where it is None.

    Raises AttarError for a name that is none, and for a target whose code this machine cannot run.
    """
    if name is None:
        return host()
    if name not in TARGETS:
        raise AttarError(f"there is no target {name!r}: give one of {', '.join(TARGETS)}")
    found = TARGETS[name]
    if not found.runs_here:
        missing = ", ".join(sorted(found.needs - set(features())))
        raise AttarError(f"this machine cannot run code for {name}: it lacks {missing}; leave the target out for {host().name}")
    return found


def flags(target: Target) -> tuple[str, ...]:
    """All that the C compiler is told, apart from files."""
    return (*_COMMON, *target.flags, f"-DVL={target.lanes}")
