"""Scores sample by sample; the fingerprint sees every bit and no batch boundary."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attar.errors import AttarError, DataError
from attar.evaluation.accuracy import evaluate, fingerprint
from attar.forms import Sparse, attach, of
from attar.task import Task, top1


def split(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(4, generator=generator), int(torch.randint(3, (1,), generator=generator))) for _ in range(n)]


def task(**changes):
    return Task(train=split(2, 1), validation=split(2, 2), test=split(11, 3), **changes)


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_scores_are_each_samples_own(batch_size):
    net, data = model(), task()
    scores = evaluate(net, data.test, data, batch_size=batch_size)
    inputs, targets = torch.stack([x for x, _ in data.test]), torch.tensor([y for _, y in data.test])
    assert torch.equal(scores.metrics["top-1"], top1(net.eval()(inputs), targets).double())
    assert (scores.samples, scores.batch_size, scores.threads) == (11, batch_size, torch.get_num_threads())
    assert scores.estimates()["top-1"].mean == pytest.approx(float(scores.metrics["top-1"].mean()))


def test_runs_are_bit_equal_and_leave_the_network_as_it_was():
    net, data = model().train(), task()
    form = Sparse(torch.ones(8, 4).triu().bool(), torch.randn(int(torch.ones(8, 4).triu().sum())))
    attach(net[0], "weight", form)
    prints = {evaluate(net, data.test, data, batch_size=4).fingerprint for _ in range(3)}
    assert len(prints) == 1
    assert net.training
    assert of(net[0], "weight") is form
    baked = model()
    baked.load_state_dict({"0.weight": form().detach(), **{k: v for k, v in net.state_dict().items() if "form" not in k}})
    assert evaluate(baked, data.test, data, batch_size=4).fingerprint in prints
    with torch.no_grad():
        net[3].bias[0] = torch.nextafter(net[3].bias[0], torch.tensor(9.0))
    assert evaluate(net, data.test, data, batch_size=4).fingerprint not in prints


def test_fingerprint_is_that_of_all_outputs_together():
    net, data = model().eval(), task()
    outputs = torch.cat([net(torch.stack([x for x, _ in data.test[i : i + 4]])) for i in (0, 4, 8)])
    assert evaluate(net, data.test, data, batch_size=4).fingerprint == fingerprint(outputs)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(0, 159), st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64]))
def test_every_bit_changes_the_fingerprint(n, bit, dtype):
    x = torch.arange(n).to(dtype)
    bits = x.view(torch.uint8).clone()
    bits[bit // 8 % len(bits)] ^= 1 << bit % 8
    assert fingerprint(x) == fingerprint(x.clone())
    assert fingerprint(x) != fingerprint(bits.view(dtype))


def test_fingerprint_sees_types_shapes_and_structure():
    x = torch.zeros(4, 3)
    others = [x.double(), x.view(torch.int32), x.view(2, 6), x.view(4, 3, 1), (x, x), {"a": x}, {"b": x}, x[:3]]
    prints = [fingerprint(other) for other in [x, *others]]
    assert len(set(prints)) == len(prints)
    assert fingerprint(x.t().contiguous().t()) == fingerprint(x)
    assert len(prints[0]) == len(hashlib.sha256().hexdigest())


def test_inputs_by_position_and_by_name_and_nested_outputs():
    class Two(nn.Module):
        def forward(self, a, b):
            return {"logits": a - b, "extra": (a,)}

    def right(outputs, targets):
        return (outputs["logits"].argmax(1) == targets).float()

    samples = split(5)
    pairs = [((x, x.flip(0)), y) for x, y in samples]
    names = [({"a": x, "b": x.flip(0)}, y) for x, y in samples]
    data = task(metrics={"right": right})
    by_position, by_name = (evaluate(Two(), s, data, batch_size=2) for s in (pairs, names))
    assert by_position.fingerprint == by_name.fingerprint
    assert torch.equal(by_position.metrics["right"], by_name.metrics["right"])


def test_progress_counts_samples():
    calls = []
    evaluate(model(), task().test, task(), batch_size=4, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4, 11), (8, 11), (11, 11)]


def test_bad_networks_metrics_and_sizes_are_named():
    data = task()
    broken = model()
    with torch.no_grad():
        broken[3].weight.fill_(float("nan"))
    with pytest.raises(DataError, match="NaN for sample 0"):
        evaluate(broken, data.test, data)
    one = list(data.test)
    one[7] = (torch.full((4,), float("nan")), 0)
    with pytest.raises(DataError, match="NaN for sample 7"):
        evaluate(model(), one, data, batch_size=3)
    with pytest.raises(DataError, match=r"'mean' must give one value for each of the 11 samples, got \[\]"):
        evaluate(model(), data.test, task(metrics={"mean": lambda outputs, targets: outputs.mean()}))
    with pytest.raises(DataError, match="'odd' is NaN for sample 0"):
        evaluate(model(), data.test, task(metrics={"odd": lambda outputs, targets: outputs[:, 0] * float("nan")}))
    with pytest.raises(DataError, match="empty"):
        evaluate(model(), [], data)
    with pytest.raises(AttarError, match="batch_size must be at least 1, got 0"):
        evaluate(model(), data.test, data, batch_size=0)
    wide = [(torch.zeros(5), 0)]
    with pytest.raises(DataError, match=r"does not take samples of .*, \[1, 5\]: .*shapes"):
        evaluate(model(), wide, data)
