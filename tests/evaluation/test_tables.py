"""Tables refuse what does not fit their units, and say the same in every form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import AttarError, FormatError
from attar.evaluation.tables import (
    UNITS,
    Column,
    Kept,
    LayerRow,
    Removed,
    StageRow,
    Table,
    as_dict,
    format_bytes,
    from_dict,
    layer_table,
    markdown,
    stage_table,
    text,
    total,
)

# METHODS, appendix C: factors and the percentages of the survey
PAIRS = [(13.36, 92.51), (4.64, 78.45), (1.37, 27.01), (2.61, 61.69), (7.14, 85.99), (5.3, 81.13), (3.5, 71.43), (35, 97.14), (49, 97.96)]


@pytest.mark.parametrize(("factor", "percent"), PAIRS)
def test_percent_and_factor(factor, percent):
    assert Removed.from_factor(factor).percent == pytest.approx(percent, abs=0.006)


@given(st.floats(0.01, 1000))
def test_percent_and_factor_round_trip(factor):
    removed = Removed.from_factor(factor)
    assert removed.factor == pytest.approx(factor)
    assert removed.kept.removed.fraction == pytest.approx(removed.fraction)
    assert Kept.of(factor, 1).factor == pytest.approx(factor)


def test_shares_of_nonsense():
    for bad in (
        lambda: Kept(-0.1),
        lambda: Kept(float("nan")),
        lambda: Removed(1.1),
        lambda: Kept.of(0, 1),
        lambda: Removed.from_factor(0),
    ):
        with pytest.raises(AttarError):
            bad()
    assert Kept(0.0).factor == float("inf")


@pytest.mark.parametrize(
    ("unit", "cell"), [("kept", Removed(0.1)), ("removed", Kept(0.1)), ("kept", 0.1), ("removed", 0.1), ("percent", Kept(0.1))]
)
def test_a_column_never_mixes_kept_and_removed(unit, cell):
    good = {"kept": Kept(0.5), "removed": Removed(0.5), "percent": 0.5}[unit]
    with pytest.raises(AttarError, match=f"column 'size' of table 'mixed' holds {unit}"):
        Table("mixed", (Column("size", unit),), ((good,), (cell,)))


@pytest.mark.parametrize(("unit", "cell"), [("bytes", 1.5), ("bytes", "12"), ("text", 3), ("count", True), ("bits", "8")])
def test_cells_must_be_of_their_unit(unit, cell):
    with pytest.raises(AttarError, match=f"holds {unit}"):
        Table("typed", (Column("x", unit),), ((cell,),))


def test_rows_and_units_must_fit():
    with pytest.raises(AttarError, match="must have 2 cells, got 1"):
        Table("short", (Column("a"), Column("b")), (("x",),))
    with pytest.raises(AttarError, match="got 'KB'"):
        Column("size", "KB")


SAMPLES = {"text": "a|b", "count": 12, "bytes": 1234, "kept": Kept(0.25), "removed": Removed(0.75)}
EVERY = Table(
    "every unit",
    tuple(Column(f"c{i}", unit) for i, unit in enumerate(UNITS)),
    (tuple(SAMPLES.get(unit, 0.5) for unit in UNITS), (None,) * len(UNITS)),
    ("a note",),
)


def test_json_round_trip():
    assert from_dict(json.loads(json.dumps(as_dict(EVERY)))) == EVERY


@pytest.mark.parametrize(
    "damage",
    [{"rows": [[1]]}, {"columns": [{"name": "x", "unit": "miles"}]}, {"columns": 3}, {"rows": [["x"] * len(UNITS)]}, {"notes": None}],
)
def test_a_damaged_table_is_refused(damage):
    with pytest.raises(FormatError, match="no table"):
        from_dict({**as_dict(EVERY), **damage})
    with pytest.raises(FormatError, match="no table"):
        from_dict({})


def test_markdown_keeps_its_grid_whatever_the_cells():
    hostile = Table("t", (Column("a | b"), Column("n", "count")), (("x | y\n| z <script>", 1),), ("note",))
    lines = [line for line in markdown(hostile).splitlines() if line.startswith("|")]
    assert len(lines) == 3
    assert {line.replace("\\|", "").count("|") for line in lines} == {3}
    assert "<" not in markdown(hostile)


def test_every_form_shows_every_cell():
    for shown in (markdown(EVERY), text(EVERY)):
        for cell in ("1,234", "25.00", "75.00", "50.00", "+50.00", "0.50x", "–", "a note", "% kept", "% removed"):
            assert cell in shown


def test_text_is_aligned():
    lines = text(Table("t", (Column("layer"), Column("size", "bytes")), (("a", 5), ("longer", 1_000_000)))).splitlines()
    assert lines[2:] == ["layer        size", "            bytes", "------  ---------", "a               5", "longer  1,000,000"]


def test_bytes_for_people():
    shown = {0: "0 B", 999: "999 B", 1000: "1 kB", 33_100: "33.1 kB", 1_724_320: "1.72 MB", 999_999_999: "1 GB", 5 * 10**15: "5,000 TB"}
    assert {n: format_bytes(n) for n in shown} == shown


def test_stage_table_takes_factors_from_its_first_row():
    stages = [StageRow("dense", 1000, 1000, 4000, 0.98, 10.0), StageRow("prune", 1000, 100, 1000, 0.975), StageRow("code", 1000, 100, 80)]
    table = stage_table(stages)
    assert table.rows[0][:6] == ("dense", 1000, Kept(1.0), 4000, 1.0, Removed(0.0))
    assert table.rows[1] == ("prune", 100, Kept(0.1), 1000, 4.0, Removed(0.75), 0.975, None)
    assert table.rows[2][4] == pytest.approx(50)
    assert "top-1, validation (%)" in markdown(table)
    assert "loss, validation |" in markdown(stage_table(stages, metric="loss", unit="number"))
    assert stage_table([]).rows == ()


def row(layer, weights, kept, wb, wbc, ib, ibc, packed, coded):
    return LayerRow(layer, weights, Kept(kept / 100), wb, wbc, ib, ibc, Kept(packed / 100), Kept(coded / 100))


# METHODS, Q8: LeNet-5
LENET5 = [
    row("conv1", 500, 66, 8, 7.2, 5, 1.5, 78.5, 67.45),
    row("conv2", 25_000, 12, 8, 7.2, 5, 3.9, 6.0, 5.28),
    row("ip1", 400_000, 8, 5, 4.5, 5, 4.5, 2.7, 2.45),
    row("ip2", 5_000, 19, 5, 5.2, 5, 3.7, 6.9, 6.13),
]
ALEXNET_CONVS = [(35, 32.6, 20.53), (307, 14.5, 9.43), (885, 13.1, 8.44), (663, 14.1, 9.11), (442, 14.0, 9.43)]


def test_totals_are_those_of_the_papers():
    summed = total(LENET5)
    assert summed.weights == 430_500
    assert 100 * summed.kept.fraction == pytest.approx(8.4, abs=0.1)
    assert summed.weight_bits == pytest.approx(5.3, abs=0.05)
    assert summed.index_bits == 5
    assert 100 * summed.rate_packed.fraction == pytest.approx(3.05, abs=0.05)
    assert 100 * summed.rate_coded.fraction == pytest.approx(2.73, abs=0.05)  # the paper prints 2.55, which its rows do not give
    convs = total([row(str(n), 1000 * n, 40, 8, 6, 4, 2, packed, coded) for n, packed, coded in ALEXNET_CONVS])
    assert 100 * convs.rate_packed.fraction == pytest.approx(14.03, abs=0.02)
    assert 100 * convs.rate_coded.fraction == pytest.approx(9.13, abs=0.02)


def test_totals_say_nothing_where_a_layer_does_not():
    summed = total([LENET5[0], LayerRow("fc", 100, Kept(1.0))])
    assert summed.weight_bits is None
    assert summed.rate_coded is None
    assert summed.kept.fraction == pytest.approx((330 + 100) / 600)
    with pytest.raises(AttarError, match="at least one layer"):
        total([])


def test_layer_table_puts_the_paper_below_each_layer():
    paper = [LENET5[1], row("total", 430_500, 8, 5.3, 4.1, 5, 4.4, 3.05, 2.55)]
    table = layer_table(LENET5, paper=paper, source="Han et al.")
    assert [r[0] for r in table.rows] == ["conv1", "conv2", "· Han et al.", "ip1", "ip2", "total", "· Han et al."]
    assert table.rows[2][2] == Kept(0.12)
    assert len(layer_table(LENET5).rows) == 5
    with pytest.raises(AttarError, match="has not: fc9"):
        layer_table(LENET5, paper=[row("fc9", 1, 1, 1, 1, 1, 1, 1, 1)])
