"""The groups as a whole: what is kept, names, look-ups, determinism."""

import numpy as np
import pytest
import torch
from tiny import PICTURES, TOKENS, VECTORS, Net, described
from torch import nn
from torch.nn import Linear

from attar.errors import AttarError
from attar.graph import couple, trace


def network():
    """A residual network with a grouped convolution and a concatenation."""

    def forward(net, x):
        h = torch.relu(net.norm(net.stem(x)))
        h = h + net.grouped(h)
        return net.head(torch.cat([h, net.side(x)], 1).flatten(1))

    return Net(
        forward,
        stem=nn.Conv2d(2, 6, 1, bias=False),
        norm=nn.BatchNorm2d(6),
        grouped=nn.Conv2d(6, 6, 1, groups=3),
        side=nn.Conv2d(2, 3, 1),
        head=Linear(9 * 16, 2),
    )


@pytest.fixture(scope="module")
def coupling():
    return couple(trace(network(), (PICTURES,)))


def test_every_run_gives_the_same_groups(coupling):
    again = couple(trace(network(), (PICTURES,)))
    assert described(again) == described(coupling)
    assert again.fingerprint == coupling.fingerprint
    assert [group.name for group in again.groups] == [group.name for group in coupling.groups]
    assert all(np.array_equal(a.atoms, b.atoms) for a, b in zip(again.groups, coupling.groups, strict=True))


def test_another_network_has_another_fingerprint(coupling):
    other = couple(trace(Net(lambda net, x: net.b(net.a(x)), a=Linear(3, 4), b=Linear(4, 2)), (VECTORS,)))
    assert other.fingerprint != coupling.fingerprint


def test_kept_masks_are_outer_products_of_what_is_left(coupling):
    """Columns of a flatten: every position of a channel, counted from where the concatenation puts it."""
    kept = coupling.kept({"side": [1]})
    assert set(kept.indices) == {"side.weight", "side.bias", "head.weight"}
    assert kept.indices["side.weight"][0].tolist() == [0, 2]
    columns = np.arange(9 * 16).reshape(9, 16)
    assert kept.indices["head.weight"][1].tolist() == np.delete(columns, 7, 0).ravel().tolist()
    assert kept.shape("head.weight") == (2, 8 * 16)
    assert kept.shape("stem.weight") == (6, 2, 1, 1)


def test_units_of_a_group_are_at_all_its_places(coupling):
    for group in coupling.groups:
        for unit in range(group.units):
            indices = coupling.kept({group.name: [unit]}).indices
            assert {(name, d) for name, dims in indices.items() for d in dims} == {(p.tensor, p.dim) for p in group.places}


def test_different_units_remove_different_rows_and_all_together_all(coupling):
    for group in coupling.groups:
        place = group.places[0]
        size = coupling.network.tensors[place.tensor].shape[place.dim]
        rows = [
            set(range(size)) - set(coupling.kept({group.name: [u]}).indices[place.tensor][place.dim].tolist()) for u in range(group.units)
        ]
        assert all(rows)
        assert sum(map(len, rows)) == len(set().union(*rows))


def test_nothing_removed_keeps_everything(coupling):
    kept = coupling.kept({})
    assert kept.indices == {}
    assert kept.emptied() == []
    assert all(kept.shape(name) == tuple(tensor.shape) for name, tensor in coupling.network.tensors.items())


def test_all_of_a_group_empties_nodes(coupling):
    name = next(group.name for group in coupling.groups if group.name == "side")
    assert "conv2d_2" in coupling.kept({name: [0, 1, 2]}).emptied()


def test_an_unknown_group_is_refused_with_the_nearest(coupling):
    with pytest.raises(AttarError, match=r"no group 'sidee'.*'side'"):
        coupling.group("sidee")


def test_groups_know_what_makes_them_and_what_reads_them(coupling):
    side = coupling.group("side")
    assert [(p.tensor, p.dim) for p in side.produced] == [("side.weight", 0), ("side.bias", 0)]
    assert [(p.tensor, p.dim) for p in side.places if p.consumed] == [("head.weight", 1)]


def test_reasons_are_told_for_what_is_fixed(coupling):
    assert coupling.fixed("head.weight", 0) == ["it is the network's output"]
    assert coupling.fixed("side.weight", 0) == []


def test_names_are_unique_and_the_inner_know_the_outer():
    heads = nn.MultiheadAttention(8, 2, batch_first=True)
    net = Net(lambda net, x: net.b(net.m(y := net.a(x), y, y)[0]), a=Linear(3, 8), m=heads, b=Linear(8, 2))
    groups = couple(trace(net, (TOKENS,))).groups
    names = [group.name for group in groups]
    assert len(names) == len(set(names))
    assert {group.kind for group in groups} == {"channel", "head", "inner"}
    assert all(group.outer in names for group in groups if group.kind == "inner")
    assert [group.units for group in groups if group.kind == "head"] == [2]


def test_a_network_of_which_nothing_can_go():
    coupling = couple(trace(Linear(3, 2), (VECTORS,)))
    assert coupling.groups == ()
    assert coupling.kept({}).macs == 2 * 3 * 2
