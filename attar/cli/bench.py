"""`attar bench`: how long networks take in PyTorch, interleaved in one process."""

import contextlib
from functools import partial
from typing import Annotated

import torch
import typer

from attar.cli._common import DataFolder, Json, Pretrained, Seed, Trust, example_of, open_model, print_json
from attar.errors import AttarError
from attar.evaluation import Column, Table, compare, measure, speedup, text
from attar.forms import dense
from attar.graph import eval_mode

__all__ = ["bench"]


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="one MODEL, or several to compare with the first")],
    shape: Annotated[str | None, typer.Option(help="the shape of one input without the batch, such as 3,224,224")] = None,
    batch: Annotated[int, typer.Option(help="inputs in one call")] = 1,
    threads: Annotated[int | None, typer.Option(help="threads; PyTorch's default where not given")] = None,
    repeats: Annotated[int, typer.Option(help="timed rounds; each runs every network once")] = 50,
    pretrained: Pretrained = False,
    trust: Trust = False,
    data_dir: DataFolder = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Median and spread in PyTorch, weights dense; several networks are timed in turn and their outputs compared."""
    if batch < 1:
        raise AttarError(f"batch must be at least 1, got {batch}: it is the number of inputs in one call")
    opened = [
        open_model(name, pretrained=pretrained and name.startswith("zoo:"), trust=trust, data_folder=data_dir, seed=seed).model
        for name in models
    ]
    example = example_of(opened[0], shape, batch)
    labels = [name if models.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(models, 1)]
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for model in opened:
            stack.enter_context(eval_mode(model))
            stack.enter_context(dense(model))
        outputs = [model(*example) for model in opened]
        times = measure(
            {label: partial(model, *example) for label, model in zip(labels, opened, strict=True)}, repeats=repeats, threads=threads
        )
    first = times[labels[0]]
    rows = []
    for label, output in zip(labels, outputs, strict=True):
        ratio = speedup(first, times[label])
        same = None if label == labels[0] else compare(output, outputs[0])
        rows.append((label, times[label].median, times[label].spread, ratio.ratio, ratio.low, ratio.high, same))
    names = ("median", "spread", "speed-up", "low", "high", "output difference")
    units = ("milliseconds", "milliseconds", "factor", "factor", "factor", "number")
    columns = (Column("network"), *(Column(name, unit) for name, unit in zip(names, units, strict=True)))
    processor = f"{first.machine.processor} ({' '.join(first.machine.features)})"
    where = f"PyTorch {first.machine.torch} on {processor}, {first.threads} threads, batch {batch}"
    if json:
        print_json({"where": where, "rows": [dict(zip(("network", *names), row, strict=True)) for row in rows]})
        return
    print(
        text(
            Table(
                where,
                columns,
                tuple(rows),
                ("spread is the range of the middle half; speed-up is against the first, with its 95 % interval",),
            )
        )
    )
