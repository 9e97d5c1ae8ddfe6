"""What every quantizer must do; the checks take the quantizer, so that a user's own file can be held to them."""

import pytest
import torch

from attar.errors import AttarError
from attar.forms import Form, Symbols, describe, rebuild
from attar.names import members

SHAPES = [(), (1,), (300,), (20, 15), (5, 4, 15), (6, 5, 3, 3), (3, 2, 5, 3, 2)]


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(form, weight):
    return float((form().detach().double() - weight.double()).square().sum())


def symbols(form):
    """All integer parts of a form, nested ones too."""
    for part in form.parts().values():
        if isinstance(part, Symbols):
            yield part
        elif isinstance(part, Form):
            yield from symbols(part)


def check_callable_with_the_weight_alone(quantizer):
    for shape in SHAPES:
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            weight = draw(*shape, dtype=dtype)
            before = weight.clone()
            form = quantizer(weight)
            assert isinstance(form, Form)
            assert form.shape == shape == tuple(form().shape)
            assert form().dtype == dtype
            assert torch.equal(weight, before)


def check_awkward_weights(quantizer):
    for weight in (torch.zeros(3, 2), torch.full((3, 2), -2.0), torch.empty(0), draw(6, 4).t(), draw(3, 2).requires_grad_()):
        form = quantizer(weight)
        assert form.shape == tuple(weight.shape)
        assert bool(torch.isfinite(form()).all())
    assert torch.equal(quantizer(torch.zeros(3, 2))(), torch.zeros(3, 2))


def check_few_values(quantizer):
    for bits in (1, 2, 3, 5, 8):
        form = quantizer(draw(40, 30), bits=bits)
        assert form().unique().numel() <= 2**bits
        declared = list(symbols(form))
        assert declared
        for part in declared:
            assert part.alphabet <= 2**bits
            assert int(part.values.max()) < part.alphabet


def check_exact_on_its_own_form(quantizer):
    for bits in (1, 2, 4, 7):
        weight = quantizer(draw(40, 30), bits=bits)().detach()
        assert torch.equal(quantizer(weight, bits=bits)(), weight)


def check_more_bits_never_raise_the_error(quantizer):
    for seed in range(3):
        weight = draw(60, 50, seed=seed)
        errors = [error(quantizer(weight, bits=bits), weight) for bits in range(1, 13)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0] / 100


def check_refuses(quantizer):
    for bad in (float("nan"), float("inf"), -float("inf")):
        weight = draw(4, 3)
        weight[1, 2] = bad
        with pytest.raises(AttarError, match=r"NaN|infinite"):
            quantizer(weight)
    for bits in (0, 17, -1, 2.5, True):
        with pytest.raises(AttarError, match="bits must be"):
            quantizer(draw(4, 3), bits=bits)


def check_deterministic(quantizer):
    first = quantizer(draw(20, 15), bits=3, seed=5)()
    torch.manual_seed(99)
    assert torch.equal(first, quantizer(draw(20, 15), bits=3, seed=5)())


def check_round_trip(quantizer):
    form = quantizer(draw(20, 15), bits=3)
    again = rebuild(*describe(form))
    assert type(again) is type(form)
    assert torch.equal(again(), form())


def check_trains(quantizer):
    """What the form stores gets a gradient from the weight it rebuilds."""
    form = quantizer(draw(20, 15), bits=3)
    form().square().sum().backward()
    gradients = [parameter.grad for parameter in form.parameters()]
    assert gradients
    assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients)


CHECKS = [
    check_callable_with_the_weight_alone,
    check_awkward_weights,
    check_few_values,
    check_exact_on_its_own_form,
    check_more_bits_never_raise_the_error,
    check_refuses,
    check_deterministic,
    check_round_trip,
    check_trains,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", members("quantization"))
def test_every_quantizer(name, check):
    check(members("quantization")[name])


@pytest.mark.parametrize("name", members("quantization"))
def test_every_quantizer_is_declared(name):
    quantizer = members("quantization")[name]
    assert quantizer.__name__ == name == quantizer.__module__.rpartition(".")[2]
    assert quantizer.__doc__


def test_the_checks_can_fail():
    kmeans = members("quantization")["kmeans"]

    def careless(weight, *, bits=4, seed=0):
        return kmeans(weight.nan_to_num(0.0), bits=min(max(int(bits), 1), 16))

    def generous(weight, *, bits=4, seed=0):
        return kmeans(weight, bits=bits + 1)

    for quantizer, check in ((careless, check_refuses), (generous, check_few_values)):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check(quantizer)
