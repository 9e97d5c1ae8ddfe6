"""What the bytes of a file are spent on, tensor by tensor: the plain rows that tables are made of."""

from collections.abc import Iterator
from dataclasses import dataclass

from attar.coding import bits, header
from attar.coding.header import Array, FormRecord, Header

__all__ = ["SizeRow", "rows"]


@dataclass(frozen=True)
class SizeRow:
    """One tensor's share of a file, or (with `weights` 0) the file's own: magic, header, alignment, checksums.

    `value_symbols` and `index_symbols` are how many codes were written for the kept weights and for their places, fillers
    and escapes among them; `value_width` and `index_width` the bits that a code has at fixed width. A file's rows sum to its size.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    value_symbols: int = 0
    value_width: int = 0
    index_symbols: int = 0
    index_width: int = 0
    value_bytes: int = 0
    index_bytes: int = 0
    codebook_bytes: int = 0
    other_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All bytes of this row."""
        return self.value_bytes + self.index_bytes + self.codebook_bytes + self.other_bytes

    @property
    def fillers(self) -> int:
        """Entries that stand for no weight (Han's zero fillers)."""
        return max(0, self.value_symbols - self.kept)

    @property
    def packed_value_bits(self) -> float:
        """Bits of value per kept weight at fixed width, fillers counted."""
        return self.value_symbols * self.value_width / max(1, self.kept)

    @property
    def packed_index_bits(self) -> float:
        """Bits of place per kept weight at fixed width, fillers counted."""
        return self.index_symbols * self.index_width / max(1, self.kept)

    @property
    def value_bits(self) -> float:
        """Bits of value per kept weight in the file."""
        return 8 * self.value_bytes / max(1, self.kept)

    @property
    def index_bits(self) -> float:
        """Bits of place per kept weight in the file."""
        return 8 * self.index_bytes / max(1, self.kept)


def rows(found: Header, file_size: int) -> list[SizeRow]:
    """One row for each tensor in the file's order, and a last one, named "", for what belongs to none."""
    shares = _shares(found)
    made = [_row(name, record.body, shares) for name, record in zip(found.structure.names, found.tensors, strict=True)]
    rest = file_size - sum(row.bytes for row in made)
    return [*made, SizeRow("", (), 0, 0, other_bytes=rest)]


def _row(name: str, body: Array | FormRecord, shares: Iterator[int]) -> SizeRow:
    spent = {"values": 0, "indices": 0, "codebook": 0, "other": 0}
    codes: dict[str, Array] = {}
    for role, array in _roles(body, "values"):
        spent[role] += sum(next(shares) for _ in array.streams)
        codes.setdefault(role, array)
    mask, values = codes.get("indices"), codes.get("values")
    shape = next(header.arrays(body)).shape
    weights = next(header.arrays(body)).numel
    kept = weights if values is None else values.numel
    return SizeRow(
        name,
        shape,
        weights,
        kept,
        value_symbols=values.count if values else 0,
        value_width=_width(values) if values else 0,
        index_symbols=mask.count if mask else 0,
        index_width=_width(mask) if mask else 0,
        value_bytes=spent["values"],
        index_bytes=spent["indices"],
        codebook_bytes=spent["codebook"],
        other_bytes=spent["other"],
    )


_ROLES = {"mask": "indices", "indices": "values", "values": "values", "centroids": "codebook"}


def _roles(body: Array | FormRecord, role: str) -> Iterator[tuple[str, Array]]:
    """Each array with what it is to the weight; whatever lies inside a codebook belongs to it."""
    if isinstance(body, Array):
        yield role, body
        return
    for name, part in zip(header.part_names(body.number), body.parts, strict=True):
        yield from _roles(part, role if role == "codebook" else _ROLES.get(name, "other"))


def _width(array: Array) -> int:
    if array.layout in (header.NUMBERS, header.PLANES):
        return 8 * array.itemsize
    return bits.width(array.coded_alphabet)


def _shares(found: Header) -> Iterator[int]:
    """The bytes of each (array, stream), in the order of the file: those of a shared stream in proportion to the items, exact in sum."""
    begun = [0] * len(found.streams)
    for record in found.tensors:
        for array in header.arrays(record.body):
            for index in array.streams:
                stream = found.streams[index]
                items = array.count * (array.itemsize if stream.alphabet == 0 else 1)
                before = begun[index] * stream.size // max(1, stream.count)
                begun[index] += items
                yield begun[index] * stream.size // max(1, stream.count) - before
