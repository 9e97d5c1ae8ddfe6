"""Modules cut in place: where tensors are held, which sizes follow, and the guesses at remembered numbers."""

import pytest
import torch
from tiny import PICTURES, VECTORS, Net, cut_one_of_each
from torch import nn
from torch.nn import Linear

from attar.errors import SurgeryError
from attar.graph import couple, trace
from attar.graph.eager import attempts, cut_module
from attar.graph.rewrite import Literal

LAYERS = {
    "convolution": (nn.Conv2d(6, 5, 1), {"in_channels": 5, "out_channels": 4, "groups": 1}),
    "grouped": (nn.Conv2d(6, 6, 1, groups=3), {"in_channels": 2, "out_channels": 2, "groups": 2}),
    "depthwise": (nn.Conv2d(6, 6, 1, groups=6), {"in_channels": 5, "out_channels": 5, "groups": 5}),
    "transposed": (nn.ConvTranspose2d(6, 5, 1), {"in_channels": 5, "out_channels": 4, "groups": 1}),
    "transposed depthwise": (nn.ConvTranspose2d(6, 6, 1, groups=6), {"in_channels": 5, "out_channels": 5, "groups": 5}),
    "batch norm": (nn.BatchNorm2d(6), {"num_features": 5}),
    "batch norm without weights": (nn.BatchNorm2d(6, affine=False), {"num_features": 5}),
    "instance norm": (nn.InstanceNorm2d(6, affine=True), {"num_features": 5}),
    "group norm": (nn.GroupNorm(3, 6), {"num_groups": 2, "num_channels": 4}),
    "slopes": (nn.PReLU(6), {"num_parameters": 5}),
    "one slope": (nn.PReLU(), {"num_parameters": 1}),
}


@pytest.mark.parametrize(("layer", "sizes"), LAYERS.values(), ids=LAYERS)
def test_layers_remember_their_new_sizes(layer, sizes):
    out = layer(torch.zeros(1, 6, 4, 4)).shape[1]
    model = nn.Sequential(nn.Conv2d(2, 6, 1), layer, nn.ReLU(), nn.Conv2d(out, 3, 1))
    _, surgery = cut_one_of_each(model, PICTURES)
    assert surgery.eager
    assert {name: getattr(surgery.model[1], name) for name in sizes} == sizes
    assert surgery.model[0].out_channels == surgery.model[0].weight.shape[0]
    assert surgery.model[3].in_channels == surgery.model[3].weight.shape[1]


def test_linear_layers_and_embeddings_remember_their_new_sizes():
    model = nn.Sequential(nn.Embedding(7, 6), Linear(6, 5), nn.Tanh(), Linear(5, 2))
    _, surgery = cut_one_of_each(model, torch.tensor([[1, 2]]))
    assert surgery.eager
    embedding, first, _, last = surgery.model
    assert (embedding.num_embeddings, embedding.embedding_dim) == (7, 5)
    assert (first.in_features, first.out_features, last.in_features) == (5, 4, 4)


def test_tensors_held_anywhere_are_cut():
    class Holding(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Linear(3, 4), Linear(4, 2)
            self.scale = nn.Parameter(torch.ones(4))
            self.register_buffer("shift", torch.arange(4.0))
            self.plain = torch.arange(4.0) + 1  # registered nowhere

        def forward(self, x):
            return self.b(self.a(x) * self.scale * self.plain + self.shift)

    model = Holding()
    coupling, surgery = cut_one_of_each(model, VECTORS)
    assert surgery.eager
    assert surgery.model.scale.shape == (3,)
    assert surgery.model.shift.tolist() == [0, 2, 3]
    assert surgery.model.plain.tolist() == [1, 3, 4]
    assert set(surgery.kept) >= {"scale", "shift"}
    assert len(coupling.groups) == 1


def test_a_tensor_made_while_running_cannot_be_cut_in_place():
    model = Net(lambda net, x: net.b(net.a(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])), a=Linear(3, 4), b=Linear(4, 2))
    coupling = couple(trace(model, (VECTORS,)))
    with pytest.raises(SurgeryError, match="lifted_tensor_0 is made while the network runs: register it as a buffer"):
        cut_module(model, coupling, coupling.kept({"a": [1]}))


class Remembering(nn.Module):
    def __init__(self, **numbers):
        super().__init__()
        for name, value in numbers.items():
            setattr(self, name, value)


def test_guesses_begin_with_every_number_that_fits_and_end_with_none():
    model = nn.Sequential(Remembering(heads=4, width=4, depth=7, flag=True), Remembering(heads=4, width=8, depth=7))
    literals = [Literal("0", "view", 4, 3), Literal("1", "view", 4, 3)]
    found = [[(a, new) for _, a, new in changes] for changes in attempts(model, literals)]
    assert found[0] == [("heads", 3), ("heads", 3), ("width", 3)]
    assert found[1:] == [[("heads", 3), ("heads", 3)], [("width", 3)], []]


def test_guesses_leave_alone_other_layers_and_numbers_that_are_none():
    model = nn.Sequential(Remembering(heads=1, on=True, share=1.0), Remembering(heads=1))
    (first, last) = attempts(model, [Literal("0", "view", 1, 2)])
    assert [(layer, name) for layer, name, _ in first] == [("0", "heads")]
    assert last == []
    assert list(attempts(model, [])) == [[]]


def test_guesses_come_to_an_end():
    model = nn.Sequential(Remembering(**{f"n{i}": 4 for i in range(20)}))
    assert len(list(attempts(model, [Literal("0", "view", 4, 3)]))) <= 8
