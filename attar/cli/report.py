"""`attar report`: the tables of a run again, in any format."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from attar.errors import AttarError
from attar.evaluation import Report

__all__ = ["report"]


class Format(StrEnum):
    """What a report can be printed as."""

    text = "text"
    markdown = "markdown"
    json = "json"
    html = "html"


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the output folder of `attar compress`")],
    format: Annotated[Format, typer.Option(help="how to print it")] = Format.text,
    json: Annotated[bool, typer.Option("--json", help="short for --format json")] = False,
) -> None:
    """Print the report of a run again."""
    path = folder / "report.json"
    if not path.is_file():
        raise AttarError(
            f"there is no {path}: give the --out folder of a finished `attar compress`; one that was killed goes on with --resume"
        )
    found = Report.from_json(path.read_text(encoding="utf-8"))
    chosen = Format.json if json else format
    print(
        {Format.text: found.to_text, Format.markdown: found.to_markdown, Format.json: found.to_json, Format.html: found.to_html}[chosen](),
        end="",
    )
