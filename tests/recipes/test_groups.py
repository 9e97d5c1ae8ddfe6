"""What `inspect` says of a network's structure: groups, savings, what stays whole, what is in the way, and a trial cut."""

import json

import pytest
import torch
from torch import nn

from attar import inspect
from attar.evaluation import markdown, text


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((x + self.outer(self.inner(x).relu())).mean((2, 3)))


class Fixed(nn.Module):
    """A size written as a number where a layer's own size is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.first(x).view(-1, 2, 4).transpose(1, 2).reshape(-1, 8))


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(torch.special.i0(self.first(x)))


PICTURE = (torch.zeros(1, 3, 8, 8),)


def test_groups_with_what_half_of_each_would_save():
    found = inspect(Residual(), PICTURE)
    groups = {group.name: group for group in found.structure.groups}
    assert {name: (group.units, group.makers, group.readers) for name, group in groups.items()} == {
        "stem": (8, ("stem", "outer"), ("inner", "head")),
        "inner": (16, ("inner",), ("outer",)),
    }
    removed = 8  # of the inner layer's 16 filters: rows, biases, and the outer layer's columns
    assert groups["inner"].parameters == removed * (8 * 9 + 1) + removed * 8 * 9
    assert groups["inner"].bytes == 4 * groups["inner"].parameters
    assert groups["inner"].macs == 2 * removed * 8 * 9 * 64


def test_the_trial_has_been_made_and_checked():
    model = Residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trial = inspect(model, PICTURE).structure.trial
    assert trial.keeps_class
    assert trial.error < 1e-9
    assert trial.parameters[1] < 0.5 * trial.parameters[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_number_in_the_code_is_named_with_the_rewrite_that_helps():
    trial = inspect(Fixed(), (torch.zeros(3, 4),)).structure.trial
    assert not trial.keeps_class
    assert any("size() or -1 instead would keep the class" in note for note in trial.notes)


def test_an_op_without_a_rule_is_named_and_the_rest_is_still_listed():
    found = inspect(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), Unknown()), (torch.zeros(1, 4),)).structure
    assert [(spot.op, spot.layer) for spot in found.spots] == [("special_i0", "3")]
    assert [group.name for group in found.groups] == ["0", "2"]
    assert any(whole.reason == "special_i0 has no coupling rule" for whole in found.whole)


def test_nothing_to_cut_is_said():
    found = inspect(nn.Linear(4, 2), (torch.zeros(1, 4),))
    assert found.structure.groups == ()
    assert "there is no filter that can be cut: it is the network's output" in found.structure.trial.failure
    assert "nothing can be cut" in text(found.tables()[1])


def test_a_network_without_a_graph_has_layers_only():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    found = inspect(Branches(), (torch.zeros(1, 4),))
    assert found.structure is None
    assert len(found.tables()) == 1
    assert "branches on the values of a tensor" in found.notes[0]


@pytest.mark.parametrize("show", [text, markdown])
def test_text_and_markdown_have_groups_and_reasons(show):
    printed = "\n".join(map(show, inspect(Residual(), PICTURE).tables("net")))
    for words in (
        "stem",
        "half of it saves",
        "tried half of every group",
        "stays whole, because it is the network's output: head (outputs)",
    ):
        assert words in printed


def test_json_has_everything():
    data = json.loads(json.dumps(inspect(Residual(), PICTURE).as_data()))
    assert [group["name"] for group in data["structure"]["groups"]] == ["stem", "inner"]
    assert data["structure"]["trial"]["keeps_class"] is True
