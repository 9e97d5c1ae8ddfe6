"""Plans: what they promise, what they refuse, and that they survive JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import VECTORS
from torch import nn

from attar.errors import AttarError
from attar.graph import Cut, Selection, couple, select, trace


def model():
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


COUPLING = couple(trace(model(), (VECTORS,)))


def test_a_plan_promises_what_its_arithmetic_says():
    selection = select(COUPLING, {"0": [7, 2], "3": [0]})
    assert selection.cuts == (Cut("0", "channel", 8, (2, 7)), Cut("3", "channel", 6, (0,)))
    before, after = ((3 * a + a) + 2 * a + (a * b + b) + (b * 2 + 2) for a, b in ((8, 6), (6, 5)))
    assert selection.parameters == (before, after)
    assert selection.bytes == ((before + 16) * 4, (after + 12) * 4)
    assert selection.macs == (2 * (3 * 8 + 8 * 6 + 6 * 2), 2 * (3 * 6 + 6 * 5 + 5 * 2))
    assert str(selection).splitlines() == [
        "0: 8 -> 6 channels",
        "3: 6 -> 5 channels",
        "parameters: 116 -> 83 (-28.4 %)",
        "bytes: 528 -> 380 (-28.0 %)",
        "MACs: 168 -> 116 (-31.0 %)",
    ]


def test_nothing_removed_is_a_plan_too():
    selection = select(COUPLING, {"0": []})
    assert selection.cuts == ()
    assert selection.parameters[0] == selection.parameters[1]
    assert str(selection).startswith("nothing is removed")


units = st.dictionaries(st.sampled_from(["0", "3"]), st.sets(st.integers(0, 5), max_size=5))


@given(units)
def test_a_plan_survives_json(removed):
    selection = select(COUPLING, removed)
    assert Selection.from_data(json.loads(json.dumps(selection.as_data()))) == selection
    assert selection.removed == {name: tuple(sorted(gone)) for name, gone in removed.items() if gone}


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"0": [8]}, "whole numbers 0 to 7, each once; got"),
        ({"0": [-1]}, "whole numbers 0 to 7"),
        ({"0": [1, 1]}, "each once"),
        ({"0": [1.0]}, "whole numbers"),
        ({"0": [True]}, "whole numbers"),
        ({"0": ["a", 1]}, "whole numbers"),
        ({"0": 3}, "whole numbers"),
        ({"0": range(8)}, "would lose all 8 of its channels"),
        ({"00": [1]}, "no group '00'"),
    ],
)
def test_what_is_no_plan_is_refused(removed, message):
    with pytest.raises(AttarError, match=message):
        select(COUPLING, removed)


@pytest.mark.parametrize("data", [{}, {"cuts": 1}, {"cuts": [{}]}, [], {**select(COUPLING, {}).as_data(), "macs": ["x"]}])
def test_what_is_no_plan_is_not_read(data):
    with pytest.raises(AttarError, match=r"this is no selection: .*; write one with"):
        Selection.from_data(data)
