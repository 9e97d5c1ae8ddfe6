"""The idx reader, and its attackers."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from attar.data._idx import read_idx
from attar.errors import DataError


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@given(array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3, max_side=5)), zipped=st.booleans())
def test_round_trip(tmp_path_factory, array, zipped):
    path = tmp_path_factory.mktemp("idx") / ("x.gz" if zipped else "x")
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    assert np.array_equal(read_idx(path, dimensions=array.ndim), array)


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
BAD = {
    "empty": b"",
    "header alone": GOOD[:10],
    "truncated": GOOD[:-1],
    "longer": GOOD + b"x",
    "labels for images": idx(np.zeros(9, np.uint8)),
    "int type": bytes([0, 0, 12, 3]) + GOOD[4:],
    "garbage": b"<html>not found</html>",
    "huge": bytes([0, 0, 8, 3]) + struct.pack(">3I", *[2**32 - 1] * 3) + b"abc",
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", BAD)
def test_bad_content(tmp_path, kind, zipped):
    path = tmp_path / ("x.gz" if zipped else "x")
    path.write_bytes(gzip.compress(BAD[kind]) if zipped else BAD[kind])
    with pytest.raises(DataError) as caught:
        read_idx(path, dimensions=3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_memory_follows_the_content_not_the_header(tmp_path, name):
    path, content = tmp_path / name, bytes([0, 0, 8, 1]) + struct.pack(">I", 2**31) + bytes(100)
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="holds only 100"):
            read_idx(path, dimensions=1)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", range(1, 30))
def test_truncated_gzip(tmp_path, cut):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(GOOD)[:-cut])
    with pytest.raises(DataError):
        read_idx(path, dimensions=3)


def test_every_flipped_byte_is_harmless_or_reported(tmp_path):
    path, content = tmp_path / "x.gz", gzip.compress(GOOD)
    expected = read_idx_of(path, content)
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 0x10
        try:
            assert np.array_equal(read_idx_of(path, bytes(damaged)), expected)
        except DataError:
            continue


def read_idx_of(path, content):
    path.write_bytes(content)
    return read_idx(path, dimensions=3)


def test_a_folder_or_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "absent", tmp_path / "absent.gz"):
        with pytest.raises(DataError, match="cannot read"):
            read_idx(path, dimensions=1)
