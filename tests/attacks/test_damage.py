"""Damage: every flipped bit and every truncation of a small file is found, before anything is parsed."""

import pytest
import torch

from attar.coding import decode, encode, validate
from attar.errors import FormatError
from attar.forms import Codebook, Sparse, attach
from attar.graph import trace


@pytest.fixture(scope="module")
def small() -> bytes:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    mask = torch.rand(5, 6) < 0.5
    attach(model[0], "weight", Sparse(mask, Codebook(torch.randint(3, (int(mask.sum()),)), torch.tensor([-1.0, 0.5, 2.0]))))
    data = encode(trace(model, (torch.zeros(2, 6),)))
    decode(data)
    return data


def test_every_flipped_bit_is_detected(small):
    for position in range(8 * len(small)):
        damaged = bytearray(small)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            validate(damaged)


def test_every_truncation_is_detected(small):
    for length in range(len(small)):
        with pytest.raises(FormatError):
            validate(small[:length])


def test_every_extension_is_detected(small):
    for tail in (b"\0", b"\0\0\0\0", small[-4:], small, b"\0" * 4096):
        with pytest.raises(FormatError):
            validate(small + tail)


def test_every_lost_or_doubled_byte_is_detected(small):
    for at in range(len(small)):
        for damaged in (small[:at] + small[at + 1 :], small[: at + 1] + small[at:]):
            if damaged != small:
                with pytest.raises(FormatError):
                    validate(damaged)
