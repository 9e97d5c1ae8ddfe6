"""The optical digits: 8x8 grey pictures, embedded in the package.

1,797 pictures by 13 writers: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0 (see README.md in this folder).
"""

from pathlib import Path

import numpy as np

from attar.data._pictures import Input, Pictures, Values, make_task
from attar.task import Task

__all__ = ["digits"]


def digits(
    folder: str | Path | None = None,  # noqa: ARG001  every reader takes it
    *,
    validation: int | None = None,
    seed: int = 0,
    download: bool | str = False,  # noqa: ARG001
    mean: Values = None,
    std: Values = None,
    shape: tuple[int, int, int] | None = None,
) -> Task:
    """The 8x8 optical digits, 1,797 of them, embedded in the package.

    `folder` and `download` are taken, as by every reader, and not needed. Each fourth picture
    is for test (449), whatever the seed. A pixel counts 0 to 16, so inputs are `(x / 16 - mean) / std`.
    Other arguments and errors: `attar.data`.

    >>> task = digits()
    >>> len(task.train), len(task.validation), len(task.test)
    (1079, 269, 449)
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        everything = Pictures(stored["images"][:, None], stored["labels"], 10, Input(mean, std, shape, white=16))
    for_test = np.arange(len(everything)) % 4 == 3
    train, test = everything.take(np.flatnonzero(~for_test)), everything.take(np.flatnonzero(for_test))
    return make_task("digits", train, test, validation=validation, seed=seed)
