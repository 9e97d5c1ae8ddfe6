"""The first line of every report: one sentence that says what was gained and what was lost, from measurements alone.

Rules, in order.
1. `WORSE` comes first where a metric fell significantly: its paired 95 % interval lies wholly below zero.
2. Then the gains: `SMALLER r` where the file shrank, `FASTER s` where the interval of the measured speed-up lies above 1.
   A size factor within 1 % of 1 is none.
3. Where there is no gain, the verdict is `SLOWER s` if it was measured to be slower, `LARGER r` if the file grew,
   `NO GAIN` if neither. A network that gained in one way and lost in the other says both.
4. Then each metric: within noise (its interval contains zero), better or worse, before and after, with the interval.
   A metric that was not compared sample by sample is given without a judgement; without any, accuracy was not measured.
5. Speed is named only where it was measured; `same speed` where its interval contains 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attar.evaluation.latency import FASTER, NO_GAIN, SLOWER, Speedup
from attar.evaluation.statistics import Estimate, Paired
from attar.evaluation.tables import format_bytes

__all__ = ["Measurement", "verdict"]

_SAME_SIZE = 1.01


@dataclass(frozen=True)
class Measurement:
    """What was measured of one network: the baseline, or the result. `milliseconds` is None where speed was not measured.

    `fingerprint` is the SHA-256 of all its outputs on the test split (`accuracy.fingerprint`).
    """

    bytes: int
    parameters: int
    nonzeros: int
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    milliseconds: float | None = None
    fingerprint: str = ""


def verdict(
    baseline: Measurement,
    result: Measurement,
    comparison: Mapping[str, Paired],
    speed: Speedup | None = None,
) -> str:
    """The report's first line; see the module for the rules.

    >>> before, after = Measurement(52_300, 100, 100), Measurement(1_000, 100, 8)
    >>> verdict(before, after, {})
    'SMALLER 52.3x (52.3 kB to 1 kB), accuracy not measured'
    """
    gains, losses = _size(baseline.bytes, result.bytes)
    if speed is not None and speed.verdict == FASTER:
        gains.append(f"FASTER {_factor(speed.ratio)} ({_times(baseline, result)}95 % interval {speed.low:.2f} to {speed.high:.2f})")
    if speed is not None and speed.verdict == SLOWER:
        losses.insert(
            0, f"SLOWER {_factor(1 / speed.ratio)} ({_times(baseline, result)}95 % interval {1 / speed.high:.2f} to {1 / speed.low:.2f})"
        )
    worse = [name for name, paired in comparison.items() if paired.worse]
    if speed is not None and speed.verdict == NO_GAIN and gains + losses:
        losses.append(f"same speed ({speed.ratio:.2f}x, 95 % interval {speed.low:.2f} to {speed.high:.2f})")
    head = [f"WORSE in {' and '.join(worse)}"] if worse else []
    outcome = gains + losses or [NO_GAIN + _no_gain(baseline.bytes, result.bytes, speed)]
    return ", ".join(head + outcome + _metrics(baseline, result, comparison))


def _size(before: int, after: int) -> tuple[list[str], list[str]]:
    """The gain, or the loss, in bytes; neither where the factor is within 1 % of 1."""
    sizes = f"({format_bytes(before)} to {format_bytes(after)})"
    if after * _SAME_SIZE <= before:
        return [f"SMALLER {_factor(before / after)} {sizes}"], []
    if before * _SAME_SIZE <= after:
        return [], [f"LARGER {_factor(after / before)} {sizes}"]
    return [], []


def _no_gain(before: int, after: int, speed: Speedup | None) -> str:
    sizes = f"{format_bytes(before)} to {format_bytes(after)}"
    return f" ({sizes})" if speed is None else f" ({sizes}; speed {speed.ratio:.2f}x, 95 % interval {speed.low:.2f} to {speed.high:.2f})"


def _times(baseline: Measurement, result: Measurement) -> str:
    if baseline.milliseconds is None or result.milliseconds is None:
        return ""
    return f"{baseline.milliseconds:.3g} ms to {result.milliseconds:.3g} ms, "


def _factor(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def _metrics(baseline: Measurement, result: Measurement, comparison: Mapping[str, Paired]) -> list[str]:
    """Each metric, judged where it was compared pairwise, else only given."""
    said = []
    for name, after in result.metrics.items():
        before, paired = baseline.metrics.get(name), comparison.get(name)
        scale, unit, points = (100, " %", " points") if after.proportion else (1, "", "")
        values = " to ".join(f"{scale * e.mean:.2f}{unit}" for e in (before, after) if e is not None)
        if paired is None:
            said.append(f"{name} {values}")
            continue
        judgement = "worse" if paired.worse else "better" if paired.better else "within noise"
        difference, low, high = (f"{scale * x:+.2f}" for x in (paired.difference, paired.low, paired.high))
        interval = f"95 % interval {low} to {high}, {paired.samples:,} samples"
        said.append(f"{name} {judgement} ({values}, {difference}{points}, {interval})")
    return said or ["accuracy not measured"]
