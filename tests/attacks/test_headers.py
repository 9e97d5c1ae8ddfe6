"""Headers that lie, under valid checksums: refused before anything is allocated."""

import json
import zlib

import numpy as np
import pytest

from attar.coding import container, decode, entropy, header, validate, varint
from attar.errors import FormatError

V = varint.encode
ONE = [["w"], [], {}, [], "@", {}]


def shape(*sizes: int) -> bytes:
    return V(1 + len(sizes)) + b"".join(map(V, sizes))


def numbers(*sizes: int, dtype: int = 0, source: int = 0) -> bytes:
    return V(header.NUMBERS) + shape(*sizes) + V(dtype) + V(source)


def sparse(*sizes: int, layout: int, kept: int, more: int, bits: int = 4) -> bytes:
    """A sparse form of float32 values, mask and values in two streams."""
    mask = V(layout) + shape(*sizes) + V(bits) + V(kept) + V(more) + V(0)
    return V(header.FORM) + V(0) + V(1) + mask + V(0) + V(0) + V(header.NUMBERS) + V(0) + V(0) + V(0)


@pytest.mark.parametrize(
    "records",
    [
        b"",
        V(0),
        V(99),
        V(0) + V(8),
        V(0) + V(header.SYMBOLS) + shape(4) + V(4) + V(0) + V(1),
        V(0) + numbers(1 << 40) + V(0),
        V(0) + numbers(1 << 47, 1 << 47) + V(0),
        V(0) + numbers(*[1 << 40] * 16) + V(0),
        V(0) + numbers(*[1] * 17) + V(0),
        V(0) + numbers(4, dtype=12) + V(0),
        V(0) + numbers(4, source=1) + V(0),
        V(0) + numbers(4, source=1 << 40) + V(0),
        V(0) + numbers(4) + V(1),
        V(0) + numbers(4) + V(4),
        V(0) + numbers(4) + V(0) + V(0),
        V(0) + numbers(5) + V(0),
        V(0) + numbers(3) + V(0),
        V(1) + numbers(2, dtype=4) + V(0),
        V(0) + V(header.NUMBERS) + V(0) + V(0) + V(0) + V(0),
        V(3) + numbers(4) + V(0),
        V(0) + V(0) + V(0) + numbers(4) + V(0),
        V(3) + V(0) + V(77) + numbers(4) + V(0),
        V(3) + (V(0) + V(1)) * 1000,
        V(3) + V(0) + V(0) + V(header.ESCAPE) + shape(4) + V(4) + V(1) + V(0) + V(0) + V(1),
        sparse(4, layout=header.ESCAPE, kept=5, more=0) + V(1) + V(0),
        sparse(4, layout=header.ESCAPE, kept=2, more=3) + V(1) + V(0),
        sparse(4, layout=header.ESCAPE, kept=2, more=0, bits=0) + V(1) + V(0),
        sparse(4, layout=header.ESCAPE, kept=2, more=0, bits=17) + V(1) + V(0),
        sparse(1 << 40, layout=header.ESCAPE, kept=0, more=0) + V(1) + V(0),
        sparse(1 << 40, layout=header.FILLERS, kept=0, more=0) + V(1) + V(0),
        sparse(1 << 30, layout=header.ESCAPE, kept=1 << 30, more=0) + V(3) + V(4) + V(0),
        b"\xff" * 40,
        b"\x80" * 40,
    ],
)  # fmt: skip
def test_records_that_lie_are_refused(craft, little_memory, records):
    with pytest.raises(FormatError):
        validate(craft(ONE, records, [bytes(16)]))


def test_streams_may_not_overlap_or_leave_a_gap(craft):
    assert decode(craft(ONE, V(0) + numbers(4) + V(0), [bytes(16)])).tensors["w"].tolist() == [0, 0, 0, 0]
    for size in (0, 15, 17, 1000):
        with pytest.raises(FormatError, match="streams must end"):
            validate(craft(ONE, V(0) + numbers(4) + V(0), [bytes(size)]))


def test_one_stream_cannot_hold_both_numbers_and_symbols(craft):
    document = [["a", "b"], [], {}, [], ["l", "@", "@"], {}]
    codebook = V(3) + V(0) + V(2) + V(header.SYMBOLS) + shape(4) + V(2) + V(1) + V(0) + V(0) + numbers(2)
    with pytest.raises(FormatError, match="numbers or symbols"):
        validate(craft(document, V(0) + numbers(4) + codebook + V(0) + V(0), [bytes(20), bytes(8)]))


def test_a_constant_entropy_stream_may_not_stand_for_gigabytes(craft, little_memory):
    """The entropy coder spends nothing on what is certain, so no number of bytes bounds its symbols: the file's size does."""
    count = 1 << 28
    bomb = V(3) + V(0) + V(2) + V(header.SYMBOLS) + shape(count) + V(2) + V(0) + V(0) + V(0) + numbers(2) + V(3) + V(8) + V(0)
    with pytest.raises(FormatError, match="larger than a file of its size"):
        validate(craft(ONE, bomb, [bytes(8), bytes(8)]))
    few = entropy.encode(np.zeros(1 << 20, np.uint8), 2)
    honest = V(3) + V(0) + V(2) + V(header.SYMBOLS) + shape(1 << 20) + V(2) + V(0) + V(0) + V(0) + numbers(2) + V(3) + V(len(few)) + V(0)
    assert decode(craft(ONE, honest, [few, bytes(8)])).tensors["w"].numel() == 1 << 20


def test_an_alphabet_of_one_costs_nothing_and_is_bounded_all_the_same(craft, little_memory):
    for codec in (V(1), V(2) + V(0), V(3) + V(0)):
        bomb = V(3) + V(0) + V(2) + V(header.SYMBOLS) + shape(1 << 33) + V(1) + V(0) + V(0) + V(0) + numbers(1) + codec + V(0)
        with pytest.raises(FormatError, match="larger than a file of its size"):
            validate(craft(ONE, bomb, [b"", bytes(4)]))


def test_many_arrays_may_not_read_one_stream_twice(craft):
    """Arrays that share a stream read on where the last one stopped, so the bytes must be there for all of them."""
    names = [f"t{i}" for i in range(1000)]
    records = b"".join(V(0) + numbers(1 << 20, source=min(i, 1)) for i in range(1000)) + V(0)
    with pytest.raises(FormatError):
        validate(craft([names, [], {}, [], "@", {}], records, [bytes(4 << 20)]))


def test_names_are_short_different_and_no_text_of_a_program(craft):
    for names in (["x" * 100_000], ["a", "a"], ["a", "a.b"], ['"'], ["forward"], ["graph"], [""]):
        records = b"".join(V(0) + numbers(0, source=min(i, 1)) for i in range(len(names))) + V(0)
        with pytest.raises(FormatError):
            validate(craft([names, [], {}, [], "@", {}], records, [b""]))


def test_a_structure_that_is_no_text_or_nested_without_end_is_refused(craft, little_memory):
    for text in ("[" * 900_000, '{"a":' * 100_000, "[" * 50 + "1" + "]" * 50):
        with pytest.raises(FormatError):
            validate(craft(text))
    raw = V(2) + b"\xff\xfe"
    with pytest.raises(FormatError, match="UTF-8"):
        validate(container.envelope(raw, [], aligned=[]))
    with pytest.raises(FormatError, match="cut off"):
        validate(container.envelope(V(1000) + b"[]", [], aligned=[]))


def test_a_deflate_bomb_is_not_inflated(little_memory):
    deflate = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(512)) + deflate.flush()
    assert len(bomb) < 1 << 20
    body = container.MAGIC + V(1) + V(len(bomb)) + bomb
    with pytest.raises(FormatError, match="inflated"):
        validate(body + zlib.crc32(body).to_bytes(4, "little"))


def test_a_header_longer_than_the_file_is_refused():
    for size in (1000, (1 << 63) - 1):
        body = container.MAGIC + V(1) + V(size) + b"x"
        with pytest.raises(FormatError, match="within the file"):
            validate(body + zlib.crc32(body).to_bytes(4, "little"))


def test_deep_nesting_of_arguments_is_refused(craft):
    value: object = 1
    for _ in range(500):
        value = [value]
    with pytest.raises(FormatError):
        decode(craft(json.dumps([[], [], {}, [["cat", value]], "^", {}])))
