"""Where data lies, downloads from a server on loopback, and the cache."""

import hashlib
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from attar.data._files import cached, data_folder, obtain
from attar.errors import DataError
from attar.machine import cache_folder

CONTENT = b"the official file"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def files_below(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def test_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "attar"
    assert data_folder(None) == tmp_path / "attar" / "data"
    monkeypatch.setenv("ATTAR_DATA", "/some/where")
    assert data_folder(None) == Path("/some/where")
    assert data_folder("here") == Path("here")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "attar"


def test_what_is_there_is_taken_in_order(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    second.touch()
    assert obtain([first, second], url="http://invalid", sha256=SHA256, download=True) == second
    first.touch()
    assert obtain([first, second], url="http://invalid", sha256=SHA256, download=True) == first


def test_missing_without_download(tmp_path):
    with pytest.raises(DataError) as caught:
        obtain([tmp_path / "x", tmp_path / "x.gz"], url="http://invalid", sha256=SHA256, download=False)
    assert all(word in str(caught.value) for word in ("x.gz", str(tmp_path), "--data-dir", "--download"))


@pytest.mark.parametrize("mirror", [False, True])
def test_download(tmp_path, server, mirror):
    folder, address = server
    (folder / "x.gz").write_bytes(CONTENT)
    url, download = ("http://invalid", address) if mirror else (address + "/", True)
    target = tmp_path / "new" / "x.gz"
    assert obtain([target], url=url, sha256=SHA256, download=download) == target
    assert files_below(tmp_path) == [target]
    assert target.read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(tmp_path, server):
    folder, address = server
    (folder / "x.gz").write_bytes(CONTENT + b"!")
    with pytest.raises(DataError, match="SHA-256 differs"):
        obtain([tmp_path / "x.gz"], url=address, sha256=SHA256, download=True)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("address", ["absent", "http://127.0.0.1:9", "gopher://nowhere", "no address", "http://a b/"])
def test_failed_download_leaves_nothing(tmp_path, server, address):
    with pytest.raises(DataError, match="cannot fetch") as caught:
        obtain([tmp_path / "x.gz"], url=server[1] if address == "absent" else address, sha256=SHA256, download=True)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []


def test_a_server_that_does_not_speak_http(tmp_path):
    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"220 ready for mail\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DataError, match="cannot fetch"):
            obtain([tmp_path / "x.gz"], url=f"http://127.0.0.1:{listener.getsockname()[1]}", sha256=SHA256, download=True)
        thread.join()
    assert files_below(tmp_path) == []


def test_download_to_where_nothing_can_be_written(tmp_path, server):
    folder, address = server
    (folder / "x.gz").write_bytes(CONTENT)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot fetch"):
        obtain([tmp_path / "file" / "x.gz"], url=address, sha256=SHA256, download=True)


class Decoder:
    """Decodes, and counts how often."""

    calls = 0

    def __call__(self):
        self.calls += 1
        return {"a": np.arange(10_000), "b": np.zeros((0, 3), np.uint8)}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "archive.tar"
    path.write_bytes(b"1")
    return path


def test_cache_is_kept_until_the_source_changes(source):
    decode = Decoder()
    one, two = cached(source, decode), cached(source, decode)
    assert decode.calls == 1
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one)
    source.write_bytes(b"12")
    cached(source, decode)
    assert decode.calls == 2
    assert not list(cache_folder().glob("*.part"))


@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:-9], lambda c: c[: len(c) // 2], lambda c: b"x" * 99])
def test_damaged_cache_is_rebuilt(source, damage):
    decode = Decoder()
    expected = cached(source, decode)
    (stored,) = cache_folder().iterdir()
    stored.write_bytes(damage(stored.read_bytes()))
    assert np.array_equal(cached(source, decode)["a"], expected["a"])
    cached(source, decode)
    assert decode.calls == 2


def test_no_flipped_byte_of_the_cache_is_believed(source):
    expected = cached(source, Decoder())
    (stored,) = cache_folder().iterdir()
    content = stored.read_bytes()
    for i in range(0, len(content), 499):
        damaged = bytearray(content)
        damaged[i] ^= 0xFF
        stored.write_bytes(damaged)
        again = cached(source, Decoder())
        assert again.keys() == expected.keys()
        assert all(np.array_equal(again[name], expected[name]) for name in expected)


def test_unwritable_cache_is_no_error(source, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file, where a folder belongs
    decode = Decoder()
    cached(source, decode)
    cached(source, decode)
    assert decode.calls == 2


def test_full_disk_is_no_error_and_leaves_nothing(source, monkeypatch):
    def full(*args, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(cached(source, Decoder())["a"]) == 10_000
    assert files_below(cache_folder()) == []
