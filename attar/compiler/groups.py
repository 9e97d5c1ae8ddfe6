"""An engine that takes samples in groups behind a cut, where that gains: both programs made, measured and joined."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from attar.compiler.batch import Cut, beyond, cuts, decide
from attar.compiler.compare import differs
from attar.compiler.make import Call, Made, Wanted, compiled, engine_of, keep, trial
from attar.compiler.run import Engine, Tail
from attar.errors import AttarError
from attar.graph.fold import fold_network

__all__ = ["in_groups"]


def in_groups(plain: Engine, wanted: Wanted, batch: int, *, limit: float, listing: Any) -> Engine:
    """The engine that takes `batch` samples together from a cut on, where one gains by measurement here; else the plain one."""
    if not plain.batched:
        note = f"batch {batch}: left out, as the samples are not apart or their number is fixed"
        plain.report = replace(plain.report, notes=(*plain.report.notes, note))
        return plain
    folded = fold_network(wanted.network).model
    halves = {cut.name: _halves(wanted, cut, batch) for cut in cuts(folded, wanted.given, batch)}
    decided, made = plain.library.parent / f"batch-{batch}-{plain.threads}.json", None
    if decided.exists():
        decision = json.loads(decided.read_text())
    else:
        decision, made = _fastest(wanted, halves, plain.threads, batch)
        keep(decided, json.dumps(decision))
    notes = (*plain.report.notes, decision["note"])
    if decision["cut"] not in halves:
        plain.report = replace(plain.report, notes=notes)
        return plain
    plain.close()
    front, back, reads = halves[decision["cut"]]
    ending = engine_of(back, plain.threads, made=made and made[1], listing=listing)
    text = Path(listing).read_text() if listing else ""
    engine = engine_of(front, plain.threads, tail=partial(Tail, ending, reads), made=made and made[0], listing=listing)
    if listing:
        Path(listing).write_text(f"{Path(listing).read_text()}\n# {batch} samples together\n{text}")
    checked = engine.library.parent / f"error-{batch}"
    cached = checked.exists()
    if not cached:
        error = differs(engine, wanted.network, wanted.shown(batch + 1))
        if not error <= limit:
            engine.close()
            raise AttarError(
                f"{batch} samples together differ from PyTorch by {error:.1e} of the largest output: please report this network"
            )
        keep(checked, repr(error))
    one, two = engine.report, ending.report
    engine.report = replace(
        one,
        choices=one.choices + two.choices,
        segments=one.segments + two.segments,
        notes=tuple(dict.fromkeys((*one.notes, *two.notes, decision["note"]))),
        error=float(checked.read_text()) if cached else error,
        cached=cached,
        arena=one.arena + two.arena,
        constants=one.constants + two.constants,
    )
    return engine


def _halves(wanted: Wanted, cut: Cut, batch: int) -> tuple[Wanted, Wanted, tuple[int, ...]]:
    """The network with what crosses the cut as results of its own, the rest of it for a group, and what of all that the rest reads."""
    samples = None if wanted.samples is None else beyond(cut, wanted.network, wanted.values, wanted.samples)
    back = Wanted(cut.tail, Call(cut.tail), list(cut.given), True, wanted.target, samples, group=batch)
    front = replace(wanted, network=cut.front, crosses=cut.crossing) if cut.crossing else wanted
    return front, back, cut.reads


def _fastest(wanted: Wanted, halves: Mapping[str, tuple], threads: int, batch: int) -> tuple[dict, tuple[Made, Made] | None]:
    """The decision for the cut behind which a group of samples gains most, and the two programs, if any gains."""
    shown = [v for v, one in zip(wanted.shown(batch), wanted.network.inputs, strict=True) if one.shape is not None]
    figures, made = {}, {}
    for name, (front, back, reads) in halves.items():
        both = made[name] = compiled(front), compiled(back)
        with tempfile.TemporaryDirectory(prefix="attar-") as folder, tempfile.TemporaryDirectory(prefix="attar-") as other:
            ending = partial(Tail, trial(back, both[1], other, threads), reads)
            with trial(front, both[0], folder, threads, ending) as engine:
                figures[name] = engine.compare_tail(shown)
    decision = decide(figures, batch)
    return decision, made.get(decision["cut"])
