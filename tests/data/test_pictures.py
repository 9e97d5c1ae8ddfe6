"""Folders of labelled pictures, in each layout and in disorder."""

import os

import numpy as np
import pytest
from PIL import Image

from attar.data.pictures import pictures
from attar.errors import DataError


def paint(path, level=0, size=(6, 4), mode="RGB"):
    """A picture of one colour, (level, 0, 0) or grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (level, 0, 0) if mode == "RGB" else level).save(path)


def by_class(folder, counts):
    for label, (name, count) in enumerate(counts.items()):
        for i in range(count):
            paint(folder / name / f"{i}.png", 10 * label + i)


def levels(split):
    return split.images[:, 0, 0, 0].tolist()


def test_subfolders_are_classes(tmp_path):
    by_class(tmp_path, {"ant": 6, "bee": 4})
    (tmp_path / "ant" / "notes.txt").touch()
    (tmp_path / "ant" / ".hidden.png").touch()
    (tmp_path / ".cache").mkdir()
    task = pictures(tmp_path, validation=1)
    assert task.name == tmp_path.name
    assert task.test.labels.tolist() == [0, 0, 0, 1, 1]
    assert levels(task.test) == [1, 3, 5, 11, 13]
    assert sorted(levels(task.train) + levels(task.validation)) == [0, 2, 4, 10, 12]
    assert task.train.classes == 2
    assert task.train[0][0].shape == (3, 4, 6)


def test_a_list(tmp_path):
    for i in range(4):
        paint(tmp_path / "sub" / f"{i}.png", i)
    rows = "".join(f"sub/{i}.png,{7 * i},some name\n" for i in (3, 1, 2, 0))
    (tmp_path / "labels.csv").write_text(f"file,class_index,class_name\n{rows}")
    task = pictures(tmp_path)
    assert task.test.labels.tolist() == [7, 0]
    assert sorted(task.train.labels.tolist() + task.validation.labels.tolist()) == [14, 21]
    assert task.train.classes == 22
    assert list(task.metrics) == ["top-1", "top-5"]


def test_train_and_val(tmp_path):
    by_class(tmp_path / "train", {"ant": 3, "bee": 2})
    by_class(tmp_path / "val", {"ant": 1, "bee": 1})
    task = pictures(tmp_path)
    assert (len(task.train), len(task.validation), len(task.test)) == (4, 1, 2)
    assert levels(task.test) == [0, 10]


def test_train_val_and_test(tmp_path):
    by_class(tmp_path / "train", {"ant": 3, "bee": 2})
    by_class(tmp_path / "val", {"ant": 2, "bee": 1})
    by_class(tmp_path / "test", {"ant": 1, "bee": 1})
    task = pictures(tmp_path)
    assert (len(task.train), len(task.validation), len(task.test)) == (5, 3, 2)
    with pytest.raises(DataError, match="validation"):
        pictures(tmp_path, validation=2)


def test_shape_crops_the_centre_and_converts(tmp_path):
    for i in range(4):
        picture = np.zeros((10, 20, 3), np.uint8)
        picture[:, 5:15] = 200  # the central square
        path = tmp_path / "ant" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    rgb = pictures(tmp_path, shape=(3, 5, 5)).test
    assert rgb.images.shape == (2, 3, 5, 5)
    assert (rgb.images[..., 1:4] == 200).all()
    assert rgb.images.min() > 150
    grey = pictures(tmp_path, shape=(1, 10, 10), mean=0.5, std=0.5).test
    assert grey.images.shape == (2, 1, 10, 10)
    assert grey[0][0].unique().tolist() == pytest.approx([2 * 200 / 255 - 1])


def test_sizes_and_modes_may_differ_where_shape_is_given(tmp_path):
    paint(tmp_path / "ant" / "0.png", 1, (6, 4))
    paint(tmp_path / "ant" / "1.png", 2, (9, 9), "L")
    paint(tmp_path / "ant" / "2.png", 3, (4, 6))
    with pytest.raises(DataError, match=r"4x6 pixels where others have 6x4: give shape"):
        pictures(tmp_path)
    assert pictures(tmp_path, shape=(3, 3, 3)).test.images.shape == (1, 3, 3, 3)


def broken(folder, kind):
    by_class(folder, {"ant": 4, "bee": 4})
    match kind:
        case "unreadable":
            (folder / "bee" / "1.png").write_bytes(b"no picture")
        case "truncated":
            path = folder / "bee" / "0.png"
            path.write_bytes(path.read_bytes()[:-25])
        case "empty class":
            (folder / "cow").mkdir()
        case "train alone":
            (folder / "ant").rename(folder / "train")
        case "unknown class in val":
            by_class(folder / "train", {"ant": 1})
            by_class(folder / "val", {"dog": 1})
        case "bomb":
            Image.new("1", (20_000, 20_000)).save(folder / "ant" / "0.png")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unreadable", "cannot read the picture .*bee/1.png"),
        ("truncated", "cannot read the picture .*bee/0.png"),
        ("empty class", "cow holds no picture"),
        ("train alone", "neither val/ nor test/"),
        ("unknown class in val", "has the class 'dog'"),
        ("bomb", "cannot read the picture .*ant/0.png"),
    ],
)
def test_broken_folders(tmp_path, kind, message):
    broken(tmp_path, kind)
    with pytest.raises(DataError, match=message) as caught:
        pictures(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column"),
        ("name,label\n0.png,1\n", "no column 'class_index'"),
        ("file,class_index\n", "too few pictures"),
        ("file,class_index\n0.png,0\n", "too few pictures"),
        ("file,class_index\n0.png,0\nabsent.png,0\n", "row 3: there is no file 'absent.png'"),
        ("file,class_index\n../outside.png,0\n", "row 2: there is no file"),
        ("file,class_index\n/etc/passwd,0\n", "row 2: there is no file"),
        ("file,class_index\n0.png,-1\n", "row 2: class_index must be"),
        ("file,class_index\n0.png,cat\n", "row 2: class_index must be"),
        ("file,class_index\n0.png\n", "row 2: class_index must be"),
        (b"file,class_index\n\xff\xfe.png,1\n", "cannot read"),
        ('file,class_index\n"0.png,1\n', "cannot read"),
    ],
)
def test_broken_lists(tmp_path, text, message):
    folder = tmp_path / "data"
    paint(folder / "0.png")
    paint(tmp_path / "outside.png")
    (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        pictures(folder)
    assert "\n" not in str(caught.value)


def test_no_folder_no_pictures_no_download(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        pictures(tmp_path / "absent")
    with pytest.raises(DataError, match=r"neither labels\.csv nor a subfolder"):
        pictures(tmp_path)
    with pytest.raises(DataError, match="cannot be downloaded"):
        pictures(tmp_path, download=True)
    with pytest.raises(DataError, match="only grey and RGB"):
        pictures(tmp_path, shape=(4, 2, 2))


@pytest.mark.slow
@pytest.mark.skipif("ATTAR_DATA" not in os.environ, reason="needs real data in $ATTAR_DATA")
def test_sample_pictures():
    task = pictures(f"{os.environ['ATTAR_DATA']}/imagenet-sample")
    assert (len(task.train), len(task.validation), len(task.test)) == (200, 50, 250)
    assert task.train[0][0].shape == (3, 224, 224)
