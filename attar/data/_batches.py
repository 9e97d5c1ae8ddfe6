"""The python batches of CIFAR: pickles, read without running anything, from a folder or straight from the archive."""

import io
import lzma
import math
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.data._files import one_line
from attar.errors import DataError

__all__ = ["read_batch", "read_members"]

LARGEST = 1 << 30  # bytes unpacked; CIFAR's archives hold 186 MB


def read_members(source: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each of `names`, in that order, with the content of that file, from an unpacked folder or a tar archive (gzip, xz or bzip2).

    Raises DataError for one that is missing or unreadable, and for an archive that unpacks to more than 1 GiB.
    """
    try:
        if source.is_dir():
            found = {name: (source / name).read_bytes() for name in names}
        else:
            found = _unpack(source, set(names))
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"cannot read {source}: {one_line(error)}; fetch it again") from None
    for name in names:
        if name not in found:
            raise DataError(f"{source} holds no file {name}: it is not the archive it should be, fetch it again")
        yield name, found[name]


def _unpack(archive: Path, names: set[str]) -> dict[str, bytes]:
    """Files by name, whatever folder the archive has them in; read as one stream, since seeking back would unpack it again."""
    found = {}
    with tarfile.open(archive, "r|*") as stream:
        for member in stream:
            if member.offset_data + member.size > LARGEST:
                raise DataError(f"{archive} unpacks to more than {LARGEST:,} bytes: it is not the archive it should be, fetch it again")
            name = member.name.rpartition("/")[2]
            if member.isreg() and name in names:
                content = stream.extractfile(member)
                assert content is not None  # a regular file always has content
                found[name] = content.read()
    return found


def read_batch(content: bytes, label: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 3, 32, 32] and labels int64 [n] of one batch; `label` is the field that holds them.

    The unpickler knows numpy's three names only, as inert stand-ins: no code of the file's choosing runs. Raises DataError,
    calling the batch `name`, for anything that is not such a batch.
    """
    try:
        _check_stream(content)
        fields = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        images = _pixels(fields[b"data"].state)
        labels = np.array(fields[label.encode()], dtype=np.int64)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{name} is not a CIFAR batch ({type(error).__name__}: {one_line(error)}): fetch it again") from None
    if labels.shape != (len(images),):
        raise DataError(f"{name} holds {len(images)} pictures but {labels.size} labels: fetch it again")
    return images, labels


def _check_stream(content: bytes) -> None:
    """Refuse what makes the unpickler allocate beyond the file: a length past its end, a memo index that no file this long needs."""
    for opcode, argument, _ in pickletools.genops(content):  # raises ValueError at a length past the end
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise ValueError(f"memo index {argument}")


def _pixels(state: tuple) -> np.ndarray:
    """The array that numpy would rebuild from the state it pickled."""
    _, shape, dtype, fortran_order, content = state
    if dtype.code != b"u1" or fortran_order or len(shape) != 2 or shape[1] != 3 * 32 * 32 or len(content) != math.prod(shape):
        raise ValueError(f"pictures of shape {shape} in {len(content)} bytes, where [n, 3072] bytes belong")
    return np.frombuffer(content, np.uint8).reshape(-1, 3, 32, 32)


class _Array:
    """Stands in for a numpy array: keeps its pickled state."""

    state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _Type:
    """Stands in for a numpy data type: keeps its code."""

    def __init__(self, code: bytes, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """The byte order and layout, which single bytes do not have."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise ValueError(f"it asks for {module}.{name}")
        return KNOWN[module, name]
