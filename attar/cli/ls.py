"""`attar ls`: what there is."""

from typing import Annotated, Any

import typer

from attar.cli._common import Json, print_json
from attar.errors import AttarError
from attar.names import FAMILIES, members, nearest, summary
from attar.recipes import stock_recipes

__all__ = ["ls"]


def ls(
    families: Annotated[
        list[str] | None, typer.Argument(metavar="[FAMILY]...", help="saliency, quantization, zoo, data, recipes; all by default")
    ] = None,
    json: Json = False,
) -> None:
    """What there is: criteria, quantizers, networks, data sets, recipes."""
    known = [*FAMILIES, "recipes"]
    for family in families or []:
        if family not in known:
            raise AttarError(f"there is no family {family!r}{nearest(family, known)}: give one of {', '.join(known)}")
    found = {family: _listed(family) for family in families or known}
    if json:
        print_json(found)
        return
    for family, entries in found.items():
        print(family)
        width = max(map(len, entries), default=0)
        for name, what in entries.items():
            print(f"  {name:<{width}}  {what}")


def _listed(family: str) -> dict[str, Any]:
    if family == "recipes":
        return {name: path.read_text().partition("\n")[0].lstrip("# ") for name, path in stock_recipes().items()}
    return {name: summary(member) for name, member in members(family).items()}
