"""Networks pruned to half of their filters and heads: times in PyTorch and ONNX Runtime, what ONNX export and `.attar` files give back.

run: ATTAR_DATA=... OMP_NUM_THREADS=1 python benchmarks/structured_latency.py [--repeats 40] [--threads 1] [--networks ...] [--out FILE]
Needs `pip install attar[onnx,dev]`. Pruned by L1 norm, each group to half, without fine-tuning; batch 1. All four programs of a
network (PyTorch and ONNX Runtime, before and after) are timed in turn in one `measure` call. The `.attar` file is reloaded in a
fresh process, where its outputs must be those of the pruned network, bit for bit.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from structured_common import SPEED, finish, options, program, speed, where
from torch import nn
from torch.utils import _pytree as pytree

import attar
from attar.evaluation import Column, Table, compare, measure, speedup
from attar.graph import Surgery, call_with, eval_mode
from attar.pruning import prune_structure
from attar.zoo import load_weights, weights
from attar.zoo.cifar_resnet import resnet56
from attar.zoo.efficientnet import efficientnet_lite0
from attar.zoo.resnet import resnet50

Example = tuple | dict[str, Any]

RELOAD = """
import sys, torch, attar
from attar.graph import call_with, eval_mode
from torch.utils import _pytree as pytree
torch.set_num_threads(int(sys.argv[2]))
program, example = attar.load(f"{sys.argv[1]}/after.attar"), torch.load(f"{sys.argv[1]}/example.pt")
with eval_mode(program), torch.no_grad():
    leaves = pytree.tree_leaves(call_with(program, example))
torch.save([leaf for leaf in leaves if leaf is not None], f"{sys.argv[1]}/outputs.pt")
"""


def bert() -> tuple[nn.Module, Example]:
    from transformers import BertConfig, BertModel  # takes seconds, and one network wants it

    ids = torch.randint(0, 30_000, (1, 128))
    return BertModel(BertConfig(num_hidden_layers=4)), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pictures(make: Callable[[], Any], pretrained: str = "") -> tuple[nn.Module, Example]:
    model = make()
    return load_weights(model, weights(pretrained)) if pretrained else model, (torch.randn(1, *model.example_shape),)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Example]]] = {
    "resnet50": lambda: pictures(resnet50),
    "resnet56": lambda: pictures(resnet56, "resnet56"),
    "bert-4-layers": bert,
    "efficientnet_lite0": lambda: pictures(efficientnet_lite0, "efficientnet_lite0"),
}


def tensors(output: Any) -> list[torch.Tensor]:
    """The tensors of an output in order, of whatever container."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def exported(model: nn.Module, example: Example, path: Path, threads: int) -> Callable[[], list[Any]]:
    """The network as ONNX, ready to run in ONNX Runtime on the example."""
    args, kwargs = ((), example) if isinstance(example, dict) else (example, None)
    torch.onnx.export(model, args, path, kwargs=kwargs, dynamo=True, verbose=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    values = [leaf.numpy() for leaf in pytree.tree_leaves(example)]
    given = dict(zip([node.name for node in session.get_inputs()], values, strict=True))
    return lambda: session.run(None, given)


def reloaded_equal(model: nn.Module, example: Example, folder: Path, threads: int) -> bool:
    """Whether the file gives the same bits in a fresh process."""
    torch.save(example, folder / "example.pt")
    with eval_mode(model), torch.no_grad():
        wanted = tensors(call_with(model, example))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", RELOAD, str(folder), str(threads)], check=True, env=environment)
    got = torch.load(folder / "outputs.pt")
    return len(got) == len(wanted) and all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, wanted, strict=True))


def measured(name: str, threads: int, repeats: int, folder: Path) -> tuple[tuple, list[tuple], dict[str, Any]]:
    """One network: its row of the results, its rows of times, and the raw milliseconds."""
    torch.manual_seed(0)
    model, example = NETWORKS[name]()
    model.eval()
    surgery: Surgery = prune_structure(model, example, keep=0.5, allocation="layer")
    small = surgery.model.eval()
    programs = {"PyTorch before": program(model, example), "PyTorch after": program(small, example)}
    programs["ONNX Runtime before"] = exported(model, example, folder / "before.onnx", threads)
    programs["ONNX Runtime after"] = exported(small, example, folder / "after.onnx", threads)
    errors = [
        compare([torch.from_numpy(value) for value in programs[f"ONNX Runtime {which}"]()], tensors(programs[f"PyTorch {which}"]()))
        for which in ("before", "after")
    ]
    sizes = [attar.save(of, folder / f"{which}.attar", example=example) for which, of in (("before", model), ("after", small))]
    equal = reloaded_equal(small, example, folder, threads)
    timings = measure(programs, repeats=repeats, threads=threads)
    plan = surgery.selection
    row = (
        name,
        *plan.parameters,
        *plan.macs,
        *sizes,
        f"{errors[0]:.1e}",
        f"{errors[1]:.1e}",
        "equal bits" if equal else "DIFFERS",
        f"{surgery.error:.1e}",
        "eager" if surgery.eager else "graph",
    )
    times = []
    for runtime in ("PyTorch", "ONNX Runtime"):
        before, after = timings[f"{runtime} before"], timings[f"{runtime} after"]
        times.append((name, runtime, threads, *speed(before, after, speedup(before, after))))
    return row, times, {key: timing.milliseconds for key, timing in timings.items()}


def main() -> None:
    parser = options(__file__, __doc__)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows, times, raw = [], [], {}
    for name in given.networks:
        with tempfile.TemporaryDirectory() as folder:
            row, both, raw[name] = measured(name, given.threads, given.repeats, Path(folder))
        rows.append(row)
        times += both
    columns = (
        Column("network"),
        *(Column(f"{what} {which}", "count") for what in ("parameters", "MACs") for which in ("before", "after")),
        *(Column(f".attar {which}", "bytes") for which in ("before", "after")),
        *(Column(f"ONNX Runtime against PyTorch, {which}") for which in ("before", "after")),
        Column("reloaded in a fresh process"),
        Column("self-check"),
        Column("module"),
    )
    note = "ONNX Runtime against PyTorch: largest difference, relative to the largest output"
    title = f"Half of the filters and heads; {where()}, ONNX Runtime {onnxruntime.__version__}"
    rounds = f"Batch 1, {given.repeats} rounds; {where()}, ONNX Runtime {onnxruntime.__version__}"
    speeds = Table(rounds, (Column("network"), Column("runtime"), Column("threads", "count"), *SPEED), tuple(times))
    finish(given.out, [Table(title, columns, tuple(rows), (note,)), speeds], milliseconds=raw)


if __name__ == "__main__":
    main()
