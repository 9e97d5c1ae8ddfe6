"""Samples together from a cut on: what is cut where, equal outputs for any number of samples, threads, bytes, the cache, bad input."""

import concurrent.futures
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

from attar.compiler import compile
from attar.compiler.batch import cuts, decide
from attar.compiler.lower import leaves
from attar.errors import AttarError
from attar.graph import trace
from attar.graph.fold import fold_network


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Residual(nn.Module):
    """Two inputs, and two results, of which one is ready before the classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one, self.two, self.head = nn.Linear(8 * 36, 64), nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x, scale):
        map = torch.relu(self.norm(self.first(x * scale[..., None, None])))
        y = torch.relu(self.one(map.flatten(1)))
        return {"logits": self.head(y + self.two(y)), "map": map, "name": "residual"}


@pytest.fixture(scope="module")
def model():
    return Residual().eval()


@pytest.fixture(autouse=True)
def _gains(monkeypatch):
    """Whatever the times are, the last cut is worth it: what is tested here is that its outputs are right."""

    def always(seconds, group):
        return decide({name: (1.0, 1.0 / (place + 2)) for place, name in enumerate(seconds)}, group)

    monkeypatch.setattr("attar.compiler.groups.decide", always)


def noise(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def inputs(samples, seed=0):
    return noise(samples, 3, 6, 6, seed=seed), noise(samples, 1, seed=seed + 1)


@pytest.fixture(scope="module")
def plain(model):
    return compile(model, inputs(1))


def names(model, example, group):
    network = fold_network(trace(model, example)).model
    return [
        (cut.name, cut.crossing, cut.reads, [tuple(zeros.shape) for zeros in cut.given])
        for cut in cuts(network, leaves(network, example), group)
    ]


def test_a_cut_is_before_a_layer_that_few_values_cross_to():
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 29 * 29, 3)
    )
    example = (torch.zeros(1, 3, 63, 63),)
    assert names(layers, example, 4) == [("conv2d", 0, (0,), [(4, 3, 63, 63)]), ("linear", 1, (1,), [(4, 1682)])]
    # in groups of 600 the first map is larger than what the last cache holds of it: only from the second layer on all are small
    assert names(layers, example, 600) == [("conv2d_1", 1, (1,), [(600, 4, 31, 31)]), ("linear", 1, (1,), [(600, 1682)])]
    assert names(nn.Sequential(nn.ReLU(), nn.Flatten()), example, 4) == []


def test_samples_that_are_not_first_do_not_cross():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.two(torch.relu(self.one(x.transpose(0, 1)))).transpose(0, 1)

    class Many(nn.Module):
        def forward(self, x):
            a, b, c = x.sin(), x.cos(), x.exp()
            return (x @ torch.ones(4, 4)) * a * b * c

    assert names(Turned(), (torch.zeros(2, 3, 4),), 2) == []
    assert names(Many(), (torch.zeros(2, 4),), 2) == []


def test_the_sizes_of_the_group_are_known_behind_the_cut():
    """A graph may ask for the number of samples before the cut and use it behind."""

    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(32, 6)

        def forward(self, x):
            n = x.shape[0]
            return self.head(torch.relu(self.conv(x)).view(n, -1)).view(n, 2, 3)

    torch.manual_seed(0)
    sized, value = Sized().eval(), noise(7, 1, 6, 6)
    with compile(sized, (value[:1],), batch=3) as engine:
        assert engine.tail.engine.samples == 3
        torch.testing.assert_close(engine(value), sized(value).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_samples_gives_what_the_plain_engine_gives(model, plain, threads):
    with compile(model, inputs(1), batch=4, threads=threads) as engine:
        assert engine.tail.engine.samples == 4
        assert "batch 4: samples together from linear on" in engine.report.notes[-1]
        for samples in (0, 1, 3, 4, 5, 8, 11, 16, 23):
            x, scale = inputs(samples, seed=samples)
            found, wanted = engine(x, scale), plain(x, scale)
            assert found["name"] == "residual"
            for name in ("logits", "map"):
                assert found[name].shape == wanted[name].shape
                torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-6)
            assert torch.equal(found["map"], wanted["map"])
    with pytest.raises(AttarError, match="closed"):
        engine(*inputs(4))


def test_calls_from_several_threads(model, plain):
    with compile(model, inputs(1), batch=4, threads=2) as engine, concurrent.futures.ThreadPoolExecutor(4) as pool:
        values = [inputs(9, seed=n) for n in range(16)]
        for value, found in zip(values, pool.map(lambda value: engine(*value), values), strict=True):
            torch.testing.assert_close(found["logits"], plain(*value)["logits"], rtol=1e-5, atol=1e-6)


def test_the_report_counts_both_programs_and_the_cache_holds_them(model, plain):
    first, second = (compile(model, inputs(1), batch=5) for _ in range(2))  # of which the first one builds
    assert (first.report.cached, second.report.cached) == (False, True)
    assert second.report.error == first.report.error < 1e-5
    assert second.report.notes == first.report.notes
    behind = 4 * sum(p.numel() for layer in (model.one, model.two, model.head) for p in layer.parameters())
    assert first.report.constants >= plain.report.constants + behind


def test_what_does_not_gain_is_left_out_and_the_report_says_so(model, monkeypatch):
    monkeypatch.setattr("attar.compiler.groups.decide", lambda seconds, group: decide(dict.fromkeys(seconds, (1.0, 0.99)), group))
    engine = compile(model, inputs(1), batch=6)
    assert engine.tail is None
    assert "batch 6: left out, as it gains nothing (from " in engine.report.notes[-1]
    assert len(engine(*inputs(12))["logits"]) == 12
    again = compile(model, inputs(1), batch=6)
    assert (again.tail, again.report.notes) == (None, engine.report.notes)
    nothing = compile(nn.ReLU(), (noise(1, 3),), batch=2)
    assert "no layer that one or two values of the samples cross to" in nothing.report.notes[-1]


@given(st.dictionaries(st.text("abc", min_size=1), st.tuples(st.floats(1e-6, 10), st.floats(1e-6, 10)), max_size=4))
def test_the_cut_that_saves_most_is_taken_and_none_that_costs(seconds):
    decision = decide(seconds, 8)
    json.dumps(decision)
    gains = {name: apart - together for name, (apart, together) in seconds.items()}
    if decision["cut"] is None:
        assert all(gain <= 0.03 * seconds[name][0] * (1 + 1e-9) for name, gain in gains.items())
    else:
        assert gains[decision["cut"]] == max(gains.values()) > 0
    assert all(f"from {name} on" in decision["note"] for name in seconds)


def test_in_bytes():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 49, 4)
    ).eval()
    samples = noise(11, 8, 7, 7)
    options = {"precision": "int8", "calibration": (samples,)}
    with compile(net, (samples[:1],), batch=4, **options) as engine:
        assert engine.tail.engine.samples == 4
        wanted = net(samples).detach()
        assert (engine(samples) - wanted).abs().max() < 0.1 * wanted.abs().max()
        assert 0 < engine.report.error < 0.1


def test_a_part_that_pytorch_runs_on_either_side():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv1d(2, 3, 3), nn.Linear(12, 5)

        def forward(self, x):
            return torch.special.bessel_j1(self.head(torch.special.bessel_j0(self.conv(x)).flatten(1)))

    torch.manual_seed(0)
    odd, value = Odd().eval(), noise(8, 2, 6)
    with compile(odd, (value[:1],), batch=3, threads=2) as engine:
        assert engine.tail.engine.samples == 3
        assert sorted(set(engine.report.segments)) == ["aten.special_bessel_j0.default", "aten.special_bessel_j1.default"]
        torch.testing.assert_close(engine(value), odd(value).detach(), rtol=1e-4, atol=1e-6)


def test_the_listing_has_both_programs(model, tmp_path):
    compile(model, inputs(1), batch=4, listing=tmp_path / "net.s")
    assert "# 4 samples together" in (tmp_path / "net.s").read_text()


@pytest.mark.parametrize("batch", [0, -1, 2.0, "2", None])
def test_bad_values_are_refused(model, batch):
    with pytest.raises(AttarError, match=r"batch must be a whole number, 1 at least, got"):
        compile(model, inputs(1), batch=batch)


def test_samples_that_meet_are_never_in_groups():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    engine, value = compile(Centred(), (noise(2, 3),), batch=2), noise(2, 3, seed=1)
    assert engine.tail is None
    assert "batch 2: left out, as the samples are not apart" in engine.report.notes[-1]
    torch.testing.assert_close(engine(value), value - value.mean(0))


class Chain(nn.Module):
    def __init__(self, sizes, channels, kernel, rank):
        super().__init__()
        torch.manual_seed(sum(sizes))
        conv = [nn.Conv1d, nn.Conv2d][len(sizes) - 1]
        self.body = nn.Sequential(conv(2, channels, kernel, padding=kernel // 2), nn.ReLU(), conv(channels, 3, 1))
        self.head = nn.Sequential(nn.Linear(3 * int(np.prod(sizes)), rank), nn.Tanh(), nn.Linear(rank, 3))

    def forward(self, x):
        y = self.body(x)
        return self.head(y.view(x.shape[0], -1)), y


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=2), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 33), st.integers(2, 19)
)
def test_the_two_networks_of_a_cut_are_the_network(sizes, channels, kernel, rank, group):
    network = trace(Chain(sizes, channels, kernel, rank).eval(), (noise(1, 2, *sizes),))
    value = noise(group, 2, *sizes, seed=group)
    wanted = network.program()(value)
    found = cuts(network, [value[:1]], group)
    assert found
    for cut in found:
        crossed = pytree.tree_leaves(cut.front.program()(value))
        own = crossed[: len(crossed) - cut.crossing]
        together = cut.tail.program()(*((value, *crossed[len(own) :])[position] for position in cut.reads))
        for result in (own, together):
            for one, two in zip(result, wanted, strict=True):
                torch.testing.assert_close(one, two)
