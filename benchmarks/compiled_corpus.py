"""Every network of the test corpus compiled and compared with PyTorch: steps, what PyTorch still runs, error, seconds.

run: OMP_NUM_THREADS=1 python benchmarks/compiled_corpus.py [NAME ...] [--limit SECONDS] [--target NAME] [--out FILE]
Each network has a process of its own, so that one that crashes or hangs is one row. The error is the largest difference of any
output, relative to that output's largest value (an integer or truth value that differs counts as 1). `lower` are the seconds from
graph to program, `build` all of `compile` (tracing excluded); each counts once, on whatever else the machine does. The last lines
say which share needs no PyTorch. Without names, the result goes to compiled_corpus.json beside this file.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from corpus import names, networks

from attar.compiler import compile
from attar.compiler.lower import leaves, lower
from attar.errors import TraceError
from attar.graph import call_with, trace
from attar.machine import processor

BOUND = 1e-4  # of the error, in float32
HERE = Path(__file__).parent


def difference(given: Any, wanted: Any) -> float:
    """The largest difference of any tensor, relative to the tensor's largest finite value; infinity where sizes or kinds differ."""
    worst = 0.0
    ours, theirs = ([leaf for leaf in pytree.tree_leaves(plain(value)) if isinstance(leaf, Tensor)] for value in (given, wanted))
    if [tuple(t.shape) for t in ours] != [tuple(t.shape) for t in theirs]:
        return float("inf")
    for a, b in zip(ours, theirs, strict=True):
        if not b.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(a, b) else 1.0)
        elif b.numel():
            a, b = a.double(), b.double()
            known = b.isfinite()
            if not torch.equal(known, a.isfinite()) or not torch.equal(a[~known].nan_to_num(7), b[~known].nan_to_num(7)):
                return float("inf")
            worst = max(worst, float(((a - b)[known].abs().max() / b[known].abs().max().clamp_min(1e-30)) if known.any() else 0.0))
    return worst


def plain(value: Any) -> Any:
    """A result as tensors in dicts and lists, fields that are None left out, as a traced network gives it."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {key: plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    fields = getattr(value, "__dict__", None)
    return value if isinstance(value, Tensor) or not fields else {key: plain(one) for key, one in fields.items() if one is not None}


def measure(name: str, target: str | None) -> dict[str, Any]:
    """One row: what became of the network."""
    ((_, model, example),) = networks([name])
    row: dict[str, Any] = {"network": name, "ops": 0, "segments": [], "error": None, "lower": 0.0, "build": 0.0, "failure": None}
    try:
        network = trace(model, example)
    except TraceError as error:
        return row | {"failure": f"no graph: {error}"}
    start = time.perf_counter()
    program = lower(network, leaves(network, example))
    row |= {"ops": len(program.ops), "segments": program.notes, "lower": round(time.perf_counter() - start, 2)}
    start = time.perf_counter()
    engine = compile(network, example, target=target)
    row["build"] = round(time.perf_counter() - start, 2)
    with torch.no_grad():
        wanted = call_with(model, example)
        row["error"] = difference(call_with(as_module(engine), example), wanted)
    return row


def as_module(engine: Any) -> nn.Module:
    """The engine, called as a module is."""
    module = nn.Module()
    module.forward = engine.__call__  # type: ignore[assignment]
    return module


def in_a_process(name: str, target: str | None, limit: float) -> dict[str, Any]:
    """The row of a network, or why there is none, from a process that may crash or hang."""
    context = multiprocessing.get_context("fork")  # all imports are done, and no thread runs
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            theirs.send(measure(name, target))
        except BaseException as error:
            theirs.send({"failure": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"})

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        came = any(ours.poll(1.0) for _ in range(int(limit)))  # in slices: a second in which the machine is paused is one second
        answer = ours.recv() if came else {"failure": f"took over {limit:.0f} s"}
    except EOFError:
        process.join()
        answer = {"failure": f"the process died ({process.exitcode})"}
    process.kill()
    process.join()
    return {"network": name, "ops": 0, "segments": [], "error": None, "lower": 0.0, "build": 0.0} | answer


def verdict(row: dict[str, Any]) -> str:
    if row["failure"]:
        return "FAILS"
    return "DIFFERS" if row["error"] > BOUND else "PyTorch" if row["segments"] else "whole"


def line(row: dict[str, Any]) -> str:
    error = "" if row["error"] is None else f"{row['error']:.1e}"
    what = row["failure"] or ", ".join(segment.removeprefix("aten.") for segment in row["segments"])
    return f"{row['network']:34s} {verdict(row):8s} {row['ops']:5d} {error:>8s} {row['lower']:7.1f} {row['build']:7.1f}  {what[:150]}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*")
    options.add_argument("--limit", type=float, default=600.0)
    options.add_argument("--target")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(
        f"{'network':34s} {'verdict':8s} {'steps':>5s} {'error':>8s} {'lower s':>7s} {'build s':>7s}  left to PyTorch, or why not",
        flush=True,
    )
    rows = []
    for name in given.names or names():
        rows.append(in_a_process(name, given.target, given.limit))
        print(line(rows[-1]), flush=True)
    graphs = [row for row in rows if not (row["failure"] or "").startswith("no graph")]
    whole = [row for row in graphs if verdict(row) == "whole"]
    worst = max((row["error"] for row in graphs if row["error"] is not None), default=0.0)
    bad = [row["network"] for row in graphs if verdict(row) in ("FAILS", "DIFFERS")]
    print(f"\n{len(whole)} of {len(graphs)} networks with a graph compile without PyTorch ({len(whole) / max(1, len(graphs)):.0%});")
    print(f"largest error {worst:.1e} (bound {BOUND:.0e}); wrong or failed: {', '.join(bad) or 'none'}")
    out = given.out or (None if given.names else HERE / "compiled_corpus.json")
    if out:
        about = {
            "command": "OMP_NUM_THREADS=1 python benchmarks/compiled_corpus.py",
            "processor": processor(),
            "torch": torch.__version__,
            "date": datetime.now(UTC).date().isoformat(),
        }
        out.write_text(json.dumps({**about, "whole": len(whole), "graphs": len(graphs), "worst": worst, "networks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
