"""Timing with a clock of our own: nothing here depends on the machine's speed."""

import math

import pytest
import torch

from attar.errors import AttarError
from attar.evaluation.latency import FASTER, NO_GAIN, SLOWER, Machine, Timing, compare, machine, measure, speedup

HERE = Machine("a processor", (), "2", "a system")


class Clock:
    """A clock that programs move forward themselves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def program(self, seconds, log=None, name=""):
        def run():
            self.now += seconds
            if log is not None:
                log.append(name)

        return run


def test_times_are_those_of_the_clock():
    clock = Clock()
    timings = measure({"slow": clock.program(0.25), "fast": clock.program(0.125)}, repeats=4, warmup=1, clock=clock)
    assert timings["slow"].milliseconds == (250.0,) * 4
    assert (timings["fast"].median, timings["fast"].spread) == (125.0, 0.0)
    assert timings["slow"].machine == machine()
    assert speedup(timings["slow"], timings["fast"]).ratio == 2.0


def test_rounds_are_interleaved_and_their_order_rotates():
    clock, log = Clock(), []
    measure({name: clock.program(1, log, name) for name in "abc"}, repeats=3, warmup=1, clock=clock)
    assert "".join(log) == "abcbcacababc"


def test_warm_calls_follow_an_untimed_one_of_their_own():
    clock, log = Clock(), []
    timings = measure({name: clock.program(1, log, name) for name in "ab"}, repeats=2, warmup=1, warm=True, clock=clock)
    assert "".join(log) == "aabbbbaaaabb"
    assert timings["a"].milliseconds == (1000.0,) * 2


def test_warmup_is_not_counted():
    clock, calls = Clock(), []

    def warms_up():
        calls.append(1)
        clock.now += 1.0 if len(calls) <= 2 else 0.5

    assert set(measure({"a": warms_up}, repeats=5, warmup=2, clock=clock)["a"].milliseconds) == {500.0}


def test_threads_are_set_named_and_set_back():
    before, seen = torch.get_num_threads(), []
    wanted = before + 1
    timings = measure({"a": lambda: seen.append(torch.get_num_threads())}, repeats=2, warmup=0, threads=wanted, clock=Clock())
    assert set(seen) == {wanted}
    assert timings["a"].threads == wanted
    assert torch.get_num_threads() == before

    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        measure({"a": fails}, repeats=2, threads=wanted, clock=Clock())
    assert torch.get_num_threads() == before


def timing(*milliseconds, threads=1):
    return Timing(milliseconds, threads, HERE)


def test_median_and_spread():
    assert timing(1.0, 2.0, 3.0, 4.0, 100.0).median == 3.0
    assert timing(1.0, 2.0, 3.0, 4.0, 100.0).spread == 2.0


def test_verdicts():
    base = timing(*(10 + 0.1 * (i % 5) for i in range(30)))
    half = timing(*(m / 2 for m in base.milliseconds))
    noisy = timing(*(m * (0.5 if i % 2 else 1.5) for i, m in enumerate(base.milliseconds)))
    assert speedup(base, half).verdict == FASTER
    assert speedup(base, half).low == pytest.approx(2)  # the rounds are paired
    assert speedup(half, base).verdict == SLOWER
    assert speedup(base, base).verdict == NO_GAIN
    assert speedup(base, noisy).verdict == NO_GAIN
    result = speedup(base, noisy)
    assert result.low <= result.ratio <= result.high
    assert speedup(base, noisy) == result


def test_speedup_needs_rounds_of_one_measurement():
    with pytest.raises(AttarError, match="same rounds, got 2 rounds on 1 threads and 3 on 1"):
        speedup(timing(1.0, 2.0), timing(1.0, 2.0, 3.0))
    with pytest.raises(AttarError, match="and 2 on 2"):
        speedup(timing(1.0, 2.0), timing(1.0, 2.0, threads=2))


@pytest.mark.parametrize(("name", "value"), [("repeats", 1), ("warmup", -1), ("threads", 0)])
def test_bad_settings_are_named(name, value):
    with pytest.raises(AttarError, match=f"{name} must be at least .*, got {value}"):
        measure({"a": print}, **{name: value})


def test_nothing_to_time():
    with pytest.raises(AttarError, match="nothing to time"):
        measure({})


def test_compare():
    x = torch.tensor([1.0, -4.0])
    assert compare(x, x) == 0.0
    assert compare({"a": x, "b": (x,)}, {"a": x, "b": (x + torch.tensor([0.0, 2.0]),)}) == 1.0
    assert compare(x + 0.4, x) == pytest.approx(0.1)
    inf = torch.tensor([math.inf, math.nan, 1.0])
    assert compare(inf, inf) == 0.0
    assert compare(inf, torch.tensor([math.inf, 0.0, 1.0])) == math.inf
    assert compare(torch.tensor([math.inf, 2.0]), torch.tensor([math.inf, 1.0])) == 1.0
    assert compare(torch.zeros(2) + 1, torch.zeros(2)) == math.inf
    with pytest.raises(AttarError, match=r"\[2\] and \[3\]"):
        compare(torch.zeros(2), torch.zeros(3))
    with pytest.raises(AttarError, match="structure"):
        compare((x, x), x)


def test_this_machine_has_a_name():
    assert machine().processor
    assert machine().torch == torch.__version__
