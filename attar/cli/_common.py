"""What the verbs share: how MODEL and --data become a network and a task, and how results are printed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from attar import coding
from attar.errors import AttarError
from attar.names import find, load_dotted
from attar.task import Task
from attar.zoo import load_weights, preprocessing, weights

__all__ = [
    "DataFolder",
    "DataName",
    "Download",
    "Json",
    "ModelName",
    "Opened",
    "Pretrained",
    "Seed",
    "Trust",
    "Weights",
    "example_of",
    "open_model",
    "open_task",
    "print_json",
]

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="zoo:NAME, package.module:callable, a .attar file, or (with --trust) a .pt2 file")
]
Weights = Annotated[Path | None, typer.Option(help="a safetensors file to load into the network")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="load the zoo network's own pretrained file from the data folder")]
Trust = Annotated[bool, typer.Option("--trust", help="read a .pt2 file, which can execute code when it is loaded")]
DataName = Annotated[
    str,
    typer.Option(metavar="NAME", help="digits (embedded), mnist, fashion-mnist, cifar10, cifar100, pictures, or package.module:callable"),
]
DataFolder = Annotated[Path | None, typer.Option(help="where the data lies; $ATTAR_DATA by default")]
Download = Annotated[bool, typer.Option("--download", help="fetch a data set that is missing, and check it")]
Seed = Annotated[int, typer.Option(help="of initial weights, splits, order and noise")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@dataclass(frozen=True)
class Opened:
    """A network from the command line, and whether it came with weights, so that a recipe's `train` is left out."""

    model: nn.Module
    trained: bool


def open_model(
    name: str,
    *,
    weights_file: Path | None = None,
    pretrained: bool = False,
    trust: bool = False,
    data_folder: Path | None = None,
    seed: int = 0,
) -> Opened:
    """The network that MODEL names; raises AttarError saying what MODEL may be."""
    if pretrained and not name.startswith("zoo:"):
        raise AttarError(f"--pretrained is for zoo:NAME, got {name!r}: give --weights FILE")
    opened = _open(name, trust, seed)
    if weights_file is not None or pretrained:
        path = weights_file or weights(name.removeprefix("zoo:"), data_folder)
        return Opened(load_weights(opened.model, path), True)
    return opened


def _open(name: str, trust: bool, seed: int) -> Opened:
    path = Path(name)
    if path.suffix == ".attar":
        return Opened(coding.load(path).program(), True)
    if path.suffix == ".pt2":
        if not trust:
            raise AttarError(
                f"{name} is a .pt2 file, which can execute code when it is loaded: pass --trust if you trust where it comes from"
            )
        if not path.is_file():
            raise AttarError(f"there is no file {name}")
        return Opened(torch.export.load(path).module(), True)
    torch.manual_seed(seed)
    if name.startswith("zoo:"):
        return Opened(find("zoo", name.removeprefix("zoo:"))(), False)
    if ":" in name:
        sys.path.insert(0, "")  # the user's own module lies where the user stands
        model = load_dotted(name)()
        if not isinstance(model, nn.Module):
            raise AttarError(f"{name} returned a {type(model).__name__}: it must return an nn.Module")
        return Opened(model, False)
    raise AttarError(
        f"MODEL must be zoo:NAME, package.module:callable, a .attar file or a .pt2 file, got {name!r}; `attar ls zoo` lists the zoo"
    )


def open_task(name: str, model: nn.Module, *, data_folder: Path | None, download: bool, seed: int) -> Task:
    """The task that --data names, with its inputs as the network takes them."""
    if ":" in name:
        sys.path.insert(0, "")
        task = load_dotted(name)()
        if not isinstance(task, Task):
            raise AttarError(f"{name} returned a {type(task).__name__}: it must return an attar.Task")
        return task
    reader = find("data", name.replace("-", "_"))
    return reader(data_folder, seed=seed, download=download, **preprocessing(model))


def example_of(model: nn.Module, shape: str | None, batch: int = 1) -> tuple:
    """An input of noise for a network: of `--shape`, or of what the network says it takes."""
    sizes: Any = getattr(model, "example_shape", None)
    if shape is not None:
        try:
            sizes = tuple(int(size) for size in shape.split(","))
        except ValueError:
            raise AttarError(
                f"--shape must be numbers such as 3,224,224, got {shape!r}: the shape of one input, without the batch"
            ) from None
    if sizes is None:
        raise AttarError(f"{type(model).__name__} does not say what it takes: give the shape of one input, such as --shape 3,224,224")
    return (torch.randn(batch, *sizes, generator=torch.Generator().manual_seed(0)),)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
