"""Where data lies, how it is fetched and checked, and the cache of what is slow to decode."""

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from rich.console import Console
from rich.progress import Progress

from attar.errors import DataError
from attar.machine import cache_folder

__all__ = ["cached", "data_folder", "obtain", "one_line"]


def one_line(error: BaseException) -> str:
    """The message of a foreign error, which may have several lines."""
    return " ".join(str(error).split())


def data_folder(folder: str | Path | None) -> Path:
    """`folder`, or else `$ATTAR_DATA`, or else `data` in the cache folder, where downloads may go."""
    return Path(folder or os.environ.get("ATTAR_DATA") or cache_folder() / "data").expanduser()


def obtain(places: Sequence[Path], *, url: str, sha256: str, download: bool | str) -> Path:
    """The first of `places` that exists; else the last of them, downloaded from the address `url` + its name.

    A string as `download` is a mirror's address and replaces `url`. Raises DataError where nothing is there and `download` is
    false, where the download fails, or where its checksum differs; then no file is left behind.
    """
    for place in places:
        if place.exists():
            return place
    target = places[-1]
    if not download:
        raise DataError(
            f"{target.name} is not in {target.parent}: give the folder of the data with --data-dir or $ATTAR_DATA, "
            "or add --download to fetch it"
        )
    _fetch(f"{(download if isinstance(download, str) else url).rstrip('/')}/{target.name}", target, sha256)
    return target


def _fetch(address: str, target: Path, sha256: str) -> None:
    import pooch  # brings `requests`, which nothing else needs

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(address, f"sha256:{sha256}", fname=target.name, path=target.parent, downloader=_receive)
    except OSError as error:
        raise DataError(f"cannot fetch {address} to {target.parent}: {one_line(error)}; put it there by hand, or try a mirror") from None
    except ValueError:
        raise DataError(f"what {address} sent is not the official file (its SHA-256 differs): try again, or another mirror") from None


def _receive(address: str, path: str, _: object) -> None:
    """Write what `address` sends to `path`, with a progress bar on a terminal; every failure is an OSError."""
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    try:
        request = Request(address, headers={"User-Agent": "attar"})
        with urlopen(request, timeout=30) as response, open(path, "wb") as stream, bar:
            row = bar.add_task(address, total=int(response.headers.get("Content-Length", 0)) or None)
            while piece := response.read(1 << 18):
                bar.advance(row, stream.write(piece))
    except HTTPError as error:
        error.close()
        raise
    except (ValueError, HTTPException) as error:  # an address that is none, an answer that is no HTTP
        raise OSError(str(error)) from None


def cached(source: Path, build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """`build()`, or its arrays from an earlier call, kept until the source file's path, size or time of change differs.

    A damaged cache file is built anew (each array carries a CRC-32); a cache that cannot be written is no error.
    """
    status = source.stat()
    key = f"{source.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
    path = cache_folder() / f"{source.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # absent, or damaged in any way: a damaged zip raises nearly anything
        arrays = build()
    with contextlib.suppress(OSError):
        _write(path, arrays)
    return arrays


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write beside `path`, flush to the disk, rename: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
