"""Relative indices against the survey's own loop (METHODS Q6), at the lengths where fillers appear, and on hostile symbols."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.coding import entropy, gaps
from attar.errors import FormatError

masks = st.one_of(
    st.lists(st.booleans(), max_size=80).map(np.array),
    st.tuples(st.integers(0, 2**32), st.sampled_from([0.0, 0.01, 0.1, 0.9, 1.0]), st.integers(1, 3000)).map(
        lambda t: np.random.default_rng(t[0]).random(t[2]) < t[1]
    ),
)


def fillers_by_definition(mask, bits):
    codes, is_filler, before = [], [], -1
    for position in np.flatnonzero(mask).tolist():
        gap = position - before
        while gap > 2**bits:
            codes.append(2**bits - 1)
            is_filler.append(True)
            gap -= 2**bits
        codes.append(gap - 1)
        is_filler.append(False)
        before = position
    return codes, is_filler


def escapes_by_definition(mask, bits):
    symbols, before = [], -1
    for position in np.flatnonzero(mask).tolist():
        gap = position - before
        while gap > 2**bits - 1:
            symbols.append(2**bits - 1)
            gap -= 2**bits - 1
        symbols.append(gap - 1)
        before = position
    return symbols


@given(masks, st.integers(1, 16))
def test_fillers_are_the_definition_and_come_back(mask, bits):
    codes, is_filler = gaps.fillers_encode(mask, bits)
    assert (codes.tolist(), is_filler.tolist()) == fillers_by_definition(mask, bits)
    positions = gaps.fillers_decode(codes, mask.size)
    assert np.array_equal(positions[~is_filler], np.flatnonzero(mask))
    assert not mask[positions[is_filler]].any()


@given(masks, st.integers(1, 16))
def test_escapes_are_the_definition_and_come_back(mask, bits):
    symbols = gaps.escape_encode(mask, bits)
    assert symbols.tolist() == escapes_by_definition(mask, bits)
    assert np.array_equal(gaps.escape_decode(symbols, bits, mask.size, count=np.count_nonzero(mask)), np.flatnonzero(mask))


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_runs_of_zeros_at_the_edges_give_0_1_1_2_fillers(bits):
    top = 2**bits
    for zeros, fillers in [(top - 1, 0), (top, 1), (2 * top - 1, 1), (2 * top, 2)]:
        mask = np.r_[np.zeros(zeros, bool), True, np.zeros(zeros, bool), True]
        codes, is_filler = gaps.fillers_encode(mask, bits)
        assert is_filler.sum() == 2 * fillers
        assert np.array_equal(gaps.fillers_decode(codes, mask.size)[~is_filler], np.flatnonzero(mask))


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_runs_of_zeros_at_the_edges_give_0_1_1_2_escapes(bits):
    top = 2**bits - 1
    for zeros, escapes in [(top - 1, 0), (top, 1), (2 * top - 1, 1), (2 * top, 2)]:
        symbols = gaps.escape_encode(np.r_[np.zeros(zeros, bool), True], bits)
        assert (symbols == top).sum() == escapes


def test_one_escape_bit_is_the_mask_up_to_its_last_entry():
    mask = np.array([0, 1, 1, 0, 0, 1, 0], bool)
    assert gaps.escape_encode(mask, 1).tolist() == [1, 0, 0, 1, 1, 0]


def test_densities_0_one_in_n_and_1():
    n = 1000
    for mask in (np.zeros(n, bool), np.arange(n) == n - 1, np.ones(n, bool)):
        for bits in (1, 5, 16):
            codes, is_filler = gaps.fillers_encode(mask, bits)
            assert np.array_equal(gaps.fillers_decode(codes, n)[~is_filler], np.flatnonzero(mask))
            assert np.array_equal(gaps.escape_decode(gaps.escape_encode(mask, bits), bits, n), np.flatnonzero(mask))


@pytest.mark.parametrize(
    ("symbols", "n", "count", "rule"),
    [
        ([0, 2], 3, None, "inside"),
        ([3], 9, None, "escape"),
        ([3, 2], 5, None, "inside"),
        ([0, 0], 9, 3, "3 positions"),
        ([], 9, 1, "1 positions"),
    ],
)
def test_escape_refusals(symbols, n, count, rule):
    with pytest.raises(FormatError, match=rule):
        gaps.escape_decode(symbols, 2, n, count=count)


@pytest.mark.parametrize(("codes", "n"), [([3], 3), ([0, 0], 1), ([65535] * 5, 5 * 65536 - 1)])
def test_filler_refusals(codes, n):
    with pytest.raises(FormatError, match="inside"):
        gaps.fillers_decode(codes, n)


@pytest.mark.parametrize("bits", [0, 17])
def test_bits_that_are_not_allowed(bits):
    for call in (gaps.fillers_encode, gaps.escape_encode):
        with pytest.raises(ValueError, match="1 to 16"):
            call([1], bits)


@pytest.mark.parametrize("convention", ["fillers", "escape"])
def test_best_bits_of_known_masks(convention):
    assert gaps.best_bits(np.zeros(10, bool), convention) == 1
    assert gaps.best_bits(np.ones(1000, bool), convention) == 1
    assert gaps.best_bits(np.arange(100_000) % 300 == 299, convention) == 9
    scattered = [np.random.default_rng(0).random(n) < 0.05 for n in (1000, 30_000, 1_000_000)]
    chosen = [gaps.best_bits(mask, convention) for mask in scattered]
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[2] < 10  # the more there is to learn from, the wider the alphabet that pays


def test_best_bits_know_two_conventions():
    with pytest.raises(ValueError, match="convention"):
        gaps.best_bits([1], "other")


@pytest.mark.parametrize("density", [0.02, 0.3])
def test_best_bits_are_near_the_smallest_file(density):
    """Measured with the coders themselves: the bits chosen cost at most 5 % more than the best of all."""
    mask = np.random.default_rng(1).random(30_000) < density
    escapes = [len(entropy.encode(gaps.escape_encode(mask, bits), 1 << bits)) for bits in range(1, 13)]
    assert escapes[gaps.best_bits(mask, "escape") - 1] <= 1.05 * min(escapes)
    fillers = []
    for bits in range(1, 13):
        codes, is_filler = gaps.fillers_encode(mask, bits)
        fillers.append(len(entropy.encode(codes, 1 << bits)) + len(entropy.encode(is_filler, 2)))
    assert fillers[gaps.best_bits(mask, "fillers") - 1] <= 1.05 * min(fillers)
