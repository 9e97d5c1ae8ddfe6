"""The one training loop."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from attar.errors import AttarError, FormatError
from attar.graph import call_with
from attar.step import Step
from attar.task import Task, arguments, fetch
from attar.training.checkpoint import Checkpoint, load_state, save_state
from attar.training.engine import Engine, start
from attar.training.randomness import generator, isolated, order, seed_all
from attar.training.settings import Settings, make_optimizer, rate
from attar.training.state import model_state, optimizer_state, restore_model, restore_optimizer

__all__ = ["History", "train"]


@dataclass(frozen=True)
class History:
    """What a training run leaves to be reported: the mean training loss of each epoch."""

    losses: tuple[float, ...]


@dataclass(frozen=True)
class _Run:
    """What does not change during a run."""

    task: Task
    settings: Settings
    steps: Sequence[Step]
    seed: int
    engine: Engine

    @property
    def samples(self) -> int:
        return len(self.task.train)

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.samples / self.settings.batch_size)

    @property
    def total(self) -> int:
        return self.settings.epochs * self.per_epoch

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued."""
        names = [type(step).__name__ for step in self.steps]
        return asdict(self.settings) | {"seed": self.seed, "samples": self.samples, "task": self.task.name, "steps": names}


@dataclass(frozen=True)
class _Training:
    """The network as it is called and as it holds its parameters, its optimizer, and the sum of the losses of each epoch so far."""

    called: nn.Module
    held: nn.Module
    optimizer: Optimizer
    sums: list[float]


def train(
    model: nn.Module,
    task: Task,
    *,
    settings: Settings,
    steps: Sequence[Step] = (),
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> History:
    """Train `model` in place on the training split of `task`.

    Everything random is a function of (seed, epoch, step, rank), so that the same seed gives the same bytes on the same
    machine and thread count, also when the run was killed and resumed from `checkpoint`. Under several processes each
    takes its part of every batch, and the gradient is that of the whole batch. `progress(step, total, loss)` is called
    on the first process after each update. The caller's random state and thread count stay as they were.

    Raises AttarError where the loss is not finite, nothing trains, or the checkpoint is of another run.

    >>> data = [(torch.tensor([x - 5.5]), int(x > 5)) for x in range(12)]
    >>> history = train(nn.Linear(1, 2), Task(data[2:10], data[:2], data[10:]), settings=Settings(epochs=20, lr=0.1, batch_size=4))
    >>> history.losses[-1] < 0.2
    True
    """
    engine = start(shard=settings.shard)
    run = _Run(task, settings, tuple(steps), seed, engine)
    if settings.shard and engine.world > 1 and run.steps:
        raise AttarError("steps act on whole weights, and shard=True splits them: train without one or the other")
    with isolated(engine.device):
        seed_all(seed, "start")
        for step in run.steps:  # also where a run goes on: what it has become since then is put over this
            step.start(model)
        with _training_mode(model):
            sums = _updates(model, run, checkpoint, progress)
        seed_all(seed, "finish")
        for step in run.steps:
            step.finish(model)
    return History(tuple(total / run.samples for total in sums))


def _updates(model: nn.Module, run: _Run, checkpoint: Checkpoint | None, progress: Callable | None) -> list[float]:
    """All updates, from the beginning or from where the checkpoint is; the sums of the losses."""
    home = next(model.parameters(), torch.empty(0)).device
    try:
        training, first = _begin(model, run, checkpoint)
        saved = time.monotonic()
        for step in range(first, run.total):
            loss = _update(training, run, step)
            if progress is not None and run.engine.is_main:
                progress(step, run.total, loss)
            if checkpoint is not None and _due(checkpoint, run, step + 1, saved):
                _save(training, run, checkpoint, step + 1)
                saved = time.monotonic()
        run.engine.collect(training.held, model)
    finally:
        model.zero_grad()
        model.to(home)
    return training.sums


def _begin(model: nn.Module, run: _Run, checkpoint: Checkpoint | None) -> tuple[_Training, int]:
    """A run at its beginning, or where its checkpoint is, and the number of updates that are behind."""
    state = None
    if checkpoint is not None and checkpoint.resume:
        state = run.engine.from_main(lambda: _read(Path(checkpoint.path), run))
    if state is not None:
        restore_model(model, state["model"])
        for step, kept in zip(run.steps, state["steps"], strict=True):
            step.load_state_dict(_on(run.engine.device, kept))
    called, held, optimizer = run.engine.prepare(model, lambda parameters: make_optimizer(parameters, run.settings))
    if state is None:
        return _Training(called, held, optimizer, [0.0] * run.settings.epochs), 0
    restore_optimizer(optimizer, state["optimizer"])
    return _Training(called, held, optimizer, state["sums"]), state["step"]


def _read(path: Path, run: _Run) -> dict[str, Any] | None:
    """The checkpoint at `path`, if there is one."""
    if not path.exists():
        return None
    state = load_state(path)
    there, here = (state.get("run") if isinstance(state, dict) else None), run.fingerprint()
    if not isinstance(there, dict):
        raise FormatError(f"{path} holds no training run: give the path of one, or start without resume")
    changed = [f"{name} was {there.get(name)!r} and is {here.get(name)!r}" for name in here if there.get(name) != here[name]]
    if changed:
        raise AttarError(f"{path} is of another run ({'; '.join(changed)}): give the same options, or start without resume")
    return state


def _due(checkpoint: Checkpoint, run: _Run, done: int, saved: float) -> bool:
    """Whether this process takes part in a save now."""

    def now() -> bool:
        return time.monotonic() - saved >= checkpoint.seconds or (checkpoint.updates is not None and done % checkpoint.updates == 0)

    if run.settings.shard:  # what is split is gathered by all together, so that all must agree
        return run.engine.from_main(now)
    return run.engine.is_main and now()


def _save(training: _Training, run: _Run, checkpoint: Checkpoint, done: int) -> None:
    state = {
        "run": run.fingerprint(),
        "step": done,
        "sums": training.sums,
        "model": model_state(training.held),
        "optimizer": optimizer_state(training.optimizer),
        "steps": [step.state_dict() for step in run.steps],
    }
    if run.settings.shard:
        run.engine.from_main(lambda: save_state(checkpoint.path, state))
    else:
        save_state(checkpoint.path, state)


def _update(training: _Training, run: _Run, step: int) -> float:
    """One update of the weights; the mean loss over the batch."""
    engine, settings, total = run.engine, run.settings, run.total
    batch = _batch(run, step)
    seed_all(run.seed, "step", step, engine.rank)
    lr = settings.lr * rate(step, total, schedule=settings.lr_schedule, warmup=settings.warmup)
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    for acting in run.steps:
        acting.before_forward(training.held, step, total)
    training.optimizer.zero_grad()
    loss = _loss(training.called, run, step, batch)
    mean = engine.mean(loss).item()
    if not math.isfinite(mean):
        raise AttarError(
            f"the loss must be finite, got {mean} at update {step} of {total} with learning rate {lr:g}:"
            f" lower lr, warm up (warmup=0.05), clip the gradient (clip=1), or look for broken samples"
        )
    engine.backward(loss)
    for acting in run.steps:
        acting.after_backward(training.held, step, total)
    if settings.clip is not None:
        nn.utils.clip_grad_norm_(training.held.parameters(), settings.clip)
    training.optimizer.step()
    for acting in run.steps:
        acting.after_update(training.held, step, total)
    training.sums[step // run.per_epoch] += mean * len(batch)
    return mean


def _batch(run: _Run, step: int) -> Tensor:
    """The indices of the samples of one update, over all processes."""
    epoch, index = divmod(step, run.per_epoch)
    samples = order(run.seed, epoch, run.samples)
    return samples[index * run.samples // run.per_epoch : (index + 1) * run.samples // run.per_epoch]


def _loss(called: nn.Module, run: _Run, step: int, batch: Tensor) -> Tensor:
    """This process's part of the batch's loss: the mean over the processes is the mean over the batch."""
    part, weight = _share(batch, run.engine.rank, run.engine.world)
    inputs, targets = fetch(run.task.train, part.tolist())
    if run.task.augment is not None:
        inputs = run.task.augment(inputs, generator(run.seed, "augment", step, run.engine.rank))
    inputs, targets = _on(run.engine.device, inputs), _on(run.engine.device, targets)
    with torch.autocast(run.engine.device.type, torch.bfloat16, enabled=run.settings.precision == "bf16"):
        loss = run.task.loss(call_with(called, arguments(inputs)), targets)
    if loss.numel() != 1:
        raise AttarError(f"the loss must be one number, the mean over the batch, got shape {list(loss.shape)}: average it in Task.loss")
    return loss.reshape(()) * weight


def _share(batch: Tensor, rank: int, world: int) -> tuple[Tensor, float]:
    """The part of `batch` for one process, and the weight that makes the mean of the parts' losses that of the batch.

    A batch of fewer samples than processes is given to all whole, since no process may stand aside.

    >>> _share(torch.arange(5), 1, 2)
    (tensor([2, 3, 4]), 1.2)
    """
    count = len(batch)
    if count < world:
        return batch, 1.0
    part = batch[rank * count // world : (rank + 1) * count // world]
    return part, len(part) * world / count


def _on(device: torch.device, value: Any) -> Any:
    """`value` with all tensors in it on the device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


@contextlib.contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    """While open, `model` is in training mode; each module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        model.train(modes[0][1])  # a rebuilt graph has its mode written into it, and only this call changes that
        for module, mode in modes:
            module.training = mode
