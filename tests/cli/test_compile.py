"""`attar compile` and `attar bench --against` with data: int8 is calibrated, compared and timed; mistakes are one line."""

import json

import pytest
import torch
from torch import nn

from attar.cli.compile import CALIBRATION, calibration
from attar.data.digits import digits
from attar.task import Task, fetch

MODULE = "test_compile"


def samples(count, offset=0, shape=(1, 8, 8)):
    return [(torch.randn(shape, generator=torch.Generator().manual_seed(offset + n)), torch.tensor(n % 3)) for n in range(count)]


def few():
    return Task(samples(8), samples(3, 100), samples(2, 200), name="few")


def wrong():
    return Task(samples(8, shape=(1, 5, 8)), samples(3, 100), samples(2, 200), name="wrong")


def pictures():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(128, 3))


def maps():
    return pictures()[:3]


def regression():
    return Task(
        [(x, torch.zeros(8, 4, 4)) for x, _ in samples(9)],
        [(x, torch.zeros(8, 4, 4)) for x, _ in samples(4, 100)],
        samples(2, 200),
        loss=nn.functional.mse_loss,
        metrics={"square": lambda y, t: (y - t).square().mean((1, 2, 3))},
        name="regression",
    )


@pytest.fixture(autouse=True)
def here(request, monkeypatch):
    monkeypatch.syspath_prepend(request.path.parent)


def test_int8_is_calibrated_compared_and_timed_beside_float32(attar):
    status, out, _ = attar("compile", "zoo:digits_net", "--precision", "int8", "--data", "digits", "--repeats", "3")
    assert status == 0
    first = out.partition("\n")[0]
    assert first.startswith(("FASTER", "SLOWER", "NO GAIN"))
    for said in ("x PyTorch [", "x float32 [", "validation samples", "of the largest"):
        assert said in first
    for said in ("PyTorch", "compiled ", "compiled int8", "top-1", f"calibrated on {CALIBRATION} training samples of digits"):
        assert said in out


def test_json_has_every_program(attar):
    _, out, _ = attar("compile", "zoo:digits_net", "--precision", "int8", "--data", "digits", "--repeats", "3", "--json")
    found = json.loads(out)
    names = ["PyTorch", "compiled", "compiled int8"]
    assert [list(found[key]) for key in ("milliseconds", "validation")] == [names, names]
    exact, float32, int8 = found["validation"].values()
    assert (exact["agreement"], exact["error"], exact["samples"]) == (1.0, 0.0, min(500, len(digits().validation)))
    assert 0 <= float32["error"] < 1e-3 < int8["error"] < 0.2
    assert int8["agreement"] > 0.8
    assert {"ratio", "low", "high"} == set(found["speedup over float32"])


def test_data_compare_float32_too(attar):
    status, out, _ = attar("compile", f"{MODULE}:pictures", "--data", f"{MODULE}:few", "--repeats", "2")
    assert status == 0
    assert "PyTorch's class for 100.0% of 3 validation samples" in out
    assert "int8" not in out


def test_outputs_that_are_no_classes_have_no_agreement(attar):
    command = ("compile", f"{MODULE}:maps", "--precision", "int8", "--data", f"{MODULE}:regression", "--repeats", "2")
    status, out, _ = attar(*command)
    assert status == 0
    assert "class for" not in out
    assert "square" in out
    assert "calibrated on 9 training samples" in out
    assert json.loads(attar(*command, "--json")[1])["validation"]["compiled int8"]["agreement"] is None


def test_calibration_is_of_the_training_split_drawn_by_the_seed():
    task = digits()
    (drawn,) = calibration(task, 3)
    assert torch.equal(drawn, calibration(task, 3)[0])
    assert not torch.equal(drawn, calibration(task, 4)[0])
    assert len(drawn) == CALIBRATION
    train = fetch(task.train, range(len(task.train)))[0].flatten(1)
    assert all((train == one.flatten()).all(1).any() for one in drawn)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compile", "zoo:digits_net", "--precision", "int8"), "--precision int8 needs --data"),
        (("compile", "zoo:digits_net", "--precision", "int4"), "--precision must be float32 or int8"),
        (("compile", "zoo:digits_net", "--download"), "--download is for --data"),
        (("compile", "zoo:digits_net", "--data", "digits", "--shape", "1,8,8"), "leave --shape out"),
        (("compile", "zoo:digits_net", "--precision", "int8", "--data", "digit"), "no data 'digit', did you mean 'digits'"),
        (
            ("compile", f"{MODULE}:pictures", "--precision", "int8", "--data", f"{MODULE}:wrong"),
            "does not take samples of wrong, [1, 1, 5, 8]",
        ),
        (("compile", f"{MODULE}:pictures", "--data", f"{MODULE}:few", "--batch", "9"), "batch must be at most 8"),
        (("bench", "zoo:digits_net", "--against", "torch", "--data", "digits"), "name attar-int8"),
        (("bench", "zoo:digits_net", "--data", "digits"), "name attar-int8"),
        (("bench", "zoo:digits_net", "--download"), "--download is for --data"),
        (("bench", "zoo:digits_net", "--against", "attar-int8", "--data", "digits", "--batch", "65"), "give --data that fits"),
        (("bench", "zoo:digits_net", "--against", "attar-int8", "--data", f"{MODULE}:wrong"), "give --data that fits"),
    ],
)
def test_mistakes_are_one_line(attar, arguments, says):
    status, out, err = attar(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("attar: ")
    assert err.count("\n") == 1
    assert says in err


def test_bench_calibrates_int8_engines_on_data(attar):
    command = ("bench", "zoo:digits_net", "--against", "attar-int8", "--repeats", "2", "--threads", "1", "--batch", "3", "--json")
    noise, real = (json.loads(attar(*command, *more)[1])["rows"] for more in ((), ("--data", "digits")))
    assert [row["engine"] for row in real] == ["attar", "attar-int8"]
    assert real[1]["output difference"] != noise[1]["output difference"]
