"""Engines side by side on one network: outputs compared first, then timed interleaved in one process; memory in a process of its own."""

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import PATTERNS
from torch import nn

from attar.compiler.target import host
from attar.evaluation import Timing, compare, machine, measure, speedup
from attar.recipes.engines import ENGINES, FROM_FILE, Array, onnx_file, versions

__all__ = ["INT8", "TOLERANCE", "Array", "noise", "options", "peak_memory", "place", "show", "side_by_side", "write"]

TOLERANCE = 1e-4  # of an fp32 engine against PyTorch, relative to the largest output
INT8 = "-int8"


def options(text: str, against: list[str], sparsity: Sequence[float] = (0.0, 0.8, 0.9, 0.95)) -> argparse.ArgumentParser:
    """The options that the commands share; `against` and `sparsity` are what is not given."""
    parser = argparse.ArgumentParser(description=text.partition("\n")[0])
    parser.add_argument("--sparsity", type=_share, nargs="+", default=list(sparsity), help="shares of zeros, such as 0 0.9")
    parser.add_argument("--pattern", choices=list(PATTERNS), default="unstructured", help="output x input channels that are zero together")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--subject", choices=list(ENGINES), default="attar", help="the engine that the others are compared with")
    parser.add_argument("--against", nargs="+", choices=list(ENGINES), default=against)
    parser.add_argument("--rounds", type=int, default=30, help="each runs every engine once")
    parser.add_argument("--out", type=Path, help="a JSON file; by processor and options in results/ where not given")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"a sparsity must be in [0, 1), got {text}: it is the share of zeros")
    return value


def place(given: argparse.Namespace, name: str) -> Path:
    """Where a result goes: `--out`, or a file for each kind of processor in results/, named by the options."""
    name = f"{name}-{given.pattern}-b{given.batch}-t{given.threads}.json"
    return given.out or Path(__file__).parent / "results" / host().name / name


def noise(shape: tuple[int, ...], batch: int) -> Array:
    """A batch of normal values, the same at each call."""
    return np.random.default_rng(0).standard_normal((batch, *shape), np.float32)


def side_by_side(
    model: nn.Module,
    example: Array,
    subject: str,
    against: Sequence[str],
    *,
    threads: int,
    rounds: int,
    parts: int = 1,
    less: nn.Module | None = None,
    warm: bool = False,
    extra: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Each engine's times in ms, its largest difference from PyTorch's output, and how many times the subject is faster.

    Times are of one of the equal `parts` that the network has, or has more than `less`, whose time is then taken off in each
    round: what both do beside is not counted. Caches are as the other engines left them or, where `warm`, as an untimed call of
    the same engine did. `extra` holds further arguments by the engine's name. Raises SystemExit where an fp32 engine computes
    something else: a time of a wrong result means nothing.
    """
    built = {name: ENGINES[name](model, example, threads, **(extra or {}).get(name, {})) for name in [subject, *against]}
    smaller = {name: ENGINES[name](less, example, threads) for name in built} if less else {}
    with torch.inference_mode():
        wanted = model.eval()(torch.from_numpy(example))
    errors = {name: compare(torch.from_numpy(np.array(engine.run(example))), wanted) for name, engine in built.items()}
    wrong = {name: error for name, error in errors.items() if not name.endswith(INT8) and not error <= TOLERANCE}
    if wrong:
        sys.exit(f"outputs must agree with PyTorch's to {TOLERANCE} before anything is timed, got {wrong}")
    programs = {name: _call(engine.run, example) for name, engine in built.items()}
    programs |= {f"{name}, less": _call(engine.run, example) for name, engine in smaller.items()}
    timings = measure(programs, repeats=rounds, warm=warm, threads=threads)
    timings = {name: _without(timings[name], timings[f"{name}, less"]) if less else timings[name] for name in built}
    engines = {
        name: {
            "median": timing.median / parts,
            "spread": timing.spread / parts,
            "error": errors[name],
            "build_seconds": built[name].build_seconds,
            "details": built[name].details,
            "milliseconds": [round(t / parts, 4) for t in timing.milliseconds],
        }
        for name, timing in timings.items()
    }
    ratios = {}
    for name in against:
        found = speedup(timings[name], timings[subject])
        ratios[name] = {**asdict(found), "verdict": found.verdict}
    return {"batch": len(example), "threads": threads, "warm": warm, "subject": subject, "engines": engines, "ratios": ratios}


def _without(one: Timing, other: Timing) -> Timing:
    """What is left of each round's time."""
    return replace(one, milliseconds=tuple(a - b for a, b in zip(one.milliseconds, other.milliseconds, strict=True)))


def _call(run: Callable[[Array], Array], example: Array) -> Callable[[], Array]:
    return lambda: run(example)


def show(record: dict[str, Any]) -> None:
    """A record in one line."""
    times = ", ".join(f"{name} {figures['median']:.3g} ms" for name, figures in record["engines"].items())
    ratios = ", ".join(f"{ratio['ratio']:.2f}x {name} {ratio['verdict']}" for name, ratio in record["ratios"].items())
    print(f"{record['case']}, {record['sparsity']:.0%} {record['pattern']}: {times}; {record['subject']} is {ratios}", flush=True)


def peak_memory(name: str, model: nn.Module, make: Callable[[], nn.Module], example: Array, threads: int) -> dict[str, float]:
    """Bytes that a network adds to a fresh process: `peak` while its engine is built and run, and what is `held` once it has run.

    And `build_seconds`, of a build after the first, which may be found in a cache.
    The engine has run a network of one small layer before, so that what its library needs for itself does not count. Engines
    that read an ONNX file get it ready-made; the others get the network from `make`, which must be picklable and counts.
    """
    small = nn.Linear(8, 8)
    sources: list[tuple[Any, Array]] = [(partial(nn.Linear, 8, 8), noise((8,), 1)), (make, example)]
    if name in FROM_FILE:
        sources = [(onnx_file(net, x, int8=name.endswith(INT8)), x) for net, (_, x) in zip((small, model), sources, strict=True)]
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_memory, args=(there, name, sources, threads))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        sys.exit(f"the process that measured the memory of {name} ended without a result")
    finally:
        process.join()


def _memory(pipe: Any, name: str, sources: list[tuple[Any, Array]], threads: int) -> None:
    for source, example in sources:
        _settle()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        engine = FROM_FILE[name](source, threads) if isinstance(source, Path) else ENGINES[name](source(), example, threads)
        for _ in range(3):
            engine.run(example)
        _settle()
        found = {"peak": _status("VmHWM") - before, "held": _status("VmRSS") - before, "build_seconds": engine.build_seconds}
    pipe.send(found)


def _settle() -> None:
    """Give back what is free, so that it is not counted as held."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def write(out: Path, kind: str, records: list[dict[str, Any]]) -> None:
    """The records with the machine, the versions, the command and the date, as JSON.

    Called after each record, so that a run that is stopped keeps what it has.
    """
    result = {
        "kind": kind,
        "machine": asdict(machine()) | {"processors": len(os.sched_getaffinity(0))},
        "versions": versions(),
        "command": " ".join(["python", *sys.argv]),
        "date": str(date.today()),
        "records": records,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
