"""EfficientNet-Lite0 with its ImageNet weights: times of dense, sparse and int8 engines, and top-1 where the weights are whole.

run: ATTAR_DATA=... python benchmarks/engines/pretrained.py [--sparsity 0 0.8 0.9] [--pattern 4x1] [--batch 1] [--threads 1]
     [--against onnxruntime openvino onnxruntime-int8 openvino-int8 torch] [--rounds 50] [--out FILE]
Needs `pip install attar[bench]` and the sample pictures. A sparsity above 0 is of the 1x1 convolutions alone, its zeros drawn at
random and nothing trained again: those rows are times only. Top-1 of the dense weights is of all 500 pictures, and of the 250 at
odd positions alone: 64 of the others calibrate int8.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import settle, sparsify, sparsity_of
from timing import INT8, Array, options, place, show, side_by_side, write
from torch import nn

from attar.data._files import data_folder
from attar.data.pictures import pictures
from attar.recipes.engines import ENGINES
from attar.task import fetch
from attar.zoo import load_weights, preprocessing, weights
from attar.zoo.efficientnet import efficientnet_lite0

CALIBRATION = 64


def network(sparsity: float, pattern: str) -> Any:
    """The pretrained network; with zeros, its batch norms settle anew, so that outputs stay finite."""
    model: Any = load_weights(efficientnet_lite0(), weights("efficientnet_lite0"))
    if sparsity:
        sparsify(model, sparsity, pattern=pattern, only=lambda module: isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
        settle(model)
    return model.eval()


def samples(model: Any) -> tuple[Array, Array, Array, Array]:
    """Inputs and labels of the pictures at even positions, and of those at odd ones."""
    task = pictures(Path(data_folder(None)) / "imagenet-sample", **preprocessing(model))
    read = [fetch(split, range(len(split))) for split in (task.train, task.validation, task.test)]
    even, labels = (torch.cat(both).numpy() for both in zip(*read[:2], strict=True))
    return even, labels, read[2][0].numpy(), read[2][1].numpy()


def top1(name: str, model: Any, data: tuple[Array, Array, Array, Array], options: dict[str, Any]) -> dict[str, int]:
    """How many pictures an engine gets right, one picture at a time."""
    even, even_labels, odd, odd_labels = data
    engine = ENGINES[name](model, even[:1], 1, **options)
    right = [
        sum(int(engine.run(np.ascontiguousarray(x[i : i + 1])).argmax() == labels[i]) for i in range(len(x)))
        for x, labels in ((even, even_labels), (odd, odd_labels))
    ]
    return {"of_all": sum(right), "pictures": len(even) + len(odd), "of_odd": right[1], "odd": len(odd)}


def main() -> None:
    parser = options(__doc__, ["onnxruntime", "openvino", "onnxruntime-int8", "openvino-int8", "torch"], sparsity=[0.0, 0.8, 0.9])
    given = parser.parse_args()
    out = place(given, "pretrained")
    data = samples(network(0, given.pattern))
    extra: dict[str, dict[str, Any]] = {name: {"calibration": data[0][:CALIBRATION]} for name in ENGINES if name.endswith(INT8)}
    records = []
    for sparsity in given.sparsity:
        model, example = network(sparsity, given.pattern), data[2][: given.batch]
        record = side_by_side(model, example, given.subject, given.against, threads=given.threads, rounds=given.rounds, extra=extra)
        if sparsity == 0:
            for name, figures in record["engines"].items():
                figures["top1"] = top1(name, model, data, extra.get(name, {}))
        about = {"case": "efficientnet_lite0, pretrained", "sparsity": sparsity, "zeros": sparsity_of(model), "pattern": given.pattern}
        records.append(about | record)
        show(records[-1])
        write(out, "whole", records)
    print(f"written to {out}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
