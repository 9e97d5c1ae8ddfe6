"""Values come back bit by bit; the file is the old one or the new one, never half of one."""

import os
import resource
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from attar.errors import AttarError, FormatError
from attar.training import checkpoint
from attar.training.checkpoint import Checkpoint, load_state, save_state

TYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.uint16,
]


def same(one, other):
    """Equal in structure, types and bits."""
    if isinstance(one, torch.Tensor):
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one.resolve_conj(), other)]
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def round_trip(path, value):
    save_state(path, value)
    return load_state(path)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (3, 4)], ids=str)
def test_every_type_and_shape_survives(tmp_path, dtype, shape):
    value = torch.randint(0, 2, shape).to(dtype)
    assert same(value, round_trip(tmp_path / "state", value))


def test_strided_conjugate_and_shared_tensors_survive(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    complex_ = torch.tensor([1 + 2j, 3 - 4j])
    value = {
        "whole": base,
        "again": base,
        "transposed": base.t(),
        "column": base[:, 1],
        "rows": base[1:3],
        "flat": base.view(-1),
        "expanded": torch.ones(1).expand(5),
        "conjugate": complex_.conj(),
        "plain": complex_,
        "not a number": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    found = round_trip(tmp_path / "state", value)
    assert same(value, found)
    assert found["whole"] is found["again"]
    assert (tmp_path / "state").stat().st_size < 4000


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(value=_VALUES)
def test_plain_values_survive(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "plain"
    assert same(value, round_trip(path, value))


def test_the_same_value_makes_the_same_bytes(tmp_path):
    value = {"b": torch.arange(5), "a": [1, (2.5, "x")], "c": torch.ones(2, 2)}
    save_state(tmp_path / "one", value)
    save_state(tmp_path / "two", {name: inner.clone() if isinstance(inner, torch.Tensor) else inner for name, inner in value.items()})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_a_checkpoint_cannot_keep_is_refused_by_its_place(tmp_path):
    with pytest.raises(AttarError, match=r"state\.steps\.0 is a set"):
        save_state(tmp_path / "state", {"steps": [{1, 2}]})
    with pytest.raises(AttarError, match=r"key \(1, 2\) of type tuple"):
        save_state(tmp_path / "state", {(1, 2): 3})
    with pytest.raises(AttarError, match="without plain values"):
        save_state(tmp_path / "state", torch.eye(3).to_sparse())
    assert os.listdir(tmp_path) == []


def test_a_flipped_bit_anywhere_is_found(tmp_path):
    path, value = tmp_path / "state", {"w": torch.arange(4.0), "n": 3}
    save_state(path, value)
    good = path.read_bytes()
    for position in range(len(good)):
        for bit in range(8) if position < 8 else [position % 8]:
            path.write_bytes(good[:position] + bytes([good[position] ^ (1 << bit)]) + good[position + 1 :])
            try:
                found = load_state(path)
            except FormatError:
                continue
            assert same(value, found), (position, bit)  # padding


def test_truncated_empty_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "state"
    save_state(path, {"w": torch.arange(4.0)})
    good = path.read_bytes()
    for size in (0, 1, 7, 8, 20, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(FormatError, match="delete it"):
            load_state(path)
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(FormatError, match="no checkpoint of ours"):
        load_state(path)


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_VERSION", 99)
    save_state(tmp_path / "state", 1)
    monkeypatch.undo()
    with pytest.raises(FormatError, match="version 99"):
        load_state(tmp_path / "state")


def test_a_missing_file_or_folder_is_said(tmp_path):
    with pytest.raises(AttarError, match="cannot read"):
        load_state(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(AttarError, match="cannot save"):
        save_state(tmp_path / "file" / "state", 1)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def half_a_file(_, path, __):
    path.write_bytes(b"half a file")
    die()


def die_after_rename(one, other, rename=os.replace):
    rename(one, other)
    die()


MISHAPS = {
    "full disk": limit_files,
    "killed in the write": lambda: setattr(checkpoint, "save_file", half_a_file),
    "killed before the flush": lambda: setattr(checkpoint, "_flush", die),
    "killed before the rename": lambda: setattr(os, "replace", die),
    "killed after the rename": lambda: setattr(os, "replace", die_after_rename),
}


def save_in_a_child(path, value, mishap):
    """Save in a forked process to which `mishap` happens; its exit status, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        mishap()
        try:
            save_state(path, value)
        except AttarError as error:
            os._exit(3 if "File too large" in str(error) and "the previous file is intact" in str(error) else 4)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("what", MISHAPS)
def test_a_full_disk_or_a_kill_while_writing_leaves_a_whole_file(tmp_path, what):
    path = tmp_path / "state"
    old, new = {"w": torch.full((100_000,), 1.0)}, {"w": torch.full((100_000,), 2.0)}
    save_state(path, old)
    assert save_in_a_child(path, new, MISHAPS[what]) == (3 if what == "full disk" else -signal.SIGKILL)
    assert same(load_state(path), new if what == "killed after the rename" else old)
    if what == "full disk":
        assert os.listdir(tmp_path) == ["state"]
    save_state(path, new)
    assert os.listdir(tmp_path) == ["state"]
    assert same(load_state(path), new)


def test_the_options_are_checked():
    with pytest.raises(AttarError, match="seconds must be above 0"):
        Checkpoint("x", seconds=0)
    with pytest.raises(AttarError, match="updates must be at least 1"):
        Checkpoint("x", updates=0)
