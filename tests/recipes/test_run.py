"""A recipe on a small network: the file, the report, and the same bytes however often the run is stopped."""

import contextlib
import fcntl
import json
import os

import pytest
import torch
from torch import nn

import attar.recipes.run as module
from attar import coding
from attar.data.digits import digits
from attar.errors import AttarError, DataError, RecipeError, TraceError
from attar.evaluation import Report, evaluate
from attar.graph import weights
from attar.recipes import clear, compress
from attar.task import Task

RECIPE = [
    {"train": {"epochs": 2, "lr": 0.1}},
    {"prune": {"keep": 0.3, "epochs": 2, "lr": 0.1, "every": 3}},
    {"finetune": {"epochs": 1, "lr": 0.05}},
    {"quantize": {"bits": 3}},
    {"finetune": {"epochs": 1, "lr": 0.001}},
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))


@pytest.fixture(scope="module")
def task():
    return digits()


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """One uninterrupted run."""
    return compress(network(), task, RECIPE, out=tmp_path_factory.mktemp("whole") / "out", seed=3)


def test_the_result_is_the_reloaded_file(whole, task):
    assert whole.path.stat().st_size == whole.report.result.bytes < whole.report.baseline.bytes / 4
    again = evaluate(coding.load(whole.path).program(), task.test, task)
    assert again.fingerprint == whole.report.result.fingerprint
    assert evaluate(whole.model, task.test, task).fingerprint == again.fingerprint


def test_the_report_tells_every_stage(whole):
    report = whole.report
    assert whole.verdict.startswith("SMALLER")
    assert [row.stage for row in report.stages] == ["as given", "train", "prune", "finetune", "quantize", "finetune", "code"]
    assert report.stages[-1].bytes == report.result.bytes
    sizes = [row.bytes for row in report.stages]
    assert sizes[1] > sizes[2] > sizes[4] > sizes[6]
    assert [row.layer for row in report.layers] == ["1", "4"]
    assert all(3 <= row.weight_bits < 6 and row.weight_bits_coded < row.weight_bits for row in report.layers)
    folder = whole.path.parent
    assert Report.from_json((folder / "report.json").read_text()) == report
    assert (folder / "report.html").read_text().startswith("<!")
    assert report.verdict in (folder / "report.md").read_text()


def test_the_model_passed_in_is_not_changed(task, tmp_path):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compress(model, task, [{"prune": {"keep": 0.5}}], out=tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Stop(Exception):
    """Stands for a kill."""


def _stopping_after(monkeypatch, owner, name, calls):
    """Let `owner.name` raise instead of its call number `calls`."""
    real, count = getattr(owner, name), [0]

    def wrapped(*args, **kwargs):
        count[0] += 1
        if count[0] == calls:
            raise Stop
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (module, "save_state", 1),
        (module, "save_state", 2),
        (module, "load_state", 1),
        (module, "train", 2),
        (module, "restore_model", 1),
        (coding, "save", 1),
        (coding, "load", 1),
        (coding, "write_atomically", 1),
        (coding, "write_atomically", 3),
        (os, "replace", 5),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_stopped_run_ends_in_the_same_bytes(task, whole, tmp_path, monkeypatch, owner, name, calls):
    with monkeypatch.context() as patched:
        _stopping_after(patched, owner, name, calls)
        with contextlib.suppress(Stop):
            compress(network(), task, RECIPE, out=tmp_path / "out", seed=3, resume=True)
    result = compress(network(), task, RECIPE, out=tmp_path / "out", seed=3, resume=True)
    assert result.path.read_bytes() == whole.path.read_bytes()
    assert not list((tmp_path / "out" / "checkpoints").glob("*.training"))


def test_what_a_killed_checkpoint_left_goes_with_the_stage(task, whole, tmp_path):
    left = tmp_path / "out" / "checkpoints" / "02-prune.training.partial"
    left.mkdir(parents=True)
    (left / "state").write_bytes(b"half")
    compress(network(), task, RECIPE, out=tmp_path / "out", seed=3, resume=True)
    assert not left.exists()


def test_control_gives_the_baseline_the_same_epochs(task, tmp_path):
    recipe = [{"train": {"epochs": 1, "lr": 0.1}}, {"prune": {"keep": 0.5, "epochs": 1, "lr": 0.1}}]
    plain = compress(network(), task, recipe, out=tmp_path / "plain")
    fair = compress(network(), task, recipe, out=tmp_path / "fair", control=True)
    assert plain.path.read_bytes() == fair.path.read_bytes()
    assert plain.report.baseline.fingerprint != fair.report.baseline.fingerprint
    assert "as many epochs" in " ".join(fair.report.notes)


def test_a_folder_that_holds_something_is_refused(task, whole, tmp_path):
    with pytest.raises(AttarError, match="pass --resume or --overwrite"):
        compress(network(), task, RECIPE, out=whole.path.parent, seed=3)
    with pytest.raises(AttarError, match=r"holds another run.*seed"):
        compress(network(), task, RECIPE, out=whole.path.parent, seed=4, resume=True)
    with pytest.raises(AttarError, match=r"holds another run.*recipe"):
        compress(network(), task, RECIPE[:2], out=whole.path.parent, seed=3, resume=True)
    assert coding.load(whole.path)


def test_a_folder_that_another_run_holds_is_refused(task, tmp_path):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AttarError, match="another run is writing"):
            compress(network(), task, RECIPE, out=tmp_path / "out", resume=True)


def test_overwriting_what_another_run_writes_removes_nothing(tmp_path):
    (tmp_path / "model.attar").write_bytes(b"theirs")
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AttarError, match="another run is writing"):
            clear(tmp_path)
    assert (tmp_path / "model.attar").read_bytes() == b"theirs"
    clear(tmp_path)
    assert not (tmp_path / "model.attar").exists()


def test_a_damaged_run_file_is_said(task, tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(AttarError, match="damaged: pass --overwrite"):
        compress(network(), task, RECIPE, out=tmp_path, resume=True)


class Branches(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)) if x.sum() > 0 else x


def _broken():
    model = network()
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("model", "recipe", "error", "says"),
    [
        (nn.Sequential(nn.Flatten(), nn.ReLU()), RECIPE, AttarError, "no weight to compress"),
        (_broken(), RECIPE, AttarError, r"1\.weight holds NaN"),
        (Branches(64, 10), RECIPE, TraceError, "cannot be traced"),
        (network(), [{"prune": {"keep": 2}}], RecipeError, "keep must be"),
    ],
    ids=["no weights", "NaN", "no graph", "recipe"],
)
def test_what_cannot_be_compressed_is_said_before_anything_is_written(task, tmp_path, model, recipe, error, says):
    with pytest.raises(error, match=says):
        compress(model, task, recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_previous_file(task, whole, monkeypatch):
    before = whole.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AttarError, match=r"cannot (write|save)"):
        compress(network(), task, RECIPE, out=whole.path.parent, seed=3, resume=True)
    assert whole.path.read_bytes() == before


def test_splits_used_twice_are_refused(task):
    with pytest.raises(DataError, match="share samples"):
        Task(task.train, task.train, task.test)


def test_identity_is_written_without_paths(whole):
    identity = json.loads((whole.path.parent / "run.json").read_text())
    assert set(identity) == {"recipe", "seed", "data", "network", "control"}


def test_the_file_is_compressed_again(task, whole, tmp_path):
    program = coding.load(whole.path).program()
    assert [w.name for w in weights(program)] == ["1", "4"]
    result = compress(program, task, [{"finetune": {"epochs": 1, "lr": 0.001}}], out=tmp_path / "again")
    assert result.report.result.nonzeros == whole.report.result.nonzeros
