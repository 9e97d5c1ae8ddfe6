"""Does training in two processes equal training in one at the same global batch?

    python tests/training/two_processes.py FOLDER
    torchrun --nproc-per-node 2 tests/training/two_processes.py FOLDER

Each run trains the same networks and saves the results in FOLDER; one that finds those of the other number of processes
prints the largest difference for each network, and ends with status 1 if one is above its bound.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from attar import forms
from attar.errors import AttarError
from attar.forms import Codebook, Sparse
from attar.step import Step
from attar.task import Task
from attar.training import Checkpoint, Settings, load_state, save_state, start, train

EPOCH = Settings(epochs=1, lr=0.1, batch_size=32)
FIFTY = Settings(epochs=5, lr=0.1, batch_size=32)
EXACT, CLOSE = 1e-12, 1e-5  # float64 over an epoch, float32 over 50 updates


class Masking(Step):
    """Prunes half of the first layer when half of the updates are done: all processes must decide alike."""

    def __init__(self):
        self.mask = None

    def after_backward(self, model, step, total):
        if step == total // 2:
            size = model[0].weight.detach().abs()
            self.mask = size > size.median()

    def after_update(self, model, step, total):
        if self.mask is not None:
            with torch.no_grad():
                model[0].weight.mul_(self.mask)

    def state_dict(self):
        return {"mask": self.mask}

    def load_state_dict(self, state):
        self.mask = state["mask"]


class Branches(nn.Module):
    """A layer that is never used, one that only some updates use, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.body, self.idle, self.head = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 4)
        self.sometimes = nn.Linear(20, 20)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.body(torch.relu(self.body(x)))
        return self.head(self.sometimes(x) if self.calls % 3 == 0 else x)


def plain():
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4))


def formed():
    """Sparse weights of shared values, one of them held by two layers."""
    model, generator = plain(), torch.Generator().manual_seed(1)
    model = nn.Sequential(*model[:3], nn.ReLU(), nn.Linear(30, 30), *model[3:])
    model[4].weight = model[2].weight
    for at in (0, 2):
        weight = model[at].weight
        mask = torch.rand(weight.shape, generator=generator) > 0.6
        indices = torch.randint(0, 8, (int(mask.sum()),), generator=generator)
        forms.attach(model[at], "weight", Sparse(mask, Codebook(indices, torch.linspace(-0.5, 0.5, 8).to(weight.dtype))), model=model)
    return model


@dataclasses.dataclass(frozen=True)
class Case:
    network: Callable[[], nn.Module]
    settings: Settings = FIFTY
    bound: float = CLOSE
    dtype: torch.dtype = torch.float32
    steps: Callable[[], list[Step]] = list
    stages: int = 1


CASES = {
    "plain": Case(plain),
    "formed": Case(formed),
    "plain, an epoch in float64": Case(plain, EPOCH, EXACT, torch.float64),
    "formed, an epoch in float64": Case(formed, EPOCH, EXACT, torch.float64),
    "idle and shared parts, in float64": Case(Branches, FIFTY, EXACT, torch.float64),
    "a step, two stages": Case(plain, dataclasses.replace(EPOCH, epochs=2), CLOSE, torch.float32, lambda: [Masking()], 2),
    "Adam, clipped, in float64": Case(plain, dataclasses.replace(EPOCH, optimizer="adam", lr=0.01, clip=0.1), 1e-10, torch.float64),
    "batches of one sample, in float64": Case(plain, dataclasses.replace(EPOCH, batch_size=1, lr=0.01), EXACT, torch.float64),
    "split parameters of forms": Case(formed, dataclasses.replace(FIFTY, shard=True)),
    "split, Adam, clipped, in float64": Case(
        plain, dataclasses.replace(EPOCH, optimizer="adam", lr=0.01, clip=0.1, shard=True), 1e-10, torch.float64
    ),
}


def task(dtype):
    """317 samples: batches of unequal size, of which no process gets a whole half."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(325, 20, generator=generator).to(dtype)
    labels = (inputs @ torch.randn(20, 4, generator=generator).to(dtype)).argmax(1)
    data = [(x, int(y)) for x, y in zip(inputs, labels, strict=True)]
    return Task(data[:317], data[317:321], data[321:])


def trained(case, checkpoint=None, loss=functional.cross_entropy):
    """The network's state after training, and the losses."""
    torch.manual_seed(0)
    model, losses = case.network().to(case.dtype), []
    data = dataclasses.replace(task(case.dtype), loss=loss)
    for stage in range(case.stages):
        losses += train(model, data, settings=case.settings, steps=case.steps(), seed=stage, checkpoint=checkpoint).losses
    return dict(model.state_dict()) | {"losses": torch.tensor(losses, dtype=torch.float64)}


def difference(one, other):
    """The largest absolute difference between two states."""
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


class Stop(Exception):
    pass


def failing(at, what):
    """A loss that does `what` at its call number `at`."""
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        value = functional.cross_entropy(outputs, targets)
        return what(value) if len(calls) == at else value

    return loss


def stop(_):
    raise Stop


def resumed(case, path):
    """The state after a run that was stopped in its 8th update and went on from the 6th."""
    checkpoint = Checkpoint(path, updates=3, resume=True)
    try:
        trained(case, checkpoint, failing(8, stop))
    except Stop:
        return trained(case, checkpoint)
    raise AssertionError("it was not stopped")


def refusal(act):
    """The error that all processes must raise alike."""
    try:
        act()
    except AttarError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def check_refusals(folder, engine):
    case = CASES["plain"]
    broken = failing(3, lambda value: value * (float("nan") if engine.is_main else 1))
    assert "the loss must be finite, got nan at update 2" in refusal(lambda: trained(case, loss=broken))
    if engine.is_main:
        (folder / "damaged").write_bytes(b"x")
    engine.barrier()
    assert "delete it" in refusal(lambda: trained(case, Checkpoint(folder / "damaged", resume=True)))
    split = dataclasses.replace(case, settings=dataclasses.replace(FIFTY, shard=True), steps=lambda: [Masking()])
    assert engine.world == 1 or "steps act on whole weights" in refusal(lambda: trained(split))


def main(folder):
    engine = start()
    results = {name: trained(case) for name, case in CASES.items()}
    other = folder / f"{3 - engine.world} processes"
    for name in ("a step, two stages", "split, Adam, clipped, in float64"):
        case = dataclasses.replace(CASES[name], stages=1)
        assert difference(resumed(case, folder / f"{name}.{engine.world}"), trained(case)) == 0, f"{name}: resumed, it differs"
    check_refusals(folder, engine)
    worst = 0
    if engine.is_main:
        save_state(folder / f"{engine.world} processes", results)
        if other.exists():
            there = load_state(other)
            for name, case in CASES.items():
                apart = difference(results[name], there[name])
                worst = max(worst, apart / case.bound)
                print(f"{name}: {apart:.1e}, at most {case.bound:.0e}: {'yes' if apart <= case.bound else 'NO'}")
    return worst > 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1])))
