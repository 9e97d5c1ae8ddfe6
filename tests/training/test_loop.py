"""The loop: what it calls and when, what it draws, what it refuses, what it leaves alone."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from attar import forms
from attar.errors import AttarError
from attar.forms import Sparse
from attar.step import Step
from attar.task import Task
from attar.training import Settings, train


class Arrays:
    """A split that hands out whole batches."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets, self.asked = inputs, targets, []

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.inputs[index], self.targets[index]

    def batch(self, indices):
        self.asked.append(list(indices))
        chosen = torch.as_tensor(indices)
        return self.inputs[chosen], self.targets[chosen]


def problem(count=50, width=6, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, width, generator=generator)
    return inputs, (inputs @ torch.randn(width, classes, generator=generator)).argmax(1)


def task(count=50, **options):
    inputs, targets = problem(count + 8)
    return Task(*(Arrays(inputs[s], targets[s]) for s in (slice(count), slice(count, count + 4), slice(count + 4, None))), **options)


def net(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def bits(model):
    return [t.numpy().tobytes() for t in model.state_dict().values()]


QUICK = Settings(epochs=3, lr=0.1, batch_size=16)


def test_it_learns_and_tells_the_mean_loss_of_each_epoch():
    history = train(net(), task(), settings=Settings(epochs=20, lr=0.1, batch_size=16))
    assert len(history.losses) == 20
    assert history.losses[-1] < 0.3 * history.losses[0]


def test_the_first_updates_are_those_of_plain_pytorch():
    data, model, plain = task(), nn.Linear(6, 3), nn.Linear(6, 3)
    plain.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    history = train(model, data, settings=Settings(epochs=2, lr=0.1, batch_size=16, lr_schedule="linear", weight_decay=0.01))
    total, sums = 8, [0.0, 0.0]
    for step, indices in enumerate(data.train.asked):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / total)
        optimizer.zero_grad()
        loss = functional.cross_entropy(plain(data.train.inputs[indices]), data.train.targets[indices])
        loss.backward()
        optimizer.step()
        sums[step // 4] += loss.item() * len(indices)
    assert step == total - 1
    assert bits(model) == bits(plain)
    assert history.losses == tuple(s / 50 for s in sums)


@pytest.mark.parametrize(("count", "batch_size"), [(50, 16), (17, 16), (5, 16), (33, 8), (7, 1)])
def test_an_epoch_sees_each_sample_once_in_batches_of_nearly_one_size(count, batch_size):
    data = task(count)
    train(nn.Linear(6, 3), data, settings=Settings(epochs=2, lr=0.1, batch_size=batch_size))
    per_epoch = -(-count // batch_size)
    for epoch in (data.train.asked[:per_epoch], data.train.asked[per_epoch:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(count))
        sizes = {len(batch) for batch in epoch}
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
    assert len(data.train.asked) == 2 * per_epoch
    assert data.train.asked[0] != data.train.asked[per_epoch] or batch_size == 1 == count


def test_the_seed_decides_all_and_the_caller_keeps_his_random_state():
    class Noisy(Arrays):
        def batch(self, indices):
            inputs, targets = super().batch(indices)
            return inputs + random.random() + np.random.rand() + torch.rand(()), targets

    def run(seed):
        data = task(augment=lambda inputs, generator: inputs + 0.1 * torch.randn(inputs.shape, generator=generator))
        data = Task(Noisy(data.train.inputs, data.train.targets), data.validation, data.test, augment=data.augment)
        model = net(dropout=0.3)
        random.seed(seed + 10)
        np.random.seed(seed + 11)
        torch.manual_seed(seed + 12)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads()
        train(model, data, settings=QUICK, seed=seed)
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads())
        return bits(model)

    assert run(0) == run(0) != run(1)


def test_steps_are_called_at_their_moments_on_the_network_itself():
    calls, model, data = [], net(), task()
    values = {}

    class Watch(Step):
        def note(self, what, at, step, total):
            assert at is model
            calls.append((what, step, total))
            values[what] = model[0].weight.detach().clone(), model[0].weight.grad is not None and model[0].weight.grad.abs().sum().item()

        def before_forward(self, model, step, total):
            self.note("before_forward", model, step, total)

        def after_backward(self, model, step, total):
            self.note("after_backward", model, step, total)
            assert torch.equal(values["before_forward"][0], values["after_backward"][0])
            assert values["after_backward"][1] > 0

        def after_update(self, model, step, total):
            self.note("after_update", model, step, total)
            assert not torch.equal(values["after_backward"][0], values["after_update"][0])

        def start(self, at):
            assert at is model
            assert at[0].weight.grad is None
            calls.append("start")
            values["drawn"] = torch.rand(()).item()

        def finish(self, model):
            assert model[0].weight.grad is None
            calls.append("finish")
            values["drawn"] += torch.rand(()).item()

    train(model, data, settings=QUICK, steps=[Watch()])
    moments = ["before_forward", "after_backward", "after_update"]
    assert calls == ["start", *((what, step, 12) for step in range(12) for what in moments), "finish"]
    first = values["drawn"]
    model = net()
    train(model, data, settings=QUICK, steps=[Watch()])
    assert values["drawn"] == first


def test_a_step_may_bake_a_form_at_the_start_and_attach_one_at_the_end():
    class Swap(Step):
        def start(self, model):
            forms.bake(model[0], "weight")

        def finish(self, model):
            forms.attach(model[0], "weight", Sparse(model[0].weight > 0, model[0].weight[model[0].weight > 0]))

    model = net()
    forms.attach(model[0], "weight", Sparse(torch.ones(16, 6, dtype=torch.bool), model[0].weight.detach().flatten()))
    plain = net()
    train(model, task(), settings=QUICK, steps=[Swap()])
    train(plain, task(), settings=QUICK)
    assert torch.equal(model[0].weight, plain[0].weight.relu())


def test_progress_gets_every_update():
    seen = []
    train(net(), task(), settings=QUICK, progress=lambda step, total, loss: seen.append((step, total, loss > 0)))
    assert seen == [(step, 12, True) for step in range(12)]


def test_modes_devices_and_gradients_are_as_before():
    model = net()
    model.eval()
    model[0].train()
    train(model, task(), settings=QUICK)
    assert [m.training for m in model.modules()] == [False, True, False, False, False, False]
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())


def test_frozen_parameters_stay_and_nothing_to_train_is_an_error():
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, task(), settings=QUICK)
    assert torch.equal(before, model[0].weight)
    with pytest.raises(AttarError, match="no parameter that trains"):
        train(model.requires_grad_(False), task(), settings=QUICK)
    with pytest.raises(AttarError, match="no parameter that trains"):
        train(nn.ReLU(), task(), settings=QUICK)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_advice(broken):
    seen = []

    def loss(outputs, targets):
        seen.append(1)
        return functional.cross_entropy(outputs, targets) * (broken if len(seen) == 6 else 1)

    model = net()
    with pytest.raises(AttarError, match=r"the loss must be finite, got (nan|inf) at update 5 of 12 with learning rate 0\.06.*lower lr"):
        train(model, task(loss=loss), settings=QUICK)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_loss_per_sample_is_refused():
    with pytest.raises(AttarError, match=r"the loss must be one number.*\[17\]|\[16\]|\[12\]"):
        train(net(), task(loss=lambda o, t: functional.cross_entropy(o, t, reduction="none")), settings=QUICK)


def test_clipping_bounds_the_update():
    model, data = nn.Linear(6, 3), task()
    before = [p.detach().clone() for p in model.parameters()]
    train(model, data, settings=Settings(epochs=1, lr=1.0, batch_size=50, momentum=0, clip=1e-3, lr_schedule="constant"))
    moved = torch.cat([(p - b).flatten() for p, b in zip(model.parameters(), before, strict=True)]).norm().item()
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_bfloat16_computes_coarsely_and_keeps_the_parameters_type():
    types = []

    class Look(nn.Module):
        def forward(self, x):
            types.append(x.dtype)
            return x

    exact, coarse = net(), nn.Sequential(*net(), Look())
    train(exact, task(), settings=QUICK)
    train(coarse, task(), settings=Settings(epochs=3, lr=0.1, batch_size=16, precision="bf16"))
    assert set(types) == {torch.bfloat16}
    assert coarse[0].weight.dtype == torch.float32
    difference = (exact[0].weight - coarse[0].weight).abs().max().item()
    assert 0 < difference < 0.05


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, left, right):
        return self.left(left) + self.right(right)


class Wrapped(Arrays):
    """Inputs as a dict, a tuple or a list of two tensors."""

    def __init__(self, arrays, wrap):
        super().__init__(arrays.inputs, arrays.targets)
        self.wrap = wrap

    def batch(self, indices):
        inputs, targets = super().batch(indices)
        return self.wrap(inputs), targets


@pytest.mark.parametrize("wrap", [lambda x: {"right": x, "left": 2 * x}, lambda x: (2 * x, x), lambda x: [2 * x, x]])
def test_inputs_may_be_a_dict_a_tuple_or_a_list(wrap):
    data = task()
    data = Task(Wrapped(data.train, wrap), data.validation, data.test)
    torch.manual_seed(0)
    model = Two()
    history = train(model, data, settings=Settings(epochs=10, lr=0.1, batch_size=16))
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert model.left.weight.norm() != model.right.weight.norm()


def test_targets_may_be_numbers_per_sample():
    inputs, _ = problem(20)
    data = [(x, float(x.sum())) for x in inputs]
    line = Task(data[:16], data[16:18], data[18:], loss=lambda o, t: functional.mse_loss(o[:, 0], t.float()), metrics={})
    assert train(nn.Linear(6, 1), line, settings=Settings(epochs=60, lr=0.05, batch_size=8)).losses[-1] < 0.01


def test_networks_of_any_type_train():
    data = task()
    doubles = Task(*(Arrays(s.inputs.double(), s.targets) for s in (data.train, data.validation, data.test)))
    model = net().double()
    train(model, doubles, settings=QUICK)
    assert model[0].weight.dtype == torch.float64


def test_a_warning_is_not_part_of_training():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(net(), task(), settings=QUICK)
