"""Engines of one network timed whole, in turns: a program in bytes that is slower than its float32 twin is not kept."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from attar.compiler.make import Wanted, engine_of, keep
from attar.compiler.run import Engine

__all__ = ["faster", "loses", "race"]

_MARGIN = 1.03  # less is noise, and bytes need less memory


def race(engines: Sequence[Engine], given: Sequence[Any], rounds: int = 12) -> list[float]:
    """Seconds of each engine for these input tensors: the least of some rounds, in which they take turns."""
    found = [float("inf")] * len(engines)
    for _ in range(rounds):
        for number, engine in enumerate(engines):
            began = time.perf_counter()
            engine.run(given)
            found[number] = min(found[number], time.perf_counter() - began)
    return found


def loses(whole: float, real: float) -> tuple[bool, str]:
    """Whether bytes are slower than float32, and a note that says the times.

    >>> loses(0.002, 0.004), loses(0.005, 0.004)[0]
    ((False, 'in bytes 2.00 ms, in float32 4.00 ms'), True)
    """
    slower = whole > _MARGIN * real
    return slower, f"in bytes {whole * 1000:.2f} ms, in float32 {real * 1000:.2f} ms{', which is taken' if slower else ''}"


def faster(whole: Engine, wanted: Wanted, threads: int, listing: Any) -> tuple[Engine, Wanted]:
    """The engine in bytes, or the float32 one where that is faster here, and what was wanted of it."""
    timed = whole.library.parent / f"race-{threads}.json"
    real = replace(wanted, samples=None)
    known = timed.exists()
    if known:
        seconds = json.loads(timed.read_text())
    else:
        shown = [v for v, one in zip(wanted.shown(), wanted.network.inputs, strict=True) if one.shape is not None]
        with engine_of(real, threads) as plain:
            seconds = race((whole, plain), shown)
        keep(timed, json.dumps(seconds))
    slower, note = loses(*seconds)
    engine = whole
    if slower:
        whole.close()
        engine, wanted = engine_of(real, threads, listing=listing), real
    engine.report = replace(engine.report, notes=(*engine.report.notes, note), cached=engine.report.cached and known)
    return engine, wanted
