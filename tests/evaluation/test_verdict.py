"""Each rule of the verdict, and what it must never say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.evaluation.latency import Speedup
from attar.evaluation.statistics import estimate, paired
from attar.evaluation.verdict import Measurement, verdict

FAST, SLOW, SAME = Speedup(2.0, 1.9, 2.1), Speedup(0.5, 0.4, 0.6), Speedup(1.02, 0.97, 1.08)


def measured(size, correct=None, ms=None):
    metrics = {} if correct is None else {"top-1": estimate(correct)}
    return Measurement(size, 100, 100, metrics, ms)


def say(before, after, lost=None, speed=None, gained=0):
    """The verdict for 1000 samples of which so many were lost and gained."""
    if lost is None:
        return verdict(measured(before, ms=2.0), measured(after, ms=1.0), {}, speed)
    old = [0] * gained + [1] * (1000 - gained)
    new = [1] * (1000 - lost) + [0] * lost
    return verdict(measured(before, old, 2.0), measured(after, new, 1.0), {"top-1": paired(old, new)}, speed)


def test_smaller_and_within_noise():
    said = say(52_300, 1_000, lost=2)
    assert said.startswith("SMALLER 52.3x (52.3 kB to 1 kB), top-1 within noise (100.00 % to 99.80 %, -0.20 points, 95 % interval -0.")
    assert said.endswith("1,000 samples)")


@pytest.mark.parametrize(
    ("before", "after", "lost", "speed", "start"),
    [
        (1000, 100, 50, None, "WORSE in top-1, SMALLER 10.0x"),
        (1000, 1000, 50, None, "WORSE in top-1, NO GAIN"),
        (1000, 100, 0, FAST, "SMALLER 10.0x (1 kB to 100 B), FASTER 2.00x (2 ms to 1 ms, 95 % interval 1.90 to 2.10)"),
        (1000, 100, 0, SLOW, "SMALLER 10.0x (1 kB to 100 B), SLOWER 2.00x (2 ms to 1 ms, 95 % interval 1.67 to 2.50)"),
        (1000, 100, 0, SAME, "SMALLER 10.0x (1 kB to 100 B), same speed (1.02x"),
        (1000, 1000, 0, FAST, "FASTER 2.00x"),
        (1000, 2000, 0, FAST, "FASTER 2.00x (2 ms to 1 ms, 95 % interval 1.90 to 2.10), LARGER 2.00x"),
        (1000, 1000, 0, SLOW, "SLOWER 2.00x"),
        (1000, 2000, 0, SLOW, "SLOWER 2.00x (2 ms to 1 ms, 95 % interval 1.67 to 2.50), LARGER 2.00x"),
        (1000, 2000, 0, None, "LARGER 2.00x"),
        (1000, 1000, 0, None, "NO GAIN (1 kB to 1 kB), top-1 within noise"),
        (1000, 995, 0, None, "NO GAIN"),
        (1000, 1000, 0, SAME, "NO GAIN (1 kB to 1 kB; speed 1.02x, 95 % interval 0.97 to 1.08)"),
    ],
)
def test_rules(before, after, lost, speed, start):
    assert say(before, after, lost, speed).startswith(start)


def test_better_and_not_measured():
    assert "top-1 better (" in say(1000, 100, lost=0, gained=50)
    assert say(1000, 100).endswith("accuracy not measured")


def test_without_a_comparison_nothing_is_judged():
    said = verdict(measured(1000, [1, 0]), measured(100, [1, 1]), {})
    assert said == "SMALLER 10.0x (1 kB to 100 B), top-1 50.00 % to 100.00 %"
    assert verdict(measured(1000), measured(100, [1, 1]), {}).endswith("top-1 100.00 %")


def test_a_metric_that_is_no_proportion_is_no_percentage():
    old, new = [1.5, 2.5, 3.5], [1.4, 2.6, 3.6]
    said = verdict(measured(1000, old), measured(100, new), {"top-1": paired(old, new)})
    assert "top-1 within noise (2.50 to 2.53, +0.03, 95 % interval -0." in said
    assert "points" not in said


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(0, 1000))
def test_one_line_without_speed_where_none_was_measured(before, after, lost):
    said = say(before, after, lost)
    assert "\n" not in said
    assert not any(word in said for word in ("FASTER", "SLOWER", "speed", " ms"))
    assert said.split()[0] in ("WORSE", "SMALLER", "LARGER", "NO")
    if after >= before:
        assert "SMALLER" not in said
