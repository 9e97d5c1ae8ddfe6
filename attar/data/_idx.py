"""The idx format of MNIST and Fashion-MNIST: a magic number, big-endian sizes, unsigned bytes; often gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from attar.data._files import one_line
from attar.errors import DataError

__all__ = ["read_idx"]

CHUNK = 1 << 20


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file of that many dimensions, gzipped if its name ends in `.gz`.

    Memory grows with what the file really holds, never with what its header claims. Raises DataError for a file that is
    missing, not idx, truncated, or longer than its header says.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            head = stream.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
                magic = head[:4].hex() or "nothing"
                raise DataError(f"{path} is not an idx file of {dimensions}-dimensional bytes (it begins with {magic}): fetch it again")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            content = _read(stream, math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {one_line(error)}; fetch it again") from None
    if len(content) != math.prod(shape):
        held = "more" if len(content) > math.prod(shape) else f"only {len(content):,}"
        raise DataError(f"{path} must hold {math.prod(shape):,} bytes after its header {list(shape)}, but holds {held}: fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read(stream: BinaryIO | gzip.GzipFile, limit: int) -> bytes:
    """At most `limit` bytes, asked for piece by piece, because `read(limit)` would allocate the limit first."""
    pieces = []
    while limit and (piece := stream.read(min(limit, CHUNK))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)
