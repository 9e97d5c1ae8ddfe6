"""A task refuses splits that prove nothing."""

import pytest
import torch
from torch.utils.data import Subset

from attar.errors import DataError
from attar.task import Task, fetch, top1, top5

DATA = [(torch.full((3,), float(i)), i % 2) for i in range(12)]


def test_splits_are_taken():
    task = Task(Subset(DATA, range(6)), Subset(DATA, range(6, 9)), Subset(DATA, range(9, 12)))
    assert task.example()[0].shape == (1, 3)
    inputs, targets = fetch(task.test, [0, 2])
    assert inputs[:, 0].tolist() == [9.0, 11.0]
    assert targets.tolist() == [1, 1]


def test_whole_batches_are_asked_for_where_they_are_offered():
    class Batches(list):
        def batch(self, indices):
            return torch.zeros(len(indices), 1), torch.zeros(len(indices))

    assert fetch(Batches(DATA), [1, 2])[0].shape == (2, 1)


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ((DATA, DATA, list(DATA)), "train and validation splits share samples"),
        ((Subset(DATA, [0, 1]), list(DATA), Subset(DATA, [1, 2])), "train and test"),
        ((list(DATA), Subset(Subset(DATA, [4, 5]), [1]), Subset(DATA, [5])), "validation and test"),
        ((DATA, Subset(DATA, [1]), list(DATA)), "train and validation"),
        (([], list(DATA), DATA), "the train split is empty"),
        ((iter(DATA), list(DATA), DATA), r"the train split must have len\(\)"),
    ],
)
def test_splits_that_prove_nothing(splits, says):
    with pytest.raises(DataError, match=says):
        Task(*splits)


def test_metrics_are_per_sample():
    outputs = torch.eye(7)[[0, 1, 2]]
    assert top1(outputs, torch.tensor([0, 1, 3])).tolist() == [1.0, 1.0, 0.0]
    assert top5(torch.arange(7.0).expand(2, 7), torch.tensor([2, 1])).tolist() == [1.0, 0.0]
    assert top5(torch.rand(4, 3), torch.tensor([0, 1, 2, 0])).tolist() == [1.0] * 4
