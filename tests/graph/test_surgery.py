"""Cuts that are made and those that are refused; the original is the same bit by bit in either case."""

import copy
import dataclasses
import json

import pytest
import torch
from tiny import PICTURES, TOKENS, VECTORS, Net, noise, weight
from torch import nn
from torch.nn import Linear
from torch.nn import functional as F

import attar
from attar import forms
from attar.errors import AttarError, SurgeryError, TraceError
from attar.graph import Program, Selection, apply, couple, select, surgery, trace, verify


def mlp():
    return nn.Sequential(Linear(3, 8), nn.ReLU(), Linear(8, 6), nn.Sigmoid(), Linear(6, 2))


def plan(model, removed, *inputs):
    return select(couple(trace(model, inputs)), removed)


def cut(model, removed, *inputs):
    coupling = couple(trace(model, inputs))
    return apply(model, select(coupling, removed), inputs, coupling=coupling)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def untouched():
    """Models handed to it are the same afterwards: values, modes, gradients asked for."""
    seen = []

    def state(model):
        tensors = {name: (t.detach().clone(), t.requires_grad) for name, t in [*model.named_parameters(), *model.named_buffers()]}
        return tensors, [module.training for module in model.modules()]

    def watch(model):
        seen.append((model, state(model)))
        return model

    yield watch
    for model, (tensors, modes) in seen:
        now, modes_now = state(model)
        assert modes_now == modes
        assert now.keys() == tensors.keys()
        for name, (tensor, asked) in tensors.items():
            assert torch.equal(now[name][0].nan_to_num(7.0), tensor.nan_to_num(7.0)), name
            assert now[name][1] == asked


# refusals


def test_a_plan_for_another_network_is_refused(untouched):
    model = untouched(mlp())
    selection = plan(nn.Sequential(Linear(3, 8), nn.ReLU(), Linear(8, 2)), {"0": [1]}, VECTORS)
    with pytest.raises(AttarError, match=r"made for another network .*couple and select again, also after each cut"):
        apply(model, selection, (VECTORS,))


def test_a_plan_is_good_for_one_cut(untouched):
    model = untouched(mlp())
    selection = plan(model, {"0": [1]}, VECTORS)
    smaller = untouched(apply(model, selection, (VECTORS,)).model)
    with pytest.raises(AttarError, match="made for another network"):
        apply(smaller, selection, (VECTORS,))


@pytest.mark.parametrize(("units", "message"), [((9,), "0 to 7"), ((-1,), "0 to 7"), ((1, 1), "each once"), (tuple(range(8)), "all 8")])
def test_a_plan_from_a_file_is_checked_again(untouched, units, message):
    model = untouched(mlp())
    selection = plan(model, {"0": [1]}, VECTORS)
    cut = dataclasses.replace(selection.cuts[0], removed=units)
    with pytest.raises(AttarError, match=message):
        apply(model, dataclasses.replace(selection, cuts=(cut,)), (VECTORS,))


def test_a_branch_on_data_has_no_graph(untouched):
    model = untouched(Net(lambda net, x: net.a(x) if x.sum() > 0 else net.b(x), a=Linear(3, 2), b=Linear(3, 2)))
    with pytest.raises(TraceError, match="Net cannot be traced"):
        plan(model, {}, VECTORS)


@pytest.mark.parametrize("example", [(noise(2, 4),), (torch.zeros(2, 3, dtype=torch.long),), (VECTORS, VECTORS), (), {"y": VECTORS}])
def test_an_example_that_does_not_fit_is_refused(untouched, example):
    model = untouched(mlp())
    selection = plan(model, {"0": [1]}, VECTORS)
    with pytest.raises(AttarError):
        apply(model, selection, example)


@pytest.mark.parametrize("example", [(noise(2, 4),), (torch.zeros(2, 3, dtype=torch.long),), (VECTORS, VECTORS), ()])
def test_an_example_that_does_not_fit_is_refused_also_beside_a_coupling(untouched, example):
    model = untouched(mlp())
    coupling = couple(trace(model, (VECTORS,)))
    with pytest.raises(AttarError):
        apply(model, select(coupling, {"0": [1]}), example, coupling=coupling)


def test_a_network_that_gives_no_finite_number_cannot_be_checked(untouched):
    model = mlp()
    with torch.no_grad():
        model[4].weight.fill_(torch.nan)
    untouched(model)
    with pytest.raises(SurgeryError, match="no finite number on its example"):
        cut(model, {"0": [1]}, VECTORS)


def test_a_codebook_cannot_be_cut(untouched):
    model = mlp()
    indices = torch.arange(24).reshape(8, 3) % 4
    forms.attach(model[0], "weight", forms.Codebook(indices, torch.randn(4)))
    untouched(model)
    with pytest.raises(AttarError, match=r"0\.weight carries a Codebook, which cannot be cut"):
        cut(model, {"0": [1]}, VECTORS)
    smaller = cut(model, {"2": [1]}, VECTORS).model  # it is not in the way
    assert isinstance(forms.of(smaller[0], "weight"), forms.Codebook)
    assert smaller[2].out_features == 5


# the check can fail


@pytest.mark.parametrize("eager", [True, False])
def test_a_wrong_cut_is_caught_and_its_layer_named(untouched, monkeypatch, eager):
    """The rows of the second layer that stay are taken in the wrong order, in the module, its graph, or both."""
    model = untouched(mlp())

    def reversed_rows(tensor, indices, right=surgery.cut_tensor):
        result = right(tensor, indices)
        return result.flip(0) if result.shape == (5, 8) else result

    monkeypatch.setattr("attar.graph.eager.cut_tensor", reversed_rows)
    selection = plan(model, {"2": [1]}, VECTORS)
    if eager:  # the graph is right and takes over
        result = apply(model, selection, (VECTORS,))
        assert not result.eager
        assert "its outputs differ by" in result.notes[0]
        return
    monkeypatch.setattr("attar.graph.rewrite.cut_tensor", reversed_rows)
    with pytest.raises(SurgeryError, match=r"differs from the masked original by .*, first at linear_1 in layer '2': nothing was changed"):
        apply(model, selection, (VECTORS,))


def test_a_wrong_shape_is_caught_before_anything_runs(untouched, monkeypatch):
    model = untouched(mlp())
    right = surgery.cut_tensor
    monkeypatch.setattr("attar.graph.rewrite.cut_tensor", lambda t, i: right(t, {d: v[:-1] for d, v in i.items()} if 1 in i else i))
    with pytest.raises(AttarError):
        cut(model, {"2": [1]}, VECTORS)


# what a cut gives


def test_class_attributes_hooks_and_gradients_asked_for_stay(untouched):
    class Picture(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(2, 6, 1)
            self.norm = nn.BatchNorm2d(6)
            self.depthwise = nn.Conv2d(6, 6, 1, groups=6)
            self.up = nn.ConvTranspose2d(6, 4, 2, 2)
            self.slope = nn.PReLU(4)
            self.tokens = nn.GRU(4, 5, batch_first=True)
            self.head = Linear(5, 2)
            self.mark = "kept"

        def forward(self, x):
            h = self.slope(self.up(self.depthwise(self.norm(self.stem(x)))))
            return self.head(self.tokens(F.adaptive_avg_pool2d(h, 2).flatten(2).transpose(1, 2))[0])

    model = Picture().train()
    model.norm.eval()  # frozen, as in fine-tuning
    model.stem.weight.requires_grad_(False)
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    untouched(model)
    removed = {"stem": [0, 3], "up": [1], "tokens.weight_ih_l0": [4]}
    smaller = cut(model, removed, PICTURES).model
    assert type(smaller) is Picture
    assert smaller.mark == "kept"
    assert (smaller.stem.out_channels, smaller.norm.num_features) == (4, 4)
    assert (smaller.depthwise.in_channels, smaller.depthwise.out_channels, smaller.depthwise.groups) == (4, 4, 4)
    assert (smaller.up.in_channels, smaller.up.out_channels, smaller.slope.num_parameters) == (4, 3, 3)
    assert (smaller.tokens.input_size, smaller.tokens.hidden_size, smaller.head.in_features) == (3, 4, 4)
    assert [p.requires_grad for p in smaller.parameters()] == [p.requires_grad for p in model.parameters()]
    assert smaller.training
    assert not smaller.norm.training
    calls.clear()
    smaller(PICTURES)
    assert calls == [1]
    smaller(PICTURES).sum().backward()
    assert smaller.head.weight.grad.shape == (2, 4)


def test_batch_norm_while_training_on_one_sample(untouched):
    model = untouched(nn.Sequential(Linear(3, 4), nn.BatchNorm1d(4), Linear(4, 2)).train())
    smaller = cut(model, {"0": [1]}, VECTORS[:1]).model
    assert smaller.training
    assert smaller[1].training
    assert smaller[1].running_mean.shape == (3,)


def test_a_linear_layer_alone_in_half_precision_and_a_dict_as_example(untouched):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Linear(3, 8), Linear(8, 2)

        def forward(self, *, x):
            return {"y": self.b(F.relu(self.a(x)))}

    model = untouched(Named().to(torch.bfloat16))
    example = {"x": VECTORS.to(torch.bfloat16)}
    selection = select(couple(trace(model, example)), {"a": [0, 1]})
    result = apply(model, selection, example)
    assert result.model.a.weight.dtype == torch.bfloat16
    assert result.model.a.out_features == 6


def test_written_sizes_make_a_graph_module_and_the_note_says_where(untouched):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = Linear(3, 24), Linear(8, 2)

        def forward(self, x):
            q, k, v = self.qkv(x).view(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = untouched(nn.Sequential(Block()))
    result = cut(model, {"0.qkv/heads": [1]}, TOKENS)
    assert isinstance(result.model, Program)
    assert not result.eager
    (note,) = result.notes
    assert note.startswith("Sequential became a graph module, because its own code does not fit the smaller tensors")
    assert "in layer '0', view has the number 2 that had to become 1; size() or -1 instead would keep the class" in note
    assert result.model(noise(4, 5, 3)).shape == (4, 5, 2)
    assert result.model.train().training


@pytest.mark.parametrize(("heads", "width"), [(4, 2), (2, 4), (4, 4)])
def test_remembered_sizes_are_corrected_also_where_two_are_alike(untouched, heads, width):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.head_dim, self.scale = heads, width, width**-0.5
            self.q, self.k, self.v = (Linear(3, heads * width) for _ in range(3))
            self.out = Linear(heads * width, 2)

        def forward(self, x):
            n, length, _ = x.shape
            q, k, v = (f(x).view(n, length, self.num_heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
            return self.out(y.transpose(1, 2).reshape(n, length, self.num_heads * self.head_dim))

    model = untouched(Attention())
    result = cut(model, {"q/heads": [1]}, TOKENS)
    assert result.eager
    assert (result.model.num_heads, result.model.head_dim) == (heads - 1, width)


def test_tied_weights_stay_tied(untouched):
    def forward(net, x):
        return F.linear(net.b(net.a(x)).relu(), net.a.weight)

    model = untouched(Net(forward, a=nn.Embedding(7, 6), b=Linear(6, 6)))
    result = cut(model, {"b": [2, 3]}, torch.tensor([[1, 2]]))
    assert result.eager
    assert result.model.a.embedding_dim == 4
    names = [name for name, _ in result.model.named_parameters(remove_duplicate=False)]
    assert names == [name for name, _ in model.named_parameters(remove_duplicate=False)]


def test_two_layers_of_one_weight_are_cut_once(untouched):
    a, b = (nn.Conv2d(4, 4, 1, groups=2) for _ in range(2))
    b.weight = a.weight
    stem, head = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1)
    model = untouched(nn.Sequential(stem, a, b, head))
    selection = select(coupling := couple(trace(model, (PICTURES,))), {group.name: [0] for group in coupling.groups})
    result = apply(model, selection, (PICTURES,))
    assert result.eager
    assert result.model[1].weight is result.model[2].weight
    assert (result.model[1].groups, result.model[2].groups) == (1, 1)
    assert (result.model[2].in_channels, result.model[2].out_channels) == (1, 1)


def test_a_network_from_a_file_is_cut_as_a_graph(untouched, tmp_path):
    attar.save(mlp().eval(), tmp_path / "net.attar", example=(VECTORS,))
    model = untouched(attar.load(tmp_path / "net.attar"))
    assert isinstance(model, Program)
    result = cut(model, {"0": [1, 2]}, VECTORS)
    assert result.notes == ("the network came as a graph",)
    assert dict(result.model.named_parameters())["0.weight"].shape == (6, 3)
    again = cut(result.model, {"0": [0]}, VECTORS).model
    assert dict(again.named_parameters())["2.weight"].shape == (6, 5)


def test_a_sparse_weight_is_cut_with_its_mask(untouched):
    model = mlp()
    for layer in (model[0], model[2]):
        mask = torch.rand(layer.weight.shape) < 0.5
        forms.attach(layer, "weight", forms.Sparse(mask, layer.weight.detach()[mask]))
    untouched(model)
    result = cut(model, {"0": [1, 5]}, VECTORS)
    assert result.eager
    stay = [0, 2, 3, 4, 6, 7]
    before, after = (forms.of(m[2], "weight") for m in (model, result.model))
    assert isinstance(after, forms.Sparse)
    assert torch.equal(after.mask, before.mask[:, stay])
    assert torch.equal(after(), before()[:, stay])
    assert torch.equal(forms.of(result.model[0], "weight")(), forms.of(model[0], "weight")()[stay])
    assert result.model[2].in_features == 6


# approximate cuts


def rms_by_hand(net, x):
    h = net.a(x)
    return net.b(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * net.n)


@pytest.mark.parametrize(
    ("forward", "norm"),
    [
        (lambda net, x: net.b(net.n(net.a(x))), nn.LayerNorm(8)),
        (lambda net, x: net.b(F.rms_norm(net.a(x), net.n.shape, net.n)), weight(8)),
        (rms_by_hand, weight(8)),
    ],
)
def test_a_norm_over_what_is_left_is_checked_by_its_own_formula(untouched, forward, norm):
    model = untouched(Net(forward, a=Linear(3, 8), b=Linear(8, 2), n=norm))
    assert not couple(trace(model, (VECTORS,))).groups
    coupling = couple(trace(model, (VECTORS,)), exact=False)
    selection = select(coupling, {coupling.groups[0].name: [1, 4]})
    assert not selection.exact
    result = apply(model, selection, (VECTORS,))
    assert result.error < surgery.TOLERANCE
    masked = verify.masked(model, coupling, coupling.kept(selection.removed))
    mask_only, cut = (verify.outputs(verify.widened(copy.deepcopy(m)), (VECTORS,), double=True) for m in (masked, result.model))
    assert verify.difference(cut, mask_only) > 1e-3


def test_a_plan_survives_json_and_gives_the_same_network(untouched):
    model = untouched(mlp())
    selection = plan(model, {"0": [1, 5], "2": [0]}, VECTORS)
    again = Selection.from_data(json.loads(json.dumps(selection.as_data())))
    a, b = (apply(model, s, (VECTORS,)).model.state_dict() for s in (selection, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert cut(model, {}, VECTORS).kept == {}


def test_a_network_that_takes_its_own_batch_size_only_is_checked_at_that():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.first(x).relu()).gather(1, torch.zeros(2, 1, dtype=torch.long))

    model, example = Pairs(), (torch.randn(2, 4),)
    coupling = couple(trace(model, example))
    assert apply(model, select(coupling, {"first": [1, 3]}), example, coupling=coupling).error < 1e-9
