"""Two stages of training, small, with everything that could make a resumed run differ; and real kills of it.

As a script it is the parent of forked runs, which it kills at many moments and resumes: `python killed.py FOLDER` prints
one line for each moment, `same` or `DIFFERENT`, and ends with status 1 if any differs. The parent computes nothing, so
that a fork starts clean.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from attar import forms
from attar.forms import Codebook, Sparse
from attar.step import Step
from attar.task import Task
from attar.training import Checkpoint, Settings, load_state, model_state, restore_model, save_state, train

UPDATES = 24  # in the two stages together


class Pruning(Step):
    """Gradual pruning: masks that shrink while training, kept in the state; in the end a sparse form of shared values."""

    def __init__(self):
        self.masks = {}
        self.changes = 0

    def after_update(self, model, step, total):
        if step % 4 == 0:
            self.changes += 1
            keep = 1 - 0.7 * (step + 1) / total
            for name in ("0", "5"):
                size = model.get_submodule(name).weight.detach().abs().flatten()
                self.masks[name] = model.get_submodule(name).weight.detach().abs() >= size.kthvalue(max(1, int((1 - keep) * len(size))))[0]
        with torch.no_grad():
            for name, mask in self.masks.items():
                model.get_submodule(name).weight.mul_(mask)

    def finish(self, model):
        for name, mask in self.masks.items():
            values = model.get_submodule(name).weight.detach()[mask]
            centroids = torch.linspace(values.min().item(), values.max().item(), 6)
            indices = (values[:, None] - centroids).abs().argmin(1)
            forms.attach(model.get_submodule(name), "weight", Sparse(mask, Codebook(indices, centroids)))

    def state_dict(self):
        return {"masks": self.masks, "changes": self.changes}

    def load_state_dict(self, state):
        self.masks, self.changes = state["masks"], state["changes"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def task():
    generator = torch.Generator().manual_seed(1)
    data = [(torch.randn(1, 6, 6, generator=generator), i % 3) for i in range(60)]
    return Task(data[:50], data[50:55], data[55:], augment=lambda x, generator: x + 0.1 * torch.randn(x.shape, generator=generator))


def run(folder, *, optimizer="sgd", resume=False, every=5, progress=None):
    """Both stages, going on from what is in the folder; a digest of the final state and the losses."""
    model, data, count = network(), task(), [0]

    def advance(*_):
        count[0] += 1
        if progress is not None:
            progress(count[0] - 1)

    def stage(name, steps, lr, optimizer):
        done, checkpoint = folder / f"{name}.done", Checkpoint(folder / name, seconds=1e9, updates=every, resume=resume)
        if resume and done.exists():
            state = load_state(done)
            restore_model(model, state["model"])
            return state["losses"]
        settings = Settings(epochs=3, lr=lr, batch_size=13, optimizer=optimizer, warmup=0.1, weight_decay=1e-3)
        losses = train(model, data, settings=settings, steps=steps, seed=3, checkpoint=checkpoint, progress=advance).losses
        save_state(done, {"model": model_state(model), "losses": losses})
        return losses

    losses = stage("prune", [Pruning()], 0.1, optimizer) + stage("tune", [], 0.01, "adam")
    digest = hashlib.sha256(repr(losses).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def at_update(update):
    return lambda: {"progress": lambda now: die() if now == update else None}


def in_rename(nth, *, before):
    """Die at the nth time that a file is renamed, just before or just after."""

    def prepare():
        rename, count = os.replace, [0]

        def replace(one, other):
            count[0] += 1
            if before and count[0] == nth:
                die()
            rename(one, other)
            if count[0] == nth:
                die()

        os.replace = replace
        return {}

    return prepare


def forked(folder, prepare, resume):
    """The exit status of a run in a fork."""
    child = os.fork()
    if child == 0:
        status = 9
        try:
            (folder / "result").write_text(run(folder, resume=resume, **prepare()))
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder):
    (folder / "whole").mkdir()
    assert forked(folder / "whole", dict, False) == 0
    expected = (folder / "whole" / "result").read_text()
    moments = {f"update {n}": at_update(n) for n in (0, 4, 11, 17, UPDATES - 1)}
    renames = ((1, True), (1, False), (3, True), (3, False), (4, False), (6, True))  # the third ends a stage
    moments |= {f"{'before' if before else 'after'} rename {n}": in_rename(n, before=before) for n, before in renames}
    different = 0
    for number, (moment, prepare) in enumerate(moments.items()):
        place = folder / str(number)
        place.mkdir()
        assert forked(place, prepare, True) == -signal.SIGKILL, moment
        assert forked(place, dict, True) == 0, moment
        same = (place / "result").read_text() == expected
        different += not same
        print(moment, "same" if same else "DIFFERENT")
    return different


if __name__ == "__main__":
    import accelerate  # noqa: F401 - these two take a second each: here once, not in each fork
    import torch._dynamo

    torch.set_num_threads(1)
    sys.exit(bool(main(Path(sys.argv[1]))))
