"""Writes the golden files: once for each version of the format, by hand, and never over what is there.

    python tests/golden/make.py

Values are whole numbers and halves, made by formulas: no file depends on a processor, a random generator or training.
"""

import json
import zlib
from pathlib import Path

import torch
from torch import fx, nn

from attar.coding import CODECS, container, encode, varint
from attar.coding.structure import DTYPES
from attar.forms import Codebook, Dense, Form, Sparse
from attar.graph import Input, Network

HERE = Path(__file__).parent


def halves(*shape: int) -> torch.Tensor:
    """-8, -7.5, ..., 7.5 and again, in a fixed disorder."""
    numel = torch.Size(shape).numel()
    return ((torch.arange(numel) * 37 + 11) % 32 - 16).reshape(shape) / 2


def sparse(*shape: int, every: int, codes: int) -> Sparse:
    """A mask with ones wherever a quadratic residue says so, and values that share `codes` numbers."""
    place = torch.arange(torch.Size(shape).numel())
    mask = (place * place % every == 1).reshape(shape)
    kept = int(mask.sum())
    return Sparse(mask, Codebook((torch.arange(kept) ** 2 // 3) % codes, torch.arange(1, codes + 1) / 2))


def network() -> Network:
    """Convolution, linear layer and a buffer: one form of each kind, tied nowhere, two outputs."""
    forms: dict[str, Form] = {
        "conv.weight": Codebook((torch.arange(54) * 7 % 5).reshape(6, 1, 3, 3), torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])),
        "fc.weight": sparse(40, 96, every=23, codes=7),
        "last.weight": Sparse((torch.arange(120) % 3 == 0).reshape(3, 40), halves(40) + 16),
        "scale": Dense(halves(40)),
    }
    tensors: dict[str, torch.Tensor] = {name: nn.Parameter(form().detach(), requires_grad=False) for name, form in forms.items()}
    tensors |= {"conv.bias": nn.Parameter(halves(6)), "fc.bias": nn.Parameter(halves(40)), "steps": torch.tensor(7)}
    graph, ops = fx.Graph(), torch.ops.aten
    x = graph.placeholder("x")
    get = {name: graph.get_attr(name) for name in tensors}
    y = graph.call_function(ops.conv2d.default, (x, get["conv.weight"], get["conv.bias"]))
    y = graph.call_function(ops.flatten.using_ints, (graph.call_function(ops.relu.default, (y,)), 1))
    y = graph.call_function(ops.linear.default, (y, get["fc.weight"], get["fc.bias"]))
    z = graph.call_function(ops.mul.Tensor, (y, get["scale"]))
    z = graph.call_function(ops.linear.default, (z, get["last.weight"]))
    graph.output({"scores": z, "steps": get["steps"]})
    given = (Input("x", (None, 1, 6, 6), torch.float32),)
    return Network(graph, given, tensors, forms, {"x": 0}, {"mean": (0.5,), "std": (0.25,)})


def types() -> Network:
    """A tensor of every type, some empty, one of them large enough to be aligned."""
    tensors = {f"as_{str(dtype)[6:]}": halves(4, 3).abs().to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(-0.5), "empty": torch.zeros(0, 3), "large": halves(40, 30)}
    graph = fx.Graph()
    graph.output([graph.get_attr(name) for name in tensors])
    return Network(graph, (), tensors, {}, {})


def layouts() -> Network:
    """What only `auto` chooses: bytes by planes, masks by columns."""
    columns = (torch.arange(90) ** 2 % 11 == 3).repeat(80, 1)
    kept = int(columns.sum())
    forms = {"columns.weight": Sparse(columns, Codebook(torch.arange(kept) ** 2 % 13 % 3, torch.tensor([0.5, 1.0, 1.5])))}
    tensors: dict[str, torch.Tensor] = {name: nn.Parameter(form().detach()) for name, form in forms.items()}
    tensors["positions"] = torch.arange(1024)
    graph = fx.Graph()
    graph.output(tuple(graph.get_attr(name) for name in tensors))
    return Network(graph, (), tensors, forms, {})


def values(tensor: torch.Tensor) -> list:
    flat = torch.view_as_real(tensor.detach()).flatten() if tensor.is_complex() else tensor.detach().flatten()
    return flat.tolist()


def broken(sound: bytes) -> dict[str, tuple[bytes, str]]:
    """Files that must be refused, and a part of the message."""
    head, start, end = container.open_envelope(sound)
    streams = sound[start:end]

    def sealed(head: bytes, streams: bytes) -> bytes:
        return bytes(container.envelope(head, [streams], aligned=[False]))

    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 4
    newer = container.MAGIC + bytes([2]) + sound[5:end]
    size, at = varint.decode(head, 0)
    text = head[at : at + size].replace(b'"relu"', b'"frobnicate"')
    return {
        "flipped": (bytes(flipped), "checksum"),
        "truncated": (sound[:-100], "truncated"),
        "newer": (newer + zlib.crc32(newer).to_bytes(4, "little"), "upgrade Attar"),
        "unknown_op": (sealed(varint.encode(len(text)) + text + head[at + size :], streams), "not on the list"),
        "short_streams": (sealed(head, streams[:-1]), "streams must end"),
        "long_streams": (sealed(head, streams + b"\0"), "streams must end"),
        "long_header": (sealed(head + b"\0", streams), "too many"),
        "short_header": (sealed(head[:-1], streams), "varint"),
        "zeroed_streams": (sealed(head, bytes(len(streams))), "corrupt"),
    }


def main() -> None:
    made: dict[str, bytes] = {f"network-{codec}.attar": encode(network(), codec=codec) for codec in CODECS}
    made["types.attar"] = encode(types(), codec="raw")
    made["layouts.attar"] = encode(layouts())
    expected = {"network": network(), "types": types(), "layouts": layouts()}
    contents = {key: {name: values(tensor) for name, tensor in net.tensors.items()} for key, net in expected.items()}
    made["expected.json"] = (json.dumps(contents, separators=(",", ":")) + "\n").encode()
    errors = broken(made["network-entropy.attar"])
    made |= {f"broken-{name}.attar": data for name, (data, _) in errors.items()}
    made["broken.json"] = (json.dumps({name: message for name, (_, message) in errors.items()}, indent=1) + "\n").encode()
    there = [name for name in made if (HERE / name).exists()]
    if there:
        raise SystemExit(f"{', '.join(there)} exist: golden files are never rewritten; a new version of the format gets new names")
    for name, data in made.items():
        (HERE / name).write_bytes(data)


if __name__ == "__main__":
    main()
