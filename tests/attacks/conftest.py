"""Files as an attacker would write them: any header, any streams, valid checksums."""

import json
import resource
from collections.abc import Callable, Sequence

import pytest

from attar.coding import container, header, varint

V = varint.encode


def _craft(document: object, records: bytes = b"", streams: Sequence[bytes] = (), *, aligned: Sequence[bool] | None = None) -> bytes:
    """A file with this structure (JSON, or text as it is), these records and streams."""
    text = document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))
    head = V(len(text.encode())) + text.encode() + records
    return bytes(container.envelope(head, streams, aligned=list(aligned or [False] * len(streams))[: len(streams)]))


def _graph(
    *nodes: list, output: object = "^", inputs: Sequence[list] = (("x", "float32", [None, 4]),), tensors: Sequence[tuple[int, ...]] = ()
) -> bytes:
    """A file whose graph has these rows; tensors are zeros of these shapes, float32."""
    names = [f"t{i}" for i in range(len(tensors))]
    call = {given[0]: i for i, given in enumerate(inputs)}
    records, size = b"", 0
    for i, shape in enumerate(tensors):
        records += V(header.BUFFER) + V(header.NUMBERS) + V(1 + len(shape)) + b"".join(map(V, shape)) + V(0) + V(min(i, 1))
        count = 4
        for n in shape:
            count *= n
        size += count
    records += V(header.RAW) if tensors else b""
    return _craft(
        [names, list(map(list, inputs)), call, list(nodes), output, {}],
        records,
        [bytes(size)] if tensors else [],
        aligned=[header.aligned(header.RAW, size)],
    )


@pytest.fixture(scope="session")
def craft() -> Callable[..., bytes]:
    return _craft


@pytest.fixture(scope="session")
def graph() -> Callable[..., bytes]:
    return _graph


@pytest.fixture
def little_memory():
    """Fails the test where the process grew by more than 256 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
