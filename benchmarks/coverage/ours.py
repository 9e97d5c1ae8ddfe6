"""Attar on every network of the corpus, half of each group by L1: what was found, cut, checked, saved and reloaded.

    OMP_NUM_THREADS=1 python benchmarks/coverage/ours.py --out benchmarks/coverage/results/ours.json [--only NAME ...]

One JSON line for each network. The pruned networks are saved to .attar files, which a process of its own, that knows neither the
corpus nor `transformers`, then reloads and compares bit by bit: with the pruned network, and with its graph before it was saved
(a class may compute otherwise while it is exported, and then the file has what was exported).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import corpus
import torch
from torch import nn
from torch.utils import _pytree as pytree

from attar.coding import save
from attar.errors import AttarError
from attar.evaluation import machine
from attar.graph import apply, call_with, couple, eval_mode, trace
from attar.graph.verify import difference
from attar.pruning import plan

RELOAD = """
import json, sys, torch
from attar.coding import load
from attar.graph import call_with, eval_mode
from torch.utils import _pytree as pytree

def floats(value):
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]

def equal(got, expected):
    return len(got) == len(expected) and all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(got, expected))

folder, found = sys.argv[1], {}
for name in json.load(open(f"{folder}/names.json")):
    program = load(f"{folder}/{name}.attar").program()
    example, model, graph = torch.load(f"{folder}/{name}.pt")
    with eval_mode(program), torch.no_grad():
        got = floats(call_with(program, example))
    found[name] = "bits equal" if equal(got, model) else "as exported" if equal(got, graph) else "differs"
assert "transformers" not in sys.modules and "corpus" not in sys.modules
json.dump(found, open(f"{folder}/found.json", "w"))
"""


def measure(name: str, folder: Path) -> dict[str, Any]:
    """The record of one network; refusals are records too, with their reason."""
    ((_, model, example),) = corpus.networks([name])
    record: dict[str, Any] = {"network": name}
    start = time.perf_counter()
    try:
        network = trace(model, example)
        record |= {"traced": "fixed batch" if network.notes and "fixed" in network.notes[0] else "free batch", "trace": _since(start)}
        start = time.perf_counter()
        coupling = couple(network)
        record["groups"] = len(coupling.groups)
        selection = plan(coupling, keep=0.5, allocation="layer")
        record |= {"couple": _since(start), "parameters": list(selection.parameters), "macs": list(selection.macs)}
        start = time.perf_counter()
        surgery = apply(model, selection, example, coupling=coupling)
    except AttarError as error:
        return record | {"refused": f"{type(error).__name__}: {error}"}
    except Exception as error:  # our own fault, and to be seen as such
        return record | {"refused": f"CRASH {type(error).__name__}: {error}", "crash": True}
    record |= {"surgery": _since(start), "error": surgery.error, "eager": surgery.eager, "notes": list(surgery.notes)}
    return record | _saved(name, surgery.model, example, folder)


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)


def _saved(name: str, model: nn.Module, example: Any, folder: Path) -> dict[str, Any]:
    network = trace(model, example)
    try:
        save(network, folder / f"{name}.attar", codec="packed")
    except AttarError as error:
        return {"not_saved": str(error)}
    own, graph = _outputs(model, example), _outputs(network.program(), example)
    torch.save((example, own, graph), folder / f"{name}.pt")
    return {"bytes": (folder / f"{name}.attar").stat().st_size, "export_error": difference(graph, own)}


def _outputs(model: nn.Module, example: Any) -> list[torch.Tensor]:
    with eval_mode(model), torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(_plain(call_with(model, example))) if isinstance(leaf, torch.Tensor)]


def _plain(output: Any) -> Any:
    """Outputs of registered classes as the containers that a reloaded network gives."""
    if isinstance(output, torch.Tensor) or output is None:
        return output
    if isinstance(output, dict):
        return {key: _plain(value) for key, value in output.items()}
    if type(output) in (list, tuple):
        return [_plain(value) for value in output]
    return _plain({key: value for key, value in vars(output).items() if value is not None}) if hasattr(output, "__dict__") else output


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of networks; all without it")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in chosen.only or corpus.names():
            records.append(measure(name, folder))
            write(chosen.out, records)
            print(json.dumps(records[-1])[:200], flush=True)
        (folder / "names.json").write_text(json.dumps([record["network"] for record in records if "bytes" in record]))
        subprocess.run([sys.executable, "-W", "ignore", "-c", RELOAD, scratch], check=True)
        found = json.loads((folder / "found.json").read_text())
    write(chosen.out, [record | {"reloaded": found[record["network"]]} if record["network"] in found else record for record in records])


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """All that there is so far, behind a line about the machine."""
    lines = [{"machine": asdict(machine()), "torch": torch.__version__}, *records]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
