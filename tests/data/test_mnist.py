"""MNIST and Fashion-MNIST: from small idx files, from a server, and the real ones."""

import gzip
import hashlib
import os
import struct

import numpy as np
import pytest

from attar.data import mnist as module
from attar.data.mnist import fashion_mnist, mnist
from attar.errors import DataError

NAMES = list(module.MNIST_SHA256)
READERS = [("MNIST", mnist), ("FashionMNIST", fashion_mnist)]


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def small_files():
    """30 pictures to train on and 10 for test, in the four official files."""
    generator = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 30), ("t10k", 10)):
        files[f"{part}-images-idx3-ubyte"] = idx(generator.integers(0, 256, (count, 28, 28), np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


def write(folder, files, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "reader"), READERS)
def test_read(tmp_path, monkeypatch, name, reader, zipped):
    files = small_files()
    write(tmp_path / name / "raw", files, zipped)
    monkeypatch.setenv("ATTAR_DATA", str(tmp_path))
    for task in (reader(tmp_path), reader()):
        assert (len(task.train), len(task.validation), len(task.test)) == (24, 6, 10)
        inputs, targets = task.test.batch(range(10))
        expected = np.frombuffer(files["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(10, 1, 28, 28)
        assert np.array_equal((inputs * 255).round().numpy(), expected)
        assert targets.tolist() == list(range(10))
        assert list(task.metrics) == ["top-1"]


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is not in .*MNIST/raw: .*--data-dir.*--download"):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-labels-idx1-ubyte", idx(np.zeros(29, np.uint8)), "30 pictures and 29 labels"),
        ("t10k-labels-idx1-ubyte", idx(np.full(10, 10, np.uint8)), "labels must be 0 to 9"),
        ("t10k-labels-idx1-ubyte", small_files()["t10k-images-idx3-ubyte"], "not an idx file of 1-dimensional"),
        ("train-images-idx3-ubyte", b"", "begins with nothing"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, content, message):
    write(tmp_path / "MNIST" / "raw", small_files() | {name: content})
    with pytest.raises(DataError, match=message) as caught:
        mnist(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_empty_files(tmp_path):
    empty = {"t10k-images-idx3-ubyte": idx(np.zeros((0, 28, 28), np.uint8)), "t10k-labels-idx1-ubyte": idx(np.zeros(0, np.uint8))}
    write(tmp_path / "MNIST" / "raw", small_files() | empty)
    with pytest.raises(DataError, match="test split is empty"):
        mnist(tmp_path)


def test_download_from_a_mirror(tmp_path, server, monkeypatch):
    folder, address = server
    write(folder, small_files())
    stand_ins = {name: hashlib.sha256((folder / f"{name}.gz").read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(module, "MNIST_SHA256", stand_ins)
    task = mnist(tmp_path, download=address)
    assert len(task.test) == 10
    assert sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    server_is_gone = mnist(tmp_path, download="http://127.0.0.1:9")
    assert np.array_equal(server_is_gone.train.images, task.train.images)


def test_a_mirror_with_other_files_is_not_believed(tmp_path, server):
    write(server[0], small_files())
    with pytest.raises(DataError, match="SHA-256 differs"):
        fashion_mnist(tmp_path, download=server[1])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.skipif("ATTAR_DATA" not in os.environ, reason="needs real data in $ATTAR_DATA")
@pytest.mark.parametrize(("name", "reader"), READERS)
def test_real_files(name, reader):
    task = reader()
    assert (len(task.train), len(task.validation), len(task.test)) == (55_000, 5_000, 10_000)
    checksums = {"MNIST": module.MNIST_SHA256, "FashionMNIST": module.FASHION_SHA256}[name]
    for file, checksum in checksums.items():
        with open(f"{os.environ['ATTAR_DATA']}/{name}/raw/{file}.gz", "rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == checksum
