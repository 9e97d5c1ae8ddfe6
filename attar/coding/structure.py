"""A network's graph as JSON and back: data only, no pickle, no class, a white list of ops (FORMAT.md, "The structure").

The document is `[names, inputs, call, nodes, output, preprocessing]`. Values that JSON lacks are strings with a first character that says
what they are; a result is referred to by how many rows back it is, so that equal layers make equal text.
"""

import functools
import json
import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from attar.coding import ops
from attar.errors import FormatError
from attar.graph import Input, Network, Program

__all__ = ["DTYPES", "MOST_NODES", "Structure", "build", "parse", "used_tensors", "write"]

MOST_NODES = 50_000  # a network of a thousand layers has twenty thousand
_MOST_REFERENCES = 4 * MOST_NODES
DEEPEST = 16

# number in a record -> type; append-only. In the JSON the names are used.
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
)

_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
_FORMATS = {
    str(memory_format).removeprefix("torch."): memory_format
    for memory_format in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
# first character -> what the rest of the string names
_CONSTANTS: dict[str, dict[str, Any]] = {
    ":": _BY_NAME,
    "/": _FORMATS,
    "=": {"strided": torch.strided},
    "!": {"cpu": torch.device("cpu")},
    "~": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan},
}
# Names end up in the source text of a graph module, so nothing that could end a string or a word may be in one.
_TENSOR_NAME = re.compile(r"[\w\-+/:@#=, ]+(\.[\w\-+/:@#=, ]+)*", re.ASCII)
_SIZE_LIMIT = 1 << 40


@dataclass(frozen=True)
class Structure:
    """A parsed document: every field has the right type, ops and references are not looked at yet.

    `probes` are the shapes to try the graph with, one for each input: a free size is 1, or what the file says.
    """

    names: tuple[str, ...]
    inputs: tuple[Input, ...]
    probes: tuple[tuple[int, ...] | None, ...]
    call: Mapping[str, Any]
    nodes: list[list]
    output: Any
    preprocessing: Mapping[str, tuple[float, ...]]


def used_tensors(network: Network) -> list[str]:
    """The tensors that the graph reads, in the order of their first use: the order in which a file holds them."""
    seen: dict[str, None] = {}

    def note(node: fx.Node) -> fx.Node:
        if node.op == "get_attr":
            seen.setdefault(str(node.target))
        return node

    for node in network.graph.nodes:
        fx.map_arg((node.args, node.kwargs), note)
    return list(seen)


def write(network: Network, probes: Iterable[tuple[int, ...] | None], *, names: bool = True) -> str:
    """The document of a network as compact JSON; without `names`, tensors are only numbered.

    Raises FormatError naming the op or value that a file cannot hold.
    """
    order = used_tensors(network)
    tensors = {name: i for i, name in enumerate(order)}
    for name in tensors:
        _check_name(name)
    results: dict[fx.Node, int] = {}
    inputs: dict[fx.Node, int] = {}
    next_tensor = 0

    def refer(node: fx.Node) -> str:
        nonlocal next_tensor
        if node.op == "get_attr":
            number = tensors[str(node.target)]
            if number == next_tensor:
                next_tensor += 1
                return "@"
            return f"@{number}"
        if node in inputs:
            return f"<{inputs[node] or ''}"
        back = len(results) - results[node]
        return f"^{back if back > 1 else ''}"

    rows, output = [], None
    for node in network.graph.nodes:
        if node.op == "placeholder":
            inputs[node] = len(inputs)
        elif node.op == "output":
            output = _pack_tree(node.args[0], refer)
        elif node.op != "get_attr":
            row = [ops.short_name(node), *(_pack(value, refer) for value in node.args)]
            if node.kwargs:
                row.append({key: _pack(value, refer) for key, value in node.kwargs.items()})
            rows.append(row)
            results[node] = len(results)
    described = [_pack_input(given, probe) for given, probe in zip(network.inputs, probes, strict=True)]
    call = {name: _pack_tree(tree, refer) for name, tree in network.call.items()}
    preprocessing = {key: list(values) for key, values in network.preprocessing.items()}
    document = [order if names else len(order), described, call, rows, output, preprocessing]
    ops.check_graph(network.graph)
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    parse(text)  # what could not be read again must not be written
    return text


def parse(text: str) -> Structure:
    """The document checked for its types and names; FormatError where it cannot be one."""
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        names, inputs, call, nodes, output, preprocessing = document
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"the structure must be a JSON list of six, names to preprocessing: {str(error)[:100]}") from None
    if type(names) is int and 0 <= names <= MOST_NODES:
        names = [f"t{i}" for i in range(names)]
    _require(
        _is_list_of(names, str) and len(names) <= MOST_NODES and len(set(names)) == len(names), "tensor names must be different strings"
    )
    for name in names:
        _check_name(name)
    _check_prefixes(names)
    _require(_is_list_of(inputs, list) and len(inputs) <= MOST_NODES, "inputs must be lists")
    given = [_unpack_input(row) for row in inputs]
    _require(len({i.name for i, _ in given}) == len(given), "inputs must have different names")
    _require(isinstance(call, dict) and all(_is_word(name) for name in call), "the arguments of the call must be words")
    leaves: list[int] = []
    unpacked = {name: _unpack_tree(tree, lambda v: _position(v, leaves)) for name, tree in call.items()}
    _require(sorted(leaves) == list(range(len(given))), "the call must use each input once")
    _require(_is_list_of(nodes, list) and len(nodes) <= MOST_NODES, f"nodes must be at most {MOST_NODES} lists")
    _require(all(row and isinstance(row[0], str) for row in nodes), "a node must begin with its op")
    _check_preprocessing(preprocessing, names)
    said = {key: tuple(float(value) for value in values) for key, values in preprocessing.items()}
    return Structure(tuple(names), tuple(i for i, _ in given), tuple(p for _, p in given), unpacked, nodes, output, said)


def build(structure: Structure) -> fx.Graph:
    """The graph of a parsed document; runs nothing. FormatError on an unknown op, value or reference."""
    graph = fx.Graph()
    inputs = [graph.placeholder(given.name) for given in structure.inputs]
    tensors = [graph.get_attr(name) for name in structure.names]
    results: list[fx.Node] = []
    next_tensor = references = 0

    def resolve(text: str) -> fx.Node:
        nonlocal next_tensor, references
        references += 1
        _require(references <= _MOST_REFERENCES, f"a graph may refer to its nodes {_MOST_REFERENCES} times at most")
        kind, digits = text[0], text[1:]
        _require(digits == "" or (digits.isascii() and digits.isdecimal() and len(digits) < 8), f"{text[:20]!r} is no reference")
        if kind == "@" and digits == "":
            next_tensor += 1
            return _at(tensors, next_tensor - 1, text)
        if kind == "^":
            return _at(results, len(results) - int(digits or 1), text)
        return _at(tensors if kind == "@" else inputs, int(digits or 0), text)

    for row in structure.nodes:
        name, *arguments = row
        kwargs = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        target = ops.resolve(name)
        args = tuple(_unpack(value, resolve) for value in arguments)
        named = {key: _unpack(value, resolve) for key, value in kwargs.items()}
        ops.check_arguments(name, args, named)
        results.append(graph.create_node("call_function", target, args, named, name=name.lstrip("=+").partition(".")[0]))
    graph.output(_unpack_tree(structure.output, lambda value: _unpack(value, resolve)))
    ops.check_graph(graph)
    return graph


# Values: arguments of ops.


def _pack(value: Any, refer: Callable[[fx.Node], str]) -> Any:
    if isinstance(value, fx.Node):
        return refer(value)
    if value is None or type(value) in (bool, int):
        return value
    if isinstance(value, str):
        return f"'{value}"
    if isinstance(value, float):
        return value if math.isfinite(value) else f"~{value}"
    if isinstance(value, list | tuple):
        return [_pack(inner, refer) for inner in value]
    for mark, table in _CONSTANTS.items():
        for name, constant in table.items():
            if mark != "~" and type(value) is type(constant) and value == constant:
                return mark + name
    raise FormatError(f"a {type(value).__name__} ({str(value)[:40]}) as an argument of an op cannot be stored")


def _unpack(value: Any, resolve: Callable[[str], fx.Node], depth: int = 0) -> Any:
    _require(depth <= DEEPEST, f"arguments must be nested at most {DEEPEST} deep")
    if isinstance(value, list):
        return [_unpack(inner, resolve, depth + 1) for inner in value]
    if isinstance(value, str):
        mark = value[:1]
        if mark in ("^", "@", "<") and mark:
            return resolve(value)
        if mark == "'":
            return value[1:]
        known = _CONSTANTS.get(mark, {})
        _require(value[1:] in known, f"a value {value[:40]!r} is unknown")
        return known[value[1:]]
    _require(
        value is None or type(value) in (bool, float) or (type(value) is int and -(1 << 63) <= value < 1 << 63), "an argument is no value"
    )
    return value


# Trees: outputs, and the arguments of the call. A list is ["l", ...], a tuple ["t", ...], a dict ["d", key, value, ...].


def _pack_tree(tree: Any, refer: Callable[[fx.Node], str]) -> Any:
    if isinstance(tree, dict):
        if not all(type(key) in (str, int) for key in tree):
            raise FormatError("a dict among inputs or outputs must have strings or whole numbers as keys")
        return ["d", *(item for key, value in tree.items() for item in (key, _pack_tree(value, refer)))]
    if isinstance(tree, list | tuple):
        return ["l" if isinstance(tree, list) else "t", *(_pack_tree(value, refer) for value in tree)]
    return _pack(tree, refer)


def _unpack_tree(tree: Any, leaf: Callable[[Any], Any], depth: int = 0) -> Any:
    _require(depth <= DEEPEST, f"inputs and outputs must be nested at most {DEEPEST} deep")
    if not isinstance(tree, list):
        return leaf(tree)
    _require(bool(tree) and tree[0] in ("d", "l", "t"), "a container must say what it is")
    kind, *items = tree
    if kind != "d":
        inner = [_unpack_tree(item, leaf, depth + 1) for item in items]
        return inner if kind == "l" else tuple(inner)
    keys = items[::2]
    _require(len(items) % 2 == 0 and all(type(key) in (str, int) for key in keys) and len(set(keys)) == len(keys), "a dict must have keys")
    return {key: _unpack_tree(value, leaf, depth + 1) for key, value in zip(keys, items[1::2], strict=True)}


def _pack_input(given: Input, probe: tuple[int, ...] | None) -> list:
    if given.shape is None or given.dtype is None or probe is None:
        return [given.name, _pack(given.constant, _no_reference)]
    free = [None if value == 1 else [value] for value in probe]
    return [given.name, _pack(given.dtype, _no_reference)[1:], [f if s is None else s for s, f in zip(given.shape, free, strict=True)]]


def _unpack_input(row: list) -> tuple[Input, tuple[int, ...] | None]:
    _require(len(row) in (2, 3) and _is_word(row[0]), "an input must have a word as its name")
    if len(row) == 2:
        value = _unpack(row[1], _no_reference)
        _require(not isinstance(value, list), "a constant input must be one value")
        return Input(row[0], None, None, value), None
    name, dtype, sizes = row
    _require(
        isinstance(dtype, str) and dtype in _BY_NAME and isinstance(sizes, list) and len(sizes) <= DEEPEST, f"input {name!r} has no type"
    )
    shape: list[int | None] = []
    probe: list[int] = []
    for size in sizes:
        free = size is None or isinstance(size, list)
        value = 1 if size is None else size[0] if isinstance(size, list) and len(size) == 1 else size
        _require(type(value) is int and 0 <= value < _SIZE_LIMIT, f"input {name!r} has a size that is no size")
        shape.append(None if free else value)
        probe.append(value)
    return Input(name, tuple(shape), _BY_NAME[dtype]), tuple(probe)


def _position(value: Any, leaves: list[int]) -> int:
    _require(type(value) is int, "the call must be made of the positions of inputs")
    leaves.append(value)
    return value


def _no_reference(value: Any) -> Any:
    raise FormatError(f"an input cannot refer to {str(value)[:40]!r}")


# Names.


def _check_name(name: str) -> None:
    first, *rest = name.split(".")
    if len(name) > 1000 or not _TENSOR_NAME.fullmatch(name) or any(keyword.iskeyword(part) or part[:2] == "__" for part in (first, *rest)):
        raise FormatError(
            f"tensor name {name[:60]!r} must be dotted words of letters, digits and -+/:@#=, and no word of Python's own: rename it"
        )
    taken = _taken()
    if first in taken[0] or any(part in taken[1] for part in rest):
        raise FormatError(f"tensor name {name[:60]!r} hides what every module has: rename the layer")


def _check_prefixes(names: list[str]) -> None:
    """No tensor may sit where another one's path needs a module."""
    owners = {".".join(parts[:i]) for parts in (name.split(".") for name in names) for i in range(1, len(parts))}
    _require(not owners & set(names), "a tensor must not have the name of a module")


def _check_preprocessing(preprocessing: Any, names: list[str]) -> None:
    _require(isinstance(preprocessing, dict) and set(preprocessing) <= {"mean", "std"}, "preprocessing must be mean and std")
    for key, values in preprocessing.items():
        _require(isinstance(values, list) and 0 < len(values) <= 4096, f"{key} must be a list")
        _require(all(type(value) in (int, float) and abs(value) < 1e30 for value in values), f"{key} must hold numbers")
        _require(key not in {name.partition(".")[0] for name in names}, f"{key} must not be a tensor as well")


@functools.cache
def _taken() -> tuple[set[str], set[str]]:
    """The attributes of a program, and of any module below it."""
    below = set(dir(nn.Module()))
    return below | set(dir(Program)) | {"graph", "example_shape"}, below


def _is_word(value: Any) -> bool:
    return (
        isinstance(value, str)
        and value.isascii()
        and value.isidentifier()
        and not keyword.iskeyword(value)
        and value != "self"
        and value[:2] != "__"
        and len(value) <= 1000
    )


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _at(nodes: list[fx.Node], index: int, text: str) -> fx.Node:
    _require(0 <= index < len(nodes), f"reference {text[:20]!r} points outside the graph")
    return nodes[index]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise FormatError(f"the structure is malformed: {message}")
