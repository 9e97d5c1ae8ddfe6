"""Pictures in memory: batches, normalisation, conversion, splits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.data._pictures import Input, Pictures, make_task
from attar.errors import DataError
from attar.task import fetch


def some(count=20, channels=3, size=4, classes=10, **wanted):
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, channels, size, size), np.uint8)
    return Pictures(images, np.arange(count) % classes, classes, Input(**wanted))


@pytest.mark.parametrize("indices", [[3, 0, 3], range(3, 5), torch.tensor([7, 1]), np.array([2], np.int32), []])
def test_a_batch_is_its_samples_stacked(indices):
    pictures = some(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    inputs, targets = pictures.batch(indices)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert inputs.shape == (len(indices), 3, 4, 4)
    for row, i in enumerate(indices):
        one, label = pictures[int(i)]
        assert torch.equal(inputs[row], one)
        assert targets[row] == label == int(i) % 10


def test_normalisation_is_per_channel():
    pictures = some(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 2.0))
    raw = torch.from_numpy(pictures.images[:5]).double() / 255
    expected = (raw - torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1)) / torch.tensor([1.0, 0.5, 2.0]).reshape(3, 1, 1)
    torch.testing.assert_close(pictures.batch(range(5))[0].double(), expected, rtol=1e-6, atol=1e-6)


def test_it_is_a_sequence_that_ends():
    pictures = some(count=4)
    assert len(list(pictures)) == len(pictures) == 4
    with pytest.raises(IndexError):
        pictures[4]


def test_batches_do_not_share_memory_with_the_data():
    pictures = some()
    before = pictures.images.copy()
    pictures.batch([0])[0].zero_()
    assert np.array_equal(pictures.images, before)


def test_grey_becomes_rgb_and_back():
    rgb = some(channels=1, shape=(3, 4, 4)).batch([0])[0]
    assert torch.equal(rgb[:, 0], rgb[:, 2])
    white = Pictures(np.full((1, 3, 2, 2), 255, np.uint8), np.array([0]), 1, Input(shape=(1, 2, 2)))
    torch.testing.assert_close(white.batch([0])[0], torch.ones(1, 1, 2, 2))


def test_resizing_keeps_a_flat_picture_flat():
    flat = Pictures(np.full((1, 1, 5, 7), 51, np.uint8), np.array([0]), 1, Input(shape=(1, 3, 11)))
    torch.testing.assert_close(flat.batch([0])[0], torch.full((1, 1, 3, 11), 0.2))


@pytest.mark.parametrize(
    ("images", "labels", "wanted", "message"),
    [
        (np.zeros((2, 1, 2, 2)), np.zeros(2, int), {}, "must be uint8"),
        (np.zeros((2, 2, 2), np.uint8), np.zeros(2, int), {}, "must be uint8"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(3, int), {}, "one label for each"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 4]), {}, "labels must be 0 to 3, got 0 to 4"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.array([-1, 0]), {}, "labels must be 0 to 3"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, int), {"mean": (0.1, 0.2, 0.3)}, "mean must be one value or one for each of 1"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, int), {"std": 0}, "std must be above 0"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, int), {"shape": (4, 2, 2)}, "only grey and RGB convert"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, int), {"shape": (2, 2)}, "shape must be"),
    ],
)
def test_what_does_not_fit_is_refused(images, labels, wanted, message):
    with pytest.raises(DataError, match=message):
        Pictures(images, labels, 4, Input(**wanted))


@given(count=st.integers(2, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 3))
def test_splits_are_disjoint_and_complete(count, share, seed):
    validation = min(max(1, int(share * count)), count - 1)
    numbered = Pictures(np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1), np.zeros(count, int), 1)
    tasks = [make_task("x", numbered, some(count=3), validation=validation, seed=seed) for _ in range(2)]
    train, held = (split.images.ravel().tolist() for split in (tasks[0].train, tasks[0].validation))
    assert len(held) == validation
    assert sorted(train + held) == list(range(count))
    assert np.array_equal(tasks[0].validation.images, tasks[1].validation.images)


def test_another_seed_is_another_split():
    picked = {make_task("x", some(count=100), some(), validation=30, seed=seed).validation.images.tobytes() for seed in range(4)}
    assert len(picked) == 4


@pytest.mark.parametrize("validation", [0, -1, 20, 21])
def test_impossible_validation(validation):
    with pytest.raises(DataError, match=f"validation must be 1 to 19 .* got {validation}"):
        make_task("x", some(count=20), some(), validation=validation, seed=0)


def test_default_validation_is_a_fifth_at_most_and_metrics_follow_the_classes():
    few, many = (make_task("x", some(classes=n), some(classes=n), validation=None, seed=0) for n in (10, 11))
    assert len(few.validation) == 4
    assert list(few.metrics) == ["top-1"]
    assert list(many.metrics) == ["top-1", "top-5"]
    assert fetch(many.train, [0, 1])[0].shape == (2, 3, 4, 4)
    assert many.train.classes == 11
