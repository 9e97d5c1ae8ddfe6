"""CIFAR-10 and CIFAR-100 from small archives and folders in Python 2's pickles; hostile ones; augmentation; the real one."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

from attar.data import cifar as module
from attar.data._batches import read_batch
from attar.data.cifar import cifar10, cifar100, shift_and_flip
from attar.errors import DataError
from attar.machine import cache_folder

TEN = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def string(content):
    content = content.encode() if isinstance(content, str) else content
    return b"T" + struct.pack("<i", len(content)) + content


def python2_batch(images, labels, label="labels", shape=None):
    """A batch as the official files have it, opcode by opcode: strings of bytes, numpy's array in protocol 2."""
    rows, columns = shape or (len(images), 3072)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01J"
        + struct.pack("<i", rows)
        + b"J"
        + struct.pack("<i", columns)
        + b"\x86cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + string(images.tobytes())
        + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([value]) for value in labels) + b"e"
    return b"\x80\x02}q\x00(" + string("batch_label") + string("batch 1") + string(label) + numbers + string("data") + array + b"u."


def small_batches(names=TEN, label="labels", count=6):
    generator = np.random.default_rng(0)
    return {
        name: python2_batch(generator.integers(0, 256, (count, 3072), np.uint8), (np.arange(count) + i) % 10, label)
        for i, name in enumerate(names)
    }


def pack(path, folder, files):
    suffix = path.suffix.lstrip(".")
    with tarfile.open(path, f"w:{suffix}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpacked(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("kind", ["folder", "gz", "xz"])
def test_cifar10(tmp_path, kind):
    files = small_batches()
    if kind == "folder":
        unpacked(tmp_path / "cifar-10-batches-py", files)
    else:
        pack(tmp_path / f"cifar-10-python.tar.{kind}", "cifar-10-batches-py", dict(reversed(files.items())))
    for _ in range(2):  # the second time from the cache
        task = cifar10(tmp_path, validation=4)
        assert (len(task.train), len(task.validation), len(task.test)) == (26, 4, 6)
        assert list(task.metrics) == ["top-1"]
        assert task.test.labels.tolist() == [5, 6, 7, 8, 9, 0]
        assert files["test_batch"].count(task.test.images[:1].tobytes()) == 1
        assert task.train.images.shape[1:] == (3, 32, 32)
    assert len(list(cache_folder().glob("*.npz"))) == (kind != "folder")


def test_cifar100_takes_the_fine_labels(tmp_path):
    pack(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", small_batches(["train", "test"], "fine_labels"))
    task = cifar100(tmp_path)
    assert (len(task.train), len(task.validation), len(task.test)) == (5, 1, 6)
    assert list(task.metrics) == ["top-1", "top-5"]


def test_download(tmp_path, server, monkeypatch):
    folder, address = server
    path = pack(folder / "cifar-100-python.tar.gz", "cifar-100-python", small_batches(["train", "test"], "fine_labels"))
    with pytest.raises(DataError, match="SHA-256 differs"):
        cifar100(tmp_path, download=address)
    monkeypatch.setattr(module, "CIFAR100_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(cifar100(tmp_path, download=address).test) == 6


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz is not in .*--data-dir.*--download"):
        cifar10(tmp_path)


class Attack:
    """Pickles as a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch owned",)


GOOD = small_batches(["x"])["x"]
HOSTILE = {
    "empty": b"",
    "truncated": GOOD[:-2],
    "cut in the pixels": GOOD[: len(GOOD) // 2],
    "calls os.system": pickle.dumps(Attack(), protocol=2),
    "calls eval": b"cbuiltins\neval\n(U\x011tR.",
    "calls it by protocol 4": pickle.dumps(Attack(), protocol=4),
    "numpy's own loader": b"cnumpy\nload\n(U\x06/etc/xtR.",
    "persistent id": b"Pabc\n.",
    "memo bomb": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "length bomb": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "not a dict": b"\x80\x02K\x01.",
    "no data": b"\x80\x02}.",
    "labels are text": GOOD.replace(b"](", b"](U\x01x"),
    "an array that is called, not built": b"\x80\x02}(" + string("data") + b"cnumpy\nndarray\n)R" + string("labels") + b"]u.",
    "a huge array": python2_batch(np.zeros((1, 3072), np.uint8), [1], shape=(2**31 - 1, 3072)),
    "a negative shape": python2_batch(np.zeros((1, 3072), np.uint8), [1], shape=(-1, -3072)),
    "other pictures": python2_batch(np.zeros((3, 1024), np.uint8), [1, 2, 3], shape=(3, 1024)),
    "objects for pixels": GOOD.replace(b"U\x02u1", b"U\x02O8"),
    "one label less": python2_batch(np.zeros((2, 3072), np.uint8), [1]),
    "html": b"<html>404</html>",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_batches(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read_batch(HOSTILE[kind], "labels", "batch 1 in x.tar")
    assert "batch 1 in x.tar" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_good_batch_is_read():
    images, labels = read_batch(GOOD, "labels", "x")
    assert images.shape == (6, 3, 32, 32)
    assert labels.tolist() == list(range(6))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "a missing batch", "a link", "a bomb", "label 77"])
def test_damaged_archives(tmp_path, damage):
    path, files = tmp_path / "cifar-10-python.tar.gz", small_batches()
    if damage == "a missing batch":
        del files["data_batch_3"]
    if damage == "label 77":
        files["test_batch"] = python2_batch(np.zeros((1, 3072), np.uint8), [77])
    pack(path, "cifar-10-batches-py", files)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:20_000])
    if damage == "garbage":
        path.write_bytes(b"garbage" * 99)
    if damage == "a link":
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("data_batch_1")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    if damage == "a bomb":
        member = tarfile.TarInfo("data_batch_1")
        member.size = 1 << 40
        path.write_bytes(gzip.compress(member.tobuf() + bytes(10_000)))
    with pytest.raises(DataError) as caught:
        cifar10(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_its_files(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="cannot read"):
        cifar10(tmp_path)


def windows(picture):
    """Every picture that shift and flip may give."""
    border = picture.shape[-1] // 8
    padded = torch.nn.functional.pad(picture, (border,) * 4)
    size = picture.shape[-1]
    crops = [padded[:, i : i + size, j : j + size] for i in range(2 * border + 1) for j in range(2 * border + 1)]
    return crops + [crop.flip(-1) for crop in crops]


def test_augmentation_gives_shifted_or_mirrored_pictures_and_all_of_them():
    picture = torch.rand(2, 8, 8)
    out = shift_and_flip(picture.expand(600, -1, -1, -1), torch.Generator().manual_seed(0))
    possible = torch.stack(windows(picture)).flatten(1)
    equal = (out.flatten(1)[:, None] == possible[None]).all(2)
    assert equal.any(1).all()
    assert equal.any(0).all()


def test_augmentation_draws_from_its_generator_alone():
    inputs = torch.rand(50, 3, 32, 32)
    before = inputs.clone()
    state = torch.random.get_rng_state()
    one, same, other = (shift_and_flip(inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(inputs, before)


def test_both_readers_augment(tmp_path):
    unpacked(tmp_path / "cifar-10-batches-py", small_batches())
    assert cifar10(tmp_path).augment is shift_and_flip


@pytest.mark.slow
@pytest.mark.skipif("ATTAR_DATA" not in os.environ, reason="needs real data in $ATTAR_DATA")
def test_real_archive():
    tasks = [cifar10() for _ in range(2)]
    assert (len(tasks[0].train), len(tasks[0].validation), len(tasks[0].test)) == (45_000, 5_000, 10_000)
    assert np.bincount(tasks[0].test.labels).tolist() == [1000] * 10
    assert np.array_equal(tasks[0].train.images, tasks[1].train.images)
