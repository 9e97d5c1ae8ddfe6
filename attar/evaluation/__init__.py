"""Measurement: what a network holds, does, scores and takes, and how it is said. Level 2: imports forms, graph and task only.

Sizes in bytes arrive as plain rows; nothing here knows how they were coded.

- `count(network)`: parameters, multiplications, additions, MACs, FLOPs; unknown ops listed.
- `evaluate(model, split, task)`: each metric for each sample, and the fingerprint of all outputs.
- `measure(programs)`: interleaved timings; `speedup` and `compare` judge them.
- `paired`, `wilson`, `spread`: intervals and significance.
- `Report`: the measurements of one compression as plain data; its first line is the verdict.
"""

from attar.evaluation.accuracy import Scores, evaluate, fingerprint
from attar.evaluation.counters import Count, count, count_by_running
from attar.evaluation.latency import Speedup, Timing, compare, machine, measure, speedup
from attar.evaluation.report import Report, environment
from attar.evaluation.statistics import Estimate, Paired, Spread, estimate, paired, spread, wilson
from attar.evaluation.tables import (
    Column,
    Kept,
    LayerRow,
    Removed,
    StageRow,
    Table,
    as_dict,
    layer_table,
    markdown,
    stage_table,
    text,
    total,
)
from attar.evaluation.verdict import Measurement, verdict

__all__ = [
    "Column",
    "Count",
    "Estimate",
    "Kept",
    "LayerRow",
    "Measurement",
    "Paired",
    "Removed",
    "Report",
    "Scores",
    "Speedup",
    "Spread",
    "StageRow",
    "Table",
    "Timing",
    "as_dict",
    "compare",
    "count",
    "count_by_running",
    "environment",
    "estimate",
    "evaluate",
    "fingerprint",
    "layer_table",
    "machine",
    "markdown",
    "measure",
    "paired",
    "speedup",
    "spread",
    "stage_table",
    "text",
    "total",
    "verdict",
    "wilson",
]
