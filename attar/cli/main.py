"""`attar`: one verb a file. A user's mistake is one line on stderr and exit status 2; our own fault is a traceback and 1."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

import attar.cli
from attar.errors import AttarError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Makes a trained PyTorch network small and fast, and proves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for _info in pkgutil.iter_modules(attar.cli.__path__):  # the folder is the list of verbs: a file holds the function of its name
    if _info.name != "main" and not _info.name.startswith("_"):
        _module = importlib.import_module(f"attar.cli.{_info.name}")
        _summary = (_module.__doc__ or "").partition(": ")[2].strip()
        app.command(_info.name, short_help=_summary)(getattr(_module, _info.name))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        app(arguments, prog_name="attar")
    except SystemExit as stop:
        return int(stop.code or 0)
    except AttarError as error:
        print(f"attar: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("attar: interrupted; a run of `compress` goes on with --resume", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
