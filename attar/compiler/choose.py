"""The kernel of each convolution and linear layer: those that can do it are timed here, on its own shape, and the fastest is taken."""

from __future__ import annotations

import ctypes
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.compiler.build import build
from attar.compiler.emit import emit
from attar.compiler.ir import Op, Program, aligned
from attar.compiler.kernels.codebook import codebook_alternatives
from attar.compiler.kernels.convolution import BLOCKS, Convolution
from attar.compiler.kernels.convolution8 import BLOCKS8, Convolution8
from attar.compiler.kernels.convolution8_baked import baked8
from attar.compiler.kernels.convolution_baked import baked
from attar.compiler.kernels.convolution_outer import outer
from attar.compiler.kernels.matmul import Matmul
from attar.compiler.kernels.sparse_linear import sparse_alternative
from attar.compiler.plan import place
from attar.compiler.target import Target

__all__ = ["Choice", "Variant", "choose", "times"]

_ROUNDS, _SECONDS = 5, 0.0015
# of the processor's peak that each kernel reaches at best, by vector registers: what cannot win by these is not measured
_SHARE = {16: {1: 0.55, 2: 0.7, 4: 0.85, 8: 0.6}, 32: {1: 0.6, 2: 0.75, 4: 0.9, 8: 0.95}}
_HOPELESS = 1.4

_WORTH = 0.5  # zeros in a linear layer's weight from which its sparse product is timed


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to compute an op: the steps, and what the kernel is called."""

    kernel: str
    ops: tuple[Op, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was measured for one op: kernel -> seconds, and the one taken."""

    op: str
    kernel: str
    seconds: dict[str, float]


def choose(program: Program, target: Target, known: Sequence[dict] | None = None) -> tuple[Program, list[Choice]]:
    """The program with each op's fastest kernel, and what was measured; `known` are the choices of an earlier run."""
    variants = [_variants(op, target) for op in program.ops]
    if known is not None:
        names = iter(one["kernel"] for one in known)
        taken = [some[0] if len(some) == 1 else {one.kernel: one for one in some}[next(names)] for some in variants]
        return dataclasses.replace(program, ops=[op for one in taken for op in one.ops]), []
    keys = [_key(op, some) for op, some in zip(program.ops, variants, strict=True)]
    several = {key: some for key, some in zip(keys, variants, strict=True) if len(some) > 1}
    seconds = dict(zip(several, times([*several.values()], program, target), strict=True)) if several else {}
    ops: list[Op] = []
    choices = []
    for op, key, some in zip(program.ops, keys, variants, strict=True):
        if len(some) == 1:
            ops += some[0].ops
            continue
        best = min(range(len(some)), key=lambda n: seconds[key][n])
        ops += some[best].ops
        name = op.about(some[best].kernel) if isinstance(op, Convolution) else str(some[best].ops[-1])
        choices.append(Choice(name, some[best].kernel, {v.kernel: s for v, s in zip(some, seconds[key], strict=True)}))
    return dataclasses.replace(program, ops=ops), choices


def _variants(op: Op, target: Target) -> list[Variant]:
    """The ways to compute an op that may be the fastest here."""
    if isinstance(op, Matmul):
        zeros = op.weight is not None and 1 - np.count_nonzero(op.weight.known) / max(1, op.weight.size) >= _WORTH
        sparse = sparse_alternative(op) if zeros else None
        looked_up = [Variant(name, (one,)) for name, one in codebook_alternatives(op).items()]
        return [Variant("dense", (op,)), *([Variant("sparse", tuple(sparse))] if sparse else []), *looked_up]
    if not isinstance(op, Convolution | Convolution8):
        return [Variant("", (op,))]
    blocks = [block for block in _blocks(op) if block == 1 or op.takes(block)]
    share = _SHARE[op.output.space.registers]
    expected = {block: op.products(block) / share[block] for block in blocks}
    least = min(expected.values())
    options = [op.blocked(block) for block in blocks if expected[block] <= _HOPELESS * least]
    found: list[Any] = [*options, outer(op) if isinstance(op, Convolution) else None, _machine(op, target)]
    return [Variant(one.kernel, (one,)) for one in found if one is not None]


def _machine(op: Convolution | Convolution8, target: Target) -> Op | None:
    """The convolution by baked code, where there is such code for it and the target runs it."""
    if not target.runs_baked:
        return None
    if isinstance(op, Convolution):
        return baked(op)
    return baked8(op) if "avx512_vnni" in target.needs else None


def _key(op: Op, variants: Sequence[Variant]) -> tuple:
    """Ops that differ in nothing that time depends on are measured once."""
    if len(variants) == 1:
        return ()
    names = (type(op), *(one.kernel for one in variants), *(value.shape for value in op.inputs), op.output.shape, op.output.dtype)
    if isinstance(op, Matmul) and op.weight is not None:
        return (*names, op.expression, round(50 * np.count_nonzero(op.weight.known) / op.weight.size))
    assert isinstance(op, Convolution | Convolution8)  # what else has variants
    kept = tuple(round(50 * op.products(block) / max(1, op.weight.size)) for block in _blocks(op))
    return (*names, op.weight.shape, op.shift.shape, op.shifted, len(np.unique(op.group)), op.epilogue, kept)


def _blocks(op: Convolution | Convolution8) -> tuple[int, ...]:
    return BLOCKS if isinstance(op, Convolution) else BLOCKS8


def times(groups: Sequence[Sequence[Variant]], program: Program, target: Target) -> list[list[float]]:
    """Seconds of each variant: the least of a few rounds, in which the variants of an op take turns, on values of noise."""
    trial = dataclasses.replace(program, ops=[op for some in groups for one in some for op in one.ops], outputs=())
    memory = place(trial, over=False)  # since kernels that take turns share their inputs
    with tempfile.TemporaryDirectory(prefix="attar-") as folder:
        code = ctypes.CDLL(str(build(emit(trial, "kernels to be timed"), target, Path(folder))))
    noise = np.random.default_rng(0)
    arena = aligned(noise.standard_normal(memory.arena // 4 + 16, np.float32).view(np.uint8))
    constants = aligned(memory.constants)
    given = {b.argument: b for b in trial.buffers() if b.argument is not None}
    values = [noise.standard_normal(given[n].bytes // 4 + 1, np.float32) if n in given else None for n in range(max(given, default=-1) + 1)]
    pointers = (ctypes.c_void_p * (len(values) + 1))(*(None if v is None else v.ctypes.data for v in values))
    strides = (ctypes.c_long * (len(values) + 1))()

    def run(steps: tuple[int, int], times: int) -> float:
        began = time.perf_counter()
        code.attar_run(
            None, ctypes.c_void_p(arena.ctypes.data), ctypes.c_long(0), ctypes.c_void_p(constants.ctypes.data), pointers, strides,
            ctypes.c_long(len(values)), ctypes.c_long(times), ctypes.c_long(steps[0]), ctypes.c_long(steps[1]),
        )  # fmt: skip
        return (time.perf_counter() - began) / times

    found, step = [], 0
    for some in groups:
        ranges = []
        for one in some:
            ranges.append((step, step + len(one.ops)))
            step += len(one.ops)
        repeats = [max(1, round(_SECONDS / max(min(run(r, 1), run(r, 1)), 1e-6))) for r in ranges]
        rounds = [[run(r, n) for r, n in zip(ranges, repeats, strict=True)] for _ in range(_ROUNDS)]
        found.append([min(times) for times in zip(*rounds, strict=True)])
    return found
