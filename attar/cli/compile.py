"""`attar compile`: a network as a program for this processor, compared with PyTorch and timed beside it."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from attar.cli._common import (
    DataFolder,
    Download,
    Json,
    ModelName,
    Pretrained,
    Seed,
    Trust,
    Weights,
    example_of,
    open_model,
    open_task,
    print_json,
)
from attar.compiler import TARGETS, Engine
from attar.compiler import compile as compile_model
from attar.errors import AttarError
from attar.evaluation import Column, Speedup, Table, Timing, measure, speedup, text
from attar.evaluation import compare as difference
from attar.evaluation.tables import format_bytes
from attar.forms import dense
from attar.graph import eval_mode
from attar.task import Task, arguments, fetch, taken

__all__ = ["CALIBRATION", "calibration", "compile"]

CALIBRATION = 64  # training samples that int8 is calibrated on
_COMPARED = 500  # validation samples at most, on which programs are compared
_CALL = 50  # samples in one call of those
_FLOAT, _INT8 = "compiled", "compiled int8"


def compile(
    model: ModelName,
    shape: Annotated[str | None, typer.Option(help="the shape of one input without the batch, such as 3,224,224")] = None,
    batch: Annotated[
        int, typer.Option(help="inputs in one timed call; behind a cut they are computed together, where that is faster here")
    ] = 1,
    threads: Annotated[int, typer.Option(help="threads of the program, and of PyTorch beside it")] = 1,
    target: Annotated[
        str | None, typer.Option(help=f"kind of processor: {', '.join(TARGETS)}; the best this machine runs by default")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32, or int8, which needs --data and is compared with float32, too")] = "float32",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"data as of `attar evaluate`: {CALIBRATION} training samples calibrate int8, validation samples compare the programs",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="timed rounds; each runs the program and PyTorch once")] = 30,
    c: Annotated[Path | None, typer.Option("--c", metavar="FILE", help="write the C of the program there")] = None,
    listing: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the machine code that no C compiler made (baked, AVX-512) as assembly there")
    ] = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="print what was measured for each convolution")] = False,
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    data_dir: DataFolder = None,
    download: Download = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compile, check against PyTorch, time both in turn; the first line is the verdict. What was built stays in the cache."""
    if batch < 1:
        raise AttarError(f"batch must be at least 1, got {batch}: it is the number of inputs in one call")
    _require_data(precision, data, shape, download=download)
    opened = open_model(model, weights_file=weights, pretrained=pretrained, trust=trust, data_folder=data_dir, seed=seed).model
    task = None if data is None else open_task(data, opened, data_folder=data_dir, download=download, seed=seed)
    example = example_of(opened, shape, batch) if task is None else _taken(opened, _inputs(task.train, range(batch)), task.name)
    build = partial(compile_model, opened, example, threads=threads, batch=batch, target=target)
    if task is None or precision == "float32":
        engines = {_FLOAT: _engine(build(listing=listing))}
    else:
        engines = {_FLOAT: _engine(build()), _INT8: _engine(build(precision="int8", calibration=calibration(task, seed), listing=listing))}
    last = [*engines.values()][-1]
    if c is not None:
        shutil.copyfile(last.report.source, c)
    programs: dict[str, Callable[..., Any]] = {"PyTorch": opened, **engines}
    with torch.no_grad(), eval_mode(opened), dense(opened):
        times = measure({name: partial(_call, one, example) for name, one in programs.items()}, repeats=repeats, threads=threads)
        scores = _scores(programs, task, _CALL if last.batched else batch, whole=not last.batched) if task else {}
    if json:
        print_json(_as_dict(last, times, scores))
        return
    print(_first_line(last, times, scores))
    print(_times(last, times, scores, batch))
    if task is not None and _INT8 in engines:
        print(f"int8 was calibrated on {min(CALIBRATION, len(task.train))} training samples of {task.name}")
    print(_about(last))
    if kernels:
        print(_kernels(last))


def calibration(task: Task, seed: int) -> tuple | Mapping[str, Any]:
    """The network's arguments for some tens of training samples, drawn by `seed`, not augmented: what int8 is calibrated on."""
    drawn = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
    return _inputs(task.train, drawn.tolist())


def _require_data(precision: str, data: str | None, shape: str | None, *, download: bool) -> None:
    if precision not in ("float32", "int8"):
        raise AttarError(f"--precision must be float32 or int8, got {precision}")
    if precision == "int8" and data is None:
        raise AttarError("--precision int8 needs --data NAME: real samples show the ranges of values, which bytes must cover")
    if download and data is None:
        raise AttarError("--download is for --data NAME, which is not given")
    if shape is not None and data is not None:
        raise AttarError(f"--shape {shape} and --data {data} both say what the network takes: leave --shape out")


def _engine(made: Any) -> Engine:
    if not isinstance(made, Engine):
        raise AttarError(made.reason)
    return made


def _inputs(split: Any, indices: Sequence[int]) -> tuple | Mapping[str, Any]:
    if len(indices) > len(split):
        raise AttarError(f"batch must be at most {len(split)}, got {len(indices)}: --data has no more samples")
    return arguments(fetch(split, indices)[0])


def _taken(model: nn.Module, given: tuple | Mapping[str, Any], name: str) -> tuple | Mapping[str, Any]:
    """The samples, which the network takes; raises AttarError where it does not."""
    with torch.no_grad(), eval_mode(model), taken(given, name):
        _call(model, given)
    return given


def _call(program: Callable[..., Any], given: tuple | Mapping[str, Any]) -> Any:
    return program(**given) if isinstance(given, Mapping) else program(*given)


@dataclass
class _Score:
    """A program on validation samples: the mean of each metric, the share of samples of which it gives PyTorch's class (None where
    outputs are no classes), and the largest difference from PyTorch's outputs, of the largest."""

    samples: int
    metrics: dict[str, float]
    agreement: float | None
    error: float


def _scores(programs: Mapping[str, Callable[..., Any]], task: Task, size: int, *, whole: bool) -> dict[str, _Score]:
    """Each program on the first validation samples, `size` in a call; with `whole`, in no other calls."""
    count = min(_COMPARED, len(task.validation))
    count -= count % size if whole else 0
    if not count:
        raise AttarError(f"batch must be at most {len(task.validation)}, the number of validation samples, got {size}")
    found = {name: _Score(count, dict.fromkeys(task.metrics, 0.0), 0.0, 0.0) for name in programs}
    for start in range(0, count, size):
        indices = range(start, min(start + size, count))
        expected = None
        inputs, targets = fetch(task.validation, indices)
        for name, program in programs.items():
            outputs, score = _call(program, arguments(inputs)), found[name]
            expected = outputs if expected is None else expected
            score.error = max(score.error, difference(outputs, expected))
            for metric, function in task.metrics.items():
                score.metrics[metric] += float(function(outputs, targets).double().sum()) / count
            if score.agreement is not None and isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1:
                score.agreement += int((outputs.argmax(1) == expected.argmax(1)).sum())
            else:
                score.agreement = None
    for score in found.values():
        score.agreement = None if score.agreement is None else score.agreement / count
    return found


def _first_line(engine: Engine, times: Mapping[str, Timing], scores: Mapping[str, _Score]) -> str:
    gain = _gain(times, "PyTorch")
    parts = [f"{gain.verdict}: {gain.ratio:.2f}x PyTorch [{gain.low:.2f}, {gain.high:.2f}]"]
    beside = _gain(times, _FLOAT) if _INT8 in times else None
    if beside is not None:
        parts.append(f"{beside.ratio:.2f}x float32 [{beside.low:.2f}, {beside.high:.2f}]")
    score = scores.get(list(times)[-1])
    if score is not None and score.agreement is not None:
        parts.append(f"PyTorch's class for {score.agreement:.1%} of {score.samples} validation samples")
    parts.append(f"outputs differ by {engine.report.error if score is None else score.error:.1e} of the largest")
    if gain.verdict == "SLOWER":
        parts.append("run the network in PyTorch, or compile it with more zeros")
    elif beside is not None and beside.verdict == "SLOWER":
        parts.append("float32 is faster: leave --precision out")
    return "; ".join(parts)


def _gain(times: Mapping[str, Timing], before: str) -> Speedup:
    """How much faster the last program is."""
    return speedup(times[before], [*times.values()][-1])


def _times(engine: Engine, times: Mapping[str, Timing], scores: Mapping[str, _Score], batch: int) -> str:
    columns = [Column("program"), Column("median", "milliseconds"), Column("spread", "milliseconds")]
    rows: list[tuple] = [(name, one.median, one.spread) for name, one in times.items()]
    if scores:
        metrics = next(iter(scores.values())).metrics
        columns += [*(Column(name, "percent") for name in metrics), Column("PyTorch's class", "percent"), Column("difference", "number")]
        more = [(*score.metrics.values(), score.agreement, score.error) for score in scores.values()]
        rows = [(*row, *rest) for row, rest in zip(rows, more, strict=True)]
    where = next(iter(times.values())).machine
    title = f"{where.processor} ({' '.join(where.features)}), target {engine.report.target}, {engine.threads} threads, batch {batch}"
    return text(Table(title, tuple(columns), tuple(rows), ()))


def _about(engine: Engine) -> str:
    report = engine.report
    parts = [
        f"{'found in the cache' if report.cached else 'built'} in {report.seconds:.1f} s; C in {report.source}",
        f"memory: {format_bytes(report.constants)} of weights and tables, {format_bytes(report.arena)} of values for each thread",
    ]
    if report.segments:
        parts.append(f"PyTorch runs {len(report.segments)} ops, which the compiler has not: {', '.join(sorted(set(report.segments)))}")
    parts += report.notes
    return "\n".join(parts)


def _kernels(engine: Engine) -> str:
    names = sorted({name for choice in engine.report.choices for name in choice.seconds}, key=str)
    columns = (Column("convolution"), Column("kernel"), *(Column(str(name), "milliseconds") for name in names))
    rows = [
        (one.op, str(one.kernel), *(1000 * one.seconds[n] if n in one.seconds else None for n in names)) for one in engine.report.choices
    ]
    return text(Table("kernels, by their time on this shape", columns, tuple(rows), ()))


def _as_dict(engine: Engine, times: Mapping[str, Timing], scores: Mapping[str, _Score]) -> dict[str, Any]:
    report = asdict(engine.report)
    report["source"] = str(engine.report.source)
    gain = _gain(times, "PyTorch")
    timed = {name: {"median": one.median, "spread": one.spread} for name, one in times.items()}
    found = {"verdict": gain.verdict, "speedup": asdict(gain), "milliseconds": timed, "threads": engine.threads, **report}
    if _INT8 in times:
        found["speedup over float32"] = asdict(_gain(times, _FLOAT))
    if scores:
        found["validation"] = {name: asdict(score) for name, score in scores.items()}
    return found
