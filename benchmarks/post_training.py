"""EfficientNet-Lite0 with its ImageNet weights, compressed without any training: bytes and accuracy, before and after, in one table.

run: ATTAR_DATA=... python benchmarks/post_training.py [--json FILE]
Each network is written, reloaded, and measured on the sample pictures at odd positions (250 of 500, one class each).
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

import attar
from attar.data._files import data_folder
from attar.data.pictures import pictures
from attar.evaluation import Column, Table, evaluate, machine, markdown, paired
from attar.zoo import load_weights, preprocessing, weights
from attar.zoo.efficientnet import efficientnet_lite0

RECIPES = {
    "50 % kept by magnitude, 6-bit codebooks": (0.5, 6),
    "6-bit codebooks": (None, 6),
    "80 % kept by magnitude, 6-bit codebooks": (0.8, 6),
    "8-bit codebooks": (None, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_weights(efficientnet_lite0(), weights("efficientnet_lite0"))
    task = pictures(data_folder(None) / "imagenet-sample", **preprocessing(model))
    before = evaluate(model, task.test, task, batch_size=50)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    tops = [before.estimates()[name].mean for name in ("top-1", "top-5")]
    rows: list[tuple] = [("as published", size, 1.0, *tops, None, None, None)]
    for name, (keep, bits) in RECIPES.items():
        small = attar.quantize(model if keep is None else attar.prune(model, keep=keep), bits=bits)
        with tempfile.TemporaryDirectory() as folder:
            after_size = attar.save(small, Path(folder) / "model.attar", example=task.example())
            after = evaluate(attar.load(Path(folder) / "model.attar"), task.test, task, batch_size=50)
        change = paired(before.metrics["top-1"], after.metrics["top-1"])
        tops = [after.estimates()[metric].mean for metric in ("top-1", "top-5")]
        rows.append((name, after_size, size / after_size, *tops, change.difference, change.low, change.high))
    columns = (
        Column("EfficientNet-Lite0"),
        Column("size", "bytes"),
        Column("factor", "factor"),
        Column("top-1", "percent"),
        Column("top-5", "percent"),
        Column("top-1 change", "points"),
        Column("low", "points"),
        Column("high", "points"),
    )
    where = f"{len(task.test)} sample pictures, PyTorch {torch.__version__}, {machine().processor}"
    print(markdown(Table(f"Without training; {where}", columns, tuple(rows), ("change: paired, with its 95 % interval",))))
    if options.json:
        names = [column.name for column in columns]
        options.json.write_text(json.dumps({"where": where, "rows": [dict(zip(names, row, strict=True)) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
