"""`attar bench`: how long networks take in PyTorch, interleaved in one process."""

import contextlib
import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from attar.cli._common import DataFolder, Download, Json, Pretrained, Seed, Trust, example_of, open_model, open_task, print_json
from attar.cli.compile import calibration
from attar.errors import AttarError
from attar.evaluation import Column, Table, Timing, compare, measure, speedup, text
from attar.forms import dense
from attar.graph import eval_mode
from attar.recipes.engines import ENGINES
from attar.task import Task

__all__ = ["bench"]


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="one MODEL, or several to compare with the first")],
    shape: Annotated[str | None, typer.Option(help="the shape of one input without the batch, such as 3,224,224")] = None,
    batch: Annotated[int, typer.Option(help="inputs in one call")] = 1,
    threads: Annotated[int | None, typer.Option(help="threads; PyTorch's default where not given")] = None,
    repeats: Annotated[int, typer.Option(help="timed rounds; each runs every network once")] = 50,
    against: Annotated[
        str | None, typer.Option(metavar="ENGINE,...", help=f"compile MODEL and time it beside engines: {', '.join(list(ENGINES)[1:])}")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="data whose training samples calibrate the int8 engines of --against; else noise does"),
    ] = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    data_dir: DataFolder = None,
    download: Download = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Median and spread in PyTorch, weights dense; several networks are timed in turn and their outputs compared.

    With --against, one network is compiled, and timed in turn with other engines that run it.
    """
    if batch < 1:
        raise AttarError(f"batch must be at least 1, got {batch}: it is the number of inputs in one call")
    if against is not None and len(models) > 1:
        raise AttarError(f"--against compares engines on one network, got {len(models)}: give one MODEL")
    if data is not None and not any(name.strip().endswith("int8") for name in (against or "").split(",")):
        raise AttarError(f"--data {data} calibrates int8 engines, of which --against names none: name attar-int8, or leave --data out")
    if download and data is None:
        raise AttarError("--download is for --data NAME, which is not given")
    opened = [
        open_model(name, pretrained=pretrained and name.startswith("zoo:"), trust=trust, data_folder=data_dir, seed=seed).model
        for name in models
    ]
    example = example_of(opened[0], shape, batch)
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for model in opened:
            stack.enter_context(eval_mode(model))
            stack.enter_context(dense(model))
        if against is None:
            labels = [name if models.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(models, 1)]
            programs: dict[str, Callable[[], Any]] = {label: partial(model, *example) for label, model in zip(labels, opened, strict=True)}
        else:
            task = None if data is None else open_task(data, opened[0], data_folder=data_dir, download=download, seed=seed)
            options = {} if task is None else {"calibration": _samples(task, seed, example[0])}
            programs = _engines(opened[0], example[0].numpy(), against, threads or torch.get_num_threads(), options)
        outputs = {name: copy.deepcopy(program()) for name, program in programs.items()}  # an engine may reuse its memory
        times = measure(programs, repeats=repeats, threads=threads)
    _show(times, outputs, json=json, batch=batch, subject="engine" if against else "network")


def _samples(task: Task, seed: int, example: Tensor) -> np.ndarray:
    """Training samples that calibrate int8 engines: whole multiples of the example's batch."""
    given = calibration(task, seed)
    tensors = [value for value in given if isinstance(value, Tensor)] if isinstance(given, tuple) else []
    if len(tensors) != 1 or tensors[0].shape[1:] != example.shape[1:] or len(tensors[0]) < len(example):
        came = ", ".join(str(list(t.shape)) for t in tensors) or "arguments by name"
        raise AttarError(f"int8 engines take samples {list(example.shape)} in calls, got {came} from {task.name}: give --data that fits")
    return tensors[0][: len(tensors[0]) // len(example) * len(example)].numpy()


def _engines(model: nn.Module, example: np.ndarray, against: str, threads: int, options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The compiled network and each engine that is named, int8 ones with `options`, ready to be called; a message for each that is made."""
    names = ["attar", *(name.strip() for name in against.split(","))]
    unknown = [name for name in names if name not in ENGINES]
    if unknown:
        raise AttarError(f"there is no engine {', '.join(unknown)}: give some of {', '.join(list(ENGINES)[1:])}")
    built: dict[str, Callable[[], Any]] = {}
    for name in names:
        print(f"building for {name} ...", file=sys.stderr)
        built[name] = partial(ENGINES[name](model, example, threads, **(options if name.endswith("int8") else {})).run, example)
    return built


def _show(times: dict[str, Timing], outputs: dict[str, Any], *, json: bool, batch: int, subject: str) -> None:
    """How long each takes, and how much faster the first network is left behind; engines: how much faster the first one is."""
    first, rows = next(iter(times)), []
    for name, one in times.items():
        ratio = speedup(one, times[first]) if subject == "engine" else speedup(times[first], one)
        same = None if name == first else compare(outputs[name], outputs[first])
        rows.append((name, one.median, one.spread, ratio.ratio, ratio.low, ratio.high, same))
    factor = f"{first} is faster by" if subject == "engine" else "speed-up"
    names = ("median", "spread", factor, "low", "high", "output difference")
    units = ("milliseconds", "milliseconds", "factor", "factor", "factor", "number")
    columns = (Column(subject), *(Column(name, unit) for name, unit in zip(names, units, strict=True)))
    here = times[first].machine
    where = f"PyTorch {here.torch} on {here.processor} ({' '.join(here.features)}), {times[first].threads} threads, batch {batch}"
    if json:
        print_json({"where": where, "rows": [dict(zip((subject, *names), row, strict=True)) for row in rows]})
        return
    note = "spread is the range of the middle half; the factor is against the first, with its 95 % interval"
    print(text(Table(where, columns, tuple(rows), (note,))))
