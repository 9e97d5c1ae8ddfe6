"""Canonical Huffman coding (Huffman, "A method for the construction of minimum-redundancy codes", 1952), as the survey's papers use it.

Only the lengths of the codes are stored. A long stream is dealt to lanes, symbol i to lane i mod L, each with its own run of bits, so
that all lanes, and all streams of a file, are decoded in lock step by table (`decode_many`). FORMAT.md is the law.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attar.coding import bits, varint
from attar.errors import FormatError

__all__ = ["code_lengths", "decode", "decode_many", "encode", "lanes"]

Ints = NDArray[np.int64]

LONGEST = 20  # bits of the longest code: what a 32-bit window holds at any of 8 bit offsets, with room
TABLE_BITS = 12  # codes up to here are found by one look-up, longer ones, which are rare, by a search
ROWS = 512  # steps between two writes of the output
TOGETHER = 256  # streams decoded in one lock step, so that the tables' memory is bounded


def lanes(count: int) -> int:
    """How many runs of bits a stream of `count` symbols is dealt to.

    >>> [lanes(n) for n in (100, 4096, 8192, 1_000_000)]
    [1, 1, 2, 244]
    """
    return max(1, count // 4096)


def code_lengths(frequencies: ArrayLike) -> NDArray[np.int64]:
    """Bits of each symbol's code: the prefix code of at most 20 bits that makes the sum of frequency times length least.

    Symbols of frequency 0 get 0; a symbol that is alone gets 1. By package-merge (Larmore and Hirschberg, "A fast algorithm for
    optimal length-limited Huffman codes", 1990), which equals Huffman's code wherever that stays within the limit.

    >>> code_lengths([4, 2, 1, 1, 0]).tolist()
    [1, 2, 3, 3, 0]
    """
    array = np.asarray(frequencies, np.int64)
    if array.ndim != 1 or array.size > bits.LARGEST_ALPHABET or (array < 0).any() or not array.any():
        raise ValueError("frequencies must be a 1-D array of at most 65,536 whole numbers >= 0, not all 0")
    lengths = np.zeros(array.size, np.int64)
    used = np.flatnonzero(array)
    if used.size == 1:
        lengths[used] = 1
        return lengths
    used = used[np.argsort(array[used], kind="stable")]
    lengths[used] = _package_merge(array[used])
    return lengths


def _package_merge(leaves: Ints) -> Ints:
    """Code lengths of two or more leaves, given in rising order of weight."""
    levels = []  # per level, whether each item, in rising order of weight, is a package (else it is the next leaf)
    items = leaves
    for _ in range(LONGEST - 1):
        packages = items[0 : items.size & ~1 : 2] + items[1::2]
        merged = np.concatenate([leaves, packages])
        order = np.argsort(merged, kind="stable")
        levels.append(order >= leaves.size)
        items = merged[order]
    lengths = np.zeros(leaves.size, np.int64)
    take = 2 * (leaves.size - 1)
    for is_package in reversed(levels):
        packages_taken = int(np.count_nonzero(is_package[:take]))
        lengths[: take - packages_taken] += 1
        take = 2 * packages_taken
    lengths[:take] += 1
    return lengths


def encode(symbols: ArrayLike, alphabet: int) -> bytes:
    """Symbols in [0, alphabet) by the code that is best for them: its lengths, the lanes' sizes, the bits.

    >>> encode([0, 0, 1, 2], 3).hex()
    '6e2c'
    """
    array = bits.as_symbols(symbols, alphabet)
    if alphabet == 1 or not array.size:
        return b""
    lane_count = lanes(array.size)
    lengths = code_lengths(np.bincount(array, minlength=alphabet))
    ordered, sizes, starts = _canonical(lengths)
    codes = np.zeros(alphabet, np.int64)
    codes[ordered] = starts >> LONGEST - sizes
    array = np.concatenate([array[lane::lane_count] for lane in range(lane_count)])
    ends = np.cumsum(lengths[array])
    header = _write_lengths(lengths)
    if lane_count > 1:
        lane_bits = np.diff(ends[np.cumsum(_lane_steps(array.size))[:-1] - 1], prepend=0)  # the last lane ends with the data
        header += b"".join(varint.encode(int(size)) for size in [lane_bits.min(), *(lane_bits - lane_bits.min())])
    return header + _write_codes(codes[array], lengths[array], ends)


def decode(data: bytes, count: int, alphabet: int) -> NDArray[np.int32]:
    """The inverse of `encode`; FormatError where the data cannot be the code of `count` symbols.

    >>> decode(encode([3, 1, 2], 4), 3, 4).tolist()
    [3, 1, 2]
    """
    return decode_many([(data, count, alphabet)])[0]


def decode_many(streams: Sequence[tuple[bytes, int, int]]) -> list[NDArray[np.int32]]:
    """What `decode` gives for each (data, count, alphabet), all at once: faster than one after the other."""
    parsed = [_parse(*stream) for stream in streams]
    out = [np.zeros(stream.count, np.int32) for stream in parsed]
    coded = [i for i, stream in enumerate(parsed) if stream.begins.size]
    for at in range(0, len(coded), TOGETHER):
        group = coded[at : at + TOGETHER]
        for i, symbols in zip(group, _decode_group([parsed[i] for i in group]), strict=True):
            if int(symbols.max()) >= parsed[i].alphabet:
                raise FormatError("a lone symbol's code must be 0, got 1: the file is corrupt")
            out[i] = symbols
    return out


def _canonical(lengths: Ints) -> tuple[Ints, Ints, Ints]:
    """The used symbols in the order of their codes, that is by length, then by symbol; their lengths; their codes, shifted to 20 bits."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    sizes = lengths[order]
    spans = np.left_shift(1, LONGEST - sizes)
    return order, sizes, np.cumsum(spans) - spans


def _lane_steps(count: int) -> Ints:
    """How many symbols each lane holds."""
    lane_count = lanes(count)
    return (count - np.arange(lane_count) + lane_count - 1) // lane_count


def _write_codes(codes: Ints, sizes: Ints, ends: Ints) -> bytes:
    """Codes one after the other, the most significant bit first."""
    out = np.zeros(int(ends[-1]), np.uint8)
    for back in range(1, int(sizes.max()) + 1):
        codes, sizes, ends = (array[sizes >= back] for array in (codes, sizes, ends))
        out[ends - back] = codes >> back - 1 & 1
    return np.packbits(out).tobytes()


def _write_lengths(lengths: Ints) -> bytes:
    """Elias gamma codes. A length's difference d from the one before is mapped to 2d + 1 or, below 0, -2d; after a length of 0 comes
    how many lengths of 0 there are in a row."""
    text, before = [], 0
    for length, run in ((length, len(list(run))) for length, run in groupby(lengths.tolist())):
        step = length - before
        text.append(_gamma(2 * step + 1 if step >= 0 else -2 * step))
        text.append(_gamma(run) if length == 0 else _gamma(1) * (run - 1))
        before = length
    joined = "".join(text)
    size = -(-len(joined) // 8)
    return int(joined.ljust(8 * size, "0"), 2).to_bytes(size, "big")


def _gamma(value: int) -> str:
    return "0" * (value.bit_length() - 1) + f"{value:b}"


def _read_lengths(data: bytes, alphabet: int) -> tuple[Ints, int]:
    """The lengths and how many bytes they took."""
    text = "".join(f"{byte:08b}" for byte in data[: 2 * alphabet + 8])  # a length of 0 takes 11 + 1 bits, a run at most 33
    lengths, at = np.zeros(alphabet, np.int64), 0
    known = length = 0
    while known < alphabet:
        value, at = _read_gamma(text, at)
        length += value // 2 if value % 2 else -(value // 2)
        run = 1
        if length == 0:
            run, at = _read_gamma(text, at)
        if not 0 <= length <= LONGEST or known + run > alphabet:
            raise FormatError(f"code lengths must be in 0 to {LONGEST}, one per symbol of {alphabet}: the file is corrupt")
        lengths[known : known + run] = length
        known += run
    size = -(-at // 8)
    used = lengths[lengths > 0]
    if "1" in text[at : 8 * size]:
        raise FormatError("code lengths must be padded with zero bits: the file is corrupt")
    if int(np.left_shift(1, LONGEST - used).sum()) != 1 << LONGEST and used.tolist() != [1]:
        raise FormatError("code lengths must make a complete code, or 1 bit for a lone symbol: the file is corrupt")
    return lengths, size


def _read_gamma(text: str, at: int) -> tuple[int, int]:
    one = text.find("1", at, at + 17)
    stop = 2 * one - at + 1
    if one < 0 or stop > len(text):
        raise FormatError("the code lengths must come first, they are cut off: the file is truncated")
    return int(text[one:stop], 2), stop


@dataclass(frozen=True)
class _Stream:
    """A stream taken apart: its code as `starts` and `entries` (32 symbol + length) by rank, its bits, and where each lane begins."""

    count: int
    alphabet: int
    starts: Ints
    entries: Ints
    payload: NDArray[np.uint8]
    begins: Ints


def _parse(data: bytes, count: int, alphabet: int) -> _Stream:
    bits.width(alphabet)
    if count == 0 or alphabet == 1:
        if len(data):
            raise FormatError(f"a stream without information must be empty, got {len(data)} bytes: the file is corrupt")
        none = np.zeros(0, np.int64)
        return _Stream(count, alphabet, none, none, none.astype(np.uint8), none)
    lengths, offset = _read_lengths(data, alphabet)
    symbols, sizes, starts = _canonical(lengths)
    entries = symbols << 5 | sizes
    if symbols.size == 1:  # the code 1 belongs to nobody: it is read as a symbol outside the alphabet, and refused in the end
        starts, entries = np.array([0, 1 << LONGEST - 1]), np.append(entries, alphabet << 5 | 1)
    begins, offset = _read_begins(data, offset, lanes(count))
    return _Stream(count, alphabet, starts, entries, np.frombuffer(data, np.uint8, offset=offset), begins)


def _read_begins(data: bytes, offset: int, lane_count: int) -> tuple[Ints, int]:
    begins = [0]
    if lane_count > 1:
        least, offset = varint.decode(data, offset)
        for _ in range(lane_count - 1):
            more, offset = varint.decode(data, offset)
            begins.append(begins[-1] + least + more)
    if begins[-1] >= 8 * (len(data) - offset):
        raise FormatError(f"a lane begins at bit {begins[-1]} of {8 * (len(data) - offset)}: the file is truncated")
    return np.array(begins), offset


def _decode_group(streams: list[_Stream]) -> list[NDArray[np.int32]]:
    # Microseconds measured on one core: a step of NumPy calls, a symbol of theirs, a symbol in plain Python.
    symbols = sum(stream.count for stream in streams)
    steps = max(int(_lane_steps(stream.count)[0]) for stream in streams)
    if 0.35 * symbols < 12 * steps + 0.03 * symbols:
        return [_read_serial(stream) for stream in streams]
    return _read_lockstep(streams)


def _windows(payload: NDArray[np.uint8]) -> Ints:
    """The 32 bits that begin at each byte; past the end they are 0."""
    padded = np.concatenate([payload, np.zeros(4, np.uint8)]).astype(np.int64)
    return padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]


def _read_serial(stream: _Stream) -> NDArray[np.int32]:
    starts, entries, windows = stream.starts.tolist(), stream.entries.tolist(), _windows(stream.payload).tolist()
    out, ends, last_window = np.empty(stream.count, np.int32), [], len(windows) - 1
    for lane, (at, steps) in enumerate(zip(stream.begins.tolist(), _lane_steps(stream.count).tolist(), strict=True)):
        symbols = []
        for _ in range(steps):
            window = windows[min(at >> 3, last_window)] >> 12 - (at & 7) & (1 << LONGEST) - 1
            entry = entries[bisect_right(starts, window) - 1]
            at += entry & 31
            symbols.append(entry >> 5)
        out[lane :: len(stream.begins)] = symbols
        ends.append(at)
    _check_ends(stream, np.array(ends))
    return out


def _check_ends(stream: _Stream, ends: Ints) -> None:
    """Each lane must end where the next begins, and the last in the last byte, whose other bits are 0."""
    left = 8 * stream.payload.size - int(ends[-1])
    if not (ends[:-1] == stream.begins[1:]).all() or not 0 <= left < 8 or stream.payload[-1] & (1 << left) - 1:
        raise FormatError("the lanes of a Huffman stream must end where the next begins and use all its bits: the file is corrupt")


def _read_lockstep(streams: list[_Stream]) -> list[NDArray[np.int32]]:
    widths = np.array([stream.begins.size for stream in streams])
    steps = np.concatenate([_lane_steps(stream.count) for stream in streams])
    order = np.argsort(-steps, kind="stable")  # so that the lanes still at work are the first ones
    steps, owner = steps[order], np.repeat(np.arange(len(streams)), widths)[order]
    payload_bits = 8 * np.cumsum([0] + [stream.payload.size for stream in streams])
    position = np.concatenate([stream.begins for stream in streams])[order] + payload_bits[owner]
    sizes = np.cumsum([0] + [stream.count for stream in streams])
    lane = np.concatenate([np.arange(width) for width in widths])[order]
    windows = _windows(np.concatenate([stream.payload for stream in streams]))
    codes = _tables(streams)
    out = np.empty(sizes[-1], np.int32)
    step = 0
    while step < steps[0]:
        active = int(np.searchsorted(-steps, -step))
        rows = np.empty((min(step + ROWS, int(steps[active - 1])) - step, active), np.int64)
        position[:active] = _read_rows(rows, position[:active], owner[:active], windows, codes)
        times = np.arange(step, step + len(rows))[:, None]
        out[sizes[owner[:active]] + lane[:active] + widths[owner[:active]] * times] = rows
        step += len(rows)
    ends = np.empty_like(position)
    ends[order] = position - payload_bits[owner]
    for stream, part in zip(streams, np.split(ends, np.cumsum(widths)[:-1]), strict=True):
        _check_ends(stream, part)
    return np.split(out, sizes[1:-1])


def _tables(streams: list[_Stream]) -> tuple[Ints, Ints, Ints]:
    """For all streams one after the other: the entry by the first 12 bits (0 where the code is longer); the starts; the entries."""
    prefixes = np.arange(1 << TABLE_BITS) << LONGEST - TABLE_BITS
    tables = []
    for stream in streams:
        table = stream.entries[np.searchsorted(stream.starts, prefixes, "right") - 1]
        table[(table & 31) > TABLE_BITS] = 0
        tables.append(table)
    starts = np.concatenate([stream.starts + (i << LONGEST) for i, stream in enumerate(streams)])
    return np.concatenate(tables), starts, np.concatenate([stream.entries for stream in streams])


def _read_rows(rows: Ints, position: Ints, owner: Ints, windows: Ints, codes: tuple[Ints, Ints, Ints]) -> Ints:
    """Fill each row with one symbol per lane and return the lanes' new positions."""
    table, starts, entries = codes
    table_base, search_base = owner << TABLE_BITS, owner << LONGEST
    for row in rows:
        window = windows.take(position >> 3, mode="clip") >> 12 - (position & 7) & (1 << LONGEST) - 1
        entry = table.take((window >> LONGEST - TABLE_BITS) + table_base)
        long = (entry == 0).nonzero()[0]
        if long.size:
            entry[long] = entries[np.searchsorted(starts, search_base[long] + window[long], "right") - 1]
        position = position + (entry & 31)
        np.right_shift(entry, 5, out=row)
    return position
