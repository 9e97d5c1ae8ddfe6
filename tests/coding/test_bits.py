"""Bit packing against its definition, at every width."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.coding import bits
from attar.errors import FormatError

streams = st.integers(1, 65536).flatmap(lambda a: st.tuples(st.lists(st.integers(0, a - 1), max_size=70), st.just(a)))


def packed_by_definition(symbols, width):
    number = sum(symbol << i * width for i, symbol in enumerate(symbols))
    return number.to_bytes(-(-len(symbols) * width // 8), "little")


@given(streams)
def test_pack_is_its_definition_and_unpack_inverts_it(stream):
    symbols, alphabet = stream
    data = bits.pack(symbols, alphabet)
    assert data == packed_by_definition(symbols, bits.width(alphabet))
    assert bits.unpack(data, len(symbols), alphabet).tolist() == symbols


@pytest.mark.parametrize("width", range(17))
def test_streams_longer_than_a_block(width):
    symbols = np.random.default_rng(width).integers(0, 1 << width, bits.BLOCK + 13)
    data = bits.pack(symbols, 1 << width)
    assert len(data) == -(-symbols.size * width // 8)
    assert np.array_equal(bits.unpack(data, symbols.size, 1 << width), symbols)
    assert data[: 11 * width] == packed_by_definition(symbols[:88].tolist(), width)


def test_width_is_the_rounded_up_logarithm():
    for alphabet in [1, 2, 3, 4, 5, 8, 9, 255, 256, 257, 65535, 65536]:
        assert 2 ** bits.width(alphabet) >= alphabet > 2 ** bits.width(alphabet) / 2


@pytest.mark.parametrize("alphabet", [0, 65537])
def test_alphabets_that_are_not_allowed(alphabet):
    with pytest.raises(ValueError, match="alphabet"):
        bits.pack([], alphabet)


@pytest.mark.parametrize("symbols", [[-1], [4], [0.5], [[1]]])
def test_symbols_that_are_not_allowed(symbols):
    with pytest.raises(ValueError, match="symbols must be"):
        bits.pack(symbols, 4)


@pytest.mark.parametrize(
    ("data", "count", "alphabet", "rule"),
    [
        (b"", 1, 2, "must take 1 bytes"),
        (b"\0\0", 8, 2, "must take 1 bytes"),
        (b"\0", 5, 1, "must take 0 bytes"),
        (b"\x08", 1, 8, "padding"),
        (b"\x80", 7, 2, "padding"),
        (b"\x03", 1, 3, "below 3"),
    ],
)
def test_refusals(data, count, alphabet, rule):
    with pytest.raises(FormatError, match=rule):
        bits.unpack(data, count, alphabet)
