"""A run that stops anywhere and is resumed ends in the same bytes as one that never stopped."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from attar.errors import AttarError, FormatError
from attar.training import Checkpoint, Settings, load_state, save_state, train

SCRIPT = Path(__file__).with_name("killed.py")
_spec = importlib.util.spec_from_file_location("killed", SCRIPT)
killed = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killed)


class Stop(Exception):
    pass


def stop_at(*updates):
    waiting = list(updates)

    def progress(now):
        if waiting and now == waiting[0]:
            waiting.pop(0)
            raise Stop

    return progress


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_stopped_at_an_update_and_resumed_it_ends_in_the_same_bytes(tmp_path, optimizer):
    (tmp_path / "whole").mkdir()
    expected = killed.run(tmp_path / "whole", optimizer=optimizer)
    for update in range(0, killed.UPDATES, 2 if optimizer == "sgd" else 7):
        folder = tmp_path / str(update)
        folder.mkdir()
        with pytest.raises(Stop):
            killed.run(folder, optimizer=optimizer, resume=True, progress=stop_at(update))
        assert killed.run(folder, optimizer=optimizer, resume=True) == expected, update


def test_stopped_again_and_again_it_still_ends_in_the_same_bytes(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    expected, stops = killed.run(tmp_path / "whole"), 0
    while True:
        try:
            found = killed.run(tmp_path / "torn", every=2, resume=True, progress=stop_at(3))
        except Stop:
            stops += 1
        else:
            break
    assert found == expected
    assert stops == 11  # two updates are kept from each, none from the one that crosses the stages


def test_kill_9_at_many_moments_and_while_a_checkpoint_is_written(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same") == 11


def quick(path, *, settings=None, seed=0, steps=(), resume=True, model=None):
    settings = settings or Settings(epochs=1, lr=0.1, batch_size=13)
    checkpoint = Checkpoint(path, updates=2, resume=resume)
    return train(model or killed.network(), killed.task(), settings=settings, seed=seed, steps=steps, checkpoint=checkpoint)


def test_resuming_with_nothing_saved_starts_from_the_beginning(tmp_path):
    assert quick(tmp_path / "state") == quick(tmp_path / "other", resume=False)


def test_without_resume_the_file_is_replaced(tmp_path):
    quick(tmp_path / "state", seed=1)
    quick(tmp_path / "state", seed=2, resume=False)
    assert load_state(tmp_path / "state")["run"]["seed"] == 2


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path):
    quick(tmp_path / "state")
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(AttarError, match=r"another run \(seed was 0 and is 1\)"):
        quick(tmp_path / "state", seed=1)
    with pytest.raises(AttarError, match=r"lr was 0.1 and is 0.2; batch_size was 13 and is 25"):
        quick(tmp_path / "state", settings=Settings(epochs=1, lr=0.2, batch_size=25))
    with pytest.raises(AttarError, match=r"steps was \[\] and is \['Pruning'\]"):
        quick(tmp_path / "state", steps=[killed.Pruning()])
    model = killed.network()
    model[5] = killed.nn.Linear(64, 9)
    with pytest.raises(AttarError, match=r"another network: among the parameters, '5.bias' is of shape \[9\] here and shape \[8\] there"):
        quick(tmp_path / "state", model=model)
    assert (tmp_path / "state").read_bytes() == before


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    (tmp_path / "state").write_bytes(b"not a checkpoint at all")
    with pytest.raises(FormatError, match="delete it"):
        quick(tmp_path / "state")
    save_state(tmp_path / "state", [1, 2])
    with pytest.raises(FormatError, match="no training run"):
        quick(tmp_path / "state")


def test_time_alone_makes_a_checkpoint_due(tmp_path):
    def stages(seconds, name):
        checkpoint = Checkpoint(tmp_path / name, seconds=seconds)
        train(killed.network(), killed.task(), settings=Settings(epochs=1, lr=0.1, batch_size=13), checkpoint=checkpoint)
        return (tmp_path / name).exists()

    assert stages(1e-9, "always")
    assert not stages(1e9, "never")
