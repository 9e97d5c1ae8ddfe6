"""Files of version 1, written once: they must be read for ever, to the same values, and the broken ones refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attar.coding import CODECS, decode, encode, header, load, reference, validate
from attar.coding.container import open_envelope
from attar.errors import FormatError
from attar.forms import Codebook, Dense, Sparse

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text())
BROKEN = json.loads((HERE / "broken.json").read_text())
FILES = {f"network-{codec}": ("network", codec) for codec in CODECS} | {"types": ("types", "raw"), "layouts": ("layouts", "auto")}


def values(tensor: torch.Tensor) -> list:
    tensor = tensor.detach()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten().tolist()


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_holds_what_it_held(name):
    network = load(HERE / f"{name}.attar")
    assert {key: values(tensor) for key, tensor in network.tensors.items()} == EXPECTED[FILES[name][0]]


@pytest.mark.parametrize("name", FILES)
def test_the_reference_decoder_agrees(name):
    for key, _, body in reference.decode((HERE / f"{name}.attar").read_bytes()).tensors:
        flat = reference.dense(body)
        spread = [part for value in flat for part in (value.real, value.imag)] if isinstance(flat[:1] and flat[0], complex) else flat
        assert spread == EXPECTED[FILES[name][0]][key]


@pytest.mark.parametrize("name", FILES)
def test_writing_it_again_gives_the_same_header_and_streams(name):
    """The deflated bytes themselves are zlib's affair, and not compared."""
    data = (HERE / f"{name}.attar").read_bytes()
    again = encode(decode(data), codec=FILES[name][1])
    (head, start, end), (head_again, start_again, end_again) = open_envelope(data), open_envelope(again)
    assert head == head_again
    if start == start_again:  # else the alignment differs as well
        assert data[start:end] == again[start_again:end_again]


def test_forms_and_what_is_told_of_the_inputs_are_kept():
    network = load(HERE / "network-auto.attar")
    kinds = {name: type(form) for name, form in network.forms.items()}
    assert kinds == {"conv.weight": Codebook, "fc.weight": Sparse, "last.weight": Sparse, "scale": Dense}
    assert network.preprocessing == {"mean": (0.5,), "std": (0.25,)}


def test_a_golden_network_runs():
    program = load(HERE / "network-huffman.attar").program()
    result = program(torch.ones(2, 1, 6, 6))
    assert result["scores"].shape == (2, 3)
    assert int(result["steps"]) == 7


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_reason(name):
    with pytest.raises(FormatError, match=BROKEN[name]):
        load(HERE / f"broken-{name}.attar")


def test_all_layouts_occur_among_the_golden_files():
    found = set()
    for name in FILES:
        tensors = validate((HERE / f"{name}.attar").read_bytes()).tensors
        found |= {array.layout for tensor in tensors for array in header.arrays(tensor.body)}
    assert found >= {header.NUMBERS, header.SYMBOLS, header.PLANES, header.ESCAPE, header.ESCAPE_COLUMNS, header.FILLERS}


def test_the_generator_refuses_to_overwrite():
    before = {path.name: path.read_bytes() for path in HERE.glob("*.attar")}
    done = subprocess.run([sys.executable, HERE / "make.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "never rewritten" in done.stderr
    assert {path.name: path.read_bytes() for path in HERE.glob("*.attar")} == before
