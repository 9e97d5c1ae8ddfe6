"""The embedded digits."""

from pathlib import Path

import numpy as np
import torch

import attar.data
from attar.data.digits import digits


def test_what_is_embedded():
    task = digits()
    assert task.name == "digits"
    splits = (task.train, task.validation, task.test)
    assert sum(len(split) for split in splits) == 1797
    labels = np.concatenate([split.labels for split in splits])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    inputs, _ = task.train.batch(range(len(task.train)))
    assert inputs.shape[1:] == (1, 8, 8)
    assert inputs.min() == 0
    assert inputs.max() == 1
    assert torch.equal(inputs * 16, (inputs * 16).round())


def test_the_first_is_scikit_learns_first():
    task = digits()
    first = [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    everything = np.concatenate([task.train.images, task.validation.images, task.test.images])
    assert (everything[:, 0, :2] == first).all((1, 2)).sum() == 1
    assert task.example()[0].shape == (1, 1, 8, 8)


def test_test_pictures_stay_whatever_the_seed():
    assert np.array_equal(digits(seed=1).test.images, digits(seed=2).test.images)
    assert not np.array_equal(digits(seed=1).validation.images, digits(seed=2).validation.images)


def test_small_and_attributed():
    folder = Path(attar.data.__file__).parent
    assert (folder / "digits.npz").stat().st_size < 100_000
    assert "CC BY 4.0" in (folder / "README.md").read_text()


def test_preprocessing_reaches_the_batch():
    inputs, _ = digits(mean=0.5, std=0.5, shape=(3, 16, 16)).test.batch([0, 1])
    assert inputs.shape == (2, 3, 16, 16)
    assert inputs.min() >= -1.001
    assert inputs.max() <= 1.001
