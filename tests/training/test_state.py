"""A network's state, put into a freshly built twin, makes it the same network: forms, ties, types, buffers."""

import copy

import pytest
import torch
from torch import nn

from attar import forms
from attar.errors import AttarError
from attar.forms import Codebook, Sparse
from attar.training import load_state, model_state, restore_model, save_state
from attar.training.settings import Settings, make_optimizer
from attar.training.state import optimizer_state, restore_optimizer


class Awkward(nn.Module):
    """Tied weights, batch norm, a recurrent layer, a buffer outside the state_dict, extra state."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 11)
        self.out.weight = self.embed.weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)
        self.words = {"count": 0}

    def forward(self, x):
        self.seen += len(x)
        hidden, _ = self.lstm(self.embed(x))
        return self.out(self.norm(self.conv(hidden.transpose(1, 2))).transpose(1, 2))

    def get_extra_state(self):
        return self.words

    def set_extra_state(self, state):
        self.words = state


def sparse_codebook(weight, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(weight.shape, generator=generator) > 0.5
    indices = torch.randint(0, 4, (int(mask.sum()),), generator=generator)
    return Sparse(mask, Codebook(indices, torch.randn(4, generator=generator).to(weight.dtype)))


def awkward(seed=0):
    model = Awkward(seed)
    forms.attach(model.embed, "weight", sparse_codebook(model.embed.weight), model=model)
    forms.attach(model.lstm, "weight_hh_l0", sparse_codebook(model.lstm.weight_hh_l0))
    model.conv.bias.requires_grad_(False)
    model.words = {"count": 7, "of": torch.arange(3)}
    model(torch.randint(0, 11, (4, 5)))
    return model


def fixed():
    return torch.arange(20).reshape(4, 5) % 11


def names_and_bits(model):
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: (t.dtype, t.requires_grad, t.detach().contiguous().reshape(-1).view(torch.uint8).tolist()) for name, t in tensors}


def test_a_fresh_twin_becomes_the_network_bit_by_bit(tmp_path):
    model, twin = awkward(), Awkward(seed=1)
    save_state(tmp_path / "state", model_state(model))
    restore_model(twin, load_state(tmp_path / "state"))
    assert names_and_bits(model) == names_and_bits(twin)
    assert forms.of(twin.embed, "weight") is forms.of(twin.out, "weight")
    assert twin.words["count"] == 7
    assert torch.equal(twin(fixed()), model(fixed()))


def test_forms_and_ties_that_the_state_lacks_are_undone():
    plain, other = Awkward(seed=2), awkward()
    plain.out.weight = nn.Parameter(plain.out.weight.detach() + 1)  # not tied any more
    restore_model(other, model_state(plain))
    assert names_and_bits(plain) == names_and_bits(other)
    assert other.out.weight is not other.embed.weight
    tied = Awkward(seed=3)
    restore_model(other, model_state(tied))
    assert other.out.weight is other.embed.weight
    assert torch.equal(other(fixed()), tied(fixed()))
    other(fixed()).sum().backward()
    assert other.lstm.weight_hh_l0.grad is not None


def test_types_follow_the_state():
    half, fresh = awkward().to(torch.bfloat16), Awkward()
    restore_model(fresh, model_state(half))
    assert names_and_bits(half) == names_and_bits(fresh)
    assert fresh.lstm.weight_ih_l0.dtype == torch.bfloat16


def test_shared_buffers_stay_shared():
    model, twin = nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm1d(2)]), nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm1d(2)])
    model[1].running_mean = model[0].running_mean
    restore_model(twin, model_state(model))
    assert twin[1].running_mean is twin[0].running_mean
    assert twin[1].running_var is not twin[0].running_var


@pytest.mark.parametrize(
    ("here", "complaint"),
    [
        (nn.Sequential(nn.Linear(3, 2)), "'1.bias' is of none here and shape"),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3), nn.Linear(3, 3)), "'2.bias' is of shape .3. here and none there"),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4)), "'1.bias' is of shape .4. here and shape .3. there"),
    ],
)
def test_another_network_is_refused_by_name(here, complaint):
    state = model_state(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3)))
    with pytest.raises(AttarError, match=complaint):
        restore_model(here, state)


def test_a_form_for_a_layer_that_is_not_there_is_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
    forms.attach(model[1], "weight", sparse_codebook(model[1].weight))
    with pytest.raises(AttarError, match="no layer '1'"):
        restore_model(nn.Sequential(nn.Linear(3, 2)), model_state(model))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path, name, momentum):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3, bias=False)).to(memory_format=torch.channels_last)
    model.scale = nn.Parameter(torch.tensor(2.0))
    settings = Settings(epochs=1, lr=0.1, optimizer=name, momentum=momentum)
    inputs = torch.randn(5, 2, 4, 4)

    def updates(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (model(inputs) * model.scale).square().mean().backward()
            optimizer.step()

    optimizer = make_optimizer(list(model.parameters()), settings)
    updates(model, optimizer, 3)
    twin = copy.deepcopy(model)
    save_state(tmp_path / "state", optimizer_state(optimizer))
    again = make_optimizer(list(twin.parameters()), settings)
    restore_optimizer(again, load_state(tmp_path / "state"))
    updates(model, optimizer, 3)
    updates(twin, again, 3)
    assert names_and_bits(model) == names_and_bits(twin)
