import zlib

import numpy as np
import pytest

from attar.coding import container, encode
from attar.coding.container import BLOCK, MAGIC, envelope, open_envelope
from attar.errors import FormatError


def test_an_envelope_gives_back_its_header_and_the_place_of_its_streams():
    data = envelope(b"a header", [b"one", b"two"], aligned=[False, False])
    head, start, end = open_envelope(data)
    assert head == b"a header"
    assert data[start:end] == b"onetwo"


def test_aligned_streams_begin_at_a_multiple_of_64():
    data = envelope(b"h", [b"x", b"Y" * 70, b"Z" * 5], aligned=[False, True, True])
    assert data.index(b"YY") % 64 == 0
    assert data.index(b"ZZ") % 64 == 0


@pytest.mark.parametrize("length", [1, BLOCK - 64, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_each_block_has_its_checksum_wherever_the_file_ends(length):
    stream = np.arange(length, dtype=np.uint32).astype(np.uint8).tobytes()
    data = envelope(b"h", [stream], aligned=[False])
    _, start, end = open_envelope(data)
    assert data[start:end] == stream
    assert len(data) - end == 4 * -(-end // BLOCK)
    for block, at in enumerate(range(end, len(data), 4)):
        check = zlib.crc32(data[block * BLOCK : min((block + 1) * BLOCK, end)])
        assert check == int.from_bytes(data[at : at + 4], "little")


@pytest.mark.parametrize("where", [0, BLOCK // 2, BLOCK - 1, BLOCK, 2 * BLOCK, -1, -4, -8, -12])
def test_a_flipped_bit_anywhere_in_a_large_file_is_found(where):
    data = envelope(b"h", [bytes(2 * BLOCK)], aligned=[False])
    data[where] ^= 16
    with pytest.raises(FormatError):
        open_envelope(data)


def test_equal_arguments_give_equal_bytes():
    assert envelope(b"h" * 999, [b"s"], aligned=[True]) == envelope(b"h" * 999, [b"s"], aligned=[True])


def test_what_is_not_a_file_of_ours_is_called_so():
    for data in (b"", b"\x89AT", b"PK\x03\x04" * 10, b"\x89PNG\r\n"):
        with pytest.raises(FormatError, match=r"not an \.attar file"):
            open_envelope(data)


def test_a_newer_version_says_to_upgrade():
    data = envelope(b"h", [], aligned=[])
    data[len(MAGIC)] = 2
    with pytest.raises(FormatError, match="upgrade Attar"):
        open_envelope(data)


def test_a_header_may_not_inflate_beyond_its_cap(monkeypatch):
    bomb = bytes(1 << 24)
    with pytest.raises(FormatError, match="more than a file may hold"):
        envelope(bomb, [], aligned=[])
    monkeypatch.setattr(container, "_INFLATED_FLOOR", 1 << 25)  # as an attacker's writer would
    data = envelope(bomb, [], aligned=[])
    monkeypatch.undo()
    with pytest.raises(FormatError, match="at most"):
        open_envelope(data)


def test_bytes_after_the_header_s_deflate_stream_are_refused(monkeypatch):
    deflate = container._deflate
    monkeypatch.setattr(container, "_deflate", lambda head: deflate(head) + b"\0")
    data = envelope(b"h", [], aligned=[])
    with pytest.raises(FormatError, match="one whole deflate stream"):
        open_envelope(data)


def test_padding_must_be_zero(lenet5_network):
    data = bytearray(encode(lenet5_network, codec="raw"))
    found = container.validate(data)
    gap = next(s.offset - 1 for s in found.streams if s.offset % 64 == 0)
    data[gap] = 1
    body = bytes(data[: -4 * -(-len(data) // (BLOCK + 4))])
    checks = [zlib.crc32(body[at : at + BLOCK]) for at in range(0, len(body), BLOCK)]
    with pytest.raises(FormatError, match="must be zero"):
        container.validate(body + b"".join(c.to_bytes(4, "little") for c in checks))
