"""What a compression has to say for itself, as plain data: verdict first, then the measurements that it rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attar.errors import FormatError
from attar.evaluation.latency import Speedup, machine
from attar.evaluation.page import Bar, Chart, page
from attar.evaluation.plain import from_plain, to_plain
from attar.evaluation.statistics import Paired
from attar.evaluation.tables import Column, LayerRow, StageRow, Table, as_dict, from_dict, layer_table, markdown, stage_table, text
from attar.evaluation.verdict import Measurement, verdict

__all__ = ["Report", "environment"]

_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Baseline and result of one compression, measured together, and how it came about.

    `comparison` holds, for each metric, the paired difference result minus baseline on the test split; `speed` the
    interleaved timing where one was made. `paper` holds figures to print below ours, from `source`. `environment` is
    what must be equal for the outputs' fingerprint to come again; `tables` are any further ones.
    """

    title: str
    baseline: Measurement
    result: Measurement
    seed: int
    comparison: Mapping[str, Paired] = field(default_factory=dict)
    speed: Speedup | None = None
    stages: tuple[StageRow, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    paper: tuple[LayerRow, ...] = ()
    source: str = "paper"
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def verdict(self) -> str:
        """The first line: derived from the measurements, so that it cannot contradict them."""
        return verdict(self.baseline, self.result, self.comparison, self.speed)

    def all_tables(self) -> tuple[Table, ...]:
        """Summary, stages, layers and further tables, in the order of printing; those without rows are left out."""
        tables = [self._summary()]
        if self.stages:
            metric = next(iter(self.result.metrics), "metric")
            percent = metric not in self.result.metrics or self.result.metrics[metric].proportion
            tables.append(stage_table(self.stages, metric=metric, unit="percent" if percent else "number"))
        if self.layers:
            tables.append(layer_table(self.layers, paper=self.paper, source=self.source))
        return (*tables, *self.tables)

    def to_text(self) -> str:
        """The verdict and the tables for a terminal."""
        notes = [f"* {note}" for note in self.notes]
        return "\n\n".join([self.verdict, *map(text, self.all_tables()), *(["\n".join(notes)] if notes else [])]) + "\n"

    def to_markdown(self) -> str:
        """The verdict, the tables, the environment and the notes in Markdown."""
        facts = [f"- {name}: {value}" for name, value in self._facts().items()]
        notes = ["### Notes", "\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        parts = [f"**{self.verdict}**", f"## {self.title}", *map(markdown, self.all_tables()), "### Environment", "\n".join(facts), *notes]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """One self-contained page: verdict, pictures of the sizes, tables, environment, notes."""
        charts = []
        if self.stages:
            bars = tuple(Bar(row.stage, row.bytes) for row in self.stages)
            charts.append(Chart("Size after each stage", bars))
        rated = [row for row in self.layers if row.rate_coded is not None]
        if rated:
            bars = tuple(Bar(row.layer, round(4 * row.weights * row.rate_coded.fraction)) for row in rated if row.rate_coded)
            charts.append(Chart("Size of each layer's weight in the file", bars))
        return page(self.title, self.verdict, tables=self.all_tables(), charts=charts, facts=self._facts(), notes=self.notes)

    def to_json(self) -> str:
        """The report as JSON, the verdict first; `from_json` is its inverse."""
        data = {"verdict": self.verdict, "version": _VERSION, **to_plain(self), "tables": [as_dict(table) for table in self.tables]}
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, document: str) -> Report:
        """A report from its JSON; raises FormatError where it is damaged, or of another version."""
        try:
            data = json.loads(document)
        except json.JSONDecodeError as error:
            raise FormatError(f"the report is no JSON: {error}") from None
        if not isinstance(data, dict) or data.pop("version", None) != _VERSION:
            raise FormatError(f"the report must be of version {_VERSION}: it comes from another version of Attar, or is damaged")
        data.pop("verdict", None)
        tables = data.get("tables")
        if not isinstance(tables, list):
            raise FormatError("the report's tables must be a list: it is damaged")
        return replace(from_plain(cls, {**data, "tables": []}), tables=tuple(map(from_dict, tables)))

    def _facts(self) -> dict[str, str]:
        prints = {"outputs of the baseline": self.baseline.fingerprint, "outputs of the result": self.result.fingerprint}
        return {**self.environment, "seed": str(self.seed), **{name: f"sha256 {value}" for name, value in prints.items() if value}}

    def _summary(self) -> Table:
        """Baseline beside result: bytes, parameters, time, metrics with their intervals and paired differences."""
        before, after = self.baseline, self.result
        rows: list[tuple[str | None, ...]] = [
            ("bytes", f"{before.bytes:,}", f"{after.bytes:,}", f"r = {before.bytes / after.bytes:.2f}" if after.bytes else None),
            ("parameters", f"{before.parameters:,}", f"{after.parameters:,}", None),
            ("nonzero parameters", f"{before.nonzeros:,}", f"{after.nonzeros:,}", None),
        ]
        if before.milliseconds is not None and after.milliseconds is not None:
            ratio = None if self.speed is None else f"speed-up {self.speed.ratio:.2f} ({self.speed.low:.2f} to {self.speed.high:.2f})"
            rows.append(("milliseconds (median)", f"{before.milliseconds:.3g}", f"{after.milliseconds:.3g}", ratio))
        for name, estimate in after.metrics.items():
            scale, unit, points = (100, " %", " points") if estimate.proportion else (1, "", "")
            cells = [
                None if e is None else f"{scale * e.mean:.2f}{unit} ({scale * e.low:.2f} to {scale * e.high:.2f})"
                for e in (before.metrics.get(name), estimate)
            ]
            p = self.comparison.get(name)
            change = (
                None if p is None else f"{scale * p.difference:+.2f}{points} ({scale * p.low:+.2f} to {scale * p.high:+.2f}), p = {p.p:.2g}"
            )
            rows.append((f"{name}, test", cells[0], cells[1], change))
        columns = (Column("measured"), Column("baseline"), Column("result"), Column("change"))
        return Table(
            "Baseline and result", columns, tuple(rows), ("in parentheses: 95 % intervals; differences are paired, sample by sample",)
        )


def environment(*, threads: int, batch_size: int) -> dict[str, str]:
    """What outputs and times depend on, by name: processor, instruction sets, system, PyTorch, threads, batch size."""
    here = machine()
    return {
        "processor": here.processor,
        "instruction sets": " ".join(here.features) or "none of those that matter",
        "system": here.system,
        "PyTorch": here.torch,
        "threads": str(threads),
        "batch size": str(batch_size),
    }
