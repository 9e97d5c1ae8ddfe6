"""MNIST (LeCun, Cortes, Burges) and Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017): 28x28 grey pictures, 10 classes."""

from pathlib import Path

from attar.data._files import data_folder, obtain
from attar.data._idx import read_idx
from attar.data._pictures import Input, Pictures, Values, make_task
from attar.errors import DataError
from attar.task import Task

__all__ = ["fashion_mnist", "mnist"]

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def mnist(
    folder: str | Path | None = None,
    *,
    validation: int | None = None,
    seed: int = 0,
    download: bool | str = False,
    mean: Values = None,
    std: Values = None,
    shape: tuple[int, int, int] | None = None,
) -> Task:
    """MNIST: 28x28 handwritten digits, 60,000 to train on and 10,000 to test.

    From the four idx files in `MNIST/raw`, gzipped or not. Arguments and errors: `attar.data`.
    """
    files = _obtain(data_folder(folder) / "MNIST" / "raw", MNIST_URL, MNIST_SHA256, download)
    train, test = _splits(files, Input(mean, std, shape))
    return make_task("mnist", train, test, validation=validation, seed=seed)


def fashion_mnist(
    folder: str | Path | None = None,
    *,
    validation: int | None = None,
    seed: int = 0,
    download: bool | str = False,
    mean: Values = None,
    std: Values = None,
    shape: tuple[int, int, int] | None = None,
) -> Task:
    """Fashion-MNIST: 28x28 pieces of clothing of 10 classes, 60,000 to train on and 10,000 to test.

    From the four idx files in `FashionMNIST/raw`, gzipped or not. Arguments and errors: `attar.data`.
    """
    files = _obtain(data_folder(folder) / "FashionMNIST" / "raw", FASHION_URL, FASHION_SHA256, download)
    train, test = _splits(files, Input(mean, std, shape))
    return make_task("fashion-mnist", train, test, validation=validation, seed=seed)


def _obtain(folder: Path, url: str, checksums: dict[str, str], download: bool | str) -> list[Path]:
    """The four files, in the order of the checksums."""
    return [obtain([folder / name, folder / f"{name}.gz"], url=url, sha256=sha256, download=download) for name, sha256 in checksums.items()]


def _splits(files: list[Path], wanted: Input) -> tuple[Pictures, Pictures]:
    train_images, train_labels, test_images, test_labels = files
    return _pictures(train_images, train_labels, wanted), _pictures(test_images, test_labels, wanted)


def _pictures(images: Path, labels: Path, wanted: Input) -> Pictures:
    pixels, classes = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    try:
        return Pictures(pixels[:, None], classes, 10, wanted)
    except DataError as error:
        raise DataError(f"{images.parent}: {error}") from None
