"""EfficientNet-Lite0 with its ImageNet weights: expansion channels removed, by L1 norm and at random, without any fine-tuning.

run: ATTAR_DATA=... OMP_NUM_THREADS=1 python benchmarks/structured_efficientnet.py [--repeats 40] [--threads 1 2] [--out FILE]
Only the groups that the expansion convolutions make lose channels (with the depthwise convolution, its norms, and the inputs of
the projection that go with them). Accuracy, and how often the class is the original's, are of the 250 sample pictures at odd
positions; the times are of one picture, all networks in turn in one `measure` call for each number of threads.
"""

from pathlib import Path
from typing import Any

import torch
from structured_common import SPEED, finish, options, program, speed, where
from torch import Tensor, nn

from attar.data._files import data_folder
from attar.data.pictures import pictures
from attar.evaluation import Column, Table, measure, paired, speedup
from attar.graph import Surgery, apply, couple, trace
from attar.pruning.granularity import plan
from attar.task import Task, fetch
from attar.zoo import load_weights, preprocessing, weights
from attar.zoo.efficientnet import efficientnet_lite0

KEEPS, ALLOCATIONS = (0.9, 0.75), ("layer", "global")
CRITERIA = (("l1", 0), ("random", 0), ("random", 1), ("random", 2))
EXPANSIONS = "_blocks.*._expand_conv"
BATCH = 10  # larger ones are allocated anew each time, which costs more than they save


def surgeries(model: Any) -> dict[tuple[float, str, str, int], Surgery]:
    """The network pruned in every way, from one coupling."""
    example = (torch.zeros(1, *model.example_shape),)
    coupling = couple(trace(model, example))
    found = {}
    for keep in KEEPS:
        for allocation in ALLOCATIONS:
            for saliency, seed in CRITERIA:
                selection = plan(coupling, keep=keep, saliency=saliency, seed=seed, allocation=allocation, layers=EXPANSIONS)
                found[keep, allocation, saliency, seed] = apply(model, selection, example, coupling=coupling)
    return found


def classes(model: nn.Module, task: Task) -> tuple[Tensor, Tensor]:
    """The network's class for each picture, and the right one."""
    model.eval()
    answers, labels = [], []
    with torch.inference_mode():
        for start in range(0, len(task.test), BATCH):
            inputs, targets = fetch(task.test, range(start, min(start + BATCH, len(task.test))))
            answers.append(model(inputs).argmax(1))
            labels.append(targets)
    return torch.cat(answers), torch.cat(labels)


def accuracy_table(found: dict[tuple[float, str, str, int], Surgery], model: nn.Module, task: Task) -> Table:
    answers, labels = classes(model, task)
    first = next(iter(found.values())).selection
    right = float((answers == labels).float().mean())
    size, macs = first.parameters[0], first.macs[0]
    rows: list[tuple] = [("as published", None, None, None, size, macs, 1.0, right, None, None, None, None, None)]
    for (keep, allocation, saliency, seed), surgery in found.items():
        got, _ = classes(surgery.model, task)
        change = paired((answers == labels).double(), (got == labels).double())
        rows.append(
            (
                f"{keep:.0%} of the expansion channels",
                allocation,
                saliency,
                seed if saliency == "random" else None,
                sum(parameter.numel() for parameter in surgery.model.parameters()),
                surgery.selection.macs[1],
                float((got == answers).float().mean()),
                float((got == labels).float().mean()),
                change.difference,
                change.low,
                change.high,
                f"{surgery.error:.1e}",
                "eager" if surgery.eager else "graph",
            )
        )
    columns = (
        Column("kept"),
        Column("allocation"),
        Column("saliency"),
        Column("seed", "count"),
        Column("parameters", "count"),
        Column("MACs", "count"),
        Column("same class as the original", "percent"),
        Column("top-1", "percent"),
        Column("top-1 change", "points"),
        Column("low", "points"),
        Column("high", "points"),
        Column("self-check"),
        Column("module"),
    )
    notes = ("change: paired, with its 95 % interval", "self-check: largest difference from the masked original in float64, relative")
    return Table(f"EfficientNet-Lite0 without fine-tuning; {len(labels)} sample pictures, {where()}", columns, tuple(rows), notes)


def main() -> None:
    parser = options(__file__, __doc__)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    model = load_weights(efficientnet_lite0(), weights("efficientnet_lite0")).eval()
    task = pictures(Path(data_folder(None)) / "imagenet-sample", **preprocessing(model))
    found = surgeries(model)
    accuracies = accuracy_table(found, model, task)
    picture = (fetch(task.test, range(1))[0],)
    rows, raw = [], {}
    for threads in given.threads:
        programs = {"before": program(model, picture)}
        programs |= {" ".join(map(str, name)): program(surgery.model, picture) for name, surgery in found.items()}
        timings = measure(programs, repeats=given.repeats, threads=threads)
        raw[threads] = {name: timing.milliseconds for name, timing in timings.items()}
        for keep, allocation, saliency, seed in found:
            before, after = timings["before"], timings[f"{keep} {allocation} {saliency} {seed}"]
            rows.append((f"{keep:.0%}", allocation, f"{saliency} {seed}", threads, *speed(before, after, speedup(before, after))))
    columns = (Column("kept"), Column("allocation"), Column("saliency and seed"), Column("threads", "count"), *SPEED)
    times = Table(f"One picture in PyTorch, {given.repeats} rounds; {where()}", columns, tuple(rows))
    finish(given.out, [accuracies, times], milliseconds=raw)


if __name__ == "__main__":
    main()
