"""The envelope of a file: magic, version, one deflated header, the streams, and checksums (FORMAT.md, "The container")."""

import zlib
from collections.abc import Sequence

from attar.coding import header, varint
from attar.coding.dictionary import DICTIONARY
from attar.coding.header import Header
from attar.errors import FormatError

__all__ = ["BLOCK", "MAGIC", "VERSION", "envelope", "open_envelope", "validate"]

MAGIC = b"\x89ATR"
VERSION = 1
BLOCK = 1 << 20
_CRC_BYTES = 4
# A header inflates to at most this: what deflate reaches on a deep network's graph is below 64 to 1.
_INFLATED_FLOOR = 1 << 20
_INFLATED_RATIO = 64


def envelope(head: bytes, streams: Sequence[bytes], *, aligned: Sequence[bool]) -> bytearray:
    """The bytes of a file with this header and these streams; those that are `aligned` begin at a multiple of 64.

    Equal arguments give equal bytes on equal versions of zlib.
    """
    compressed = _deflate(head)
    if len(head) > _inflated_cap(len(compressed)):  # what the reader refuses must not be written
        raise FormatError(f"the header of {len(head):,} bytes is more than a file may hold: the network has too many nodes or tensors")
    data = bytearray(MAGIC + varint.encode(VERSION) + varint.encode(len(compressed)) + compressed)
    for stream, align in zip(streams, aligned, strict=True):
        data += bytes(header.padding(len(data)) if align else 0)
        data += stream
    checks = [zlib.crc32(memoryview(data)[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    for check in checks:
        data += check.to_bytes(_CRC_BYTES, "little")
    return data


def validate(data: bytes | bytearray) -> Header:
    """What a file holds and where, proven consistent; runs before anything is allocated, and reads nothing of the streams.

    Checked here: checksums of the whole file, the header's size, types, names, shapes (by exact multiplication), the size of every
    stream against the symbols it must give, and the sum of all that will be decoded against the size of the file.

    Raises FormatError, with what to do, for a file that is not Attar's, newer, truncated, corrupted or hostile.
    """
    head, start, end = open_envelope(data)
    found = header.read(head, start=start, file_size=len(data))
    if found.end != end:
        raise FormatError(f"the streams must end at byte {end:,}, they end at {found.end:,}: the file is corrupt")
    for stream in found.streams:
        gap = data[start : stream.offset]
        if any(gap):
            raise FormatError(f"the bytes before the stream at {stream.offset:,} must be zero: the file is corrupt")
        start = stream.offset + stream.size
    return found


def open_envelope(data: bytes | bytearray) -> tuple[bytes, int, int]:
    """The inflated header, where the streams begin, and where they end; checksums are compared first."""
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise FormatError("not an .attar file (its first four bytes are others): give a file written by attar.save")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise FormatError(
            f"the file has format version {data[len(MAGIC)]} and this Attar reads {VERSION}: it is newer (upgrade Attar) or damaged"
        )
    end = _check_blocks(data)
    size, start = varint.decode(data, len(MAGIC) + 1)  # type: ignore[arg-type]  # it only indexes
    if size > end - start:
        raise FormatError(f"the header must lie within the file, it has {size:,} bytes of {end - start:,}: the file is corrupt")
    return _inflate(bytes(data[start : start + size])), start + size, end


def _check_blocks(data: bytes | bytearray) -> int:
    """Compare the checksum of each block; return where the checksums begin."""
    blocks = -(-len(data) // (BLOCK + _CRC_BYTES))
    end = len(data) - blocks * _CRC_BYTES
    if end <= len(MAGIC) + 1 or -(-end // BLOCK) != blocks:
        raise FormatError(f"a file cannot have {len(data):,} bytes: it is truncated; copy it again")
    view = memoryview(data)
    for block in range(blocks):
        at = end + block * _CRC_BYTES
        if zlib.crc32(view[block * BLOCK : min((block + 1) * BLOCK, end)]) != int.from_bytes(view[at : at + _CRC_BYTES], "little"):
            raise FormatError(
                f"the checksum of block {block} of {blocks} does not match: the file is truncated or corrupted; copy it again"
            )
    return end


def _deflate(head: bytes) -> bytes:
    compressor = zlib.compressobj(level=9, wbits=-15, memLevel=9, zdict=DICTIONARY)
    return compressor.compress(head) + compressor.flush()


def _inflate(compressed: bytes) -> bytes:
    cap = _inflated_cap(len(compressed))
    inflater = zlib.decompressobj(wbits=-15, zdict=DICTIONARY)
    try:
        head = inflater.decompress(compressed, cap + 1)
    except zlib.error as error:
        raise FormatError(f"the header cannot be inflated ({error}): the file is corrupt") from None
    if len(head) > cap or not inflater.eof or inflater.unused_data:
        raise FormatError(f"the header must be one whole deflate stream of at most {cap:,} bytes inflated: the file is corrupt or hostile")
    return head


def _inflated_cap(size: int) -> int:
    return _INFLATED_FLOOR + _INFLATED_RATIO * size
