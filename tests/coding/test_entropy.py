"""The entropy coder: the Shannon bound over many distributions, both ways to pop and to push, and hostile bytes."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.coding import entropy
from attar.errors import FormatError

seeds = st.integers(0, 2**32)
sizes = st.one_of(st.integers(0, 300), st.sampled_from([4095, 4096, 8191, 8192, 8200, 20000]))


def deal(kind, seed, count, alphabet):
    """`count` symbols of a distribution named by `kind`."""
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        return rng.integers(0, alphabet, count)
    if kind == "same":
        return np.full(count, rng.integers(0, alphabet))
    if kind == "each in turn":
        return rng.permutation(count) % alphabet
    if kind == "geometric":
        return np.minimum(rng.geometric(rng.choice([0.02, 0.1, 0.5, 0.99]), count) - 1, alphabet - 1)
    if kind == "normal":
        return np.clip(np.rint(rng.normal(alphabet / 2, alphabet / 6, count)), 0, alphabet - 1).astype(int)
    if kind == "few":
        return rng.choice(rng.integers(0, alphabet, 4), count)
    if kind == "skewed":
        return rng.choice(alphabet, count, p=rng.dirichlet(np.full(alphabet, 0.05)))
    if kind == "rare":
        return np.where(rng.random(count) < 0.005, rng.integers(0, alphabet, count), alphabet // 2)
    if kind == "sorted":
        return np.sort(rng.integers(0, alphabet, count))
    raise ValueError(kind)


KINDS = ("uniform", "same", "each in turn", "geometric", "normal", "few", "skewed", "rare", "sorted")
STATIONARY = KINDS[:-1]


def entropy_bytes(symbols):
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float((counts * np.log2(symbols.size / counts)).sum()) / 8


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(STATIONARY), seeds, sizes, st.sampled_from([2, 3, 16, 32, 100, 256]))
def test_coded_size_is_at_the_shannon_bound(kind, seed, count, alphabet):
    symbols = deal(kind, seed, count, alphabet)
    assert len(entropy.encode(symbols, alphabet)) <= 1.01 * entropy_bytes(symbols) + 128


@pytest.mark.parametrize("kind", STATIONARY)
@pytest.mark.parametrize(("count", "alphabet"), [(70_000, 2), (70_000, 256), (300_000, 256), (1_000_000, 32)])
def test_coded_size_of_long_streams_is_at_the_shannon_bound(kind, count, alphabet):
    symbols = deal(kind, 1, count, alphabet)
    assert len(entropy.encode(symbols, alphabet)) <= 1.01 * entropy_bytes(symbols) + 128


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(KINDS), seeds, sizes, st.sampled_from([1, 2, 3, 32, 256, 257, 1000, 4096, 5000, 65536]))
def test_round_trip(kind, seed, count, alphabet):
    symbols = deal(kind, seed, count, alphabet)
    assert np.array_equal(entropy.decode(entropy.encode(symbols, alphabet), count, alphabet), symbols)


@pytest.mark.parametrize("count", [1, 2, 4095, 4096, 8192, 20000, 70000])
@pytest.mark.parametrize("alphabet", [2, 32, 256])
def test_both_ways_to_push_and_to_pop_agree(count, alphabet):
    symbols = deal("skewed", count, count, alphabet).astype(np.int64)
    frequency, start = entropy._codes(symbols, alphabet)
    lanes, scale = entropy.lanes(count), entropy._scale(count, alphabet)
    states, words = entropy._push_serial(frequency, start, lanes, scale)
    lockstep_states, lockstep_words = entropy._push_lockstep(frequency, start, lanes, scale)
    assert states == lockstep_states
    assert np.array_equal(words, lockstep_words)
    parsed = entropy._parse(entropy.encode(symbols, alphabet), count, alphabet)
    assert np.array_equal(entropy._pop_serial(parsed), symbols)
    assert np.array_equal(entropy._pop_lockstep([parsed])[0], symbols)


def test_many_streams_at_once_and_none():
    rng = np.random.default_rng(0)
    shapes = [(30000, 32), (0, 5), (1, 1), (9000, 65536), (20000, 2), (7, 7), (500, 256), (70000, 8), (8193, 300)]
    plain = [(deal(KINDS[i % len(KINDS)], i, *shape), shape[1]) for i, shape in enumerate(shapes * 4)]
    coded = [(entropy.encode(symbols, alphabet), symbols.size, alphabet) for symbols, alphabet in plain]
    assert all(np.array_equal(got, symbols) for got, (symbols, _) in zip(entropy.decode_many(coded), plain, strict=True))
    lockstep = [i for i, (_, count, alphabet) in enumerate(coded) if count and 1 < alphabet <= 256]
    rng.shuffle(lockstep)
    for i, got in zip(lockstep, entropy._pop_lockstep([entropy._parse(*coded[i]) for i in lockstep]), strict=True):
        assert np.array_equal(got, plain[i][0])
    assert entropy.decode_many([]) == []


def test_bytes_are_the_same_on_every_processor():
    """The digest was taken once; the symbols come from whole-number arithmetic."""
    digest = hashlib.sha256()
    for count, alphabet in [(3, 5), (1000, 32), (5000, 256), (70_000, 17), (9000, 1024), (3000, 65536)]:
        digest.update(entropy.encode((np.arange(count) ** 2 % 65521) * alphabet // 65521, alphabet))
    assert digest.hexdigest() == "f794b21baf66c3aa6a9677301f436eb28cef1130be2afb78ac81514fd7cfea61"


def test_frequencies_sum_to_the_scale_and_are_positive_at_any_count():
    for counts in ([0] * 256, [0] * 255 + [1 << 31], [1 << 22] * 256, [1] + [0] * 254 + [1 << 32]):
        frequency, start = entropy._model(np.array([counts]), np.array([256]), np.array([24]))
        assert frequency.sum() == 1 << 24
        assert frequency.min() >= 1
        assert np.array_equal(start[0], np.cumsum(frequency[0]) - frequency[0])


@pytest.mark.parametrize("count", [3000, 30_000])
def test_a_drifting_distribution_costs_little(count):
    """The model is estimated anew every 1/32 of the stream: parts of unlike distributions may share one."""
    rng = np.random.default_rng(0)
    symbols = np.minimum(np.concatenate([rng.geometric(p, count // 5) - 1 for p in (0.3, 0.05, 0.5, 0.1, 0.2)]), 31)
    assert len(entropy.encode(symbols, 32)) <= 1.02 * entropy_bytes(symbols) + 32


def test_lanes_grow_with_the_stream_and_small_streams_have_one():
    lanes = [entropy.lanes(count) for count in range(0, 200_000, 500)]
    assert lanes == sorted(lanes)
    assert all(entropy.lanes(count) == 1 for count in range(4097))


@given(st.sampled_from([1, 5, 200, 8200]), seeds, st.integers(0, 2**16))
def test_any_flipped_bit_gives_an_error_or_the_code_of_other_symbols(count, seed, where):
    """Decoding undoes encoding exactly, so that no two data have the same symbols: a flip is refused or changes what is read."""
    symbols = deal("geometric", seed, count, 16)
    data = bytearray(entropy.encode(symbols, 16))
    data[where // 8 % len(data)] ^= 1 << where % 8
    try:
        other = entropy.decode(bytes(data), count, 16)
    except FormatError:
        return
    assert not np.array_equal(other, symbols)
    assert entropy.encode(other, 16) == data


@settings(deadline=None)
@given(st.binary(max_size=90), st.sampled_from([0, 1, 5, 100, 8200]), st.sampled_from([1, 2, 5, 300, 65536]))
def test_garbage_is_refused_or_decodes_inside_the_alphabet(data, count, alphabet):
    try:
        symbols = entropy.decode(data, count, alphabet)
    except FormatError:
        return
    assert symbols.shape == (count,)
    assert not count or 0 <= symbols.min() <= symbols.max() < alphabet


@pytest.mark.parametrize(("count", "alphabet"), [(60, 16), (9000, 16), (60, 1000), (9000, 1000)])
@pytest.mark.parametrize("pop", ["_pop_serial", "_pop_lockstep"])
def test_truncated_and_overlong_data_are_refused(monkeypatch, count, alphabet, pop):
    function = getattr(entropy, pop)
    monkeypatch.setattr(entropy, "_decode_group", lambda s: function(s) if pop == "_pop_lockstep" else [function(one) for one in s])
    data = entropy.encode(deal("normal", count, count, alphabet), alphabet)
    for cut in {0, 1, 2, 3, 8, len(data) // 2, len(data) // 2 + 1, len(data) - 4, len(data) - 1}:
        with pytest.raises(FormatError):
            entropy.decode(data[:cut], count, alphabet)
    for more in (data + b"\0", data + b"\0" * 4, data + b"\xff" * 7):
        with pytest.raises(FormatError):
            entropy.decode(more, count, alphabet)


@pytest.mark.parametrize("pop", ["_pop_serial", "_pop_lockstep"])
def test_a_last_word_of_zero_is_not_optional(monkeypatch, pop):
    """Reading zeros past the end would let a stream lose its last word."""
    function = getattr(entropy, pop)
    monkeypatch.setattr(entropy, "_decode_group", lambda s: function(s) if pop == "_pop_lockstep" else [function(one) for one in s])
    # Where both symbols had one half, each 0 that is pushed doubles the state, so that the first word moved out is 0.
    a = next(a for a, b in entropy._epochs(4000, 1) if b - a >= 32 and a % 2 == 0)
    symbols = [0, 1] * (a // 2) + [0] * 32
    data = entropy.encode(symbols, 2)
    assert data.endswith(b"\0" * 4)
    assert entropy.decode(data, len(symbols), 2).tolist() == symbols
    for changed in (data[:-4], data + b"\0" * 4):
        with pytest.raises(FormatError):
            entropy.decode(changed, len(symbols), 2)


def test_flat_bits_outside_their_range_are_refused():
    data = entropy.encode(deal("uniform", 0, 50, 65536), 65536)
    for flat in (0, 3, 16, 255):
        with pytest.raises(FormatError, match="flat bits"):
            entropy.decode(bytes([flat]) + data[1:], 50, 65536)


def test_a_symbol_beyond_an_uneven_alphabet_is_refused():
    """The flat low bits can say more than the alphabet holds: 1000 = 62 * 16 + 8, so the top symbol's low bits end at 7."""
    high = entropy._encode(np.full(9, 62), 63)
    for low, holds in ((7, True), (8, False)):
        data = bytes([4]) + high + entropy.bits.pack([low] * 9, 16)
        if holds:
            assert entropy.decode(data, 9, 1000).tolist() == [999] * 9
        else:
            with pytest.raises(FormatError, match="below 1000"):
                entropy.decode(data, 9, 1000)
