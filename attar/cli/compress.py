"""`attar compress`: run a recipe and prove what it gave."""

from pathlib import Path
from typing import Annotated

import typer

from attar.cli._common import DataFolder, DataName, Download, Json, ModelName, Pretrained, Seed, Trust, Weights, open_model, open_task
from attar.recipes import clear, load_recipe
from attar.recipes import compress as run_recipe
from attar.training import start

__all__ = ["compress"]


def compress(
    model: ModelName,
    data: DataName,
    recipe: Annotated[str, typer.Option(help="a stock recipe (`attar ls recipes`) or a YAML file")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where model.attar, the report and the checkpoints go")],
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on where a killed run was")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="remove what an earlier run left in DIR")] = False,
    control: Annotated[bool, typer.Option("--control", help="train the baseline on for as many epochs as compression takes")] = False,
    allow: Annotated[list[str] | None, typer.Option(help="a package whose callables the recipe may name")] = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    data_dir: DataFolder = None,
    download: Download = False,
    json: Json = False,
) -> None:
    """Run a recipe; leave DIR/model.attar, DIR/report.{html,md,json} and checkpoints."""
    loaded = load_recipe(recipe, allow=allow or ())
    opened = open_model(model, weights_file=weights, pretrained=pretrained, trust=trust, data_folder=data_dir, seed=seed)
    task = open_task(data, opened.model, data_folder=data_dir, download=download, seed=seed)
    if overwrite:
        clear(out)
    if opened.trained:
        loaded = loaded.without("train")
    result = run_recipe(opened.model, task, loaded, out=out, seed=seed, resume=resume, control=control)
    if not start().is_main:  # one of several processes under torchrun
        return
    if json:
        print(result.report.to_json(), end="")
        return
    print(result.report.to_text())
    print(f"{result.path}, and beside it report.html with pictures")
