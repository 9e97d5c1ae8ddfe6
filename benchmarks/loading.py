"""How long a file of 25 million weights takes to write and to load: ResNet-50, 90 % sparse, 5-bit codebooks.

run: python benchmarks/loading.py [--repeats 5] [--json FILE]
The weights are random, which codes worse than trained ones; codecs are timed in turn, medians are printed.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

import attar
from attar import coding
from attar.evaluation import Column, Table, machine, markdown
from attar.graph import trace
from attar.zoo.resnet import resnet50

CODECS = ("packed", "huffman-escape", "entropy", "auto")


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = function()
    return time.perf_counter() - begun, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    example = (torch.zeros(1, 3, 224, 224),)
    model = attar.quantize(attar.prune(resnet50(), keep=0.1), bits=5)
    tracing, network = timed(lambda: trace(model, example))
    taken: dict[str, dict[str, list[float]]] = {codec: {"write": [], "read": [], "program": []} for codec in CODECS}
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS:  # writing tries every way, and is timed once
            path = Path(folder) / codec
            taken[codec]["write"].append(timed(lambda p=path, c=codec: coding.save(network, p, codec=c))[0])
            sizes[codec] = path.stat().st_size
        for _ in range(options.repeats):
            for codec in CODECS:
                seconds, loaded = timed(lambda c=codec: coding.load(Path(folder) / c))
                taken[codec]["read"].append(seconds)
                taken[codec]["program"].append(timed(loaded.program)[0])
    here = machine()
    rows = [(c, sizes[c], *(median(taken[c][what]) for what in ("write", "read", "program"))) for c in CODECS]
    columns = (
        Column("codec"),
        Column("file", "bytes"),
        *(Column(name, "seconds") for name in ("write", "read and check", "make a module")),
    )
    title = f"ResNet-50, 10 % kept, 5 bits; {here.processor}, {torch.get_num_threads()} threads, tracing {tracing:.1f} s"
    table = Table(title, columns, tuple(rows))
    print(markdown(table))
    if options.json:
        options.json.write_text(
            json.dumps({"machine": here.processor, "features": here.features, "bytes": sizes, "seconds": taken}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
