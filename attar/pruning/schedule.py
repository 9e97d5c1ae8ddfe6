"""How much is kept at which step, on the way to a target: pure functions of the step, the total and the target.

A schedule maps (step, total, keep) to a fraction that never rises, ends in exactly `keep` at the last step, and never
goes below it; `step` counts updates from 0 to `total - 1`.
"""

from collections.abc import Callable

from attar.errors import AttarError
from attar.names import nearest

__all__ = ["SCHEDULES", "Schedule", "cubic", "iterative", "named", "one_shot"]

Schedule = Callable[[int, int, float], float]


def one_shot() -> Schedule:
    """All at once, before the first update; the rest of the steps retrains.

    >>> one_shot()(0, 10, 0.1)
    0.1
    """
    return lambda _step, _total, keep: keep


def iterative(rounds: int = 5) -> Schedule:
    """Equal rounds of pruning and retraining; each removes the same share of what the one before has left.

    After round j of R, `keep ** (j / R)` stays. Round j begins at the fraction (j - 1) / R of the steps, so that the
    last is followed by as much retraining as the others.

    Raises AttarError for less than one round.

    Reference: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", 2015.

    >>> [round(iterative(2)(step, 5, 0.25), 2) for step in range(5)]
    [0.5, 0.5, 0.25, 0.25, 0.25]
    """
    if rounds < 1:
        raise AttarError(f"rounds must be at least 1, got {rounds}: each prunes and retrains")

    def schedule(step: int, total: int, keep: float) -> float:
        done = rounds if step >= total - 1 else min(rounds, step * rounds // (total - 1) + 1)
        return keep if done == rounds else keep ** (done / rounds)

    return schedule


def cubic(begin: float = 0.0, end: float = 0.8) -> Schedule:
    """Fast while much is redundant, slow towards the end: `s(t) = s_end * (1 - (1 - t)^3)`, s the share removed.

    t runs from 0 to 1 between the fractions `begin` and `end` of the steps; after `end` the network retrains.

    Raises AttarError unless 0 <= begin < end <= 1.

    Reference: M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
    compression", 2017.

    >>> [round(cubic(0.0, 1.0)(step, 5, 0.0), 3) for step in range(5)]
    [1.0, 0.422, 0.125, 0.016, 0.0]
    """
    if not 0 <= begin < end <= 1:
        raise AttarError(f"begin and end must satisfy 0 <= begin < end <= 1, got {begin} and {end}: they are fractions of the steps")

    def schedule(step: int, total: int, keep: float) -> float:
        t = (step / (total - 1) - begin) / (end - begin) if step < total - 1 else 1.0
        if t >= 1:
            return keep
        return 1 - (1 - keep) * (1 - (1 - max(t, 0.0)) ** 3)

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {"cubic": cubic, "iterative": iterative, "one_shot": one_shot}


def named(schedule: str | Schedule) -> Schedule:
    """The schedule of that name, with its defaults; a schedule is passed through.

    >>> named("one_shot")(0, 10, 0.1)
    0.1
    """
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise AttarError(f"there is no schedule {schedule!r}{nearest(schedule, SCHEDULES)}: give one of {', '.join(SCHEDULES)}")
    return SCHEDULES[schedule]()
