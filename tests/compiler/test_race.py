"""Programs in bytes against their float32 twins: the faster is returned, by what was measured once."""

import pytest
import torch
from torch import nn

from attar.compiler import compile
from attar.compiler import race as race_module
from attar.compiler.race import race


class Counted:
    """An engine that takes as long as it is told, on a clock of its own."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, iter(seconds)

    def run(self, given):
        self.clock[0] += next(self.seconds)


def test_the_least_of_the_rounds_counts(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("attar.compiler.race.time.perf_counter", lambda: clock[0])
    engines = Counted(clock, [9.0, 2.0, 3.0]), Counted(clock, [1.0, 4.0, 5.0])
    assert race(engines, (), rounds=3) == [2.0, 1.0]


@pytest.mark.parametrize("seconds", [[0.001, 0.002], [0.002, 0.001]], ids=["bytes", "float32"])
def test_the_faster_program_is_returned_and_is_so_again(monkeypatch, seconds):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)).eval()
    samples = torch.randn(4, 8, 9, 9) + seconds[0]  # no other test's
    monkeypatch.setattr(race_module, "race", lambda engines, given: seconds)
    first = compile(model, (samples[:1],), precision="int8", calibration=(samples,))
    monkeypatch.setattr(race_module, "race", lambda engines, given: pytest.fail("timed again"))
    second = compile(model, (samples[:1],), precision="int8", calibration=(samples,))
    with torch.no_grad():
        wanted = model(samples)
    for engine in (first, second):
        error = float((engine(samples) - wanted).abs().max() / wanted.abs().max())
        if seconds[0] < seconds[1]:
            assert 1e-4 < error < 0.1
            assert engine.report.notes[-1] == "in bytes 1.00 ms, in float32 2.00 ms"
        else:
            assert error < 1e-5
            assert engine.report.notes[-1] == "in bytes 2.00 ms, in float32 1.00 ms, which is taken"
            assert engine.report.error < 1e-5
