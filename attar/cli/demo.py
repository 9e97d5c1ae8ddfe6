"""`attar demo`: the whole path on the embedded digits, in under a minute."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from attar.cli._common import Json
from attar.data.digits import digits
from attar.evaluation import evaluate
from attar.recipes import BATCH_SIZE, compress, load
from attar.zoo import preprocessing
from attar.zoo.digits import digits_net

__all__ = ["demo"]


def demo(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="where the files go; a new temporary folder by default")] = None,
    seed: Annotated[int, typer.Option(help="of initial weights, splits, order and noise")] = 0,
    json: Json = False,
) -> None:
    """Train a small network on the embedded digits, compress it, reload the file and prove it; under a minute."""
    folder = out if out is not None else Path(tempfile.mkdtemp(prefix="attar-demo-"))
    torch.set_num_threads(1)  # at this size more threads only wait for one another
    torch.manual_seed(seed)
    model = digits_net()
    task = digits(seed=seed, **preprocessing(model))
    print("training digits_net on 8x8 digits, then Deep Compression (recipe `demo`) ...", file=sys.stderr)
    result = compress(model, task, "demo", out=folder, seed=seed)
    again = evaluate(load(result.path), task.test, task, batch_size=BATCH_SIZE)
    if json:
        print(result.report.to_json(), end="")
        return
    print(result.report.to_text())
    same = "bit-equal" if again.fingerprint == result.report.result.fingerprint else "NOT EQUAL: this is a fault, please report it"
    print(f"{result.path} ({result.path.stat().st_size:,} bytes), reloaded once more: outputs {same}")
    print(f"the same with pictures: {folder / 'report.html'}")
