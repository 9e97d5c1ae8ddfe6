"""Runs one tool on every network of `tests/corpus` and judges each result; see README.md.

run: PYTHON benchmarks/coverage/run.py --tool torch-pruning --out benchmarks/coverage/results/torch-pruning.json [--only NAME ...]
Each try runs in a process of its own, so a crash or an endless search costs that try alone. The file gets a line of JSON per
network, as it comes: the best try first, and every try with its setting.
"""

import argparse
import copy
import json
import multiprocessing
import os
import platform
import sys
import time
import tomllib
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "tests")]

import corpus  # noqa: E402
from judge import EQUAL, Example, first_line, judge, parameter_count, perturb  # noqa: E402
from peers import PACKAGES, TOOLS  # noqa: E402

# What is kept of several tries: a refusal harms less than a wrong network that passes for a pruned one.
BEST = [EQUAL, "equal, ratio out of range", "nothing pruned", "error", "timeout", "crash", "pruned but broken", "pruned but WRONG"]


def attempt(prepare: Callable, model: nn.Module, example: Example, *, timeout: float) -> dict[str, Any]:
    """The outcome of one try, made in a forked process: the pruning and the judging have `timeout` seconds each."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, prepare, model, example))
    process.start()
    there.close()
    record: dict[str, Any] = {}
    while "outcome" not in record:
        try:
            record |= here.recv() if here.poll(timeout) else {"outcome": "timeout", "reason": f"not done in {timeout:.0f} s"}
        except EOFError:
            process.join()
            record |= {"outcome": "crash", "reason": f"the process ended with {process.exitcode}"}
    process.kill()
    process.join()
    return record


def _child(pipe: Connection, prepare: Callable, model: nn.Module, example: Example) -> None:
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    own, own_example = copy.deepcopy(model), copy.deepcopy(example)
    try:
        prune = prepare(own, own_example)
        start = time.perf_counter()
        pruned = prune()
        seconds = time.perf_counter() - start
    except Exception as error:
        pipe.send({"outcome": "error", "reason": first_line(error)})
        return
    pipe.send({"seconds": seconds})
    try:
        verdict = judge(model, pruned, example)
    except Exception as error:
        pipe.send({"outcome": "crash", "reason": f"the judge: {first_line(error)}"})
        return
    pipe.send(
        {"outcome": verdict.outcome, "after": verdict.after, "ratio": verdict.ratio, "error": verdict.error, "reason": verdict.reason}
    )


def measure(name: str, settings: dict[str, Callable], *, timeout: float) -> dict[str, Any]:
    """The record of one network of the corpus: its best try, and all of them up to the first success."""
    try:
        ((_, model, example),) = corpus.networks([name])
        perturb(model)
    except Exception as error:  # such as a network that needs a package this environment lacks: the others are still worth the run
        return {"network": name, "outcome": "crash", "reason": f"the corpus: {first_line(error)}", "tries": []}
    tries: list[dict[str, Any]] = []
    for setting, prepare in settings.items():
        tries.append({"setting": setting, **attempt(prepare, model, example, timeout=timeout)})
        if tries[-1]["outcome"] == EQUAL:
            break
    best = min(tries, key=lambda each: BEST.index(each["outcome"]))
    return {"network": name, "before": parameter_count(model), **best, "tries": tries}


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"processor": processor, "cores": os.cpu_count(), "load": os.getloadavg()[0], "threads": torch.get_num_threads()}


def release(package: str) -> str:
    """The version that is installed; of Attar, which runs from its repository too, that of the repository."""
    try:
        return version(package)
    except PackageNotFoundError:
        project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]
        if project["name"] != package:
            raise
        return f"{project['version']} (not installed)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tool", required=True, choices=sorted(TOOLS))
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--append", action="store_true", help="go on with the file: the networks in it are left as they are")
    parser.add_argument("--only", nargs="*", help="names of networks; all without it")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one try's pruning")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # a fork of a process with threads may hang, and one thread is what all tools get
    settings = TOOLS[chosen.tool]()
    packages = {name: release(name) for name in (PACKAGES[chosen.tool], "torch", "transformers")}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    lines = chosen.out.read_text().splitlines() if chosen.append and chosen.out.exists() else []
    done = {json.loads(line)["network"] for line in lines[1:]}
    with chosen.out.open("a" if lines else "w", buffering=1) as file:
        if not lines:
            file.write(json.dumps({"tool": chosen.tool, "versions": packages, "python": platform.python_version(), **machine()}) + "\n")
        for name in chosen.only or corpus.names():
            if name in done:
                continue
            record = measure(name, settings, timeout=chosen.timeout)
            file.write(json.dumps(record) + "\n")
            print(
                f"{name:28} {record['outcome']:26} {record.get('ratio') or 0:5.2f} {record.get('seconds') or 0:7.2f} s  {record['reason']}"
            )


if __name__ == "__main__":
    main()
