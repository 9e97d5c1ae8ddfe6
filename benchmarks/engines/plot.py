"""Latency against sparsity: one line for each engine of each result file, PNG and SVG.

run: python benchmarks/engines/plot.py results/avx2/resnet50-unstructured-b1-t1.json [FILE.json ...] --out results/avx2/resnet50
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window
import matplotlib.pyplot as plt


def lines(results: list[dict[str, Any]]) -> dict[str, list[tuple[float, float, float, float]]]:
    """For each engine, (sparsity in %, median, and the quartiles' bars below and above it); the subject's pattern in its name."""
    found: dict[str, dict[float, list[float]]] = {}
    for result in results:
        for record in result["records"]:
            for name, figures in record["engines"].items():
                label = f"{name}, {record['pattern']}" if name == record["subject"] else name
                found.setdefault(label, {}).setdefault(100 * record["sparsity"], []).extend(figures["milliseconds"])
    return {label: [_point(x, sorted(times)) for x, times in sorted(points.items())] for label, points in found.items()}


def _point(x: float, times: list[float]) -> tuple[float, float, float, float]:
    low, median, high = (times[round(q * (len(times) - 1))] for q in (0.25, 0.5, 0.75))
    return x, median, median - low, high - median


def draw(results: list[dict[str, Any]], out: Path) -> None:
    first = results[0]["records"][0]
    machine = results[0]["machine"]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for label, points in lines(results).items():
        x, median, below, above = zip(*points, strict=True)
        own = label.startswith(first["subject"] + ",")
        axes.errorbar(
            x, median, yerr=(below, above), label=label, marker="o", capsize=3, linewidth=2 if own else 1, linestyle="-" if own else "--"
        )
    axes.set(xlabel="zeros among the weights (%)", ylabel="time of one call (ms), median and middle half", ylim=(0, None))
    instructions = (
        "AVX-512" if "avx512f" in machine["features"] else "AVX2" if "avx2" in machine["features"] else " ".join(machine["features"])
    )
    axes.set_title(
        f"{first['case']}, batch {first['batch']}, {first['threads']} thread(s); {machine['processor']}, {instructions}", fontsize=10
    )
    axes.grid(alpha=0.3)
    axes.legend()
    for suffix in (".png", ".svg"):
        figure.savefig(out.with_suffix(suffix), dpi=150, metadata={"Date": None} if suffix == ".svg" else None)
        print(f"written to {out.with_suffix(suffix)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of one network, batch and number of threads")
    parser.add_argument("--out", type=Path, required=True, help="where to, without suffix")
    given = parser.parse_args()
    results = [json.loads(path.read_text()) for path in given.results]
    kinds = {tuple(record[key] for key in ("case", "batch", "threads", "subject")) for result in results for record in result["records"]}
    if len(kinds) != 1:
        parser.error(f"the files must be of one network, batch, number of threads and subject, got {sorted(kinds)}")
    draw(results, given.out)


if __name__ == "__main__":
    main()
