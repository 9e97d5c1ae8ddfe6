"""Networks to files and back: `save` and `load`, and the atomic write under them."""

import errno
import os
import secrets
from pathlib import Path

from torch import Tensor, fx

from attar.coding import container, header, sizes, structure, tensors
from attar.coding.sizes import SizeRow
from attar.errors import AttarError, FormatError, TraceError
from attar.graph import Network
from attar.graph.network import size
from attar.graph.propagate import BYTE_CAP, fakes, propagate

__all__ = ["decode", "encode", "load", "save", "size_rows", "write_atomically"]


def save(network: Network, path: str | os.PathLike, *, codec: str = "auto", names: bool = True) -> list[SizeRow]:
    """Write a network to one file and tell what its bytes are spent on.

    `codec` is "auto" (each stream the smallest way), "raw", "packed" (Han's P+Q), "huffman" (P+Q+H), "huffman-escape" or
    "entropy". Without `names`, tensors are only numbered. The file is written beside its place and renamed: a failed write
    leaves what was there before.

    Raises AttarError where the path cannot be written, FormatError naming what the file cannot hold.
    """
    data = encode(network, codec=codec, names=names)
    rows = size_rows(data)
    write_atomically(path, data)
    return rows


def size_rows(data: bytes | bytearray) -> list[SizeRow]:
    """What the bytes of a file are spent on, tensor by tensor; raises FormatError where they are not a whole file."""
    return sizes.rows(container.validate(data), len(data))


def load(path: str | os.PathLike, *, byte_cap: int = BYTE_CAP) -> Network:
    """The network in a file; nothing of it is executed, and `network.program()` makes a module of it that runs and trains.

    A network that would need more than `byte_cap` bytes at once for one sample is refused.

    Raises AttarError where the file cannot be read, FormatError where it is not whole, newer, or hostile.
    """
    try:
        with open(path, "rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            read = file.readinto(data)
            del data[read:]
    except OSError as error:
        raise AttarError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from None
    try:
        return _decode(data, byte_cap)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None


def encode(network: Network, *, codec: str = "auto", names: bool = True) -> bytes:
    """The bytes of a network's file; equal networks give equal bytes (on one version of zlib)."""
    probes = _probes(network)
    document = structure.write(network, probes, names=names)
    order = structure.used_tensors(network)
    records, streams, payload = tensors.to_streams(network.tensors, network.forms, order, codec=codec)
    head = header.write(document, records, streams)
    data = container.envelope(head, payload, aligned=[header.aligned(stream.codec, stream.size) for stream in streams])
    try:
        container.validate(data)
    except FormatError:
        if codec == "raw":
            raise
        # So little is left of the network that a reader would take the file for a bomb: its masks must be spelled out.
        return encode(network, codec="raw", names=names)
    return bytes(data)


def decode(data: bytes | bytearray, *, byte_cap: int = BYTE_CAP) -> Network:
    """The network in these bytes, as `load` gives it."""
    return _decode(bytearray(data), byte_cap)


def _decode(data: bytearray, byte_cap: int) -> Network:
    found = container.validate(data)
    graph = structure.build(found.structure)
    held, forms = tensors.from_streams(found, data)
    told = found.structure
    network = Network(graph, told.inputs, held, forms, told.call, told.preprocessing)
    try:
        propagate(network, told.probes, byte_cap=byte_cap)
    except TraceError as error:
        raise FormatError(f"the graph cannot run, {error}: the file is hostile, or from another version of PyTorch") from None
    return network


def _probes(network: Network) -> list[tuple[int, ...] | None]:
    """Shapes that the graph runs on: 1 for every free size, or the traced example's where the graph does not run on that."""
    placeholders = [node for node in network.graph.nodes if node.op == "placeholder"]
    ones = [None if given.shape is None else tuple(1 if s is None else s for s in given.shape) for given in network.inputs]
    try:
        fakes(network, ones)
    except TraceError as error:
        traced = [_traced_shape(node) for node in placeholders]
        if traced == ones:
            raise FormatError(f"the network cannot be stored, its graph does not run again: {error}") from None
        try:
            fakes(network, traced)
        except TraceError as second:
            raise FormatError(f"the network cannot be stored, its graph does not run again: {second}") from None
        return traced
    return ones


def _traced_shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(size(s) for s in value.shape) if isinstance(value, Tensor) else None


def write_atomically(path: str | os.PathLike, data: bytes | bytearray) -> None:
    """Write a file whole or not at all: into a new file beside it, flushed to the disk, then renamed over it.

    A symbolic link at `path` is replaced, never followed. Raises AttarError where that fails; what was there is then intact,
    and nothing else is left behind.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise AttarError(f"cannot write {target}: it is a {'folder' if target.is_dir() else 'device'}; give the name of a file")
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.part")
    made = False
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
        made = True
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
        made = False
        _flush_folder(target.parent)
    except OSError as error:
        advice = {errno.ENOSPC: "free some space", errno.EFBIG: "raise the limit on file sizes", errno.ENOENT: "make the folder first"}
        hint = advice.get(error.errno or 0, "check that the folder is yours to write")
        raise AttarError(f"cannot write {target}: {error.strerror or error}; {hint}") from None
    finally:
        if made:
            draft.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself lasting, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
