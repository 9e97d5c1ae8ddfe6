"""`attar inspect`: what can be compressed, what cannot and why."""

from typing import Annotated, Any

import typer

from attar.cli._common import DataFolder, Json, ModelName, Pretrained, Seed, Trust, Weights, example_of, open_model, print_json
from attar.evaluation import Column, Table, text
from attar.recipes import Inspection
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
    json: Json = False,
) -> None:
    """Layers, sizes, work, and what weight-level methods apply; changes nothing."""
    opened = open_model(model, weights_file=weights, pretrained=pretrained, trust=trust, data_folder=data_dir, seed=seed)
    found = look(opened.model, example_of(opened.model, shape))
    if json:
        print_json(found.as_data())
        return
    print(text(_table(model, found)))
    work = f"{found.multiplications:,} multiplications, {found.additions:,} additions, {found.macs:,} MACs, {found.flops:,} FLOPs"
    print(f"* one call on one sample: {work} (a multiply-accumulate is one MAC and two FLOPs)")
    for note in found.notes:
        print(f"* {note}")


def _table(name: str, found: Inspection) -> Table:
    columns = (
        Column("layer"),
        Column("weight"),
        Column("form"),
        Column("parameters", "count"),
        Column("nonzero", "count"),
        Column("multiplications", "count"),
        Column("methods"),
        Column("at keep 0.1, 5 bits", "bytes"),
    )
    rows: list[tuple[Any, ...]] = [
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            layer.form,
            layer.parameters,
            layer.nonzeros,
            layer.multiplications,
            layer.methods,
            layer.estimate,
        )
        for layer in found.layers
    ]
    rows.append(("total", "", "", found.parameters, found.nonzeros, found.multiplications, "", found.estimate))
    return Table(f"{name}: {found.bytes:,} bytes as it is", columns, tuple(rows))
