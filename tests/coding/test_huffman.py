"""Huffman: the code (optimal, complete, canonical, limited), the stream, hostile bytes, and that both readers agree."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.coding import huffman
from attar.errors import FormatError

frequencies = st.lists(st.integers(0, 1000), min_size=2, max_size=60).filter(lambda f: np.count_nonzero(f) >= 2)
streams = st.tuples(
    st.sampled_from([2, 3, 32, 300, 65536]), st.integers(0, 2**32), st.integers(0, 300), st.sampled_from([0.05, 0.5, 1.0])
).map(lambda t: (np.floor(t[0] * np.random.default_rng(t[1]).random(t[2]) ** (1 / t[3])).astype(int), t[0]))


def mean_length(freq, lengths):
    return (np.asarray(freq) * lengths).sum() / np.sum(freq)


def entropy(freq):
    p = np.asarray(freq)[np.asarray(freq) > 0] / np.sum(freq)
    return -(p * np.log2(p)).sum()


@given(frequencies)
def test_code_is_complete_and_within_a_bit_of_the_entropy(freq):
    lengths = huffman.code_lengths(freq)
    assert ((lengths > 0) == (np.array(freq) > 0)).all()
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1
    assert entropy(freq) - 1e-9 <= mean_length(freq, lengths) < entropy(freq) + 1


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5))
def test_no_prefix_code_is_better(freq):
    best = min(
        mean_length(freq, np.array(lengths))
        for lengths in product(range(1, len(freq)), repeat=len(freq))
        if sum(2.0**-length for length in lengths) <= 1
    )
    assert mean_length(freq, huffman.code_lengths(freq)) == best


def test_known_codes():
    assert mean_length([4, 2, 1, 1], huffman.code_lengths([4, 2, 1, 1])) == 1.75
    assert huffman.code_lengths([0, 7, 0]).tolist() == [0, 1, 0]
    assert huffman.code_lengths([5, 5, 5, 5]).tolist() == [2, 2, 2, 2]


def test_lengths_are_limited_and_the_limited_code_is_still_complete():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = huffman.code_lengths(fibonacci)
    assert lengths.max() == huffman.LONGEST
    assert sum(2.0 ** -int(length) for length in lengths) == 1
    unlimited = np.array([39, *range(39, 0, -1)])
    assert mean_length(fibonacci, unlimited) <= mean_length(fibonacci, lengths) < mean_length(fibonacci, unlimited) + 1e-3
    assert np.array_equal(huffman.code_lengths(fibonacci[:21]), [20, *range(20, 0, -1)])


def test_a_small_stream_bit_by_bit():
    """Lengths (1, 2, 2): differences 1, 1, 0 as gamma codes 011 011 1; codes 0, 10, 11 in the order of length and symbol."""
    assert huffman.encode([0, 0, 1, 2], 3) == bytes([0b01101110, 0b00101100])


def test_codes_are_canonical():
    """Equal lengths: the codes are the symbols in rising order; so are the bytes of a stream that lists all symbols."""
    assert huffman.encode(np.arange(256), 256)[-256:] == bytes(range(256))


@given(streams)
def test_round_trip(stream):
    symbols, alphabet = stream
    data = huffman.encode(symbols, alphabet)
    assert np.array_equal(huffman.decode(data, symbols.size, alphabet), symbols)


@pytest.mark.parametrize("alphabet", [1, 2, 32, 65536])
def test_both_readers_agree_on_many_lanes(alphabet):
    rng = np.random.default_rng(alphabet)
    for count in (4095, 8192, 12345, 50000):
        symbols = np.minimum(rng.geometric(0.1, count) ** 2 - 1, alphabet - 1)
        data = huffman.encode(symbols, alphabet)
        assert np.array_equal(huffman.decode(data, count, alphabet), symbols)
        if alphabet > 1:
            parsed = huffman._parse(data, count, alphabet)
            assert np.array_equal(huffman._read_serial(parsed), symbols)
            assert np.array_equal(huffman._read_lockstep([parsed])[0], symbols)


def test_size_of_a_long_stream_is_its_mean_length():
    symbols = np.random.default_rng(0).binomial(31, 0.4, 200_000)
    freq = np.bincount(symbols, minlength=32)
    size = mean_length(freq, huffman.code_lengths(freq)) * symbols.size / 8
    assert size <= len(huffman.encode(symbols, 32)) <= size + 40 + 2 * huffman.lanes(symbols.size)


def test_many_streams_at_once_and_none():
    rng = np.random.default_rng(0)
    plain = [(rng.integers(0, a, n), a) for n, a in [(30000, 32), (0, 5), (1, 1), (9000, 65536), (20000, 2), (7, 7)] * 3]
    coded = [(huffman.encode(symbols, alphabet), symbols.size, alphabet) for symbols, alphabet in plain]
    assert all(np.array_equal(got, symbols) for got, (symbols, _) in zip(huffman.decode_many(coded), plain, strict=True))
    assert huffman.decode_many([]) == []


@pytest.mark.parametrize("count", [60, 9000])
def test_truncated_and_overlong_data_are_refused(count):
    symbols = np.random.default_rng(count).binomial(15, 0.3, count)
    data = huffman.encode(symbols, 16)
    for cut in {0, 1, 2, 8, len(data) // 2, len(data) - 1}:
        with pytest.raises(FormatError):
            huffman.decode(data[:cut], count, 16)
    for more in (data + b"\0", data + b"\xff" * 9):
        with pytest.raises(FormatError):
            huffman.decode(more, count, 16)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.sampled_from([0, 1, 5, 100, 8200]), st.sampled_from([1, 2, 5, 300, 65536]))
def test_garbage_is_refused_or_decodes_inside_the_alphabet(data, count, alphabet):
    try:
        symbols = huffman.decode(data, count, alphabet)
    except FormatError:
        return
    assert symbols.shape == (count,)
    assert not count or 0 <= symbols.min() <= symbols.max() < alphabet


@pytest.mark.parametrize("count", [50, 8200])
def test_flipped_bits_never_crash(count):
    data = huffman.encode(np.random.default_rng(0).binomial(7, 0.3, count), 8)
    for bit in range(0, 8 * len(data), max(1, len(data) // 3)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            symbols = huffman.decode(bytes(flipped), count, 8)
        except FormatError:
            continue
        assert symbols.max() < 8


def test_the_code_that_a_lone_symbol_leaves_free_is_refused():
    data = huffman.encode([2] * 20, 4)
    assert huffman.decode(data, 20, 4).tolist() == [2] * 20
    for flipped in (data[:-1] + bytes([0x10]), data[:-2] + b"\x01" + data[-1:]):
        with pytest.raises(FormatError, match="lone symbol"):
            huffman.decode(flipped, 20, 4)


@pytest.mark.parametrize("freq", [[], [0, 0], [-1, 2], [[1]]])
def test_frequencies_that_are_not_allowed(freq):
    with pytest.raises(ValueError, match="frequencies"):
        huffman.code_lengths(freq)
