import math
import operator

import pytest
import torch
from torch import Tensor, fx, nn

from attar.errors import TraceError
from attar.graph import Input, Network, trace
from attar.graph.propagate import fakes, propagate

A = torch.ops.aten
OWN = torch.ops.attar
BAG = torch.zeros(2, dtype=torch.int64)


def network(target, *args, tensors=(), **kwargs) -> Network:
    """A network of one op on held tensors; an int after '@' in `args` stands for one of them."""
    graph = fx.Graph()
    held = {f"t{i}": tensor for i, tensor in enumerate(tensors)}
    nodes = [graph.get_attr(name) for name in held]

    def put(value):
        if isinstance(value, str) and value[:1] == "@":
            return nodes[int(value[1:])]
        return [put(inner) for inner in value] if isinstance(value, list) else value

    graph.output(graph.call_function(target, tuple(put(a) for a in args), {k: put(v) for k, v in kwargs.items()}))
    return Network(graph, (), held, {}, {})


def lstm(*weights: tuple[int, ...], x=(5, 2, 3), h=(1, 2, 4), c=(1, 2, 4), layers=1, bias=True, both=False, first=False) -> Network:
    tensors = [torch.zeros(s) for s in (x, h, c, *weights)]
    params = [f"@{i}" for i in range(3, len(tensors))]
    return network(A.lstm.input, "@0", ["@1", "@2"], params, bias, layers, 0.0, False, both, first, tensors=tensors)


def test_every_node_gets_its_result():
    traced = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)), (torch.zeros(2, 3, 4, 4),))
    propagate(traced, [(7, 3, 4, 4)])
    assert [tuple(n.meta["val"].shape) for n in traced.graph.nodes if n.op == "call_function"] == [(7, 4, 2, 2), (7, 16), (7, 5)]


def test_fakes_leaves_the_graph_as_it_is():
    traced = trace(nn.Linear(3, 2), (torch.zeros(2, 3),))
    before = {node: node.meta["val"] for node in traced.graph.nodes if "val" in node.meta}
    results = fakes(traced, [(9, 3)])
    assert all(node.meta["val"] is value for node, value in before.items())
    assert (9, 2) in [tuple(value.shape) for value in results.values() if isinstance(value, Tensor)]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 3}, {"batch_first": True, "bias": False}, {"proj_size": 2}])
def test_recurrent_layers_have_the_shapes_that_they_really_have(kind, options):
    if "proj_size" in options and kind is not nn.LSTM:
        options = {}
    model = kind(3, 4, **options)
    x = torch.zeros(2, 5, 3)
    traced = trace(model, (x,))
    out, state = model(x)
    expected = [out, *(state if isinstance(state, tuple) else (state,))]
    results = fakes(traced, [tuple(x.shape)])
    (op,) = [node for node in traced.graph.nodes if node.op == "call_function" and len(node.args) > 5]
    assert [(tuple(r.shape), r.dtype) for r in results[op]] == [(tuple(e.shape), e.dtype) for e in expected]


@pytest.mark.parametrize(
    "hostile",
    [
        lstm((1, 3), (1, 4), (1,), (1,)),
        lstm((16, 3), (16, 4), (16,), (1,)),
        lstm((16, 3), (16, 5), (16,), (16,)),
        lstm((16, 4), (16, 4), (16,), (16,)),
        lstm((16, 3), (16, 4)),
        lstm((16, 3), (16, 4), (16,), (16,), layers=2),
        lstm((16, 3), (16, 4), (16,), (16,), layers=10**9),
        lstm((16, 3), (16, 4), (16,), (16,), both=True),
        lstm((16, 3), (16, 4), (16,), (16,), h=(1, 3, 4)),
        lstm((16, 3), (16, 4), (16,), (16,), h=(1, 2, 5)),
        lstm((16, 3), (16, 4), (16,), (16,), x=(5, 3)),
        lstm((16, 3), (16, 4), (16,), (16,), x=(0, 2, 3)),
        lstm((16, 3), (16, 4), (16,), (16,), first=True),
        network(
            A.gru.input,
            "@0",
            "@1",
            ["@2", "@2"],
            False,
            1,
            0.0,
            False,
            False,
            False,
            tensors=[torch.zeros(s) for s in ((5, 2, 3), (1, 2, 4), (1, 3))],
        ),
        network(A.rnn_tanh.input, "@0", "@1", [], False, 1, 0.0, False, False, False, tensors=[torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)]),
        network(A.scaled_dot_product_attention.default, "@0", "@1", "@0", tensors=[torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 999, 8)]),
        network(A.scaled_dot_product_attention.default, "@0", "@0", "@0", "@1", tensors=[torch.zeros(1, 1, 4, 8), torch.zeros(4)]),
        network(A._weight_norm.default, "@0", "@1", 0, tensors=[torch.zeros(300, 4), torch.zeros(1)]),
        network(A._weight_norm.default, "@0", "@1", 7, tensors=[torch.zeros(300, 4), torch.zeros(1)]),
        network(A.div.Tensor_mode, "@0", "@0", rounding_mode="trunc", tensors=[torch.tensor([-(2**63)])]),
        network(A.linalg_matrix_power.default, "@0", -(2**63), tensors=[torch.ones(3, 3)]),
        network(A.matrix_power.default, "@0", 2**63 - 1, tensors=[torch.ones(3, 3)]),
        *(
            network(A.embedding_bag.padding_idx, "@0", "@1", "@2", False, 0, False, *rest, False, None, tensors=[*tensors])
            for tensors, *rest in [
                ((torch.zeros(4), BAG, BAG), None),
                ((torch.zeros(4, 3), BAG[None], BAG), None),
                ((torch.zeros(4, 3), BAG, BAG.short()), None),
                ((torch.zeros(4, 3), BAG, BAG, torch.zeros(1)), "@3"),
                ((torch.zeros(4, 3), BAG, BAG, torch.zeros(2).double()), "@3"),
            ]
        ),
        *(
            network(A.histc.default, "@0", *edges, tensors=[torch.zeros(3, dtype=dtype)])
            for *edges, dtype in [
                (4, 0, 0, torch.float32),
                (4, -3e38, 3e38, torch.float32),
                (4, -1e308, 1e308, torch.float64),
                (4, 0, 1e-45, torch.float32),
                (4, 3, 0, torch.float32),
                (4, 0, math.inf, torch.float32),
                (4, math.nan, 1, torch.float32),
                (1 << 30, 0, 3, torch.float32),
                (4, 0, 3, torch.float16),
            ]
        ),
        network(OWN.grouped_mm.default, "@0", "@1", "@2", tensors=[torch.zeros(3, 4), torch.zeros(2, 4, 1), BAG[:1]]),
        network(OWN.grouped_mm.default, "@0", "@1", "@2", tensors=[torch.zeros(3, 4), torch.zeros(2, 5, 1), BAG]),
        network(OWN.grouped_mm.default, "@0", "@1", "@2", tensors=[torch.zeros(3, 4), torch.zeros(2, 4, 1), BAG.float()]),
        network(A.div.Scalar_mode, "@0", -1, rounding_mode="trunc", tensors=[torch.tensor([-(2**63)])]),
    ],
)
def test_what_pytorch_would_crash_on_or_read_astray_is_refused(hostile):
    with pytest.raises(TraceError, match="does not fit"):
        fakes(hostile, [])


@pytest.mark.parametrize(
    "hostile",
    [
        network(A.zeros.default, [1 << 40]),
        network(A.full.default, [1 << 20, 1 << 20, 1 << 20], 1),
        network(A.arange.default, 1 << 50),
        network(A.eye.default, 1 << 20),
        network(A.repeat.default, "@0", [1 << 20, 1 << 20], tensors=[torch.zeros(1)]),
        network(A.expand.default, "@0", [1 << 45], tensors=[torch.zeros(1)]),
        network(A.einsum.default, "i,j->ij", ["@0", "@0"], tensors=[torch.zeros(1 << 20)]),
        network(A.unbind.int, "@0", 0, tensors=[torch.zeros(1 << 40, 0)]),
        network(A.split.Tensor, "@0", 1, 0, tensors=[torch.zeros(1 << 40, 0)]),
        network(A.chunk.default, "@0", 1 << 40, tensors=[torch.zeros(1 << 40, 0)]),
        network(A.matmul.default, "@0", "@1", tensors=[torch.zeros(1 << 20, 1), torch.zeros(1, 1 << 20)]),
        network(A.one_hot.default, "@0", 1 << 40, tensors=[torch.zeros(3, dtype=torch.long)]),
        network(operator.mul, 1 << 40, 1 << 40),
        network(operator.getitem, "@0", 0, tensors=[torch.zeros(3)]),
        network(operator.add, "@0", "@0", tensors=[torch.zeros(3)]),
    ],
)
def test_what_would_fill_the_memory_is_refused(hostile):
    with pytest.raises(TraceError, match="does not fit"):
        fakes(hostile, [])


def test_the_cap_is_on_what_is_alive_at_once():
    graph = fx.Graph()
    x = graph.placeholder("x")
    for _ in range(50):
        x = graph.call_function(A.relu.default, (x,))
    graph.output(x)
    chain = Network(graph, (Input("x", (None, 100), torch.float32),), {}, {}, {"x": 0})
    fakes(chain, [(10, 100)], byte_cap=2 * 4000)
    with pytest.raises(TraceError, match="at once"):
        fakes(chain, [(10, 100)], byte_cap=2 * 4000 - 1)


def test_an_op_that_fails_is_named_in_one_line_and_nothing_is_printed(capfd):
    broken = network(A.linear.default, "@0", "@1", tensors=[torch.zeros(2, 3), torch.zeros(4, 5)])
    with pytest.raises(TraceError, match=r"aten\.linear\.default") as caught:
        fakes(broken, [])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
