"""Readers of data sets. Each gives a `Task`: train, validation and test pictures, a loss, metrics per sample.

A reader is a function

    f(folder=None, *, validation=None, seed=0, download=False, mean=None, std=None, shape=None) -> Task

- `folder` holds the data, in the layout of torchvision's data sets; None is `$ATTAR_DATA`, or else the user's cache folder.
- `validation` samples, drawn by `seed`, leave the training split; None is 5,000, and never more than a fifth of it.
- `download`: fetch what is missing and check it; True from the official address, a string from a mirror at that address.
- `mean`, `std`, `shape`: what the network takes. Inputs are `(x / white - mean) / std`, with one value or one per
  channel, as float32 of `shape` (channels, height, width); None is 0, 1 and the pictures' own shape. For a network of the
  zoo, `attar.zoo.preprocessing(model)` gives all three.

To add a data set, add a file here and list its readers in `__all__`; a file whose name begins with `_` is a helper.
Every fault of a user's files is a `DataError` of one line.
"""

from attar.data._pictures import Pictures

__all__ = ["Pictures"]
