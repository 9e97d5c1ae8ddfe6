"""A traced network runs without its class, bit-equal, with its ties, its forms and its calling convention."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from attar import forms, graph
from attar.errors import TraceError


class Awkward(nn.Module):
    """In-place ops, tied weights, attention, LSTM, dropout, nested inputs and outputs, all at once."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.up = nn.Linear(8, 8, bias=False)
        self.down = nn.Linear(8, 8, bias=False)
        self.down.weight = self.up.weight

    def forward(self, x, pair, *, scale):
        h = torch.relu_(self.norm(self.conv(x))).mean(1)
        h = self.lstm(h)[0]
        h = h + self.attention(h, h, h)[0]
        h = self.down(self.drop(self.up(h)))
        h += pair["shift"]
        return {"out": h, "aux": (h.sum(), [pair["other"] * scale])}


def awkward_example(batch=2):
    return {"x": torch.randn(batch, 1, 8, 8), "pair": {"shift": torch.randn(8), "other": torch.randn(3)}, "scale": torch.tensor(2.0)}


def leaves(output):
    return torch.utils._pytree.tree_leaves(output)


def assert_same(model, program, example):
    with graph.eval_mode(model), torch.no_grad():
        want, got = graph.call_with(model, example), graph.call_with(program, example)
    assert torch.utils._pytree.tree_structure(want) == torch.utils._pytree.tree_structure(got)
    assert all(torch.equal(a, b) for a, b in zip(leaves(want), leaves(got), strict=True))


def test_bit_equal_on_the_example_and_on_another_batch():
    model = Awkward()
    program = graph.trace(model, awkward_example()).program()
    assert_same(model, program, awkward_example())
    assert_same(model, program, awkward_example(5))


def test_keywords_may_come_in_any_order():
    model = Awkward()
    example = dict(reversed(awkward_example().items()))
    network = graph.trace(model, example)
    assert_same(model, network.program(), awkward_example(3))
    assert [i.shape for i in network.inputs if i.name == "x"] == [(None, 1, 8, 8)]


def test_one_sample_leaves_the_batch_free_and_gives_its_own_sizes():
    model = Awkward()
    network = graph.trace(model, awkward_example(1))
    assert_same(model, network.program(), awkward_example(3))
    assert network.inputs[0].shape == (None, 1, 8, 8)
    first = next(node for node in network.graph.nodes if graph.op_name(node) == "aten.conv2d.default")
    assert graph.shape(first) == (1, 4, 8, 8)


class FixedBatch(nn.Linear):
    def forward(self, x):
        return super().forward(x).reshape(x.shape[0], -1) + torch.arange(x.shape[0])[:1] * int(x.shape[0])


class Shared(nn.Linear):
    def forward(self, x, mask):
        return super().forward(x) * mask


def test_a_batch_that_becomes_a_constant_is_the_example_s():
    model, x = FixedBatch(3, 2), torch.randn(1, 3)
    network = graph.trace(model, (x,))
    assert network.inputs[0].shape in ((1, 3), (None, 3))
    assert_same(model, network.program(), (x,))


def test_an_input_shared_by_all_samples_stays_so():
    model, example = Shared(3, 2), (torch.randn(4, 3), torch.randn(1, 2))
    network = graph.trace(model, example)
    assert [i.shape for i in network.inputs] == [(None, 3), (1, 2)]
    assert_same(model, network.program(), (torch.randn(5, 3), example[1]))


def test_names_ties_and_forms_survive():
    model = Awkward()
    mask = torch.rand(8, 8) < 0.5
    forms.attach(model.up, "weight", forms.Sparse(mask, torch.randn(int(mask.sum()))), model=model)
    network = graph.trace(model, awkward_example())
    assert list(network.forms) == ["up.weight"]
    assert "down.weight" not in network.tensors
    assert set(network.tensors) <= set(Awkward().state_dict())
    program = network.program()
    assert_same(model, program, awkward_example())
    assert [w.name for w in graph.weights(program)] == [w.name for w in graph.weights(model)]


def test_traced_twice_is_the_same_network():
    model = Awkward()
    once = graph.trace(model, awkward_example())
    twice = graph.trace(once.program(), awkward_example())
    assert_same(model, twice.program(), awkward_example())
    assert list(twice.tensors) == list(once.tensors)
    assert len(list(twice.graph.nodes)) == len(list(once.graph.nodes))


def test_program_trains_again():
    model = Awkward()
    program = graph.trace(model, awkward_example()).program()
    program.train()
    example = awkward_example()
    first, second = (graph.call_with(program, example)["out"] for _ in range(2))
    assert not torch.equal(first, second), "dropout must be alive"
    before = program.norm.running_mean.clone()
    first.sum().backward()
    assert all(p.grad is not None for p in program.parameters())
    graph.call_with(program, example)
    assert not torch.equal(program.norm.running_mean, before), "batch norm must follow its data"
    copied = copy.deepcopy(program).eval()
    assert_same(program.eval(), copied, example)


def test_tracing_changes_nothing():
    model = Awkward().train()
    model.drop.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    graph.trace(model, awkward_example())
    assert modes == [m.training for m in model.modules()]
    assert fast == torch.backends.mha.get_fastpath_enabled()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_network_that_is_one_layer_with_a_form():
    layer = nn.Linear(3, 3)
    forms.attach(layer, "weight", forms.Codebook(torch.randint(0, 2, (3, 3)), torch.randn(2)))
    program = graph.trace(layer, (torch.randn(2, 3),)).program()
    assert_same(layer, program, (torch.randn(4, 3),))
    assert [w.name for w in graph.weights(program)] == [w.name for w in graph.weights(layer)] == ["weight"]


def test_registered_output_class_becomes_a_dict():
    @dataclasses.dataclass
    class Output:
        logits: torch.Tensor
        hidden: torch.Tensor | None = None

    torch.export.register_dataclass(Output, serialized_type_name="Output")

    class Model(nn.Linear):
        def forward(self, x):
            return Output(super().forward(x))

    model = Model(3, 2)
    x = torch.randn(2, 3)
    output = graph.trace(model, (x,)).program()(x)
    assert list(output) == ["logits"]
    assert torch.equal(output["logits"], model(x).logits)


class WritesInput(nn.Module):
    def forward(self, x):
        x.mul_(2)
        return x + 1


class WritesView(nn.Module):
    def forward(self, x):
        y = x * 1
        y[:, 0] = 0
        return y


class NoGrad(nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            scale = x.abs().amax()
        return super().forward(x / scale)


@pytest.mark.parametrize(("model", "x"), [(WritesView(), torch.randn(2, 3)), (NoGrad(3, 3), torch.randn(2, 3))])
def test_awkward_writes_are_made_functional(model, x):
    program = graph.trace(model, (x,)).program()
    assert_same(model, program, (x,))


class Branches(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Counts(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "example", "says"),
    [
        (Branches(3, 3), (torch.randn(2, 3),), "Branches cannot be traced"),
        (Counts(), (torch.randn(2, 3),), "writes to its own state"),
        (WritesInput(), (torch.randn(2, 3),), "writes to its own state"),
        (nn.Linear(3, 3), (), "holds no tensor"),
        (nn.Linear(3, 3), (torch.randn(2, 4),), "Linear cannot be traced"),
        (nn.Linear(3, 3), (torch.randn(2, 3), torch.randn(2)), "does not fit Linear.forward"),
    ],
    ids=["branch", "state", "input", "no tensor", "wrong shape", "too many"],
)
def test_refusals_name_the_reason(model, example, says):
    with pytest.raises(TraceError, match=says):
        graph.trace(model, example)


def test_functional_ops_have_no_in_place_twin_left():
    class Model(nn.Module):
        def forward(self, x):
            y = functional.relu(x, inplace=False).clone()
            y.add_(1).mul_(x)
            return functional.hardtanh_(y)

    network = graph.trace(Model(), (torch.randn(2, 3),))
    targets = [n.target for n in network.graph.nodes if n.op == "call_function"]
    assert not any(t._schema.is_mutable for t in targets if hasattr(t, "_schema"))
    assert_same(Model(), network.program(), (torch.randn(2, 3),))


def test_a_tensor_given_twice_is_two_inputs():
    class Difference(nn.Module):
        def forward(self, a, b):
            return 2 * a - b

    x = torch.ones(2, 3)
    program = graph.trace(Difference(), (x, x)).program()
    assert program(x, torch.zeros(2, 3)).tolist() == [[2.0] * 3] * 2
