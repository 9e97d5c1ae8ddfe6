"""A slow, clear decoder of the whole file, written from FORMAT.md alone: the oracle of the tests.

Plain Python numbers and lists, no code shared with the fast decoder (only the dictionary, which is data). It trusts nothing
less than the law says, but makes no promise about hostile files: that is `validate`'s affair.
"""

import json
import math
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from attar.coding.dictionary import DICTIONARY

__all__ = ["Decoded", "decode", "dense"]

DTYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "complex128"]
LETTERS = dict(zip(DTYPES, ["f", "e", "H", "d", "q", "i", "h", "b", "B", "?", "ff", "dd"], strict=True))
FORMS = {0: ("values",), 1: ("mask", "values"), 2: ("indices", "centroids")}
FORM, NUMBERS, SYMBOLS, PLANES, ESCAPE, ESCAPE_COLUMNS, FILLERS, FILLERS_COLUMNS = range(8)
RAW, PACKED, HUFFMAN, ENTROPY = range(4)


@dataclass
class Decoded:
    """A decoded file. A tensor is (name, kind, body); a body is {"shape", "values"} or {"form", parts by name}."""

    document: list
    tensors: list[tuple[str, int, dict[str, Any]]]


@dataclass
class _Stream:
    count: int = 0
    alphabet: int = 0
    codec: int = 0
    items: list[int] = field(default_factory=list)


def decode(data: bytes) -> Decoded:
    """The contents of a file; ValueError where it is not one."""
    body = _checked(data)
    version, at = _varint(body, 4)
    size, at = _varint(body, at)
    if version != 1:
        raise ValueError(f"version {version}")
    head = zlib.decompressobj(wbits=-15, zdict=DICTIONARY).decompress(body[at : at + size])
    start = at + size
    length, at = _varint(head, 0)
    document = json.loads(head[at : at + length])
    names = document[0] if isinstance(document[0], list) else [f"t{i}" for i in range(document[0])]
    records = _Records(head, at + length)
    described = [records.tensor() for _ in names]
    for stream in records.streams:
        start = records.stream(stream, body, start)
    if records.at != len(head) or start != len(body):
        raise ValueError("bytes are left over")
    tensors = [(name, kind, _fill(record, records.streams)) for name, (kind, record) in zip(names, described, strict=True)]
    return Decoded(document, tensors)


def _checked(data: bytes) -> bytes:
    blocks = -(-len(data) // ((1 << 20) + 4))
    end = len(data) - 4 * blocks
    for block in range(blocks):
        begin = block << 20
        (check,) = struct.unpack_from("<I", data, end + 4 * block)
        if _crc(data[begin : min(begin + (1 << 20), end)]) != check:
            raise ValueError(f"checksum of block {block}")
    if data[:4] != b"\x89ATR":
        raise ValueError("magic")
    return data[:end]


def _crc(data: bytes) -> int:
    """CRC-32: the reflected polynomial EDB88320, started and ended with all ones."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value


_CRC_TABLE = [_crc_entry(byte) for byte in range(256)]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value += (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


class _Records:
    """The header's records, read one after the other."""

    def __init__(self, head: bytes, at: int) -> None:
        self.head, self.at = head, at
        self.last = -1
        self.streams: list[_Stream] = []

    def number(self) -> int:
        value, self.at = _varint(self.head, self.at)
        return value

    def tensor(self) -> tuple[int, dict[str, Any]]:
        return self.number(), self.body(None)

    def body(self, spread: int | None) -> dict[str, Any]:
        layout = self.number()
        if layout != FORM:
            return self.array(layout, spread)
        form = self.number()
        record: dict[str, Any] = {"form": form}
        for name in FORMS[form]:
            inner = spread if name == FORMS[form][0] else None
            if form == 1 and name == "values" and record["mask"]["layout"] in (FILLERS, FILLERS_COLUMNS):
                inner = record["mask"]["count"]
            record[name] = self.body(inner)
        return record

    def array(self, layout: int, spread: int | None) -> dict[str, Any]:
        dimensions = self.number()
        shape = [self.number() for _ in range(dimensions - 1)] if dimensions else [self.last]
        record: dict[str, Any] = {
            "layout": layout,
            "shape": shape,
            "count": math.prod(shape) if spread is None else spread,
            "spread": spread is not None,
        }
        sources, alphabet, width = 1, 0, 1
        if layout >= ESCAPE:
            record["bits"], record["kept"] = self.number(), self.number()
            record["count"] = record["kept"] + self.number()
            self.last, alphabet = record["kept"], 1 << record["bits"]
        elif layout == SYMBOLS:
            self.last = record["alphabet"] = self.number()
            alphabet = record["alphabet"] + (spread is not None)
        else:
            record["dtype"] = DTYPES[self.number()]
            width = struct.calcsize("<" + LETTERS[record["dtype"]])
            if layout == PLANES:
                sources, alphabet, width = width, 256, 1
        record["streams"] = []
        for _ in range(sources):
            back = self.number()
            if back == 0:
                self.streams.append(_Stream())
                back = 1
            stream = self.streams[-back]
            stream.count += record["count"] * width
            stream.alphabet = max(stream.alphabet, alphabet)
            record["streams"].append(len(self.streams) - back)
        return record

    def stream(self, stream: _Stream, body: bytes, at: int) -> int:
        """Decode a stream whose data comes at or after byte `at`; return where it ends."""
        stream.codec = self.number()
        if stream.codec in (HUFFMAN, ENTROPY):
            size = self.number()
        elif stream.codec == PACKED:
            size = -(-stream.count * _width(stream.alphabet) // 8)
        else:
            size = stream.count * (2 if stream.alphabet > 256 else 1)
        if stream.codec == RAW and size > 4096:
            at += -at % 64
        data = body[at : at + size]
        if len(data) != size:
            raise ValueError("a stream is cut off")
        if stream.codec == RAW:
            stream.items = list(data) if stream.alphabet <= 256 else list(struct.unpack(f"<{stream.count}H", data))
        else:
            unpack = {PACKED: _unpack, HUFFMAN: _huffman, ENTROPY: _entropy}[stream.codec]
            stream.items = unpack(data, stream.count, stream.alphabet)
        return at + size


def _width(alphabet: int) -> int:
    return (alphabet - 1).bit_length()


def _unpack(data: bytes, count: int, alphabet: int) -> list[int]:
    width, whole = _width(alphabet), int.from_bytes(data, "little")
    return [whole >> width * i & (1 << width) - 1 for i in range(count)]


# Records and streams together.


def _take(record: dict[str, Any], streams: list[_Stream], width: int = 1, which: int = 0) -> list[int]:
    stream = streams[record["streams"][which]]
    items, stream.items = stream.items[: record["count"] * width], stream.items[record["count"] * width :]
    return items


def _fill(record: dict[str, Any], streams: list[_Stream]) -> dict[str, Any]:
    if "form" not in record:
        return {"shape": record["shape"], "values": _values(record, streams)}
    mask = record.get("mask")
    if mask is None or mask["layout"] < FILLERS:
        return {"form": record["form"]} | {name: _fill(record[name], streams) for name in FORMS[record["form"]]}
    positions, at = [], -1
    for code in _take(mask, streams):
        at += code + 1
        positions.append(at)
    form = record["values"]["form"]
    first, *others = FORMS[form]
    items = _values(record["values"][first], streams)
    entries = [(place, item) for place, item in zip(positions, items, strict=True) if item is not None]
    entries = sorted((_by_rows(place, mask), item) for place, item in entries)
    values = {"form": form, first: {"shape": [mask["kept"]], "values": [item for _, item in entries]}}
    values |= {name: _fill(record["values"][name], streams) for name in others}
    return {"form": record["form"], "mask": {"shape": mask["shape"], "values": _ones(mask, [p for p, _ in entries])}, "values": values}


def _values(record: dict[str, Any], streams: list[_Stream]) -> list[Any]:
    """An array's values; None where a spread one has a filler."""
    layout, spread = record["layout"], record["spread"]
    if layout == SYMBOLS:
        items = _take(record, streams)
        return [item - 1 if item else None for item in items] if spread else items
    if layout in (ESCAPE, ESCAPE_COLUMNS):
        return _ones(record, [_by_rows(p, record) for p in _escapes(_take(record, streams), record["bits"])])
    dtype = record["dtype"]
    width = struct.calcsize("<" + LETTERS[dtype])
    if layout == NUMBERS:
        data = bytes(_take(record, streams, width))
    else:
        planes = [_take(record, streams, which=which) for which in range(width)]
        data = bytes(byte for item in zip(*planes, strict=True) for byte in item)
    cut = [data[at : at + width] for at in range(0, len(data), width)]
    return [None if spread and not any(item) else _number(item, dtype) for item in cut]


def _number(data: bytes, dtype: str) -> Any:
    if dtype == "bfloat16":
        return struct.unpack("<f", b"\0\0" + data)[0]
    parts = struct.unpack("<" + LETTERS[dtype], data)
    return complex(*parts) if len(parts) == 2 else parts[0]


def _escapes(symbols: list[int], bits: int) -> list[int]:
    positions, at = [], -1
    for symbol in symbols:
        if symbol == (1 << bits) - 1:
            at += symbol
        else:
            at += symbol + 1
            positions.append(at)
    return positions


def _by_rows(position: int, mask: dict[str, Any]) -> int:
    """Where an element that was counted by columns is, counted by rows."""
    if mask["layout"] in (ESCAPE, FILLERS):
        return position
    rows = mask["shape"][0]
    return position % rows * (math.prod(mask["shape"]) // rows) + position // rows


def _ones(mask: dict[str, Any], positions: list[int]) -> list[int]:
    flags = [0] * math.prod(mask["shape"])
    for position in positions:
        flags[position] = 1
    return flags


def dense(body: dict[str, Any]) -> list[Any]:
    """The values of the tensor that a body stands for, in row-major order."""
    if "form" not in body:
        return body["values"]
    if body["form"] == 0:
        return dense(body["values"])
    if body["form"] == 2:
        centroids = dense(body["centroids"])
        return [centroids[index] for index in dense(body["indices"])]
    kept = iter(dense(body["values"]))
    return [next(kept) if flag else 0 for flag in dense(body["mask"])]


# Huffman and entropy coding.


def _huffman(data: bytes, count: int, alphabet: int) -> list[int]:
    if count == 0 or alphabet == 1:
        return [0] * count
    text = "".join(f"{byte:08b}" for byte in data)
    lengths, at = _code_lengths(text, alphabet)
    at = -(-at // 8)
    lanes = max(1, count // 4096)
    begins = [0]
    if lanes > 1:
        least, at = _varint(data, at)
        for _ in range(lanes - 1):
            more, at = _varint(data, at)
            begins.append(begins[-1] + least + more)
    codes, code, before = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - before
        codes[f"{code:0{length}b}"] = symbol
        code, before = code + 1, length
    out = [0] * count
    for lane, begin in enumerate(begins):
        place = 8 * at + begin
        for i in range(lane, count, lanes):
            size = 1
            while text[place : place + size] not in codes:
                size += 1
                if place + size > len(text):
                    raise ValueError("a code is cut off")
            out[i] = codes[text[place : place + size]]
            place += size
    return out


def _code_lengths(text: str, alphabet: int) -> tuple[list[int], int]:
    lengths: list[int] = []
    at = before = 0
    while len(lengths) < alphabet:
        value, at = _gamma(text, at)
        before += value // 2 if value % 2 else -(value // 2)
        run = 1
        if before == 0:
            run, at = _gamma(text, at)
        lengths += [before] * run
    return lengths, at


def _gamma(text: str, at: int) -> tuple[int, int]:
    zeros = 0
    while text[at + zeros] == "0":
        zeros += 1
    return int(text[at + zeros : at + 2 * zeros + 1], 2), at + 2 * zeros + 1


def _entropy(data: bytes, count: int, alphabet: int) -> list[int]:
    if count == 0 or alphabet == 1:
        return [0] * count
    if alphabet <= 256:
        return _rans(data, count, alphabet)
    flat = data[0]
    size = -(-count * flat // 8)
    low = _unpack(data[len(data) - size :], count, 1 << flat)
    high = _rans(data[1 : len(data) - size], count, (alphabet - 1 >> flat) + 1)
    return [h << flat | low_bits for h, low_bits in zip(high, low, strict=True)]


def _rans(data: bytes, count: int, alphabet: int) -> list[int]:
    if alphabet == 1:
        return [0] * count
    scale = 16 if count < 4096 and alphabet <= 256 else 24
    lanes = max(1, min(count // 4096, 16), count // 65536)
    states, at = _states(data, lanes, scale)
    words = list(struct.unpack(f"<{(len(data) - at) // 4}I", data[at:]))[::-1]
    counts, out = [0] * alphabet, list[int]()
    step = update = taken = 0
    while len(out) < count:
        if step == update:
            for symbol in out[taken:]:
                counts[symbol] += 1
            taken = len(out)
            frequencies = _frequencies(counts, scale)
            update = step + max(1, step // 32)
        for lane in range(min(lanes, 1 << min(step, 63), count - len(out))):
            symbol, states[lane] = _pop(states[lane], frequencies, scale)
            if states[lane] < 1 << scale:
                states[lane] = states[lane] << 32 | words.pop()
            out.append(symbol)
        step += 1
    if words or any(state != 1 << scale for state in states):
        raise ValueError("an entropy-coded stream does not end as it began")
    return out


def _states(data: bytes, lanes: int, scale: int) -> tuple[list[int], int]:
    least = scale // 8 + 1
    if lanes == 1:
        sizes, at = [least + (len(data) - least) % 4], 0
    else:
        at = -(-lanes // 4)
        sizes = [least + size for size in _unpack(data[:at], lanes, 4)]
    states = []
    for size in sizes:
        states.append(int.from_bytes(data[at : at + size], "little"))
        at += size
    return states, at


def _frequencies(counts: list[int], scale: int) -> list[int]:
    alphabet, total = len(counts), 1 << scale
    distinct = sum(1 for count in counts if count)
    pseudo = max(1, 48 * (distinct + 1) // alphabet)
    weights = [64 * count + pseudo for count in counts]
    whole = sum(weights)
    frequencies = [weight * (total - alphabet) // whole + 1 for weight in weights]
    frequencies[counts.index(max(counts))] += total - sum(frequencies)
    return frequencies


def _pop(state: int, frequencies: list[int], scale: int) -> tuple[int, int]:
    slot, start = state % (1 << scale), 0
    for symbol, frequency in enumerate(frequencies):
        if slot < start + frequency:
            return symbol, frequency * (state >> scale) + slot - start
        start += frequency
    raise ValueError("frequencies do not sum to the scale")
