"""Varints: round trip, shortest form, and refusal of everything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.coding import varint
from attar.errors import FormatError


@given(st.integers(0, (1 << 63) - 1), st.binary(max_size=4))
def test_round_trip_at_any_offset(value, around):
    code = varint.encode(value)
    assert varint.decode(around + code + around, len(around)) == (value, len(around) + len(code))
    assert len(code) == max(1, -(-value.bit_length() // 7))


@given(st.binary(max_size=12))
def test_what_is_read_is_the_shortest_form(data):
    try:
        value, end = varint.decode(data)
    except FormatError:
        return
    assert varint.encode(value) == data[:end]


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "truncated"),
        (b"\x80", "truncated"),
        (b"\xff" * 8, "truncated"),
        (b"\x80\x00", "shortest"),
        (b"\xff" * 9 + b"\x01", "nine bytes"),
    ],
)
def test_refusals(data, rule):
    with pytest.raises(FormatError, match=rule):
        varint.decode(data)


@pytest.mark.parametrize("value", [-1, 1 << 63])
def test_numbers_that_do_not_fit(value):
    with pytest.raises(ValueError, match="2\\^63"):
        varint.encode(value)
