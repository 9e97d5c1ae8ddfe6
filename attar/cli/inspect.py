"""`attar inspect`: what can be compressed, what cannot and why."""

from typing import Annotated

import typer

from attar.cli._common import DataFolder, Json, ModelName, Pretrained, Seed, Trust, Weights, example_of, open_model, print_json
from attar.evaluation import markdown as as_markdown
from attar.evaluation import text
from attar.recipes import inspect as look

__all__ = ["inspect"]


def inspect(
    model: ModelName,
    shape: Annotated[str | None, typer.Option(help="the shape of one input without the batch, such as 3,224,224")] = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    data_dir: DataFolder = None,
    seed: Seed = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown")] = False,
    json: Json = False,
) -> None:
    """Layers, sizes, work, what methods apply, and what the structure lets go; changes nothing."""
    opened = open_model(model, weights_file=weights, pretrained=pretrained, trust=trust, data_folder=data_dir, seed=seed)
    found = look(opened.model, example_of(opened.model, shape))
    if json:
        print_json(found.as_data())
        return
    print("\n\n".join(map(as_markdown if markdown else text, found.tables(model))))
