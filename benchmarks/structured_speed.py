"""How long structured pruning itself takes, stage by stage, and how that grows with depth, beside Torch-Pruning.

run: OMP_NUM_THREADS=1 python benchmarks/structured_speed.py [--peer PYTHON] [--repeats 3] [--layers 10 50 100 200] [--out FILE]
One thread. Each network has a process of its own: cold is its first pruning (after `import attar`), warm the median of those that
follow. Surgery includes the self-check in float64, which Torch-Pruning has not. `--peer` is an interpreter whose environment holds
torch 2.13.0 and torch-pruning 1.6.1 (see benchmarks/coverage/README.md); without it that column stays empty.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from structured_common import finish, options, where
from structured_torch_pruning import Residual
from torch import nn

from attar.evaluation import Column, Table
from attar.graph import apply, couple, trace
from attar.pruning.granularity import plan
from attar.zoo.resnet import resnet50

STAGES = ("trace", "couple", "plan", "surgery")
LIMITS = {"resnet50": 5.0, "bert-base": 8.0, "encoder": 8.0}  # seconds, warm
HERE = Path(__file__).parent


def network(name: str) -> tuple[nn.Module, tuple | dict[str, Any]]:
    """A network by its name, with random weights, and its example."""
    torch.manual_seed(0)
    if name == "resnet50":
        return resnet50().eval(), (torch.randn(1, 3, 224, 224),)
    if name == "bert-base":
        from transformers import BertConfig, BertModel  # takes seconds, and one network wants it

        ids = torch.randint(0, 30_000, (1, 128))
        return BertModel(BertConfig()).eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "encoder":
        layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True)
        return nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).eval(), (torch.randn(1, 128, 768),)
    return Residual(int(name)).eval(), (torch.randn(1, 3, 32, 32),)


def timed(model: nn.Module, example: tuple | dict[str, Any]) -> dict[str, Any]:
    """Seconds of each stage of pruning half of the filters, neurons and heads by L1 norm, and what is left."""
    made: dict[str, Any] = {}
    stages: dict[str, Callable[[], Any]] = {
        "trace": lambda: trace(model, example),
        "couple": lambda: couple(made["trace"]),
        "plan": lambda: plan(made["couple"], keep=0.5, allocation="layer"),
        "surgery": lambda: apply(model, made["plan"], example, coupling=made["couple"]),
    }
    seconds: dict[str, Any] = {}
    spent = time.process_time()
    for stage, function in stages.items():
        begun = time.perf_counter()
        made[stage] = function()
        seconds[stage] = time.perf_counter() - begun
    surgery = made["surgery"]
    seconds |= {"total": sum(seconds.values()), "cpu": time.process_time() - spent}
    kept = surgery.selection.parameters[1] / surgery.selection.parameters[0]
    return seconds | {"kept": kept, "error": surgery.error, "eager": surgery.eager, "notes": surgery.notes}


def child(name: str, repeats: int) -> None:
    """In a process of its own: prune one network again and again, and print each run."""
    torch.set_num_threads(1)
    model, example = network(name)
    print(json.dumps([timed(model, example) for _ in range(1 + repeats)]))


def started(interpreter: str, *arguments: str) -> Any:
    """What another process prints on its last line, as data; or the last line of its error."""
    command = [interpreter, "-W", "ignore", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def typical(runs: list[dict[str, Any]], key: str) -> float:
    """The median of the runs after the first."""
    return median(run[key] for run in runs[1:])


def slope(layers: list[int], seconds: list[float]) -> float:
    """The exponent of growth: of the line through the logarithms."""
    return float(np.polyfit(np.log(layers), np.log(seconds), 1)[0])


def networks_table(runs: dict[str, list[dict[str, Any]]]) -> Table:
    rows: list[tuple] = []
    for name, of in runs.items():
        module, kept = "eager" if of[0]["eager"] else "graph", of[0]["kept"]
        rows.append((name, "cold", *(of[0][key] for key in (*STAGES, "total", "cpu")), None, "", kept, f"{of[0]['error']:.1e}", module))
        warm = [typical(of, key) for key in (*STAGES, "total", "cpu")]
        verdict = "met" if warm[4] < LIMITS[name] else "MISSED"
        rows.append((name, "warm", *warm, LIMITS[name], verdict, kept, f"{of[0]['error']:.1e}", module))
    columns = (
        Column("network"),
        Column("process"),
        *(Column(f"{key}, s", "number") for key in (*STAGES, "total", "processor")),
        Column("target, s", "number"),
        Column("verdict"),
        Column("parameters kept", "percent"),
        Column("self-check"),
        Column("module"),
    )
    notes = ("batch 1: 224 px for ResNet-50, 128 tokens of width 768 for the 12-layer transformers", "total: by the clock; all on 1 thread")
    return Table(f"Pruning to half by L1 norm; {where()}", columns, tuple(rows), notes)


def growth_table(ours: dict[int, list[dict[str, Any]]], theirs: dict[int, Any]) -> Table:
    rows: list[tuple] = []
    for layers, runs in ours.items():
        peer = theirs.get(layers, {})
        other = typical(peer["runs"], "total") if "runs" in peer else None
        said = "" if other is not None else peer.get("error", "not run")
        stages = [typical(runs, key) for key in (*STAGES, "total")]
        each = 1000 * stages[-1] / layers, None if other is None else 1000 * other / layers
        rows.append((str(layers), *stages, other, *each, said))
    depths = list(ours)
    measured = [layers for layers in depths if "runs" in theirs.get(layers, {})]
    for name, least in (("growth exponent", 0), ("growth exponent from 50 layers", 50)):
        exponents = []
        deep, common = ([layers for layers in of if layers >= least] for of in (depths, measured))
        for key in (*STAGES, "total"):
            exponents.append(slope(deep, [typical(ours[n], key) for n in deep]) if len(deep) > 1 else None)
        exponents.append(slope(common, [typical(theirs[n]["runs"], "total") for n in common]) if len(common) > 1 else None)
        rows.append((name, *exponents, None, None, ""))
    version = next((f"Torch-Pruning {peer['version']}" for peer in theirs.values() if "version" in peer), "Torch-Pruning")
    columns = (
        Column("layers"),
        *(Column(f"{key}, s", "number") for key in (*STAGES, "total")),
        Column(f"{version}, s", "number"),
        Column("per layer", "milliseconds"),
        Column("per layer, Torch-Pruning", "milliseconds"),
        Column("remark"),
    )
    notes = ("warm medians; growth exponent: slope of log seconds over log layers", "Torch-Pruning does not check its result")
    return Table(f"Residual networks of 16 channels, half by L1 norm; {where()}, 1 thread", columns, tuple(rows), notes)


def main() -> None:
    parser = options(__file__, __doc__)
    parser.add_argument("--peer", help="an interpreter with torch-pruning")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="*", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--layers", type=int, nargs="*", default=[10, 50, 100, 200])
    parser.add_argument("--child", metavar="NETWORK", help="used by the script itself")
    given = parser.parse_args()
    if given.child:
        child(given.child, given.repeats)
        return
    repeats = ("--repeats", str(given.repeats))

    def own(name: str) -> list[dict[str, Any]]:
        found = started(sys.executable, __file__, "--child", name, *repeats)
        if isinstance(found, dict):
            raise SystemExit(f"{name}: {found['error']}")
        return found

    runs = {name: own(name) for name in given.networks}
    ours = {layers: own(str(layers)) for layers in given.layers}
    peer = str(HERE / "structured_torch_pruning.py")
    theirs = {n: started(given.peer, peer, "--layers", str(n), *repeats) for n in given.layers} if given.peer else {}
    tables = [networks_table(runs)] if runs else []
    tables += [growth_table(ours, theirs)] if ours else []
    finish(given.out, tables, networks=runs, residual=ours, torch_pruning=theirs)


if __name__ == "__main__":
    main()
