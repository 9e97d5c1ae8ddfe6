"""What every reader of the folder keeps to."""

import inspect

from attar import names

READERS = names.members("data")


def test_the_readers():
    assert set(READERS) == {"cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "pictures"}


def test_one_signature_for_all():
    signatures = {str(inspect.signature(reader)) for reader in READERS.values()}
    assert len(signatures) == 1
    assert list(inspect.signature(READERS["digits"]).parameters) == ["folder", "validation", "seed", "download", "mean", "std", "shape"]
