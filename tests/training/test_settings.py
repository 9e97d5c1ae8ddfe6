"""Options are checked; the learning rate is a pure function of the update."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import AttarError
from attar.training.settings import SCHEDULES, Settings, make_optimizer, rate


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", -1),
        ("lr", 0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", "fast"),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("warmup", 1.0),
        ("clip", 0),
        ("precision", "fp16"),
        ("shard", 1),
    ],
)
def test_a_value_out_of_range_is_named_with_what_came(name, value):
    with pytest.raises(AttarError, match=f"{name} must be .*{value!r}"):
        Settings(**({"epochs": 1, "lr": 0.1} | {name: value}))


def test_a_misspelt_choice_gets_the_nearest():
    with pytest.raises(AttarError, match="did you mean 'cosine'"):
        Settings(epochs=1, lr=0.1, lr_schedule="cosin")


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 300), st.floats(0, 0.99))
def test_the_rate_stays_in_range_rises_in_warm_up_and_never_rises_after(schedule, total, warmup):
    rates = [rate(step, total, schedule=schedule, warmup=warmup) for step in range(total)]
    top = rates.index(max(rates))
    assert all(0 < r <= 1 for r in rates[: top + 1])
    assert all(0 <= r <= 1 for r in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_schedules_at_known_points():
    assert [round(rate(s, 4), 6) for s in range(4)] == [1.0, 0.853553, 0.5, 0.146447]
    assert [round(rate(s, 8, schedule="step"), 6) for s in (0, 3, 4, 5, 6, 7)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_each_optimizer_takes_its_options(name, kind):
    settings = Settings(epochs=1, lr=0.25, optimizer=name, momentum=0.5, weight_decay=0.125)
    optimizer = make_optimizer([torch.nn.Parameter(torch.ones(1))], settings)
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__ == kind
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.125)
    assert group["momentum"] == 0.5 if name == "sgd" else group["betas"][0] == 0.5
