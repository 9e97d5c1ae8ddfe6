import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import AttarError
from attar.pruning import cubic, iterative, one_shot
from attar.pruning.schedule import SCHEDULES, named

schedules = st.one_of(
    st.just(one_shot()),
    st.integers(1, 12).map(iterative),
    st.tuples(st.floats(0, 0.5), st.floats(0.51, 1)).map(lambda ends: cubic(*ends)),
)


@given(schedules, st.integers(1, 60), st.floats(0.001, 1))
def test_a_schedule_falls_to_exactly_its_target(schedule, total, keep):
    shares = [schedule(step, total, keep) for step in range(total)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] <= 1
    assert shares[-1] == keep


def test_one_shot_prunes_at_once():
    assert one_shot()(0, 100, 0.2) == 0.2


def test_cubic_follows_the_formula():
    schedule, total, keep = cubic(0.2, 0.7), 101, 0.1
    for step in range(total):
        t = min(1, max(0, (step / 100 - 0.2) / 0.5))
        assert 1 - schedule(step, total, keep) == pytest.approx(0.9 * (1 - (1 - t) ** 3))
    assert schedule(20, total, keep) == 1
    assert schedule(70, total, keep) == pytest.approx(keep)
    assert schedule(71, total, keep) == keep


def test_iterative_removes_the_same_share_each_round_and_retrains_after_each():
    schedule, total = iterative(4), 41
    shares = [schedule(step, total, 0.0625) for step in range(total)]
    assert shares == [pytest.approx(0.5 ** (step // 10 + 1)) if step < 40 else 0.0625 for step in range(total)]


def test_more_rounds_than_steps_still_reach_the_target():
    assert iterative(50)(2, 3, 0.3) == 0.3


@pytest.mark.parametrize(("begin", "end"), [(-0.1, 1), (0.5, 0.5), (0.6, 0.4), (0, 1.1), (float("nan"), 1)])
def test_cubic_refuses(begin, end):
    with pytest.raises(AttarError, match="begin < end"):
        cubic(begin, end)


def test_iterative_refuses():
    with pytest.raises(AttarError, match="rounds must be at least 1, got 0"):
        iterative(0)


def test_schedules_by_name():
    assert all(named(name)(9, 10, 0.4) == 0.4 for name in SCHEDULES)
    assert named(max) is max
    with pytest.raises(AttarError, match="no schedule 'cubik', did you mean 'cubic'"):
        named("cubik")
