"""The header: which tensors a file holds, in what form, and how many bytes each stream has (FORMAT.md, "The header").

Everything is a varint or the structure's JSON. Offsets follow from order; what can be computed is not written.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from attar.coding import bits, structure, varint
from attar.coding.structure import DTYPES, Structure
from attar.errors import FormatError
from attar.forms import KINDS

__all__ = [
    "ALIGN",
    "BUFFER",
    "ENTROPY",
    "ESCAPE",
    "ESCAPE_COLUMNS",
    "FILLERS",
    "FILLERS_COLUMNS",
    "FORM",
    "FROZEN",
    "FROZEN_FORM",
    "HUFFMAN",
    "NUMBERS",
    "PACKED",
    "PARAMETER",
    "PLANES",
    "RAW",
    "SYMBOLS",
    "Array",
    "FormRecord",
    "Header",
    "Stream",
    "TensorRecord",
    "aligned",
    "allowance",
    "arrays",
    "padding",
    "part_names",
    "read",
    "write",
]

# What a tensor is to the network. Append-only, as all numbers below.
BUFFER, PARAMETER, FROZEN, FORM, FROZEN_FORM = range(5)
# How an array becomes streams; 0 is a nested form.
NUMBERS, SYMBOLS, PLANES, ESCAPE, ESCAPE_COLUMNS, FILLERS, FILLERS_COLUMNS = range(1, 8)
GAPS = (ESCAPE, ESCAPE_COLUMNS, FILLERS, FILLERS_COLUMNS)
WITH_FILLERS = (FILLERS, FILLERS_COLUMNS)
# How a stream's symbols become bytes.
RAW, PACKED, HUFFMAN, ENTROPY = range(4)

ALIGN = 64
_ALIGNED_FROM = 4096
_DENSE, _SPARSE, _CODEBOOK = 0, 1, 2
# (form, part) -> the layouts that it may have; 0 is a form. Only a mask is gaps.
_LAYOUTS: dict[tuple[int, int], tuple[int, ...]] = {
    (_DENSE, 0): (NUMBERS, PLANES),
    (_SPARSE, 0): (SYMBOLS, *GAPS),
    (_SPARSE, 1): (0,),
    (_CODEBOOK, 0): (SYMBOLS,),
    (_CODEBOOK, 1): (0,),
}
_ANY = (0, NUMBERS, SYMBOLS, PLANES)
_MOST_DIMENSIONS = 16
_DEEPEST = 8
_LARGEST = 1 << 48
# A file may decode to this many bytes, or this many times its own size: 99.9 % sparse networks are at 2,500.
_DECODED_FLOOR = 1 << 26
_DECODED_RATIO = 1 << 13


@dataclass(frozen=True)
class Array:
    """One array of a tensor or form. `count` is how many items each of its streams holds for it; `kept` counts a mask's ones.

    `spread` marks the values of a mask with fillers: their stream has an item for each filler, which is zero, and if they are
    symbols the others are one higher.
    """

    layout: int
    shape: tuple[int, ...]
    dtype: int = 0
    alphabet: int = 0
    bits: int = 0
    kept: int = 0
    count: int = 0
    spread: bool = False
    streams: tuple[int, ...] = ()

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def coded_alphabet(self) -> int:
        """The alphabet of its stream, where that holds symbols."""
        if self.layout in GAPS:
            return 1 << self.bits
        return 256 if self.layout == PLANES else self.alphabet + self.spread

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class FormRecord:
    """A form: its number, and its parts in the order of its constructor's arguments."""

    number: int
    parts: tuple[Array | FormRecord, ...]


@dataclass(frozen=True)
class TensorRecord:
    """A held tensor; `body` is a FormRecord exactly where `kind` is FORM or FROZEN_FORM."""

    kind: int
    body: Array | FormRecord


@dataclass(frozen=True)
class Stream:
    """A run of bytes, which may serve many arrays: `count` items of `alphabet`, or, where that is 0, numbers of `count` bytes."""

    codec: int
    count: int
    alphabet: int
    size: int
    offset: int = 0


@dataclass(frozen=True)
class Header:
    """All that a file says about itself; `end` is where its last stream ends."""

    structure: Structure
    tensors: tuple[TensorRecord, ...]
    streams: tuple[Stream, ...]
    end: int = field(default=0)


def arrays(body: Array | FormRecord) -> Iterator[Array]:
    """All arrays of a record, in the order of the file."""
    if isinstance(body, Array):
        yield body
    else:
        for part in body.parts:
            yield from arrays(part)


def part_names(number: int) -> tuple[str, ...]:
    """The parts of a form in the order of the file: its constructor's arguments."""
    return tuple(inspect.signature(KINDS[number]).parameters)


def padding(offset: int) -> int:
    """Zero bytes that bring `offset` to a multiple of 64."""
    return -offset % ALIGN


def aligned(codec: int, size: int) -> bool:
    """Whether a stream begins at a multiple of 64."""
    return codec == RAW and size > _ALIGNED_FROM


def allowance(file_size: int) -> int:
    """How many bytes a file of this size may decode to."""
    return max(_DECODED_FLOOR, _DECODED_RATIO * file_size)


# Writing.


def write(document: str, tensors: list[TensorRecord], streams: list[Stream]) -> bytes:
    """The header's bytes before deflating."""
    text = document.encode()
    out = bytearray(varint.encode(len(text)) + text)
    state = {"last": -1, "opened": 0}
    for tensor in tensors:
        out += varint.encode(tensor.kind)
        _write_body(out, tensor.body, state)
    for stream in streams:
        out += varint.encode(stream.codec)
        if stream.codec in (HUFFMAN, ENTROPY):
            out += varint.encode(stream.size)
    return bytes(out)


def _write_body(out: bytearray, body: Array | FormRecord, state: dict[str, int]) -> None:
    if isinstance(body, FormRecord):
        out += varint.encode(0) + varint.encode(body.number)
        for part in body.parts:
            _write_body(out, part, state)
        return
    out += varint.encode(body.layout)
    if body.shape == (state["last"],):
        out += varint.encode(0)
    else:
        out += varint.encode(1 + len(body.shape)) + b"".join(varint.encode(size) for size in body.shape)
    if body.layout in GAPS:
        out += varint.encode(body.bits) + varint.encode(body.kept) + varint.encode(body.count - body.kept)
        state["last"] = body.kept
    elif body.layout == SYMBOLS:
        out += varint.encode(body.alphabet)
        state["last"] = body.alphabet
    else:
        out += varint.encode(body.dtype)
    for stream in body.streams:
        new = stream == state["opened"]
        out += varint.encode(0 if new else state["opened"] - stream)
        state["opened"] += new


# Reading.


def read(head: bytes, *, start: int, file_size: int) -> Header:
    """The header's bytes, inflated, as records with every size checked; the first stream begins at byte `start` of the file."""
    reader = _Reader(head, file_size)
    size = reader.number()
    document = head[reader.offset : reader.offset + size]
    _require(len(document) == size, "the structure is cut off")
    reader.offset += size
    try:
        parsed = structure.parse(document.decode())
    except UnicodeDecodeError:
        raise FormatError("the structure must be UTF-8: the file is corrupt") from None
    tensors = tuple(reader.tensor() for _ in parsed.names)
    streams = reader.streams(start)
    _require(reader.offset == len(head), f"the header has {len(head) - reader.offset} bytes too many")
    last = streams[-1] if streams else None
    return Header(parsed, tensors, streams, last.offset + last.size if last else start)


class _Reader:
    """Reads records one after the other, keeping what later ones lean on."""

    def __init__(self, head: bytes, file_size: int) -> None:
        self.head = head
        self.offset = 0
        self.last = -1
        self.budget = allowance(file_size)
        self.open: list[Stream] = []

    def number(self, limit: int = _LARGEST) -> int:
        value, self.offset = varint.decode(self.head, self.offset)
        _require(value <= limit, f"a number of the header is {value:,}, at most {limit:,} is allowed")
        return value

    def tensor(self) -> TensorRecord:
        kind = self.number(FROZEN_FORM)
        body = self.body(depth=0, spread=None)
        _require(isinstance(body, FormRecord) == (kind >= FORM), "a tensor with a form must say so, and no other")
        if isinstance(body, Array):
            _require(body.layout in (NUMBERS, PLANES), "a tensor without a form must be numbers")
            trains = DTYPES[body.dtype].is_floating_point or DTYPES[body.dtype].is_complex
            _require(kind != PARAMETER or trains, "a parameter of whole numbers cannot be trained")
        return TensorRecord(kind, body)

    def body(self, *, depth: int, spread: int | None) -> Array | FormRecord:
        """`spread` is how many items the stream of a sparse form's values has, where there are fillers among them."""
        layout = self.number(FILLERS_COLUMNS)
        if layout:
            return self.array(layout, spread)
        _require(depth < _DEEPEST, f"forms must be nested at most {_DEEPEST} deep")
        number = self.number(1 << 16)
        if number not in KINDS:
            raise FormatError(f"form number {number} is unknown: the file comes from a newer version (upgrade Attar), or is damaged")
        _require(spread is None or number in (_DENSE, _CODEBOOK), "fillers need values that are dense or a codebook")
        parts: list[Array | FormRecord] = []
        for position in range(len(part_names(number))):
            own = spread if position == 0 else None
            part = self.body(depth=depth + 1, spread=own if number != _SPARSE else _spread(parts))
            _require(
                not isinstance(part, Array) or part.layout not in GAPS or (number, position) == (_SPARSE, 0), "only a mask can be gaps"
            )
            parts.append(part)
        return FormRecord(number, tuple(parts))

    def array(self, layout: int, spread: int | None) -> Array:
        shape = self.shape()
        found = Array(layout, shape, spread=spread is not None)
        numel = found.numel
        if layout in GAPS:
            width, kept, more = self.number(16), self.number(), self.number()
            _require(width >= 1 and kept + more <= numel and spread is None, "a mask has more entries than elements")
            found = replace(found, alphabet=2, bits=width, kept=kept, count=kept + more)
            self.last = kept
        elif layout == SYMBOLS:
            alphabet = self.number(bits.LARGEST_ALPHABET)
            _require(1 <= alphabet <= bits.LARGEST_ALPHABET - found.spread, "an alphabet must have 1 to 65,536 symbols")
            found = replace(found, alphabet=alphabet, count=numel if spread is None else spread)
            self.last = alphabet
        else:
            found = replace(found, dtype=self.number(len(DTYPES) - 1), count=numel if spread is None else spread)
        # what it takes to decode: numbers as they are; symbols as 32-bit integers; a mask's elements and its dense weight
        self.spend(
            found.count * found.itemsize if layout in (NUMBERS, PLANES) else 4 * found.count + (9 * numel if layout in GAPS else 8 * numel)
        )
        sources = found.itemsize if layout == PLANES else 1
        return replace(found, streams=tuple(self.source(found) for _ in range(sources)))

    def shape(self) -> tuple[int, ...]:
        dimensions = self.number(1 + _MOST_DIMENSIONS)
        if dimensions == 0:
            _require(self.last >= 0, "a shape refers to a number that is not there")
            return (self.last,)
        shape = tuple(self.number() for _ in range(dimensions - 1))
        _require(math.prod(size for size in shape if size) <= _LARGEST, f"shape {list(shape)} has too many elements")
        return shape

    def spend(self, count: int) -> None:
        self.budget -= count
        _require(self.budget >= 0, "its arrays are larger than a file of its size may hold")

    def source(self, array: Array) -> int:
        """The stream that an array reads next, opened or continued."""
        back = self.number(len(self.open))
        numbers = array.layout == NUMBERS
        alphabet = 0 if numbers else array.coded_alphabet
        count = array.count * (array.itemsize if numbers else 1)
        if back == 0:
            self.open.append(Stream(RAW, count, alphabet, 0))
            return len(self.open) - 1
        index = len(self.open) - back
        stream = self.open[index]
        _require((stream.alphabet == 0) == numbers, "a stream must hold numbers or symbols, not both")
        self.open[index] = replace(stream, count=stream.count + count, alphabet=max(stream.alphabet, alphabet))
        return index

    def streams(self, offset: int) -> tuple[Stream, ...]:
        found = []
        for stream in self.open:
            codec = self.number(ENTROPY)
            _require(codec == RAW or stream.alphabet > 0, "numbers must be raw")
            size = self.number() if codec in (HUFFMAN, ENTROPY) else implied_size(codec, stream)
            # Every Huffman code has a bit; the entropy coder's symbols may cost nothing, and are bounded by the budget alone.
            _require(codec != HUFFMAN or stream.alphabet == 1 or stream.count <= 8 * size, "a stream is too short for its symbols")
            offset += padding(offset) if aligned(codec, size) else 0
            found.append(replace(stream, codec=codec, size=size, offset=offset))
            offset += size
        return tuple(found)


def implied_size(codec: int, stream: Stream) -> int:
    """Bytes of a raw or packed stream, which follow from what it holds."""
    if codec == PACKED:
        return -(-stream.count * bits.width(stream.alphabet) // 8)
    return stream.count * (1 if stream.alphabet <= 256 else 2)


def _spread(parts: list[Array | FormRecord]) -> int | None:
    """How many entries, fillers among them, the mask that was just read has, where it has fillers."""
    mask = parts[0] if parts else None
    return mask.count if isinstance(mask, Array) and mask.layout in WITH_FILLERS else None


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise FormatError(f"{message}: the file is corrupt or hostile")
