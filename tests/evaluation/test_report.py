"""A report says the same in JSON, Markdown, text and HTML, and comes back from its JSON."""

import json
from dataclasses import replace

import pytest

from attar.errors import FormatError
from attar.evaluation import Column, Kept, LayerRow, Measurement, Removed, Report, Speedup, StageRow, Table, environment, estimate, paired

BEFORE, AFTER = [1] * 90 + [0] * 10, [1] * 88 + [0] * 12
LAYERS = (
    LayerRow("conv1", 500, Kept(0.6), 8, 6.9, 5, 1.3, Kept(0.74), Kept(0.6)),
    LayerRow("fc<1>", 4000, Kept(0.05), 5, 4.2, 5, 4.4, Kept(0.021), Kept(0.017)),
)
REPORT = Report(
    "LeNet on digits & more",
    Measurement(18_000, 4500, 4500, {"top-1": estimate(BEFORE)}, 2.0, "a" * 64),
    Measurement(1_500, 4500, 500, {"top-1": estimate(AFTER)}, 1.0, "b" * 64),
    7,
    comparison={"top-1": paired(BEFORE, AFTER)},
    speed=Speedup(2.0, 1.9, 2.1),
    stages=(StageRow("dense", 4500, 4500, 18_000, 0.9, 3.0), StageRow("code", 4500, 500, 1_500, None, None)),
    layers=LAYERS,
    paper=(replace(LAYERS[0], kept=Kept(0.66)),),
    source="Han et al.",
    environment=environment(threads=2, batch_size=64),
    notes=("a note",),
    tables=(Table("extra", (Column("x", "removed"), Column("y", "kept")), ((Removed(0.25), Kept(0.75)), (None, None))),),
)
BARE = Report("bare", Measurement(100, 10, 10), Measurement(100, 10, 10), 0)


@pytest.mark.parametrize(
    "report", [REPORT, BARE, replace(REPORT, comparison={"m": paired([2.5], [3.5])})], ids=["full", "bare", "infinite"]
)
def test_json_round_trip(report):
    document = report.to_json()
    assert Report.from_json(document) == report
    assert Report.from_json(document).to_html() == report.to_html()
    strict = json.loads(document, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert next(iter(strict)) == "verdict"


def test_the_verdict_comes_first_and_cannot_be_forged():
    assert REPORT.verdict.startswith("SMALLER 12.0x (18 kB to 1.5 kB), FASTER 2.00x")
    assert REPORT.to_text().splitlines()[0] == REPORT.verdict
    assert REPORT.to_markdown().splitlines()[0] == f"**{REPORT.verdict}**"
    forged = json.dumps({**json.loads(REPORT.to_json()), "verdict": "SMALLER 1000x"})
    assert Report.from_json(forged).verdict == REPORT.verdict


def test_every_form_carries_the_measurements():
    for shown in (REPORT.to_text(), REPORT.to_markdown(), REPORT.to_html()):
        for figure in (
            "18,000",
            "1,500",
            "90.00 %",
            "88.00 %",
            "-2.00 points",
            "Han et al.",
            "a note",
            "extra",
            "91.67",
            "2.00 (1.90 to 2.10)",
        ):
            assert figure in shown
    for shown in (REPORT.to_markdown(), REPORT.to_html()):
        assert "a" * 64 in shown
        assert "b" * 64 in shown
        assert "batch size" in shown
        assert "fc&lt;1>" in shown or "fc&lt;1&gt;" in shown


def test_what_was_not_measured_is_not_there():
    assert [table.title for table in BARE.all_tables()] == ["Baseline and result"]
    for shown in (BARE.to_text(), BARE.to_markdown(), BARE.to_html()):
        assert "milliseconds (median)" not in shown
        assert "sha256" not in shown
        assert "Stage by stage" not in shown
    assert [table.title for table in REPORT.all_tables()] == ["Baseline and result", "Stage by stage", "Layer by layer", "extra"]


def test_a_metric_that_is_no_proportion_has_no_percent():
    real = replace(REPORT, result=replace(REPORT.result, metrics={"psnr": estimate([31.5, 30.5])}), comparison={})
    stages = real.all_tables()[1]
    assert stages.columns[6] == Column("psnr, validation", "number")
    assert "31.00 (" in real.to_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("{", "no JSON"),
        ("[]", "version 1"),
        (json.dumps({**json.loads(REPORT.to_json()), "version": 2}), "version 1"),
        (json.dumps({**json.loads(REPORT.to_json()), "seed": "7"}), "report.seed must be int, got str"),
        (json.dumps({**json.loads(REPORT.to_json()), "tables": None}), "tables must be a list"),
        (json.dumps({**json.loads(REPORT.to_json()), "layers": [1]}), r"report.layers\[0\]"),
    ],
)
def test_damaged_reports_are_refused(damage, message):
    with pytest.raises(FormatError, match=message):
        Report.from_json(damage)


def test_environment_names_what_bit_equality_depends_on():
    assert set(environment(threads=1, batch_size=8)) == {"processor", "instruction sets", "system", "PyTorch", "threads", "batch size"}
