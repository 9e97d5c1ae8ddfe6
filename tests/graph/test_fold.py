"""A batch norm becomes part of the layer before it where the graph allows it, and is named with the reason where not."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from attar import forms
from attar.graph import Program, call_with, eval_mode, trace
from attar.graph.fold import Folded, fold_batch_norms, fold_network
from attar.zoo.cifar_resnet import resnet20

CONVOLUTIONS = {
    (1, False): (nn.Conv1d, nn.BatchNorm1d),
    (2, False): (nn.Conv2d, nn.BatchNorm2d),
    (3, False): (nn.Conv3d, nn.BatchNorm3d),
    (1, True): (nn.ConvTranspose1d, nn.BatchNorm1d),
    (2, True): (nn.ConvTranspose2d, nn.BatchNorm2d),
    (3, True): (nn.ConvTranspose3d, nn.BatchNorm3d),
}


def trained(model: nn.Module) -> nn.Module:
    """`model` in float64 and eval mode, its norms as after some training."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.2, 3.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.double().eval()


def assert_same_outputs(model, folded, example, tolerance=1e-10):
    with eval_mode(model), torch.no_grad():
        want, got = call_with(model, example), call_with(folded, example)
    assert (want - got).abs().max() <= tolerance * want.abs().max()


@st.composite
def layers(draw):
    """A layer with a norm behind it, and an input."""
    torch.manual_seed(draw(st.integers(0, 2**32)))
    bias, affine, batch = draw(st.booleans()), draw(st.booleans()), draw(st.integers(1, 3))
    rank = draw(st.integers(0, 3))
    if rank == 0:
        return nn.Sequential(nn.Linear(5, 6, bias=bias), nn.BatchNorm1d(6, affine=affine)), torch.randn(batch, 5).double()
    transposed, groups = draw(st.booleans()), draw(st.sampled_from([1, 2, 4]))
    inside, outside = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    options = {"stride": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 1))}
    if not transposed and options["stride"] == 1 and draw(st.booleans()):
        options["padding"] = draw(st.sampled_from(["same", "valid"]))
    convolution, norm = CONVOLUTIONS[rank, transposed]
    layer = convolution(inside, outside, draw(st.integers(1, 3)), groups=groups, bias=bias, **options)
    return nn.Sequential(layer, norm(outside, affine=affine, eps=1e-3)), torch.randn(batch, inside, *[7] * rank).double()


@settings(max_examples=12)
@given(layers())
def test_outputs_stay(drawn):
    model, x = trained(drawn[0]), drawn[1]
    before = copy.deepcopy(model.state_dict())
    result = fold_batch_norms(model, (x,))
    assert (result.folded, result.left) == ((("1", "0"),), ())
    assert type(result.model[1]) is nn.Identity
    assert_same_outputs(model, result.model, (x,))
    network = fold_network(trace(model, (x,)))
    assert sorted(network.model.tensors) == ["0.bias", "0.weight"]
    assert_same_outputs(model, network.model.program(), (x,))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_whole_network():
    model = trained(resnet20())
    x = torch.randn(1, 3, 32, 32).double()
    result = fold_batch_norms(model, (x,))
    assert len(result.folded) == 19
    assert result.left == ()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.model.modules())
    assert_same_outputs(model, result.model, (x,))


class Backwards(nn.Module):
    """Modules in another order than they are called in, one of them under two names."""

    def __init__(self):
        super().__init__()
        self.norm, self.between, self.conv = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.alias = self.norm

    def forward(self, x):
        return self.norm(self.conv(self.between(x)))


def test_the_graph_says_what_follows_what():
    model, x = trained(Backwards()), torch.randn(2, 3, 4, 4).double()
    result = fold_batch_norms(model, (x,))
    assert result.folded == (("norm", "conv"),)
    assert dict(result.left)["between"].startswith("it does not follow")
    assert type(result.model.norm) is type(result.model.alias) is nn.Identity
    assert_same_outputs(model, result.model, (x,))


class Calls(nn.Module):
    """Two layers and a norm, used as `forward` says."""

    def __init__(self, use):
        super().__init__()
        self.use = use
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.use(self, x)


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def tied(model):
    model.other.weight = model.conv.weight


def codebook(model):
    forms.attach(model.conv, "weight", forms.Codebook(torch.randint(2, (3, 3, 1, 1)), torch.randn(2).double()))


def own_class(model):
    model.norm = Scaled(3)


def hooked(model):
    model.norm.register_forward_hook(lambda module, args, output: None)


def without_statistics(model):
    model.norm = nn.BatchNorm2d(3, track_running_stats=False)


def weight_norm(model):
    nn.utils.parametrizations.weight_norm(model.conv)


def plain(m, x):
    return m.norm(m.conv(x))


def by_hand(m, x):
    y = functional.conv2d(x, m.conv.weight, m.conv.bias)
    return m.norm(y)


@pytest.mark.parametrize(
    ("use", "change", "reason"),
    [
        (lambda m, x: m.norm(m.conv(m.conv(x))), None, "conv.weight is used 2 times"),
        (lambda m, x: m.norm(m.conv(m.other(x))), tied, "conv.weight is used 2 times"),
        (lambda m, x: m.norm(m.conv(x)) + m.norm(m.other(x)), None, "the norm is shared"),
        (lambda m, x: m.norm(m.conv(x)) + m.norm.weight.sum(), None, "its weight is used 2 times"),
        (lambda m, x: m.norm(y := m.conv(x)) + y, None, "the output of conv.weight is also read by add"),
        (lambda m, x: m.norm(m.conv(x).relu()), None, "its input is relu"),
        (lambda m, x: m.norm(functional.linear(x, m.conv.weight.flatten(1))), None, "is computed, not held"),
        (plain, without_statistics, "it has no running statistics"),
        (plain, weight_norm, "is computed, not held"),
        (plain, codebook, "conv.weight carries a Codebook"),
        (plain, own_class, "norm is not an ordinary layer"),
        (plain, hooked, "norm has hooks"),
        (by_hand, None, "conv is not an ordinary layer"),
    ],
)
def test_what_is_left_is_named_with_the_reason(use, change, reason):
    model = Calls(use)
    if change:
        change(model)
    model = trained(model)
    x = torch.randn(2, 3, 3, 3).double()
    result = fold_batch_norms(model, (x,))
    assert result.folded == ()
    assert [reason in why for _, why in result.left] == [True]
    assert_same_outputs(model, result.model, (x,))


def test_a_norm_over_another_dimension_is_left():
    model = trained(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    result = fold_batch_norms(model, (torch.randn(2, 5, 4).double(),))
    assert result.left == (("1", "it does not normalise over the output channels of 0.weight"),)


@pytest.mark.parametrize(("use", "change"), [(plain, own_class), (by_hand, None), (plain, hooked)])
def test_the_graph_folds_what_modules_cannot(use, change):
    model = Calls(use)
    if change:
        change(model)
    model, x = trained(model), torch.randn(2, 3, 3, 3).double()
    result = fold_network(trace(model, (x,)))
    assert result.folded == (("norm", "conv"),)
    assert_same_outputs(model, result.model.program(), (x,))


def test_a_program_gives_a_program_and_stays_as_it_is():
    model, x = trained(nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3))), torch.randn(2, 2, 5, 5).double()
    program = trace(model, (x,)).program()
    result = fold_batch_norms(program.train(), (x,))
    assert isinstance(result.model, Program)
    assert result.model.training
    assert program.training
    assert_same_outputs(model, result.model.eval(), (x,))
    assert not {id(p) for p in result.model.parameters()} & {id(p) for p in model.parameters()}
    assert fold_batch_norms(result.model, (x,)).folded == ()


def test_a_name_in_use_is_not_taken_for_the_new_bias():
    model = trained(Calls(lambda m, x: m.norm(functional.conv2d(x, m.conv.weight)) + m.conv.bias.sum()))
    x = torch.randn(2, 3, 3, 3).double()
    result = fold_network(trace(model, (x,)))
    assert sorted(result.model.tensors) == ["conv.bias", "conv.bias_", "conv.weight"]
    assert_same_outputs(model, result.model.program(), (x,))


def test_a_dense_form_stays_one_and_frozen_stays_frozen():
    model, x = trained(nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3))), torch.randn(2, 2, 5, 5).double()
    model[0].weight.requires_grad_(False)
    forms.attach(model[0], "weight", forms.Dense(model[0].weight))
    result = fold_batch_norms(model, (x,))
    assert type(forms.of(result.model[0], "weight")) is forms.Dense
    assert not any(p.requires_grad for p in result.model.parameters())
    assert_same_outputs(model, result.model, (x,))
    network: Folded = fold_network(trace(model, (x,)))
    assert list(network.model.forms) == ["0.weight"]
    assert_same_outputs(model, network.model.program(), (x,))


def test_float32_is_as_exact_as_float32_can_be():
    model = trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))).float()
    x = torch.randn(2, 3, 8, 8)
    result = fold_batch_norms(model, (x,))
    assert len(result.folded) == 2
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    assert_same_outputs(model, result.model, (x,), 1e-5)
