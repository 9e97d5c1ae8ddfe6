"""The output folder of a run: who may write it, what identifies the run in it, and its files."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar.coding import write_atomically
from attar.errors import AttarError
from attar.forms import owners

__all__ = ["Folder", "clear", "fingerprint", "open_folder"]

_OURS = ("model.attar", "report.json", "report.md", "report.html", "run.json", "checkpoints", ".lock")


@dataclass(frozen=True)
class Folder:
    """Paths below the output folder of one run."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model.attar"

    def report(self, suffix: str) -> Path:
        """The report as json, md or html."""
        return self.path / f"report.{suffix}"

    @property
    def identity(self) -> Path:
        return self.path / "run.json"

    def stage(self, position: int, verb: str) -> Path:
        """Where the network lies as a stage left it."""
        return self.path / "checkpoints" / f"{position:02d}-{verb}.state"

    def training(self, position: int, verb: str) -> Path:
        """Where training within a stage saves its state; gone when the stage is done."""
        return self.path / "checkpoints" / f"{position:02d}-{verb}.training"


@contextlib.contextmanager
def open_folder(path: str | Path, identity: dict[str, Any], *, resume: bool) -> Iterator[Folder]:
    """The folder, made if need be and held by this process alone until the end.

    Raises AttarError where it cannot be written, another run holds it, it holds something and `resume` is not set, or
    what it holds is another run than `identity`.
    """
    folder = Folder(Path(path))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        held = [name for name in os.listdir(folder.path) if name != ".lock"]
    except OSError as error:
        raise _unwritable(folder.path, error) from None
    with _locked(folder.path):
        if held and not resume:
            raise AttarError(f"{folder.path} holds {', '.join(sorted(held)[:3])}: choose another folder, or pass --resume or --overwrite")
        _require_same_run(folder, identity)
        for left in folder.path.glob(".*.part"):  # by a run that was killed while it wrote
            left.unlink()
        write_atomically(folder.identity, json.dumps(identity, indent=1, sort_keys=True).encode())
        yield folder


def clear(path: str | Path) -> None:
    """Remove what an earlier run left in a folder, and nothing else (`--overwrite`).

    Raises AttarError where the folder holds other things, which are not ours to remove, or another run is writing it.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    foreign = sorted(name for name in os.listdir(folder) if name not in _OURS and not name.endswith(".part"))
    if foreign:
        raise AttarError(f"{folder} holds {', '.join(foreign[:3])}, which no run of attar made: choose another folder with --out")
    with _locked(folder):
        for name in os.listdir(folder):
            target = folder / name
            if name != ".lock":  # it is held until all is gone
                shutil.rmtree(target) if target.is_dir() else target.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While open, no other process may write the folder; the system lets go of it should this one be killed."""
    try:
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AttarError(f"another run is writing {path}: wait for it, or choose another folder with --out") from None
        yield
    finally:
        os.close(lock)


def _unwritable(path: Path, error: OSError) -> AttarError:
    return AttarError(f"cannot write to {path} ({error.strerror}): choose another folder with --out")


def fingerprint(model: nn.Module) -> str:
    """A hash of every parameter and buffer by name: whether a resumed run starts from the same network."""
    digest = hashlib.sha256()
    values = {holders[0].full_name: owner for owner, holders in owners(model).items()} | dict(model.named_buffers())
    for name, value in sorted(values.items()):
        tensor = value() if isinstance(value, nn.Module) else value
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _require_same_run(folder: Folder, identity: dict[str, Any]) -> None:
    if not folder.identity.exists():
        return
    try:
        before = json.loads(folder.identity.read_text())
    except ValueError:
        raise AttarError(f"{folder.identity} is damaged: pass --overwrite to begin again") from None
    other = [name for name in identity if before.get(name) != identity[name]]
    if other:
        raise AttarError(f"{folder.path} holds another run (its {', '.join(other)} differ): choose another folder, or pass --overwrite")
