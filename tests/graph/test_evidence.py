"""Evidence is what its definition says, computed the slow way; it costs one pass, and leaves the network as it was."""

import collections
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from attar import forms, graph
from attar.errors import AttarError, DataError, TraceError
from attar.graph import evidence
from attar.graph.evidence import STATISTICS, collect


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class Net(nn.Module):
    """In-place activations, a batch norm, a grouped convolution, pooling before an activation, a layer that nothing follows."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.fc1 = nn.Linear(16, 5)
        self.fc2 = nn.Linear(5, 3)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.weight, -1, 1)

    def forward(self, x):
        x = functional.relu(self.norm(self.conv1(x)), inplace=True)
        x = functional.relu(functional.max_pool2d(self.conv2(x), 2))
        x = torch.tanh(functional.max_pool2d(self.up(x), 1))[:, :, :2, :2]
        x = functional.relu_(self.fc1(functional.dropout(x.flatten(1), training=self.training)))
        return self.fc2(x)


def samples(count=8):
    return torch.randn(count, 2, 6, 6), torch.arange(count) % 3


def batched(data, size):
    inputs, targets = data
    return [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]


def state(model):
    """All that must not change: tensors and their flags, modes, classes."""
    tensors = {name: (value.clone(), value.requires_grad, value.grad) for name, value in model.state_dict(keep_vars=True).items()}
    return tensors, [(type(m), m.training) for m in model.modules()], torch.backends.cudnn.enabled, torch.get_rng_state()


def assert_same_state(one, other):
    assert one[0].keys() == other[0].keys()
    for (value, flag, grad), (value2, flag2, grad2) in zip(one[0].values(), other[0].values(), strict=True):
        assert torch.equal(value, value2)
        assert (flag, grad) == (flag2, grad2)
    assert one[1:3] == other[1:3]
    assert torch.equal(one[3], other[3])


def sparsify(model, name):
    """Let a form with half the weights stand for one of them."""
    weight = graph.weights(model, [name])[0]
    mask = torch.rand(weight.shape) > 0.5
    weight.become(forms.Sparse(mask, weight.dense()[mask]))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def single_gradients(model, inputs, targets):
    """The gradient of each sample's loss for each weight, by autograd: name -> [samples, *shape]."""
    model = copy.deepcopy(model).eval()
    with forms.dense(model):
        found = {w.name: w.owner for w in graph.weights(model, ["*"])}
        for parameter in found.values():
            parameter.requires_grad_(True)
        rows = [
            torch.autograd.grad(functional.cross_entropy(model(x[None]), y[None]), list(found.values()))
            for x, y in zip(inputs, targets, strict=True)
        ]
    return {name: torch.stack(column) for name, column in zip(found, zip(*rows, strict=True), strict=True)}


def test_gradients_are_those_of_autograd():
    model = Net()
    model.fc1.weight.requires_grad_(False)  # frozen weights have evidence too
    inputs, targets = samples()
    got = collect(model, ["grad", "grad_sq"], batched((inputs, targets), 3), functional.cross_entropy)
    mean_only = collect(model, ["grad"], batched((inputs, targets), 3), functional.cross_entropy)
    singles = single_gradients(model, inputs, targets)
    model.eval()
    model.fc1.weight.requires_grad_(True)
    functional.cross_entropy(model(inputs), targets).backward()
    for weight in graph.weights(model):
        close(got[weight.name]["grad"], weight.owner.grad)
        close(mean_only[weight.name]["grad"], weight.owner.grad)
        close(got[weight.name]["grad_sq"], singles[weight.name].square().mean(0))
    assert not torch.allclose(got["fc2"]["grad_sq"], got["fc2"]["grad"].square())


def test_inputs_by_hand():
    layer = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    inputs = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [2.0, 4.0]]])  # two samples, two positions
    got = collect(layer, ["inputs_sq"], [(inputs[:1], None), (inputs[1:], None)])
    assert got["0"]["inputs_sq"].tolist() == [[14 / 4, 5.0]]
    close(got["1"]["inputs_sq"], layer[0](inputs).square().mean((0, 1))[None].detach())


def test_inputs_of_convolutions():
    model, (inputs, targets) = Net().eval(), samples()
    got = {name: e["inputs_sq"] for name, e in collect(model, ["inputs_sq"], batched((inputs, targets), 3)).items()}
    entering = {}
    for name, layer in model.named_children():
        layer.register_forward_pre_hook(lambda _, given, name=name: entering.update({name: given[0].detach().clone()}))
    model(inputs)
    of = {name: x.movedim(1, -1).flatten(0, -2).square().mean(0) for name, x in entering.items()}
    close(got["conv1"], of["conv1"].view(1, 2, 1, 1))
    close(got["up"], of["up"].view(6, 1, 1, 1))
    close(got["fc1"], of["fc1"].view(1, 16))
    assert got["conv2"].shape == (6, 2, 1, 1)
    for out in range(6):  # the filters of group 0 read channels 0 and 1, those of group 1 channels 2 and 3
        close(got["conv2"][out, :, 0, 0], of["conv2"][:2] if out < 3 else of["conv2"][2:])


def test_zero_share_by_hand():
    """METHODS P14: activations {0, 0, 3, 0 | 1, 0, 0, 0} have a share of 6/8; through a batch norm that moves them."""
    conv = nn.Conv1d(1, 2, 1, bias=False)
    norm = nn.BatchNorm1d(2, eps=0.0)
    model = nn.Sequential(conv, norm, nn.ReLU(inplace=True))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 1.0]).view(2, 1, 1))
        norm.running_mean.copy_(torch.tensor([1.0, 0.0]))  # what is 1 before the norm is 0 after it
        norm.bias.copy_(torch.tensor([0.0, -1e6]))  # a channel that is never on
    inputs = torch.tensor([[[1.0, 0.0, 4.0, 1.0]], [[2.0, 1.0, -1.0, 0.5]]])
    got = collect(model.train(), ["outputs_zero_share"], [(inputs[:1], 0), (inputs[1:], 0)])["0"]["outputs_zero_share"]
    assert got.shape == (2, 1, 1)
    assert got.flatten().tolist() == [6 / 8, 1.0]


def test_zero_share_is_measured_after_the_activation_alone():
    model, (inputs, targets) = Net().eval(), samples()
    got = collect(model, ["outputs_zero_share"], batched((inputs, targets), 3))
    first = functional.relu(model.norm(model.conv1(inputs)))
    second = functional.relu(functional.max_pool2d(model.conv2(first), 2))
    close(got["conv1"]["outputs_zero_share"].flatten(), (first == 0).double().mean((0, 2, 3)))
    close(got["conv2"]["outputs_zero_share"].flatten(), (second == 0).double().mean((0, 2, 3)))
    assert got["up"]["outputs_zero_share"].shape == (6, 2, 1, 1)  # the outputs of a grouped transposed convolution run along dimension 1
    assert got["fc1"]["outputs_zero_share"].shape == (5, 1)
    assert got["fc2"] == {}  # no activation follows: there is no share to have


class Residual(nn.Module):
    """Outputs that something besides an activation reads."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = self.one(x)  # read twice
        x = torch.relu(x + self.two(torch.relu(x)))
        return self.head(x)


def test_an_output_read_by_more_than_an_activation_has_no_zero_share():
    got = collect(Residual(), ["outputs_zero_share"], [(torch.randn(4, 3), None)])
    assert got == {"one": {}, "two": {}, "head": {}}


def test_taylor_by_hand():
    """METHODS P15: per sample |mean over positions of z * dC/dz|, C the loss of that sample."""
    model, (inputs, targets) = Net().eval(), samples()
    found = collect(model, ["outputs_taylor"], batched((inputs, targets), 3), functional.cross_entropy)
    got = {name: statistics["outputs_taylor"] for name, statistics in found.items()}
    z1 = functional.relu(model.norm(model.conv1(inputs)))
    z2 = functional.relu(functional.max_pool2d(model.conv2(z1), 2))
    z3 = torch.tanh(functional.max_pool2d(model.up(z2), 1))
    z4 = functional.relu(model.fc1(z3[:, :, :2, :2].flatten(1)))
    z5 = model.fc2(z4)
    maps = [z1, z2, z3, z4, z5]
    gradients = torch.autograd.grad(functional.cross_entropy(z5, targets, reduction="sum"), maps)
    for (name, value), z, g in zip(got.items(), maps, gradients, strict=True):
        theta = (z * g).flatten(2).mean(2).abs().mean(0) if z.ndim > 2 else (z * g).abs().mean(0)
        if name == "up":
            close(value, theta.view(2, 1, 2).expand(2, 3, 2).reshape(6, 2, 1, 1).detach())
        else:
            close(value.flatten(), theta.detach())


def test_taylor_is_the_exact_change_of_a_linear_loss():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    inputs = torch.randn(1, 3)

    def loss(outputs, targets):
        return (outputs @ torch.tensor([1.0, -2.0, 3.0, 0.5])).mean()

    got = collect(model, ["outputs_taylor"], [(inputs, None)], loss)["0"]["outputs_taylor"].flatten()
    outputs = model(inputs)
    for channel in range(4):
        gated = outputs.clone()
        gated[:, channel] = 0
        close(got[channel], (loss(gated, None) - loss(outputs, None)).abs().detach())


class Attention(nn.Module):
    """Its projections run with time first, or samples folded into time: samples must be told apart all the same."""

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = x.transpose(0, 1)
        return self.head(self.inner(x, x, x)[0].mean(0))


@pytest.mark.parametrize("make", [Net, Attention], ids=["net", "attention"])
def test_batch_size_does_not_matter(make):
    model = make()
    data = samples() if make is Net else (torch.randn(8, 8, 4), torch.arange(8) % 3)
    for names in (["grad_sq"], set(STATISTICS) - {"grad_sq"}):  # apart: grad_sq makes every sample run by itself
        whole, *others = (collect(model, names, batched(data, size), functional.cross_entropy) for size in (8, 1, 3))
        for other in others:
            for name, found in whole.items():
                assert found.keys() == other[name].keys()
                for statistic, value in found.items():
                    close(other[name][statistic], value)
                    assert bool(torch.isfinite(value).all())
    assert all("outputs_taylor" in found for found in whole.values())


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_does_not_depend_on_what_else_is_asked(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    data = batched((torch.randn(5, 3), torch.arange(5) % 3), 2)
    together = collect(model, STATISTICS, iter(data), functional.cross_entropy)
    alone = collect(model, [name], iter(data), functional.cross_entropy)
    for layer, found in alone.items():
        assert list(found) == [key for key in together[layer] if key == name]
        for value in found.values():
            close(together[layer][name], value)
            value.expand(model.get_parameter(f"{layer}.weight").shape)  # broadcasts to the weight


def test_one_pass_and_no_more_work_than_needed(monkeypatch):
    model, calls = Net(), collections.Counter()
    model.register_forward_hook(lambda *_: calls.update(["forward"]))
    monkeypatch.setattr(evidence, "trace", lambda *args: calls.update(["trace"]) or graph.trace(*args))
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kw: calls.update(["backward"]) or grad(*args, **kw))
    data = batched(samples(6), 2)

    def spent(*names):
        calls.clear()
        collect(model, names, (batch for batch in data), functional.cross_entropy)
        return dict(calls)

    assert spent("weight") == {}
    assert spent("weight", "grad") == {"forward": 3, "backward": 3}
    assert spent("grad", "grad_sq") == {"forward": 6, "backward": 6}
    assert spent("inputs_sq", "outputs_zero_share")["trace"] == 1
    assert "backward" not in calls
    assert spent("outputs_taylor", "grad", "inputs_sq")["backward"] == 3


def test_last_batches_are_smaller_and_lengths_vary():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    data = [torch.randn(*sizes, 3) for sizes in ((4, 5), (1, 5), (3, 7), (2, 5))]
    got = collect(model, ["inputs_sq"], [(x, None) for x in data])["0"]["inputs_sq"]
    close(got, torch.cat([x.flatten(0, 1) for x in data]).square().mean(0, keepdim=True))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_was(training):
    model = Net().train(training)
    model.conv2.eval()
    model.fc2.weight.requires_grad_(False)
    sparsify(model, "fc1")
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    data = batched(samples(), 3)
    before = state(model)
    grad = model.conv1.weight.grad.clone()
    collect(model, STATISTICS, data, functional.cross_entropy)
    assert_same_state(before, state(model))
    assert torch.equal(model.conv1.weight.grad, grad)

    def broken(outputs, targets):
        raise KeyError("no")

    with pytest.raises(KeyError):
        collect(model, STATISTICS, data, broken)
    assert_same_state(before, state(model))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_formed_weights_count_as_dense():
    model = Net()
    sparsify(model, "fc1")
    plain = copy.deepcopy(model)
    forms.bake(plain.fc1, "weight")
    data = batched(samples(), 4)
    one, other = (collect(m, STATISTICS, data, functional.cross_entropy) for m in (model, plain))
    for name, found in one.items():
        for statistic, value in found.items():
            assert torch.equal(value, other[name][statistic])
    assert bool((one["fc1"]["grad"][one["fc1"]["weight"] == 0] != 0).any())  # what is removed still has a gradient


class Tied(nn.Module):
    """One weight used three times: as a layer, again, and the other way round."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3, bias=False)
        self.two = nn.Linear(3, 3, bias=False)
        self.two.weight = self.one.weight
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))) @ self.one.weight)


def test_tied_weights_are_one_and_all_uses_count():
    model, inputs, targets = Tied(), torch.randn(5, 3), torch.arange(5) % 2
    got = collect(model, STATISTICS, batched((inputs, targets), 2), functional.cross_entropy)
    assert got.keys() == {"one", "head"}
    singles = single_gradients(model, inputs, targets)
    close(got["one"]["grad_sq"], singles["one"].square().mean(0))
    z1 = functional.linear(inputs, model.one.weight).relu()
    z2 = functional.linear(z1, model.one.weight).relu()
    along = (inputs.square().mean(0) + z1.square().mean(0))[None] + z2.square().mean(0)[:, None]
    close(got["one"]["inputs_sq"], along.detach() / 3)
    close(got["one"]["outputs_zero_share"].flatten(), ((z1 == 0).double().mean(0) + (z2 == 0).double().mean(0)) / 2)
    z3 = z2 @ model.one.weight
    gradients = torch.autograd.grad(functional.cross_entropy(model.head(z3), targets, reduction="sum"), [z1, z2, z3])
    flow = [z * g for z, g in zip((z1, z2, z3), gradients, strict=True)]
    close(got["one"]["outputs_taylor"], (((flow[0] + flow[1])[:, :, None] + flow[2][:, None, :]) / 3).abs().mean(0).detach())


Outputs = collections.namedtuple("Outputs", ["logits", "state"])


class Recurrent(nn.Module):
    """A class of outputs of its own, keyword inputs, an embedding, weights that no layer op applies."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens, scale):
        x, (state, _) = self.lstm(self.embed(tokens) * scale[:, None, None])
        return Outputs(self.head(x[:, -1]), state)


def test_recurrent_weights_and_outputs_of_their_own_class():
    model = Recurrent()
    tokens, scale, targets = torch.randint(0, 7, (5, 6)), torch.rand(5), torch.arange(5) % 2
    data = [({"scale": scale[i : i + 2], "tokens": tokens[i : i + 2]}, targets[i : i + 2]) for i in (0, 2, 4)]
    got = collect(model, STATISTICS, data, lambda outputs, y: functional.cross_entropy(outputs.logits, y))
    of_model = copy.deepcopy(model)
    functional.cross_entropy(of_model(tokens, scale).logits, targets).backward()
    for name in ("embed.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight"):
        found = got[name if "lstm" in name else name.removesuffix(".weight")]
        close(found["grad"], of_model.get_parameter(name).grad)
        assert ("inputs_sq" in found) == (name == "head.weight")
    model(tokens, scale).logits.sum().backward()  # the recurrent layer still has its own weights
    assert model.lstm.weight_ih_l0.grad is not None


def test_untraceable_networks_have_gradients_and_a_reason_for_the_rest():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x) if x.sum().item() > 0 else self.fc(-x)

    data = [(torch.ones(1, 3), torch.tensor([0]))]
    assert bool(collect(Branch(), ["grad"], data, functional.cross_entropy)["fc"]["grad"].any())
    with pytest.raises(TraceError, match="Branch cannot be traced"):
        collect(Branch(), ["inputs_sq"], data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_small_types_are_summed_in_large_ones(dtype):
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).to(dtype)
    inputs = torch.full((500, 3), 1.5, dtype=dtype)
    got = collect(model, ["inputs_sq", "weight"], [(x[None], None) for x in inputs])["0"]
    assert got["inputs_sq"].dtype == torch.float32
    assert got["inputs_sq"].tolist() == [[2.25] * 3]
    assert got["weight"].dtype == dtype
    assert not got["weight"].requires_grad


DATA = [(torch.ones(2, 3, dtype=torch.float64), torch.tensor([0, 1]))]


@pytest.mark.parametrize(
    ("names", "data", "loss", "error", "message"),
    [
        (["grads"], DATA, None, AttarError, "no evidence 'grads', did you mean 'grad'.: there is weight, grad, grad_sq"),
        (["inputs_sq", "grad", "outputs_taylor"], DATA, None, AttarError, "^grad, outputs_taylor needs gradients, and there is no loss"),
        (["grad"], [], functional.cross_entropy, DataError, "no sample"),
        (["inputs_sq"], [(torch.ones(0, 3), torch.ones(0))], None, DataError, "no sample"),
        (["inputs_sq"], [(3, 1)], None, DataError, "no such tensor"),
        (["grad"], DATA, lambda outputs, y: outputs.sum() * float("nan"), AttarError, "must be finite, got nan"),
        (["grad"], DATA, lambda outputs, y: outputs.sum(1), AttarError, r"one number, the mean over the batch, got shape \[2\]"),
        (["grad"], DATA, lambda outputs, y: 1.0, AttarError, "got float"),
        (["grad"], DATA, lambda outputs, y: outputs.detach().sum(), AttarError, "depends on no weight"),
        (["grad"], DATA, lambda outputs, y: (outputs - outputs).abs().sqrt().sum(), AttarError, "grad of weight is not finite"),
        (["inputs_sq"], [(torch.full((1, 3), torch.inf, dtype=torch.float64), 0)], None, AttarError, "inputs_sq of weight is not finite"),
    ],
)
def test_mistakes_are_named(names, data, loss, error, message):
    with pytest.raises(error, match=message):
        collect(nn.Linear(3, 2), names, data, loss)
