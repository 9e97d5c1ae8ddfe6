import json
import math

import pytest
import torch
from torch import Tensor, fx, nn

from attar.coding import structure
from attar.errors import FormatError
from attar.graph import Network, op_name, trace


def written(network: Network) -> str:
    shapes = [None if i.shape is None else tuple(1 if s is None else s for s in i.shape) for i in network.inputs]
    return structure.write(network, shapes)


def row(name: str, *args, **kwargs) -> str:
    """A document whose one node is this row, on one input of shape [2, 3]."""
    return json.dumps([[], [["x", "float32", [2, 3]]], {"x": 0}, [[name, *args, *([kwargs] if kwargs else [])]], "^", {}])


def test_lenet5_is_a_line_of_text(lenet5_network):
    text = written(lenet5_network)
    assert '["conv2d","<","@","@"],["max_pool2d","^",[2,2]],["conv2d","^","@","@"]' in text


def test_a_graph_survives_with_every_value_it_holds():
    class Odd(nn.Module):
        def forward(self, x: Tensor, flag: bool, y: dict[str, Tensor]) -> dict:
            a = x.to(torch.float64).masked_fill(x > 1, -math.inf).sum(dim=(0, 1), keepdim=True)
            b = torch.einsum("ij,kj->ik", x, y["b"])
            c, d = torch.split(x, 2, dim=1)[:2]
            e = x.contiguous(memory_format=torch.contiguous_format).reshape(x.shape[0] * 2, -1)
            return {"a": (a, [b, None]), "c": c + d, "e": e, "n": 3}

    network = trace(Odd(), (torch.ones(2, 4), True, {"b": torch.ones(5, 4)}))
    graph = structure.build(structure.parse(written(network)))

    def rows(graph: fx.Graph) -> list:
        return [(op_name(n), str(n.args), str(n.kwargs)) for n in graph.nodes if n.op == "call_function"]

    before, after = rows(network.graph), rows(graph)
    assert [r[0] for r in before] == [r[0] for r in after]
    parsed = structure.parse(written(network))
    assert parsed.call == network.call
    assert parsed.inputs == network.inputs
    again = Network(graph, parsed.inputs, network.tensors, {}, parsed.call)
    assert written(again) == written(network)


def test_tied_weights_are_one_name_and_names_follow_their_first_use():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.twin = nn.Linear(4, 4, bias=False)
            self.twin.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.twin(self.first(x)))

    network = trace(Tied(), (torch.ones(2, 4),))
    names = json.loads(written(network))[0]
    assert len(names) == 2
    assert names[1] == "last.weight"


def test_without_names_tensors_are_numbered(lenet5_network):
    text = structure.write(lenet5_network, [(1, 1, 28, 28)], names=False)
    assert structure.parse(text).names == tuple(f"t{i}" for i in range(8))


def test_an_op_off_the_list_is_refused_by_name_when_written():
    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(FormatError, match=r"aten\.rand_like\.default is not on the list"):
        written(trace(Draws(), (torch.ones(2, 2),)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1,2,3,4,5]",
        "[[],[],{},[],null]",
        "[" * 100_000,
        "[[],[],{},[]," + "9" * 5000 + ",{}]",
        "[[],[],{},[],NaN,{}]",
        '[["a","a"],[],{},[],null,{}]',
        '[[1],[],{},[],null,{}]',
        "[-1,[],{},[],null,{}]",
        "[99999999999,[],{},[],null,{}]",
        '[[],[["x","float32",[-1]]],{"x":0},[],null,{}]',
        '[[],[["x","float32",[1e3]]],{"x":0},[],null,{}]',
        '[[],[["x","float33",[1]]],{"x":0},[],null,{}]',
        '[[],[["x","float32",[true]]],{"x":0},[],null,{}]',
        '[[],[["x","float32",[1]],["x","float32",[1]]],{"x":["l",0,1]},[],null,{}]',
        '[[],[["x","float32",[1]]],{"x":1},[],null,{}]',
        '[[],[["x","float32",[1]]],{},[],null,{}]',
        '[[],[["x","float32",[1]]],{"x":["l",0,0]},[],null,{}]',
        '[[],[["x","float32",[1]]],{"x":0,"x":0},[],null,{}]',
        '[[],[["x","^"]],{"x":0},[],null,{}]',
        '[[],[],{},[[]],null,{}]',
        '[[],[],{},[[1]],null,{}]',
        '[[],[],{},{"a":1},null,{}]',
        '[[],[],{},[],null,{"median":[1]}]',
        '[[],[],{},[],null,{"mean":[]}]',
        '[[],[],{},[],null,{"mean":[1e999]}]',
        '[[],[],{},[],null,{"mean":[true]}]',
        '[["mean"],[],{},[],null,{"mean":[1]}]',
    ],
)  # fmt: skip
def test_a_malformed_document_is_refused(text):
    with pytest.raises(FormatError):
        structure.parse(text)


@pytest.mark.parametrize("word", ["self", "class", "__class__", "a b", "a.b", "", "1a", "ünder", 'x"', "x=1"])
def test_a_name_that_becomes_source_text_must_be_a_word(word):
    for text in (
        json.dumps([[], [[word, "float32", [1]]], {"x": 0}, [], None, {}]),
        json.dumps([[], [["x", "float32", [1]]], {word: 0}, [], None, {}]),
    ):
        with pytest.raises(FormatError):
            structure.parse(text)


@pytest.mark.parametrize(
    "name",
    [
        'a"',
        "a\\",
        "a\nb",
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "class",
        "a.lambda",
        "forward",
        "a.forward",
        "graph",
        "a.__init__",
        "x" * 2000,
        "a.é",
        "a(b)",
    ],
)
def test_a_tensor_name_may_not_break_out_of_a_string_or_hide_a_method(name):
    with pytest.raises(FormatError, match="tensor name"):
        structure.parse(json.dumps([[name], [], {}, [], None, {}]))


def test_a_tensor_may_not_have_the_name_of_a_module():
    with pytest.raises(FormatError):
        structure.parse(json.dumps([["a", "a.b"], [], {}, [], None, {}]))


def test_names_of_module_dicts_are_allowed():
    names = ["blocks.conv 3x3.weight", "heads.a-b.0.bias", "_fc.weight", "a/b:c#d=e,f+g@h"]
    assert structure.parse(json.dumps([names, [], {}, [], None, {}])).names == tuple(names)


@pytest.mark.parametrize(
    "text",
    [
        row("rand", [2]),
        row("empty.memory_format", [2]),
        row("as_strided", "<", [9], [1]),
        row("relu_", "<"),
        row("__import__", "'os"),
        row("=exec", "'1"),
        row("relu", "^"),
        row("relu", "^0"),
        row("relu", "^-1"),
        row("relu", "<1"),
        row("relu", "@"),
        row("relu", "@9"),
        row("relu", "<٣"),
        row("relu", "<1111111111111"),
        row("relu", "<", 1, 2),
        row("relu", "<", **{"x): import os #": 1}),
        row("relu", "<", inplace=True),
        row("relu", "?"),
        row("relu", ""),
        row("relu", {"a": 1}, 1),
        row("to.dtype", "<", ":float128"),
        row("clone", "<", memory_format=-1),
        row("to.dtype", "<", 6),
        row("to.device", "<", "!cuda", ":float32"),
        row("pad", "<", [1 << 63, 0]),
        row("=pow", 10, 1000000),
        row("=pow", 10, "<"),
        row("=add", 1, 2, 3, 4),
        row("=add", **{"a": 1}),
    ],
)
def test_a_node_that_is_not_allowed_is_refused(text):
    with pytest.raises(FormatError):
        structure.build(structure.parse(text))


def bags(*arange, nodes=(), used="^", **kwargs) -> str:
    """A document of an embedding bag whose offsets are the given op."""
    made = [[*arange, *([kwargs] if kwargs else [])], ["embedding_bag.padding_idx", "@", "<", "^", False, 0, False, None, False, None]]
    return json.dumps([["table"], [["x", "int64", [4]]], {"x": 0}, [*made, *nodes], used, {}])


FIRST = [["=getitem", "^", 0]]


def test_an_embedding_bag_by_an_arange_is_read():
    for arange in (["arange", 3], ["arange.start", 0, 3], ["arange.start_step", 0, 4, 2]):
        structure.build(structure.parse(bags(*arange, nodes=FIRST)))
    structure.build(structure.parse(bags("arange", 3, nodes=FIRST, dtype=":int64")))


@pytest.mark.parametrize(
    "text",
    [
        bags("neg", "<", nodes=FIRST),
        bags("arange.start_step", 0, -100000, -1, nodes=FIRST),
        bags("arange.start_step", 0, 4, 0, nodes=FIRST),
        bags("arange.start_step", 0, 4, 2.5, nodes=FIRST),
        bags("arange.start_step", 0, 4, "<", nodes=FIRST),
        bags("arange.start_step", 0, 4, nodes=FIRST, step=-1),
        bags("arange.start_step", 0, 1 << 33, 1 << 30, nodes=FIRST, dtype=":int32"),
        bags("arange", 3),
        bags("arange", 3, nodes=[["=getitem", "^", 1]]),
        bags("arange", 3, nodes=[["=getitem", "^", 0], ["cat", "^2"]]),
        bags("arange", 3, nodes=FIRST, used=["t", "^", "^2"]),
    ],
)
def test_an_embedding_bag_that_could_leave_its_memory_is_refused(text):
    with pytest.raises(FormatError, match="embedding_bag"):
        structure.build(structure.parse(text))


def test_outputs_nested_too_deep_are_refused():
    tree: list = ["l"]
    for _ in range(40):
        tree = ["l", tree]
    with pytest.raises(FormatError, match="nested"):
        structure.build(structure.parse(json.dumps([[], [], {}, [], tree, {}])))
