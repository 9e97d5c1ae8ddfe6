"""Random damage under valid checksums: only FormatError ever comes out, quickly and in little memory."""

import json
import zlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from attar.coding import container, decode, encode, varint
from attar.errors import FormatError
from attar.forms import Codebook, Sparse, attach
from attar.graph import trace


@pytest.fixture(scope="module", params=["packed", "huffman-escape", "entropy"])
def sound(request) -> bytes:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    mask = torch.rand(3, 64) < 0.3
    attach(model[4], "weight", Sparse(mask, Codebook(torch.randint(5, (int(mask.sum()),)), torch.randn(5))))
    attach(model[0], "weight", Codebook(torch.randint(3, (4, 1, 3, 3)), torch.randn(3)))
    return encode(trace(model, (torch.zeros(2, 1, 6, 6),)), codec=request.param)


def sealed(body: bytes) -> bytes:
    """A body with checksums that fit it."""
    checks = [zlib.crc32(body[at : at + container.BLOCK]) for at in range(0, len(body), container.BLOCK)]
    return body + b"".join(check.to_bytes(4, "little") for check in checks)


def opened(data: bytes) -> tuple[bytes, bytes]:
    head, start, end = container.open_envelope(data)
    return head, data[start:end]


def survives(data: bytes) -> None:
    """Decoding gives a network that runs, or FormatError."""
    try:
        network = decode(data, byte_cap=1 << 26)
    except FormatError as error:
        message = str(error)
    else:
        network.program()
        message = ""
    assert "\n" not in message


many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4)


def edited(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    out = bytearray(data)
    for at, value in edits:
        out[at % len(out)] = value
    return bytes(out)


@many
@given(edits=edits)
def test_damaged_headers(sound, edits):
    head, streams = opened(sound)
    survives(bytes(container.envelope(edited(head, edits), [streams], aligned=[False])))


@many
@given(edits=edits)
def test_damaged_records(sound, edits):
    head, streams = opened(sound)
    size, at = varint.decode(head, 0)
    records = at + size
    survives(bytes(container.envelope(head[:records] + edited(head[records:], edits), [streams], aligned=[False])))


@many
@given(edits=edits)
def test_damaged_streams(sound, edits):
    head, streams = opened(sound)
    survives(bytes(container.envelope(head, [edited(streams, edits)], aligned=[False])))


@many
@given(edits=edits)
def test_damaged_envelopes(sound, edits):
    survives(sealed(edited(sound[: -4 * -(-len(sound) // container.BLOCK)], edits)))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.sampled_from(["^", "<", "@", "'tanh", ":float32", "relu", "add.Tensor", "x", "=mul"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "mean", "dim"]), inner, max_size=2),
    max_leaves=8,
)


@many
@given(data=st.data())
def test_structures_with_any_value_anywhere(sound, data):
    head, streams = opened(sound)
    size, at = varint.decode(head, 0)
    document = json.loads(head[at : at + size])
    place = document
    for _ in range(data.draw(st.integers(0, 4))):
        if isinstance(place, list) and place:
            inner = place[data.draw(st.integers(0, len(place) - 1))]
            if not isinstance(inner, list) or not inner:
                break
            place = inner
    place[data.draw(st.integers(0, len(place) - 1))] = data.draw(json_values)
    text = json.dumps(document, separators=(",", ":")).encode()
    survives(bytes(container.envelope(varint.encode(len(text)) + text + head[at + size :], [streams], aligned=[False])))
