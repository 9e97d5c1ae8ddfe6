"""A user's mistake is one line on stderr and exit status 2, whatever the verb; nothing is written."""

import os

import pytest
import torch
from torch import nn


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("inspect", "zoo:lenet6"), "no zoo 'lenet6', did you mean 'lenet5'"),
        (("inspect", "lenet5"), "MODEL must be zoo:NAME"),
        (("inspect", "nowhere.attar"), "cannot read nowhere.attar"),
        (("inspect", "net.pt2"), "pass --trust"),
        (("inspect", "net.pt2", "--trust"), "there is no file net.pt2"),
        (("inspect", "no_such_module:f"), "no module 'no_such_module'"),
        (("inspect", "zoo:lenet5", "--weights", "nowhere.safetensors"), "there is no file nowhere.safetensors"),
        (("inspect", "no_such_module:f", "--pretrained"), "--pretrained is for zoo:NAME"),
        (("inspect", "zoo:lenet5", "--shape", "a,b"), "--shape must be numbers"),
        (("ls", "salience"), "no family 'salience', did you mean 'saliency'"),
        (("report", "nowhere"), "there is no nowhere"),
        (("bench", "zoo:digits_net", "--batch", "0"), "batch must be at least 1"),
        (("evaluate", "zoo:lenet5", "--data", "mnits"), "no data 'mnits', did you mean 'mnist'"),
        (("evaluate", "zoo:lenet5", "--data", "mnist", "--data-dir", "nowhere"), "--download"),
        (("compress", "zoo:digits_net", "--data", "digits", "--recipe", "deep", "--out", "o"), "there is no recipe 'deep'"),
    ],
)
def test_one_line_and_status_two(attar, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    status, out, err = attar(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("attar: ")
    assert err.count("\n") == 1
    assert says in err
    assert os.listdir(tmp_path) == []


def test_usage_errors_have_status_two(attar):
    for arguments in (("compress",), ("inspect", "zoo:lenet5", "--shpe", "3"), ("frobnicate",), ("bench", "zoo:lenet5", "--batch", "x")):
        status, _, err = attar(*arguments)
        assert status == 2
        assert err


@pytest.mark.parametrize("content", [b"", b"nothing of ours", b"\x00" * 4096])
def test_a_file_that_is_not_ours(attar, tmp_path, content):
    path = tmp_path / "model.attar"
    path.write_bytes(content)
    status, _, err = attar("inspect", path)
    assert status == 2
    assert err.count("\n") == 1
    assert str(path) in err


def test_a_damaged_file(attar, tmp_path, compressed):
    data = bytearray((compressed / "model.attar").read_bytes())
    data[len(data) // 2] ^= 16
    (tmp_path / "model.attar").write_bytes(data)
    status, _, err = attar("evaluate", tmp_path / "model.attar", "--data", "digits")
    assert status == 2
    assert err.count("\n") == 1


def test_a_recipe_s_faults_in_one_line(attar, tmp_path):
    (tmp_path / "r.yaml").write_text("- prune: {keep: 3}\n- quantize: {bits: 17, metod: kmeans}\n")
    status, _, err = attar("compress", "zoo:digits_net", "--data", "digits", "--recipe", tmp_path / "r.yaml", "--out", tmp_path / "o")
    assert status == 2
    assert err.count("\n") == 1
    assert "3 faults" in err
    assert not (tmp_path / "o").exists()


def test_a_folder_that_cannot_be_written(attar, recipe):
    out = "/proc/attar"  # where root may not write either
    status, _, err = attar("compress", "zoo:digits_net", "--data", "digits", "--recipe", recipe, "--out", out)
    assert status == 2
    assert f"cannot write to {out}" in err


def test_out_is_a_file(attar, tmp_path, recipe):
    (tmp_path / "o").write_text("mine")
    status, _, err = attar("compress", "zoo:digits_net", "--data", "digits", "--recipe", recipe, "--out", tmp_path / "o")
    assert status == 2
    assert "cannot write to" in err
    assert (tmp_path / "o").read_text() == "mine"


def build():
    """What a user's callable may return by mistake."""
    return "a network"


def broken():
    model = nn.Linear(64, 10)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    return nn.Sequential(nn.Flatten(), model)


def test_a_callable_that_returns_no_network(attar, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    status, _, err = attar("inspect", "test_mistakes:build")
    assert status == 2
    assert "returned a str" in err
    status, _, err = attar("evaluate", "zoo:digits_net", "--data", "test_mistakes:build")
    assert status == 2
    assert "must return an attar.Task" in err


def test_infinite_weights(attar, monkeypatch, tmp_path, recipe):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    status, _, err = attar("compress", "test_mistakes:broken", "--data", "digits", "--recipe", recipe, "--out", tmp_path / "o")
    assert status == 2
    assert "1.weight holds NaN or infinite" in err
