"""`attar evaluate`: accuracy with its interval, and the paired difference from another network."""

from dataclasses import asdict
from typing import Annotated

import torch
import typer

from attar.cli._common import (
    DataFolder,
    DataName,
    Download,
    Json,
    ModelName,
    Pretrained,
    Seed,
    Trust,
    Weights,
    open_model,
    open_task,
    print_json,
)
from attar.evaluation import Column, Table, environment, paired, text
from attar.evaluation import evaluate as run
from attar.recipes import BATCH_SIZE

__all__ = ["evaluate"]


def evaluate(
    model: ModelName,
    data: DataName,
    against: Annotated[str | None, typer.Option(metavar="OTHER", help="another MODEL, compared sample by sample")] = None,
    batch_size: Annotated[int, typer.Option(help="samples in one call; outputs are bit-equal for equal batch sizes")] = BATCH_SIZE,
    seed: Seed = 0,
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    data_dir: DataFolder = None,
    download: Download = False,
    json: Json = False,
) -> None:
    """Accuracy on the test split with its 95 % interval; with --against, the paired difference and its significance."""
    opened = open_model(model, weights_file=weights, pretrained=pretrained, trust=trust, data_folder=data_dir, seed=seed).model
    task = open_task(data, opened, data_folder=data_dir, download=download, seed=seed)
    scores = run(opened, task.test, task, batch_size=batch_size)
    rows = [(name, e.mean, e.low, e.high, e.samples) for name, e in scores.estimates().items()]
    columns = tuple(Column(name, "percent") for name in ("mean", "low", "high"))
    tables = [Table(f"{model} on {task.name}, test", (Column("metric"), *columns, Column("samples", "count")), tuple(rows))]
    found = {"model": model, "metrics": {n: asdict(e) for n, e in scores.estimates().items()}, "fingerprint": scores.fingerprint}
    if against is not None:
        other = open_model(against, pretrained=against.startswith("zoo:"), trust=trust, data_folder=data_dir, seed=seed).model
        others = run(other, task.test, task, batch_size=batch_size)
        pairs = {name: paired(others.metrics[name], scores.metrics[name]) for name in scores.metrics}
        columns = (Column("metric"), *(Column(name, "points") for name in ("difference", "low", "high")), Column("p", "number"))
        tables.append(
            Table(f"{model} minus {against}, paired", columns, tuple((n, p.difference, p.low, p.high, p.p) for n, p in pairs.items()))
        )
        found["against"] = {"model": against, "difference": {n: asdict(p) for n, p in pairs.items()}, "fingerprint": others.fingerprint}
    if json:
        print_json(found | {"environment": environment(threads=torch.get_num_threads(), batch_size=batch_size)})
        return
    print("\n\n".join(text(table) for table in tables))
    print(f"\nlogits sha256 {scores.fingerprint} ({scores.threads} threads, batch {batch_size})")
