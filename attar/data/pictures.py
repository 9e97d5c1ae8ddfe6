"""A folder of labelled pictures: one subfolder for each class, or a list `labels.csv`."""

import csv
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from attar.data._files import data_folder, one_line
from attar.data._pictures import Input, Pictures, Values, check_input, make_task
from attar.errors import DataError
from attar.task import Task

__all__ = ["pictures"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
Labelled = list[tuple[Path, int]]


def pictures(
    folder: str | Path | None = None,
    *,
    validation: int | None = None,
    seed: int = 0,
    download: bool | str = False,
    mean: Values = None,
    std: Values = None,
    shape: tuple[int, int, int] | None = None,
) -> Task:
    """Labelled pictures of your own, from a folder in one of three layouts.

    - `labels.csv` with the columns `file` and `class_index`: the files lie beside it;
    - `CLASS/NAME.jpg`: classes are numbered in the order of the subfolders' names;
    - `train/` and `val/`, or `train/`, `val/` and `test/`, each in one of the layouts above.

    Without `train/`, the pictures at even positions (from 0; of the list, or of the sorted files) are for training and
    validation, those at odd positions for test. With `train/` and `val/` alone, `val/` is for test, as for ImageNet.
    Each picture is scaled and centre-cropped to `shape`, as RGB or as grey for one channel, and held in memory as bytes; without
    `shape`, all must have one size. Hidden files and files that are no pictures by their name are passed over.

    Raises DataError for a folder in none of these layouts, for an unreadable picture, and for `download`: there is nothing to fetch.
    Other arguments: `attar.data`.
    """
    if download:
        raise DataError("a folder of pictures cannot be downloaded: give it with --data-dir and leave out --download")
    root = data_folder(folder)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: give the folder of the pictures with --data-dir")
    wanted = Input(mean, std, shape)
    check_input(wanted, 3)
    splits, classes = _find_splits(root)
    read = {name: _read(files, classes, wanted) for name, files in splits.items()}
    given = read.get("validation")
    if given is not None and validation is not None:
        raise DataError(f"{root / 'val'} holds the validation pictures already: leave out validation={validation}")
    return make_task(root.name or "pictures", read["train"], read["test"], validation=validation if given is None else given, seed=seed)


def _find_splits(root: Path) -> tuple[dict[str, Labelled], int]:
    """The files of each split, and the number of classes."""
    if (root / "train").is_dir():
        held_out = [name for name in ("val", "test") if (root / name).is_dir()]
        if not held_out:
            raise DataError(f"{root} has train/ but neither val/ nor test/: a network must be measured on pictures it has not seen")
        places = {"train": "train", "test": held_out[-1]} | ({"validation": "val"} if len(held_out) == 2 else {})
        names = _class_names(root / "train")
        splits = {split: _find(root / place, names) for split, place in places.items()}
    else:
        files = _find(root, _class_names(root))
        splits = {"train": files[0::2], "test": files[1::2]}
    if not all(splits.values()):
        raise DataError(f"{root} holds too few pictures: each of {', '.join(splits)} needs one")
    return splits, 1 + max(label for files in splits.values() for _, label in files)


def _class_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _find(folder: Path, names: list[str]) -> Labelled:
    if (folder / "labels.csv").is_file():
        return _read_list(folder / "labels.csv")
    unknown = sorted(set(_class_names(folder)) - set(names))
    if unknown:
        raise DataError(f"{folder} has the class {unknown[0]!r}, which the pictures for training have not")
    if not names:
        raise DataError(f"{folder} has neither labels.csv nor a subfolder for each class: see `attar.data.pictures` for the layouts")
    found = []
    for label, name in enumerate(names):
        files = [path for path in (folder / name).glob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
        if not files:
            raise DataError(f"{folder / name} holds no picture: each subfolder is a class; remove it, or put its pictures in")
        found += [(path, label) for path in sorted(files)]
    return found


def _read_list(path: Path) -> Labelled:
    """The rows of a labels.csv; its files must lie in its own folder or below."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = {"file", "class_index"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"{path} has no column {sorted(missing)[0]!r}: its first line must name file and class_index")
            rows = [(row["file"], row["class_index"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {one_line(error)}") from None
    found = []
    for number, (name, label) in enumerate(rows, start=2):
        if not name or Path(name).is_absolute() or ".." in Path(name).parts or not (path.parent / name).is_file():
            raise DataError(f"{path}, row {number}: there is no file {name!r} beside it")
        if label is None or not label.strip().isdecimal():
            raise DataError(f"{path}, row {number}: class_index must be a number from 0, got {label!r}")
        found.append((path.parent / name, int(label)))
    return found


def _read(files: Labelled, classes: int, wanted: Input) -> Pictures:
    """All pictures in memory, in the channels and size that the network takes."""
    shape = wanted.shape or (3, *reversed(_open(files[0][0], "RGB", None).size))
    images = np.empty((len(files), *shape), np.uint8)
    size = (shape[2], shape[1])
    for image, (path, _) in zip(images, files, strict=True):
        picture = _open(path, "L" if shape[0] == 1 else "RGB", size if wanted.shape else None)
        if picture.size != size:
            raise DataError(f"{path} has {picture.size[0]}x{picture.size[1]} pixels where others have {size[0]}x{size[1]}: give shape")
        image[:] = np.asarray(picture).reshape(*shape[1:], shape[0]).transpose(2, 0, 1)
    return Pictures(images, np.array([label for _, label in files]), classes, wanted)


def _open(path: Path, mode: str, size: tuple[int, int] | None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                converted = picture.convert(mode)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"cannot read the picture {path}: {one_line(error)}") from None
    return converted if size is None or converted.size == size else ImageOps.fit(converted, size, Image.Resampling.BILINEAR)
