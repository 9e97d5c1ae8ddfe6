"""Graphs of allowed ops that would fill the memory, crash the process or never end, in files that are otherwise sound."""

import pytest

from attar.coding import decode
from attar.errors import FormatError

CONTROL = [["linear", "<", "@"]], {"tensors": [(3, 4)]}


def test_the_same_file_with_an_honest_graph_loads(graph):
    rows, options = CONTROL
    network = decode(graph(*rows, **options))
    assert [tuple(n.meta["val"].shape) for n in network.graph.nodes if n.op == "call_function"] == [(1, 3)]


LSTM = [True, 1, 0.0, False, False, False]


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([["repeat", "<", [1 << 20, 1 << 20]]], {}),
        ([["zeros", [1]], ["expand", "^", [1 << 40]]], {}),
        ([["zeros", [1 << 40]]], {}),
        ([["full", [1 << 30, 1 << 30], 1.0]], {}),
        ([["arange", 1 << 48]], {}),
        ([["arange.start_step", 0, 1, 1e-12]], {}),
        ([["eye", 1 << 21]], {}),
        ([["linspace", 0, 1, 1 << 40]], {}),
        ([["zeros", [1], {"dtype": ":int64"}], ["one_hot", "^", 1 << 40]], {}),
        ([["tril_indices", 1 << 30, 1 << 30]], {}),
        ([["expand", "@", [1 << 40]]], {"tensors": [(1,)]}),
        ([["expand", "@", [1 << 29]], *[["add.Tensor", f"^{i}", "^"] for i in range(1, 60)]], {"tensors": [(1,)]}),
        ([["cat", ["<"] * 201_000]], {}),
        ([["cat", ["<"] * 20_000], *[["cat", ["^"] * 20_000]] * 4], {}),
        ([["cat", ["^", "^"], 0] if i else ["cat", ["<", "<"], 0] for i in range(60)], {}),
        ([["matmul", "@", "@1"]], {"tensors": [(1 << 18, 1), (1, 1 << 18)]}),
        ([["linear", "<", "@"]], {"tensors": [(3, 5)]}),
        ([["linear", "<", "<", "<", "<"]], {}),
        ([["linear", "<", 3]], {}),
        ([["conv2d", "<", "@"]], {"tensors": [(3, 4, 3, 3)]}),
        ([["embedding", "@", "<"]], {"tensors": [(3, 5)]}),
        ([["lstm.input", "@", ["@1", "@1"], ["@2", "@3", "@4", "@4"], *LSTM]], {"tensors": [(5, 2, 3), (1, 2, 4), (1, 3), (1, 4), (1,)]}),
        ([["gru.input", "@", "@1", ["@2", "@3", "@4", "@4"], *LSTM]], {"tensors": [(5, 2, 3), (1, 2, 4), (1, 3), (1, 4), (1,)]}),
        ([["rnn_relu.input", "@", "@1", ["@2", "@3", "@4", "@4"], *LSTM]], {"tensors": [(5, 2, 3), (1, 2, 4), (1, 3), (1, 4), (1,)]}),
        ([["lstm.input", "@", ["@", "@"], [], True, 1 << 40, 0.0, False, False, False]], {"tensors": [(5, 2, 3), (1, 2, 4), (1, 2, 4)]}),
        ([["_weight_norm", "@", "@", 0]], {"tensors": [(300, 4), (1,)]}),
        ([["scaled_dot_product_attention", "@", "@1", "@2"]], {"tensors": [(1, 1, 4, 8), (1, 1, 3000, 8), (1, 1, 1, 8)]}),
        ([["to.dtype", "<", ":int64"], ["div.Tensor_mode", "^", "^", {"rounding_mode": "'trunc"}]], {}),
        ([["unbind.int", "@", 0]], {"tensors": [(1 << 40, 0)]}),
        ([["split.Tensor", "@", 1]], {"tensors": [(1 << 40, 0)]}),
        ([["=mul", 1 << 62, 4]], {}),
        ([["=mul", 2, 2], *[["=mul", "^", "^"] for _ in range(100)]], {}),
        ([["=pow", 9, 9]], {}),
        ([["=getitem", "<", 0]], {}),
        ([["=getitem", [1, 2], "<"]], {}),
        ([["=floordiv", 1, 0]], {}),
        ([["grid_sampler", "@", "@1", 77, 99, False]], {"tensors": [(1, 1, 3, 3), (1, 2, 2, 2)]}),
        ([["einsum", "'i,j,k,l->ijkl", ["@", "@1", "@2", "@3"]]], {"tensors": [(1000,)] * 4}),
        ([["relu", "<"]], {"inputs": [["x", "float32", [1 << 39]]]}),
        ([["relu", "<"]], {"inputs": [["x", "float32", [1 << 39] * 12]]}),
        ([["relu", "<"]], {"inputs": [["x", "float32", [[1 << 39]]]]}),
        ([["relu", "<"]] * 60_000, {}),
        ([["upsample_nearest2d.vec", "@", None, [1e9, 1e9]]], {"tensors": [(1, 1, 4, 4)]}),
        ([["upsample_bilinear2d.vec", "@", None, False, ["~nan", "~inf"]]], {"tensors": [(1, 1, 4, 4)]}),
        ([["pad", "@", [1 << 40, 0]]], {"tensors": [(4,)]}),
        ([["pad", "@", [-5, 0]]], {"tensors": [(4,)]}),
        ([["view", "@", [-1, -1]]], {"tensors": [(4,)]}),
        ([["select.int", "@", 0, 4]], {"tensors": [(4,)]}),
        ([["max_pool2d", "@", [0, 0]]], {"tensors": [(1, 4, 4)]}),
        ([["conv2d", "@", "@1", None, [0, 0]]], {"tensors": [(1, 1, 4, 4), (1, 1, 1, 1)]}),
    ],
)
def test_a_hostile_graph_is_refused(graph, little_memory, rows, options):
    with pytest.raises(FormatError) as caught:
        decode(graph(*rows, **options))
    assert "streams" not in str(caught.value)  # the graph is what must be refused


def test_an_output_larger_than_the_cap_is_refused_even_as_a_view(graph, little_memory):
    with pytest.raises(FormatError, match="at once"):
        decode(graph(["expand", "@", [1 << 34]], output=["t", "^", "^"], tensors=[(1,)]))


def test_a_million_outputs_of_one_node_stay_cheap(graph, little_memory):
    network = decode(graph(["relu", "<"], output=["t", *["^"] * 100_000]))
    assert len(network.graph.output_node().args[0]) == 100_000


def test_references_cannot_go_forward_or_round(graph):
    for reference in ("^", "^1", "^2", "^0", "^-1", "@", "@0", "<1"):
        with pytest.raises(FormatError):
            decode(graph(["relu", reference]))
