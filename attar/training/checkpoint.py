"""A checkpoint: plain values and tensors in one safetensors file that is either the old one or the new one, never half of one.

The file holds each distinct tensor once, and in its metadata a JSON text of everything else, with a checksum over both.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attar.errors import AttarError, FormatError

__all__ = ["Checkpoint", "discard_state", "load_state", "save_state"]

_VERSION = 1
_KEY = "attar"
_AS_REAL = (torch.complex128,)  # unknown to safetensors: stored as pairs of real numbers


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a training run saves its state, and whether it goes on from what is there.

    It saves when `seconds` have passed since the last time, and after every `updates` updates if that is given.
    With `resume`, a run continues from the file; with no file there it starts from the beginning. Without, it starts from
    the beginning and replaces the file.

    Raises AttarError for a value out of range.
    """

    path: str | Path
    seconds: float = 10.0
    updates: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise AttarError(f"seconds must be above 0, got {self.seconds!r}: it is the time between two checkpoints")
        if self.updates is not None and self.updates < 1:
            raise AttarError(f"updates must be at least 1, got {self.updates!r}: it is the number of updates between two checkpoints")


def save_state(path: str | Path, value: Any) -> None:
    """Write `value` to `path`: any nesting of dicts, lists, tuples, tensors, strings, numbers, booleans and None.

    Tensors keep type, shape and bits; one that occurs several times is stored once. The file is written aside, flushed to
    the disk and renamed, so that a crash or a full disk leaves the previous one as it was.

    Raises AttarError where the disk is full or the folder cannot be written, or for a value of another type.
    """
    path = Path(path)
    packing = _Packing()
    text = json.dumps({"version": _VERSION, "value": _pack(value, packing, "state")})
    aside = _aside(path)
    try:
        shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed while it wrote
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        save_file(packing.arrays, aside / "state", {_KEY: _checksum(text, packing.arrays) + text})
        _flush(aside / "state")
        os.replace(aside / "state", path)
        with contextlib.suppress(OSError):  # some file systems cannot flush a folder; the file is complete all the same
            _flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise AttarError(f"cannot save {path}: {error}; free some space or choose another folder (the previous file is intact)") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def discard_state(path: str | Path) -> None:
    """Remove a file of `save_state`, and what a killed write of it may have left; no error where there is neither."""
    path = Path(path)
    path.unlink(missing_ok=True)
    shutil.rmtree(_aside(path), ignore_errors=True)


def _aside(path: Path) -> Path:
    """Where a file is written before it is renamed: a folder, since safetensors makes files of its own beside the one it writes."""
    return path.with_name(path.name + ".partial")


def load_state(path: str | Path) -> Any:
    """The value that `save_state` wrote; one tensor where one tensor was.

    Raises FormatError where the file is not such a file, is damaged, or comes from another version; AttarError where it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY, "")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        raise AttarError(f"cannot read {path}: {error}") from None
    except SafetensorError as error:
        raise FormatError(f"{path} is not a whole checkpoint ({error}): delete it to start from the beginning") from None
    size = len(_checksum("", {}))
    if text[:size] != _checksum(text[size:], arrays):
        raise FormatError(f"{path} is damaged or no checkpoint of ours (its checksum differs): delete it to start from the beginning")
    header = json.loads(text[size:])
    if header["version"] != _VERSION:
        raise FormatError(f"{path} has version {header['version']}, this program reads {_VERSION}: use the program that wrote it")
    # a clone, since what was read stands on the mapped file
    return _unpack(header["value"], {name: array.clone() for name, array in arrays.items()})


def _checksum(text: str, arrays: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        if array.numel():
            digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class _Packing:
    """What has been packed so far: the arrays by name, what stands for each tensor, and the storages in use."""

    arrays: dict[str, Tensor] = field(default_factory=dict)
    known: dict[tuple, dict[str, Any]] = field(default_factory=dict)
    storages: set[int] = field(default_factory=set)


def _pack(value: Any, packing: _Packing, where: str) -> Any:
    """`value` as JSON. A tensor, a tuple or a dict becomes a JSON object of one tag, so that the keys of a dict keep their type."""
    if isinstance(value, Tensor):
        return _pack_tensor(value, packing, where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int | float | None):
                raise AttarError(f"{where} has the key {key!r} of type {type(key).__name__}: a checkpoint keeps strings and numbers")
        return {"dict": [[key, _pack(inner, packing, f"{where}.{key}")] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        items = [_pack(one, packing, f"{where}.{i}") for i, one in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise AttarError(f"{where} is a {type(value).__name__}: a checkpoint keeps tensors, strings, numbers, lists, tuples and dicts of them")


def _pack_tensor(tensor: Tensor, packing: _Packing, where: str) -> dict[str, Any]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise AttarError(f"{where} is a tensor without plain values ({tensor.layout} on {tensor.device}): make it dense first")
    identity = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg())
    if tensor.numel() and identity in packing.known:
        return packing.known[identity]
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    packed: dict[str, Any] = {"tensor": str(len(packing.arrays))}
    if plain.dtype in _AS_REAL:
        packed["complex"] = True
        plain = torch.view_as_real(plain)
    storage = plain.untyped_storage().data_ptr()
    if storage in packing.storages:  # another view of a stored tensor; safetensors refuses overlaps
        plain = plain.clone()
    packing.storages.add(plain.untyped_storage().data_ptr())
    packing.arrays[packed["tensor"]] = plain
    packing.known[identity] = packed
    return packed


def _unpack(packed: Any, arrays: Mapping[str, Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(one, arrays) for one in packed]
    if not isinstance(packed, dict):
        return packed
    if "dict" in packed:
        return {key: _unpack(inner, arrays) for key, inner in packed["dict"]}
    if "tuple" in packed:
        return tuple(_unpack(one, arrays) for one in packed["tuple"])
    array = arrays[packed["tensor"]]
    return torch.view_as_complex(array) if packed.get("complex") else array
