"""What a network remembers between calls is neither changed by tracing and surgery, nor changes them."""

import functools
import types

import pytest
import torch
from torch import nn

from attar.errors import SurgeryError
from attar.graph import apply, caches, couple, select, trace
from attar.graph.surgery import _Check


@functools.lru_cache
def table(size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(size, dtype=dtype) / 3


@functools.cache
def pair(size: int) -> tuple[int, dict[str, torch.Tensor]]:
    return size, {"ones": torch.ones(size) / 3}


@functools.cache
def words(size: int) -> str:
    return "x" * size


def wrapped(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)

    return inner


tools = types.ModuleType("tools")
tools.hidden = wrapped(functools.lru_cache(lambda size: torch.arange(size) / 7))


class Base(nn.Module):
    @staticmethod
    @functools.lru_cache
    def own(size: int) -> torch.Tensor:
        return torch.ones(size) / 11


class Remembering(Base):
    """A table from each place that a network's code may have one in."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.given = functools.lru_cache(lambda size: torch.ones(size) / 13)

    def shift(self, size):
        return [each(size) for each in (lambda size: pair(size)[1]["ones"], tools.hidden, self.own, self.given)]

    def forward(self, x):
        words(4)
        return self.b(torch.relu(self.a(x + table(6, torch.float32) + sum(self.shift(6)))))


EXAMPLE = (torch.linspace(-1, 1, 12).reshape(2, 6),)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Remembering().eval()
    caches.forget(model)
    return model


@pytest.mark.parametrize("warm", [False, True])
def test_a_network_computes_the_same_after_it_was_traced_and_cut(model, warm):
    expected = [model(*EXAMPLE)]
    if not warm:
        caches.forget(model)
    coupling = couple(trace(model, EXAMPLE))
    assert torch.equal(model(*EXAMPLE), expected[0])
    surgery = apply(model, select(coupling, {"a": [1]}), EXAMPLE, coupling=coupling)
    assert surgery.error < 1e-9
    assert surgery.eager
    assert torch.equal(model(*EXAMPLE), expected[0])
    assert torch.equal(trace(surgery.model, EXAMPLE).program()(*EXAMPLE), surgery.model(*EXAMPLE))


def test_a_graph_is_the_same_whatever_was_called_before(model):
    cold = couple(trace(model, EXAMPLE)).fingerprint
    model(*EXAMPLE)
    assert couple(trace(model, EXAMPLE)).fingerprint == cold


def test_a_failed_surgery_leaves_nothing_behind(model, monkeypatch):
    coupling = couple(trace(model, EXAMPLE))
    expected = model(*EXAMPLE)
    compare = _Check.compare

    def fails(self, candidate, examples):
        compare(self, candidate, examples)
        raise SurgeryError("as if it differed")

    monkeypatch.setattr(_Check, "compare", fails)
    with pytest.raises(SurgeryError):
        apply(model, select(coupling, {"a": [1]}), EXAMPLE, coupling=coupling)
    assert torch.equal(model(*EXAMPLE), expected)


def test_only_tensors_are_forgotten(model):
    model(*EXAMPLE)
    caches.forget(model)
    assert [cache.cache_info().currsize for cache in (table, pair, model.given, Base.own, words)] == [0, 0, 0, 0, 1]
