"""A progress bar with the time left, on a terminal only."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["bar"]


@contextlib.contextmanager
def bar(title: str, *, unit: str = "loss") -> Iterator[Callable[[int, int, float], None]]:
    """While open, a line on stderr with a bar and the time left; yields `advance(step, total, value)`, `step` counting from 0.

    Where stderr is not a terminal nothing is printed.

    >>> with bar("training") as advance:
    ...     advance(0, 2, 0.7)
    """
    if not sys.stderr.isatty():
        yield _silent
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[value]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        line = progress.add_task(title, total=None, value="")
        yield lambda step, total, value: progress.update(line, completed=step + 1, total=total, value=f"{unit} {value:.4g}")


def _silent(*_: object) -> None:
    """Progress that nobody watches."""
