"""Pretrained weights: where they lie, and how a safetensors file goes into a network."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from attar.data._files import data_folder, one_line
from attar.errors import AttarError, DataError, FormatError
from attar.names import nearest

__all__ = ["load_weights", "preprocessing", "weights"]

PRETRAINED = {
    "efficientnet_lite0": "efficientnet-lite0-imagenet",
    "lenet5": "lenet5-mnist",
    "resnet20": "resnet20-cifar10",
    "resnet32": "resnet32-cifar10",
    "resnet44": "resnet44-cifar10",
    "resnet56": "resnet56-cifar10",
}


def weights(name: str, folder: str | Path | None = None) -> Path:
    """The file with pretrained weights of the zoo's network `name`, below the data folder (None: as in `attar.data`).

    Raises AttarError for a network that has none, DataError where the file is not there.
    """
    if name not in PRETRAINED:
        raise AttarError(f"the zoo has no pretrained weights for {name!r}{nearest(name, PRETRAINED)}; it has: {', '.join(PRETRAINED)}")
    path = data_folder(folder) / "pretrained" / f"{PRETRAINED[name]}.safetensors"
    if not path.is_file():
        raise DataError(f"there is no file {path}: put it there, give its folder with --data-dir, or another file with --weights")
    return path


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Fill `model` from a safetensors file and return it; its names and shapes must be the model's, all of them.

    A model may say in `renamed` how other files call its layers. `num_batches_tracked`, which no inference reads, may be
    absent. Raises AttarError for a missing file and for one that does not fit, FormatError for a damaged one.
    """
    stored = {_rename(name, getattr(model, "renamed", {})): value for name, value in _read(Path(path)).items()}
    wanted = model.state_dict()
    faults = [
        f"{name!r} is not in the file{nearest(name, set(stored) - set(wanted))}"
        for name in wanted
        if name not in stored and not name.endswith("num_batches_tracked")
    ]
    faults += [f"{name!r} is not in the network{nearest(name, set(wanted) - set(stored))}" for name in stored if name not in wanted]
    faults += [
        f"{name!r} is {list(stored[name].shape)} in the file and {list(value.shape)} in the network"
        for name, value in wanted.items()
        if name in stored and stored[name].shape != value.shape
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise AttarError(f"{path} does not fit {type(model).__name__}: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(stored, strict=False)
    return model


def preprocessing(model: Any) -> dict[str, Any]:
    """What a reader of `attar.data` must know of a network: `shape`, `mean` and `std`, as far as the network says.

    >>> from attar.zoo.lenet import lenet_300_100
    >>> preprocessing(lenet_300_100())
    {'shape': (1, 28, 28), 'mean': (0.0,), 'std': (1.0,)}
    """
    attributes = {"shape": "example_shape", "mean": "mean", "std": "std"}
    return {argument: getattr(model, name) for argument, name in attributes.items() if hasattr(model, name)}


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise AttarError(f"there is no file {path}: give a safetensors file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path} is not a sound safetensors file: {one_line(error)}") from None


def _rename(name: str, renamed: dict[str, str]) -> str:
    layer, dot, rest = name.partition(".")
    return renamed.get(layer, layer) + dot + rest
