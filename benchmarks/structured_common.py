"""What the benchmarks of structured pruning share: what an option looks like, and how a result is printed and written."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar.evaluation import Column, Speedup, Table, Timing, as_dict, machine, markdown

__all__ = ["SPEED", "finish", "options", "program", "speed", "where"]

SPEED = (
    Column("before", "milliseconds"),
    Column("after", "milliseconds"),
    Column("speed-up", "factor"),
    Column("low", "factor"),
    Column("high", "factor"),
    Column("verdict"),
)


def options(script: str, text: str) -> argparse.ArgumentParser:
    """A parser with `--out`, which is beside the script unless given."""
    parser = argparse.ArgumentParser(description=text.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(script).with_suffix(".json"))
    return parser


def where() -> str:
    """The machine in one line, as titles of tables name it."""
    here = machine()
    return f"{here.processor}, {'AVX-512' if 'avx512f' in here.features else 'no AVX-512'}, PyTorch {here.torch}"


def program(model: nn.Module, example: tuple | dict[str, Any]) -> Any:
    """A call of the model that takes no argument, in eval mode without gradients."""
    model.eval()

    def run() -> Any:
        with torch.inference_mode():
            return model(**example) if isinstance(example, dict) else model(*example)

    return run


def speed(before: Timing, after: Timing, ratio: Speedup) -> tuple[float, float, float, float, float, str]:
    """The cells of `SPEED`."""
    return before.median, after.median, ratio.ratio, ratio.low, ratio.high, ratio.verdict


def finish(out: Path, tables: Sequence[Table], **raw: Any) -> None:
    """Print the tables, and write them with the machine and the raw figures."""
    for table in tables:
        print(markdown(table), end="\n\n")
    out.write_text(json.dumps({"machine": asdict(machine()), "tables": [as_dict(table) for table in tables], **raw}, indent=1) + "\n")
    print(f"written to {out}")
