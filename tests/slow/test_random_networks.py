"""Random networks are cut at random: the result is the network with zeros, and as small as its plan said.

The default suite takes a few small networks, `pytest -m slow` some hundreds of larger ones.
"""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from random_networks import random_networks
from torch import nn

from attar.errors import AttarError
from attar.evaluation import count, count_by_running
from attar.graph import Coupling, Selection, apply, couple, select, trace, verify

ALIKE = {"derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


def zeroed(model: nn.Module, kept) -> nn.Module:
    """A copy in float64 with zeros where something is removed."""
    model = copy.deepcopy(model).double()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, dims in kept.items():
        for d, index in dims.items() if name in parameters else ():
            gone = np.setdiff1d(np.arange(parameters[name].shape[d]), index)
            parameters[name].data.index_fill_(d, torch.from_numpy(gone), 0.0)
    return model


def outputs(model: nn.Module, example: tuple) -> list[torch.Tensor]:
    with torch.no_grad(), verify.wide():  # states that a graph makes, of a type written in it
        found = model.double()(*(x.double() if x.is_floating_point() else x for x in example))
    return list(found) if isinstance(found, tuple) else [found]


def another(example: tuple) -> tuple:
    """Three other samples."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, *x.shape[1:]) for x in example]
    return tuple(
        torch.randn(shape, generator=generator) if x.is_floating_point() else torch.randint(7, shape, generator=generator)
        for x, shape in zip(example, shapes, strict=True)
    )


def a_selection(coupling: Coupling, seed: int) -> Selection | None:
    """Some units of some groups, of each group at least one and never all; None where that leaves a tensor empty."""
    chance = random.Random(seed)
    groups = chance.sample(coupling.groups, chance.randint(1, len(coupling.groups)))
    removed = {group.name: chance.sample(range(group.units), chance.randint(1, group.units - 1)) for group in groups}
    try:
        return select(coupling, removed)
    except AttarError as refusal:
        if "nothing would be left" not in str(refusal):
            raise
        return None


def cut_at_random(model, example, seed, macs):
    """`macs` counts the multiply-accumulates of the result."""
    network = trace(model, example)
    coupling = couple(network)
    assume(coupling.groups)
    selection = a_selection(coupling, seed)
    event("refused" if selection is None else "cut")
    if selection is None:
        return
    before = copy.deepcopy(model.state_dict())
    surgery = apply(model, selection, example, coupling=coupling)
    event("eager" if surgery.eager else "graph")
    assert surgery.error < 1e-9
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    x = another(example)
    for got, want in zip(outputs(copy.deepcopy(surgery.model), x), outputs(zeroed(model, surgery.kept), x), strict=True):
        assert torch.allclose(got, want, rtol=0, atol=1e-9 * float(want.abs().max()))

    parameters, buffers = (dict(f(remove_duplicate=False)) for f in (surgery.model.named_parameters, surgery.model.named_buffers))
    held = {**parameters, **buffers}
    for name, old in network.tensors.items():
        for d, index in surgery.kept.get(name, {}).items():
            old = old.index_select(d, torch.from_numpy(index))
        assert name not in held or torch.equal(held[name], old)
    sizes = {name: held[name] for name in network.tensors if name in held}
    assert sizes.keys() == network.tensors.keys() or surgery.eager
    assert selection.parameters[1] == sum(p.numel() for name, p in sizes.items() if name in parameters)
    lost = {name: tensor for name, tensor in network.tensors.items() if name not in held}
    assert selection.bytes[1] == sum(t.numel() * t.element_size() for t in [*sizes.values(), *lost.values()])
    assert selection.macs == (count(network).total.macs, macs(surgery.model, example))


def traced_macs(model, example):
    return count(trace(model, example)).total.macs


def run_macs(model, example):
    return count_by_running(model, example).total.macs


@settings(max_examples=25, **ALIKE)
@given(random_networks(depth=3), st.integers(0, 1 << 20))
def test_a_few_small_networks(made, seed):
    cut_at_random(*made, seed, run_macs)


@pytest.mark.slow
@settings(max_examples=500, **ALIKE)
@given(random_networks(depth=8), st.integers(0, 1 << 20))
def test_many_networks(made, seed):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections")
        cut_at_random(*made, seed, traced_macs)
