"""Forms to streams and back: which layout a mask gets, which codec a stream, and what shares a stream (FORMAT.md, "The arrays")."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attar.coding import bits, entropy, gaps, header, huffman
from attar.coding.header import Array, FormRecord, Header, TensorRecord
from attar.coding.structure import DTYPES
from attar.errors import AttarError, FormatError
from attar.forms import KINDS, Codebook, Dense, Form, Numbers, Part, Sparse, Symbols

__all__ = ["CODECS", "from_streams", "to_streams"]

_SMALL_NUMBERS = 4096  # bytes; smaller arrays of numbers share one stream
_SMALL_SYMBOLS = 8192  # fewer symbols may share a stream, and so a model, with others of their kind
_MOST_SHARED = 1 << 16
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Codec:
    """What `save(codec=...)` may choose among: codecs for streams, layouts for masks, byte planes for numbers, sharing of models."""

    streams: tuple[int, ...]
    masks: tuple[int, ...]
    planes: bool = False
    share: bool = False


CODECS = {
    "auto": Codec(
        (header.PACKED, header.HUFFMAN, header.ENTROPY),
        (header.ESCAPE, header.ESCAPE_COLUMNS, header.FILLERS, header.FILLERS_COLUMNS),
        planes=True,
        share=True,
    ),
    "raw": Codec((header.RAW,), (header.SYMBOLS,)),
    "packed": Codec((header.PACKED,), (header.FILLERS,)),
    "huffman": Codec((header.HUFFMAN,), (header.FILLERS,)),
    "huffman-escape": Codec((header.HUFFMAN,), (header.ESCAPE,)),
    "entropy": Codec((header.ENTROPY,), (header.ESCAPE,), share=True),
}


@dataclass(frozen=True)
class Piece:
    """What one array puts into one stream: numbers' bytes (alphabet 0), or symbols and the bytes that they have by themselves."""

    codec: int
    data: bytes
    alphabet: int = 0
    symbols: NDArray[np.integer] | None = None
    role: str = ""


# Encoding.


def to_streams(
    tensors: Mapping[str, Tensor], forms: Mapping[str, Form], order: Sequence[str], *, codec: str = "auto"
) -> tuple[list[TensorRecord], list[header.Stream], list[bytes]]:
    """Records and streams of the tensors called `order`; the last list holds each stream's bytes.

    Raises AttarError for a codec that is not one of CODECS, FormatError for a tensor of a type that a file cannot hold.
    """
    if codec not in CODECS:
        raise AttarError(f"codec must be one of {', '.join(CODECS)}, got {codec!r}")
    choice = CODECS[codec]
    records, pieces = [], []
    for name in order:
        try:
            kind, body, own = _tensor(tensors[name], forms.get(name), choice)
        except FormatError as error:
            raise FormatError(f"{name}: {error}") from None
        records.append(TensorRecord(kind, body))
        pieces += own
    owners, merged = _share(pieces, choice)
    numbers = iter(owners)
    placed = [replace(record, body=_place(record.body, numbers)) for record in records]
    streams = [header.Stream(piece.codec, 0, piece.alphabet, len(piece.data)) for piece in merged]
    return placed, streams, [piece.data for piece in merged]


def _tensor(tensor: Tensor, form: Form | None, choice: Codec) -> tuple[int, Array | FormRecord, list[Piece]]:
    if form is not None:
        trains = [parameter.requires_grad for parameter in form.parameters()]
        return (header.FORM if any(trains) or not trains else header.FROZEN_FORM), *_form(form, choice)
    kind = header.BUFFER
    if isinstance(tensor, nn.Parameter):
        kind = header.PARAMETER if tensor.requires_grad else header.FROZEN
    return kind, *_numbers(tensor.detach(), choice)


def _form(form: Form, choice: Codec) -> tuple[FormRecord, list[Piece]]:
    if isinstance(form, Sparse):
        return _sparse(form, choice)
    bodies: list[Array | FormRecord] = []
    pieces: list[Piece] = []
    body: Array | FormRecord
    for part in form.parts().values():
        if isinstance(part, Form):
            body, own = _form(part, choice)
        elif isinstance(part, Symbols):
            body, own = _symbols(_array(part.values).reshape(-1), tuple(part.values.shape), part.alphabet, choice)
        else:
            body, own = _numbers(part.values, choice)
        bodies.append(body)
        pieces += own
    return FormRecord(form.number, tuple(bodies)), pieces


def _numbers(values: Tensor, choice: Codec) -> tuple[Array, list[Piece]]:
    if values.dtype not in DTYPES or values.is_quantized or values.layout != torch.strided:
        raise FormatError(f"a file cannot hold a {values.layout} tensor of {values.dtype}")
    array = Array(header.NUMBERS, tuple(values.shape), dtype=DTYPES.index(values.dtype), count=values.numel())
    data = _bytes(values)
    whole = array, [Piece(header.RAW, data)]
    if not choice.planes or len(data) <= _SMALL_NUMBERS:
        return whole
    pieces = [_plane(plane, choice) for plane in np.ascontiguousarray(_items(values).T)]
    small = sum(len(piece.data) for piece in pieces) < len(data)
    return (replace(array, layout=header.PLANES), pieces) if small else whole


def _plane(plane: NDArray[np.uint8], choice: Codec) -> Piece:
    """One byte of each number; where it is noise, as in the last bits of a trained weight, no codec need be tried."""
    counts = np.bincount(plane, minlength=256)
    seen = counts[counts > 0]
    if float((seen * np.log2(plane.size / seen)).sum()) > 7.9 * plane.size:
        return Piece(header.PACKED, plane.tobytes(), 256, plane, "plane")
    return _code(plane, 256, choice, "plane")


def _symbols(symbols: NDArray, shape: tuple[int, ...], alphabet: int, choice: Codec) -> tuple[Array, list[Piece]]:
    array = Array(header.SYMBOLS, shape, alphabet=alphabet, count=symbols.size)
    return array, [_code(symbols, alphabet, choice, "values")]


def _sparse(form: Sparse, choice: Codec) -> tuple[FormRecord, list[Piece]]:
    """The smallest of the ways to store a mask and its values; the first where several are."""
    mask = _array(form.mask)
    values = _form(form.values, choice)
    candidates = []
    for layout in choice.masks:
        if layout in header.WITH_FILLERS and not _can_be_spread(form.values):
            layout -= header.FILLERS - header.ESCAPE
        if layout in (header.ESCAPE_COLUMNS, header.FILLERS_COLUMNS) and mask.ndim < 2:
            continue
        if layout == header.SYMBOLS:
            body, pieces = _symbols(mask.reshape(-1), mask.shape, 2, choice)
        elif layout in header.WITH_FILLERS:
            candidates.append(_with_fillers(form, mask, layout, choice))
            continue
        else:
            body, pieces = _escaped(mask, layout, choice)
        candidates.append((FormRecord(form.number, (body, values[0])), pieces + values[1]))
    return min(candidates, key=lambda candidate: sum(len(piece.data) for piece in candidate[1]))


def _escaped(mask: NDArray, layout: int, choice: Codec) -> tuple[Array, list[Piece]]:
    flat = _columns(mask).reshape(-1) if layout == header.ESCAPE_COLUMNS else mask.reshape(-1)
    width = gaps.best_bits(flat, "escape") if header.ENTROPY in choice.streams else _huffman_width(flat)
    symbols = gaps.escape_encode(flat, width)
    array = Array(layout, mask.shape, alphabet=2, bits=width, kept=int(flat.sum()), count=symbols.size)
    return array, [_code(symbols, 1 << width, choice, "gaps")]


def _huffman_width(flat: NDArray) -> int:
    """The bits of a gap that make gaps with escapes smallest by Huffman's code, which spends a bit on each at least."""

    def coded_bits(width: int) -> int:
        counts = np.bincount(gaps.escape_encode(flat, width), minlength=1)
        return int((counts * huffman.code_lengths(counts)).sum()) if counts.any() else 0

    return min(range(1, 13), key=coded_bits)


def _with_fillers(form: Sparse, mask: NDArray, layout: int, choice: Codec) -> tuple[FormRecord, list[Piece]]:
    by_columns = layout == header.FILLERS_COLUMNS
    flat = _columns(mask).reshape(-1) if by_columns else mask.reshape(-1)
    kept = int(flat.sum())
    width = _packed_width(flat, form.values) if header.ENTROPY not in choice.streams else gaps.best_bits(flat, "fillers")
    symbols, is_filler = gaps.fillers_encode(flat, width)
    order = _column_order(mask) if by_columns else np.arange(kept)
    array = Array(layout, mask.shape, alphabet=2, bits=width, kept=kept, count=symbols.size)
    pieces = [_code(symbols, 1 << width, choice, "gaps")]
    if isinstance(form.values, Codebook):
        alphabet = form.values.centroids.shape[0]
        spread = np.zeros(symbols.size, np.int32)
        spread[~is_filler] = _array(form.values.indices)[order].astype(np.int32) + 1
        indices = Array(header.SYMBOLS, (kept,), alphabet=alphabet, count=symbols.size, spread=True)
        centroids, own = _form(form.values.centroids, choice)
        pieces += [_code(spread, alphabet + 1, choice, "values"), *own]
        return FormRecord(form.number, (array, FormRecord(form.values.number, (indices, centroids)))), pieces
    values = form.values().detach()
    items = np.zeros((symbols.size, values.element_size()), np.uint8)
    items[~is_filler] = _items(values)[order]
    numbers = Array(header.NUMBERS, (kept,), dtype=DTYPES.index(values.dtype), count=symbols.size, spread=True)
    return FormRecord(form.number, (array, FormRecord(form.values.number, (numbers,)))), [*pieces, Piece(header.RAW, items.tobytes())]


def _can_be_spread(values: Form) -> bool:
    """Whether fillers can be told from these values: a codebook's codes leave one free, numbers must not be zero themselves."""
    if isinstance(values, Codebook):
        return values.centroids.shape[0] < bits.LARGEST_ALPHABET
    if not isinstance(values, Dense) or values.values.dtype not in DTYPES:
        return False
    return bool(_items(values.values).any(axis=1).all())


def _packed_width(flat: NDArray, values: Form) -> int:
    """The bits of a gap that make gaps and values smallest at fixed width: (kept + fillers) (value bits + gap bits)."""
    distances = np.diff(np.flatnonzero(flat), prepend=-1) - 1
    value_bits = bits.width(values.centroids.shape[0] + 1) if isinstance(values, Codebook) else 8 * values().element_size()
    return min(range(1, 17), key=lambda width: (distances.size + int((distances >> width).sum())) * (value_bits + width))


def _columns(mask: NDArray) -> NDArray:
    """The mask as a matrix [first dimension, the rest], transposed."""
    return mask.reshape(mask.shape[0], math.prod(mask.shape[1:])).T


def _column_order(mask: NDArray) -> NDArray:
    """Which of the kept elements, counted by rows, come first, second, ... by columns."""
    rank = np.cumsum(mask.reshape(-1)).reshape(mask.shape) - 1
    return _columns(rank)[_columns(mask)]


def _code(symbols: NDArray, alphabet: int, choice: Codec, role: str) -> Piece:
    """Symbols by the codec that makes them smallest."""
    coded = [Piece(codec, _encode(codec, symbols, alphabet), alphabet, symbols, role) for codec in choice.streams]
    return min(coded, key=lambda piece: len(piece.data))


def _encode(codec: int, symbols: NDArray, alphabet: int) -> bytes:
    if codec == header.RAW:
        return bits.as_symbols(symbols, alphabet).astype("<u1" if alphabet <= 256 else "<u2").tobytes()
    return {header.PACKED: bits.pack, header.HUFFMAN: huffman.encode, header.ENTROPY: entropy.encode}[codec](symbols, alphabet)


def _share(pieces: list[Piece], choice: Codec) -> tuple[list[int], list[Piece]]:
    """The stream of each piece, and the streams: small numbers are one, small symbols of one role are where that is smaller."""
    owners: list[int] = []
    streams: list[Piece] = []
    group: dict[str, int] = {}  # role -> the stream that may still grow
    for piece in pieces:
        small = len(piece.data) <= _SMALL_NUMBERS if piece.symbols is None else choice.share and piece.symbols.size <= _SMALL_SYMBOLS
        index = group.get(piece.role) if small else None
        joined = None if index is None else _joined(streams[index], piece, choice)
        if index is None or joined is None:
            owners.append(len(streams))
            streams.append(piece)
            if small:
                group[piece.role] = len(streams) - 1
        else:
            owners.append(index)
            streams[index] = joined
    return owners, streams


def _joined(stream: Piece, piece: Piece, choice: Codec) -> Piece | None:
    """Both as one stream, or None where that is no smaller than apart (a stream of its own costs some bytes of the header)."""
    if piece.symbols is None or stream.symbols is None:
        return replace(stream, data=stream.data + piece.data)
    if stream.symbols.size + piece.symbols.size > _MOST_SHARED:
        return None
    symbols = np.concatenate([stream.symbols, piece.symbols])
    joined = _code(symbols, max(stream.alphabet, piece.alphabet), choice, piece.role)
    return joined if len(joined.data) <= len(stream.data) + len(piece.data) + 2 else None


def _place(body: Array | FormRecord, numbers: Iterator[int]) -> Array | FormRecord:
    if isinstance(body, FormRecord):
        return replace(body, parts=tuple(_place(part, numbers) for part in body.parts))
    sources = body.itemsize if body.layout == header.PLANES else 1
    return replace(body, streams=tuple(next(numbers) for _ in range(sources)))


def _array(values: Tensor) -> NDArray:
    return values.detach().cpu().contiguous().numpy()


def _bytes(values: Tensor) -> bytes:
    """The little-endian bytes of a tensor in row-major order."""
    values = values.detach().cpu().contiguous()
    whole = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    return _array(whole.view(_WHOLE[whole.element_size()])).tobytes()


def _items(values: Tensor) -> NDArray[np.uint8]:
    """The bytes [numel, itemsize] of a tensor."""
    return np.frombuffer(_bytes(values), np.uint8).reshape(values.numel(), values.element_size())


# Decoding.


def from_streams(found: Header, data: bytearray) -> tuple[dict[str, Tensor], dict[str, Form]]:
    """The tensors and forms of a validated file, in memory of their own.

    Raises FormatError where a stream does not decode, or parts do not make a form.
    """
    reader = _Parts(found, data)
    tensors: dict[str, Tensor] = {}
    forms: dict[str, Form] = {}
    budget = header.allowance(len(data))
    for name, record in zip(found.structure.names, found.tensors, strict=True):
        try:
            if isinstance(record.body, Array):
                values = reader.numbers(record.body)
                tensors[name] = (
                    values if record.kind == header.BUFFER else nn.Parameter(values, requires_grad=record.kind == header.PARAMETER)
                )
                continue
            forms[name] = form = reader.form(record.body)
            budget -= 4 * math.prod(form.shape)
            if budget < 0:
                raise FormatError("its dense weight is larger than a file of its size may hold: the file is hostile")
            form.requires_grad_(record.kind == header.FORM)
            with torch.no_grad():
                tensors[name] = nn.Parameter(form(), requires_grad=any(p.requires_grad for p in form.parameters()))
        except FormatError as error:
            raise FormatError(f"{name}: {error}") from None
    return tensors, forms


class _Parts:
    """Hands out the arrays of a file: each stream is decoded once and read in the order of the records."""

    def __init__(self, found: Header, data: bytearray) -> None:
        self.data = data
        self.streams = found.streams
        self.read = [0] * len(found.streams)
        self.symbols = _decode(found.streams, data)

    def form(self, body: FormRecord) -> Form:
        mask = body.parts[0]
        if isinstance(mask, Array) and mask.layout in header.WITH_FILLERS:
            parts = self.with_fillers(mask, body.parts[1])
        else:
            parts = [self.part(part) for part in body.parts]
        return _put_together(body.number, parts)

    def part(self, part: Array | FormRecord) -> Part:
        if isinstance(part, FormRecord):
            return self.form(part)
        if part.layout in (header.NUMBERS, header.PLANES):
            return Numbers(self.numbers(part))
        symbols = self.take(part)
        if part.layout == header.SYMBOLS:
            return Symbols(torch.from_numpy(symbols).view(part.shape), part.alphabet)
        positions = gaps.escape_decode(symbols, part.bits, part.numel, count=part.kept)
        return Symbols(_mask(part, positions)[0], 2)

    def with_fillers(self, mask: Array, values: Array | FormRecord) -> list[Part]:
        """Mask and values together: an entry is a filler where its value is zero."""
        assert isinstance(values, FormRecord), "the header was validated"
        items, *others = values.parts
        assert isinstance(items, Array), "the header was validated"
        positions = gaps.fillers_decode(self.take(mask), mask.numel)
        given: NDArray = self.take(items) if items.layout == header.SYMBOLS else self.items(items)
        is_entry = given != 0 if given.ndim == 1 else given.any(axis=1)
        if int(is_entry.sum()) != mask.kept:
            raise FormatError(f"{mask.kept} values must be left without the fillers, got {int(is_entry.sum())}: the file is corrupt")
        flags, order = _mask(mask, positions[is_entry])
        kept = given[is_entry][order]
        first: Part
        if items.layout == header.SYMBOLS:
            first = Symbols(torch.from_numpy(kept - 1), items.alphabet)
        else:
            first = Numbers(_typed(kept, items))
        return [Symbols(flags, 2), _put_together(values.number, [first, *(self.part(other) for other in others)])]

    def numbers(self, array: Array) -> Tensor:
        """The array as a tensor of its own memory; read at once where its stream is its own and large."""
        stream, dtype = self.streams[array.streams[0]], DTYPES[array.dtype]
        own = array.layout == header.NUMBERS and stream.size == array.count * array.itemsize
        if own and header.aligned(stream.codec, stream.size) and dtype != torch.bool:  # truth values are checked
            view = torch.frombuffer(self.data, dtype=dtype, count=array.count, offset=stream.offset)
            return view.clone().view(array.shape)  # at an address as PyTorch chooses them: matrix products may depend on it
        return _typed(self.items(array), array)

    def items(self, array: Array) -> NDArray[np.uint8]:
        """The bytes [count, itemsize] of an array of numbers."""
        if array.layout == header.PLANES:
            return np.stack([self.take(array, plane) for plane in range(array.itemsize)], axis=1).astype(np.uint8)
        index, size = array.streams[0], array.count * array.itemsize
        at = self.streams[index].offset + self.read[index]
        self.read[index] += size
        return np.frombuffer(self.data, np.uint8, size, at).reshape(array.count, array.itemsize).copy()

    def take(self, array: Array, which: int = 0) -> NDArray[np.int32]:
        """The next symbols of a stream."""
        index = array.streams[which]
        begin, self.read[index] = self.read[index], self.read[index] + array.count
        symbols = self.symbols[index][begin : self.read[index]]
        alphabet = array.coded_alphabet
        if alphabet < self.streams[index].alphabet and symbols.size and int(symbols.max()) >= alphabet:
            raise FormatError(f"symbols must be below {alphabet}, got {int(symbols.max())}: the file is corrupt")
        return symbols


def _decode(streams: Sequence[header.Stream], data: bytearray) -> dict[int, NDArray[np.int32]]:
    """The symbols of every stream that holds any; all streams of one codec at once."""
    found: dict[int, NDArray[np.int32]] = {}
    view = memoryview(data)
    for codec, decode_many in ((header.HUFFMAN, huffman.decode_many), (header.ENTROPY, entropy.decode_many)):
        chosen = [i for i, stream in enumerate(streams) if stream.alphabet and stream.codec == codec]
        work = [(bytes(view[s.offset : s.offset + s.size]), s.count, s.alphabet) for s in (streams[i] for i in chosen)]
        found |= dict(zip(chosen, decode_many(work), strict=True))
    for i, stream in enumerate(streams):
        if stream.alphabet and stream.codec == header.PACKED:
            found[i] = bits.unpack(bytes(view[stream.offset : stream.offset + stream.size]), stream.count, stream.alphabet)
        elif stream.alphabet and stream.codec == header.RAW:
            found[i] = np.frombuffer(view, "<u1" if stream.alphabet <= 256 else "<u2", stream.count, stream.offset).astype(np.int32)
            if stream.count and int(found[i].max()) >= stream.alphabet:
                raise FormatError(f"symbols must be below {stream.alphabet}, got {int(found[i].max())}: the file is corrupt")
    return found


def _mask(array: Array, positions: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64] | slice]:
    """The mask whose ones are at `positions`, and the order that brings their values from the file's to the mask's."""
    order: NDArray[np.int64] | slice = slice(None)
    if array.layout in (header.ESCAPE_COLUMNS, header.FILLERS_COLUMNS) and positions.size:
        rows = array.shape[0]
        positions = positions % rows * (array.numel // rows) + positions // rows
        order = np.argsort(positions)
    flags = np.zeros(array.numel, bool)
    flags[positions] = True
    return torch.from_numpy(flags).view(array.shape), order


def _typed(items: NDArray[np.uint8], array: Array) -> Tensor:
    """Bytes [items, itemsize] as numbers, of the array's shape."""
    dtype = DTYPES[array.dtype]
    if dtype == torch.bool and items.size and int(items.max()) > 1:
        raise FormatError(f"a truth value must be 0 or 1, got {int(items.max())}: the file is corrupt")
    if not items.size:
        return torch.empty(array.shape, dtype=dtype)
    return torch.frombuffer(bytearray(items.tobytes()), dtype=dtype).view(array.shape)


def _put_together(number: int, parts: Sequence[Part]) -> Form:
    kind = KINDS[number]
    try:
        return kind.from_parts(dict(zip(header.part_names(number), parts, strict=True)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{kind.__name__} cannot be put together ({str(error).splitlines()[0][:150]}): the file is corrupt") from None
