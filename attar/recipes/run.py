"""Running a recipe: stages with checkpoints, a file that is reloaded before it is believed, and the report."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar import coding
from attar.errors import AttarError
from attar.evaluation import LayerRow, Measurement, Report, StageRow, count, environment, evaluate, paired
from attar.forms import dense
from attar.graph import require_finite, trace, weights
from attar.recipes.check import check_recipe
from attar.recipes.folder import Folder, fingerprint, open_folder
from attar.recipes.layers import layer_rows
from attar.recipes.recipe import Recipe, Stage, load_recipe
from attar.recipes.stages import VERBS
from attar.recipes.structure import Changed, restructure
from attar.step import Step
from attar.task import Task
from attar.training import (
    Checkpoint,
    Engine,
    Settings,
    bar,
    discard_state,
    load_state,
    model_state,
    restore_model,
    save_state,
    start,
    train,
)

__all__ = ["Result", "compress"]

BATCH_SIZE = 256  # of evaluation: outputs are bit-equal for equal batch size only


@dataclass(frozen=True)
class Result:
    """What `compress` gives: the network as reloaded from its file, the file, and the report, verdict first."""

    model: nn.Module
    path: Path
    report: Report

    @property
    def verdict(self) -> str:
        """The report's first line."""
        return self.report.verdict


def compress(
    model: nn.Module,
    task: Task,
    recipe: Recipe | str | Path | Sequence[dict],
    *,
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    control: bool = False,
    paper: Sequence[LayerRow] = (),
) -> Result:
    """Run `recipe` on a copy of `model` and leave `model.attar`, `report.{html,md,json}` and checkpoints in the folder `out`.

    The baseline is the network after the recipe's first `train` (as given, where there is none); with `control` it is
    trained on, uncompressed, for as many epochs as the compression took, so that both have had the same budget. The
    file is reloaded, and baseline and reloaded result are evaluated together on the test split, which is read only then.
    A run that was killed goes on with `resume` and ends in the same bytes. `paper` are figures to print beside ours.

    Raises RecipeError listing all faults before anything runs; TraceError for a network without a graph, which could not
    be written; AttarError for NaN weights, nothing to compress, a folder that cannot be used, or a full disk.
    """
    recipe = load_recipe(recipe)
    require_finite(model)
    if not weights(model):
        raise AttarError(f"{type(model).__name__} has no weight to compress: it needs a convolution, linear, recurrent or attention layer")
    trace(model, task.example())  # a network that cannot be written is refused now, not after hours
    check_recipe(recipe, model, task)
    identity = {
        "recipe": recipe.as_data(),
        "seed": seed,
        "data": f"{task.name}, {len(task.train)} + {len(task.validation)} + {len(task.test)} samples",
        "network": f"{type(model).__name__} {fingerprint(model)[:16]}",
        "control": control,
    }
    engine = start()
    with contextlib.ExitStack() as stack:
        # under torchrun all processes train, and the first one writes
        folder = engine.from_main(lambda: stack.enter_context(open_folder(out, identity, resume=resume)))
        work = _Work(copy.deepcopy(model), task, seed, folder, resume, engine)
        work.run(recipe)
        baseline = work.baseline if work.baseline is not None else model
        if control:
            baseline = work.run_control(recipe, baseline)
        engine.from_main(lambda: _finish(work, recipe, baseline, control, paper))
    return Result(coding.load(folder.model).program(), folder.model, Report.from_json(folder.report("json").read_text()))


@dataclass
class _Work:
    """A run in progress; the `Run` that the verbs see."""

    model: nn.Module
    task: Task
    seed: int
    folder: Folder
    resume: bool
    engine: Engine
    rows: list[StageRow] = field(default_factory=list)
    baseline: nn.Module | None = None
    position: int = 0
    verb: str = ""
    changes: list[dict[str, Any]] = field(default_factory=list)  # of the network's structure, in the present stage
    notes: list[str] = field(default_factory=list)

    def run(self, recipe: Recipe) -> None:
        """All stages, each from its checkpoint where there is one."""
        self.rows.append(self._row("as given", 0.0, dense=True))
        for self.position, stage in enumerate(recipe.stages, 1):
            begun = time.monotonic()

            def act(stage: Stage = stage, begun: float = begun) -> dict[str, Any]:
                VERBS[stage.verb](self, **stage.arguments)
                seconds = time.monotonic() - begun
                return asdict(self._row(stage.verb, seconds, dense=stage.verb == "train"))

            self.rows.append(StageRow(**self._once(stage.verb, None, act)))
            if stage.verb == "train" and self.baseline is None:
                self.baseline = copy.deepcopy(self.model)

    def run_control(self, recipe: Recipe, baseline: nn.Module) -> nn.Module:
        """The baseline trained on, uncompressed, through the settings of every later stage that trains."""
        control = copy.deepcopy(baseline)
        trained = next((i for i, stage in enumerate(recipe.stages) if stage.verb == "train"), -1)
        for self.position, stage in enumerate(recipe.stages[trained + 1 :], trained + 2):
            settings = _settings(stage.arguments)
            if settings is not None:
                self._once(f"{stage.verb}-control", control, functools.partial(self._train, control, settings, ()))
        return control

    def _once(self, name: str, control: nn.Module | None, act: Callable[[], Any]) -> Any:
        """Do a stage and keep what it leaves of the network (or a control), with what `act` returns; or take both from an earlier run."""
        self.verb, self.changes = name, []
        path = self.folder.stage(self.position, name)
        state = self.engine.from_main(lambda: load_state(path) if self.resume and path.exists() else None)
        if state is not None:
            for change in state["changes"]:
                self.model = restructure(self.model, change, self.example())
            restore_model(self.model if control is None else control, state["model"])
            self.notes += state["notes"]
            return state["row"]
        noted = len(self.notes)
        row = act()
        left = {"changes": self.changes, "notes": self.notes[noted:], "row": row}
        self.engine.from_main(lambda: save_state(path, {"model": model_state(self.model if control is None else control), **left}))
        if self.engine.is_main:
            discard_state(self.folder.training(self.position, name))
        return row

    def example(self) -> Any:
        """One input of the network, as its arguments."""
        return self.task.example()

    def change(self, changed: Changed) -> None:
        """Go on with another network; on resuming the same change is made again."""
        self.model = changed.model
        self.changes += [changed.change] if changed.change is not None else []
        self.notes += changed.notes

    def train(self, settings: Settings, steps: Sequence[Step] = ()) -> None:
        """What the verbs call."""
        self._train(self.model, settings, steps)

    def _train(self, model: nn.Module, settings: Settings, steps: Sequence[Step]) -> None:
        checkpoint = Checkpoint(self.folder.training(self.position, self.verb), resume=self.resume)
        with bar(f"{self.position}. {self.verb}") as progress:
            seed = stage_seed(self.seed, self.position)
            train(model, self.task, settings=settings, steps=steps, seed=seed, checkpoint=checkpoint, progress=progress)

    def _row(self, stage: str, seconds: float, *, dense: bool) -> StageRow:
        """What the network is now: its accuracy on the validation split, and its bytes, those of its file without entropy coding."""
        return self.engine.from_main(lambda: self._measured(stage, seconds, dense))

    def _measured(self, stage: str, seconds: float, dense: bool) -> StageRow:
        network = trace(self.model, self.task.example())
        counted = count(network)
        size = dense_bytes(self.model) if dense else len(coding.encode(network, codec="packed"))
        scores = evaluate(self.model, self.task.validation, self.task, batch_size=BATCH_SIZE).estimates()
        return StageRow(stage, counted.parameters, counted.nonzeros, size, next(iter(scores.values())).mean, seconds)


def stage_seed(seed: int, position: int) -> int:
    """The seed of the stage at `position`: stages of one run must not see the same order of samples and noise."""
    return seed * 1000 + position


def _settings(arguments: Any) -> Settings | None:
    """The training settings among a stage's arguments, or None where it does not train."""
    if not arguments.get("epochs"):
        return None
    names = Settings.__dataclass_fields__
    return Settings(**{name: value for name, value in arguments.items() if name in names})


def dense_bytes(model: nn.Module) -> int:
    """The bytes of a network's parameters as they are, uncompressed: what all factors are taken from."""
    with dense(model):
        return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _finish(work: _Work, recipe: Recipe, baseline: nn.Module, control: bool, paper: Sequence[LayerRow]) -> None:
    """Write the file, reload it, evaluate it beside the baseline on the test split, and write the reports."""
    task, folder = work.task, work.folder
    begun = time.monotonic()
    network = trace(work.model, task.example())
    coded = coding.save(network, folder.model)
    packed = coding.size_rows(coding.encode(network, codec="packed"))
    reloaded = coding.load(folder.model).program()
    counted = count(trace(reloaded, task.example()))
    validation = evaluate(reloaded, task.validation, task, batch_size=BATCH_SIZE).estimates()
    size, metric = folder.model.stat().st_size, next(iter(validation.values())).mean
    work.rows.append(StageRow("code", counted.parameters, counted.nonzeros, size, metric, time.monotonic() - begun))
    before = evaluate(baseline, task.test, task, batch_size=BATCH_SIZE)
    after = evaluate(reloaded, task.test, task, batch_size=BATCH_SIZE)
    original = count(trace(baseline, task.example()))
    report = Report(
        title=f"{type(work.model).__name__} on {task.name}, {recipe.name}",
        baseline=Measurement(dense_bytes(baseline), original.parameters, original.nonzeros, before.estimates(), None, before.fingerprint),
        result=Measurement(size, counted.parameters, counted.nonzeros, after.estimates(), None, after.fingerprint),
        seed=work.seed,
        comparison={name: paired(before.metrics[name], after.metrics[name]) for name in before.metrics},
        stages=tuple(work.rows),
        layers=layer_rows(packed, coded, list(network.forms)),
        paper=tuple(paper),
        environment=environment(threads=torch.get_num_threads(), batch_size=BATCH_SIZE),
        notes=_notes(work, task, control, counted.unknown),
    )
    for suffix, text in (("json", report.to_json()), ("md", report.to_markdown()), ("html", report.to_html())):
        coding.write_atomically(folder.report(suffix), text.encode())


def _notes(work: _Work, task: Task, control: bool, unknown: Mapping[str, int]) -> tuple[str, ...]:
    """What a reader must know to believe the numbers."""
    if control:
        baseline = "the baseline was trained on, uncompressed, for as many epochs as the compression took"
    elif work.baseline is not None:
        baseline = "the baseline is the network as its first training left it; --control gives it the compression's epochs too"
    else:
        baseline = "the baseline is the network as given"
    notes = [
        baseline,
        *work.notes,
        f"stages were judged on {len(task.validation):,} validation samples; the {len(task.test):,} test samples were read once,"
        " for both networks together, the result as reloaded from its file",
        "bytes: of the parameters as they are before compression, of a file without entropy coding after a stage, on disk at the end",
    ]
    if unknown:
        notes.append("not counted, for want of a formula: " + ", ".join(f"{name} ({calls})" for name, calls in unknown.items()))
    return tuple(notes)
