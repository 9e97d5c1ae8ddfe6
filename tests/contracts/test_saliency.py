"""What every saliency criterion must do; the checks take the criterion, so that a user's own file can be held to them."""

import inspect

import pytest
import torch

from attar.names import members
from attar.pruning._evidence import score

SHAPES = [(7,), (6, 5), (4, 3, 5), (4, 3, 2, 2), (3, 2, 2, 3, 2)]


def evidence(shape, *, seed=0, dtype=torch.float32):
    """Everything a criterion may name, in the shape of the weight."""
    generator = torch.Generator().manual_seed(seed)
    names = ("weight", "grad", "grad_sq", "hessian_diag")
    drawn = {name: torch.randn(shape, generator=generator).to(dtype) for name in names}
    return drawn | {"grad_sq": drawn["grad_sq"].square(), "hessian_diag": drawn["hessian_diag"].square(), "seed": 0}


def draws(criterion):
    """Whether the criterion draws, and so takes a seed."""
    return "seed" in inspect.signature(criterion).parameters


def check_any_shape_and_dtype(criterion):
    for shape in SHAPES:
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            scores = score(criterion, evidence(shape, dtype=dtype))  # expands to the weight's shape, or raises
            assert scores.shape == shape
            assert scores.is_floating_point()
            assert scores.device.type == "cpu"
            assert bool(torch.isfinite(scores).all())


def check_awkward_weights(criterion):
    for weight in (
        torch.zeros(3, 2),
        torch.full((3, 2), -2.0),
        torch.ones(1, 1),
        torch.randn(4, 6).t(),
        torch.randn(3, 2, requires_grad=True),
    ):
        given = evidence(weight.shape) | {"weight": weight}
        before = weight.detach().clone()
        scores = score(criterion, given)
        assert bool(torch.isfinite(scores).all())
        assert not scores.requires_grad
        assert torch.equal(weight.detach(), before)


def check_deterministic(criterion):
    given = evidence((6, 5))
    state = torch.get_rng_state()
    first = score(criterion, given).clone()
    torch.manual_seed(99)
    assert torch.equal(first, score(criterion, given))
    if draws(criterion):
        assert not torch.equal(first, score(criterion, given | {"seed": 1}))
    torch.set_rng_state(state)


def check_permuting_filters_permutes_scores(criterion):
    """Exactly where nothing is drawn; where the criterion draws, in the mean over seeds (five standard errors)."""
    given = evidence((6, 4))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = {name: value[order] if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    if not draws(criterion):
        assert torch.equal(score(criterion, permuted), score(criterion, given)[order])
        return
    seeds = range(400)
    here = torch.stack([score(criterion, given | {"seed": seed})[order] for seed in seeds]).double()
    there = torch.stack([score(criterion, permuted | {"seed": seed}) for seed in seeds]).double()
    error = ((here.var(0) + there.var(0)) / len(seeds)).sqrt()
    assert bool(((here.mean(0) - there.mean(0)).abs() <= 5 * error).all())


def check_declared(name, criterion):
    """Named like its module, documented, and needing nothing but evidence."""
    assert criterion.__name__ == name == criterion.__module__.rpartition(".")[2]
    assert criterion.__doc__
    assert set(inspect.signature(criterion).parameters) <= {*evidence((1,)), "inputs_sq", "outputs_zero_share"}


CHECKS = [check_any_shape_and_dtype, check_awkward_weights, check_deterministic, check_permuting_filters_permutes_scores]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", members("saliency"))
def test_every_criterion(name, check):
    check(members("saliency")[name])


@pytest.mark.parametrize("name", members("saliency"))
def test_every_criterion_is_declared(name):
    check_declared(name, members("saliency")[name])


def test_the_checks_can_fail():
    def of_position(weight):
        return torch.arange(weight.numel(), dtype=torch.float32).view(weight.shape)

    def undefined(weight):
        return weight.double().log()

    def global_draw(weight):
        return torch.rand(weight.shape)

    for criterion, check in (
        (of_position, check_permuting_filters_permutes_scores),
        (undefined, check_any_shape_and_dtype),
        (global_draw, check_deterministic),
    ):
        with pytest.raises(AssertionError):
            check(criterion)
