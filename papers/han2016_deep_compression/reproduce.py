"""Deep Compression on MNIST: run it, and print the paper's claims beside what was measured.

    python papers/han2016_deep_compression/reproduce.py            # both networks, seeds 0 1 2; needs $ATTAR_DATA or --data-dir
    python papers/han2016_deep_compression/reproduce.py --table    # rewrite the tables here and in the project's README from result.json

Each run trains a network, compresses it, trains the baseline on for as long, and measures both on the test split, once.
A run that was killed goes on where it was.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from attar import compress
from attar.data.mnist import mnist
from attar.evaluation import Column, Kept, LayerRow, Report, Table, machine, markdown, spread
from attar.zoo import preprocessing
from attar.zoo.lenet import lenet5, lenet_300_100

HERE = Path(__file__).parent
NETWORKS = {"lenet_300_100": lenet_300_100, "lenet5": lenet5}
# Han, Mao, Dally, "Deep Compression", ICLR 2016, Tables 1, 2 and 3: weights, kept %, bits of weights and of indices packed
# and coded, rates P+Q and P+Q+H in %; the paper calls our fc1, fc2, fc3 ip1, ip2, ip3
PAPER = {
    "lenet_300_100": {
        "rows": {
            "fc1": (235200, 8, 6, 4.4, 5, 3.7, 3.1, 2.32),
            "fc2": (30000, 9, 6, 4.4, 5, 4.3, 3.8, 3.04),
            "fc3": (1000, 26, 6, 4.3, 5, 3.2, 15.7, 12.70),
            "total": (266200, 8, 6, 5.1, 5, 3.7, 3.1, 2.49),
        },
        "factor": 40,
        "error before": 1.64,
        "error after": 1.58,
    },
    "lenet5": {
        "rows": {
            "conv1": (500, 66, 8, 7.2, 5, 1.5, 78.5, 67.45),
            "conv2": (25000, 12, 8, 7.2, 5, 3.9, 6.0, 5.28),
            "fc1": (400000, 8, 5, 4.5, 5, 4.5, 2.7, 2.45),
            "fc2": (5000, 19, 5, 5.2, 5, 3.7, 6.9, 6.13),
            "total": (430500, 8, 5.3, 4.1, 5, 4.4, 3.05, 2.55),
        },
        "factor": 39,
        "error before": 0.80,
        "error after": 0.74,
    },
}


def paper_rows(network: str) -> list[LayerRow]:
    """The paper's figures for each layer."""
    return [
        LayerRow(layer, weights, Kept(kept / 100), *bits, rate_packed=Kept(packed / 100), rate_coded=Kept(coded / 100))
        for layer, (weights, kept, *bits, packed, coded) in PAPER[network]["rows"].items()
    ]


def run(network: str, seed: int, out: Path, data_dir: str | None) -> dict:
    """One network with one seed, from nothing to the measured file."""
    begun = time.monotonic()
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    task = mnist(data_dir, seed=seed, **preprocessing(model))
    folder = out / f"{network}-{seed}"
    result = compress(model, task, HERE / f"{network}.yaml", out=folder, seed=seed, control=True, resume=True, paper=paper_rows(network))
    clock = out / f"{network}-{seed}.seconds"  # of all goes at this run, if it was killed
    seconds = time.monotonic() - begun + (float(clock.read_text()) if clock.exists() else 0.0)
    clock.write_text(str(seconds))
    report = result.report
    before, after, difference = report.baseline, report.result, report.comparison["top-1"]
    print(f"{network}, seed {seed}, {seconds:.0f} s: {report.verdict}", flush=True)
    return {
        "network": network,
        "seed": seed,
        "seconds": seconds,
        "bytes before": before.bytes,
        "bytes after": result.path.stat().st_size,
        "error before": 1 - before.metrics["top-1"].mean,
        "error after": 1 - after.metrics["top-1"].mean,
        "difference": asdict(difference),
        "report": json.loads(report.to_json()),
    }


def claims(results: dict) -> str:
    """Every run beside the paper's claim, in Markdown."""
    columns = [Column("network"), Column("seed"), Column("before", "bytes"), Column("after", "bytes"), Column("factor", "factor")]
    columns += [Column(name, "percent") for name in ("error before", "error after")]
    columns += [Column(name, "points") for name in ("accuracy change", "low", "high")]
    columns += [Column("time", "seconds")]
    rows: list[tuple] = []
    for network, claim in PAPER.items():
        runs = [r for r in results["runs"] if r["network"] == network]
        for r in runs:
            change = [r["difference"][k] for k in ("difference", "low", "high")]
            sizes = (r["bytes before"], r["bytes after"], r["bytes before"] / r["bytes after"])
            rows.append((network, str(r["seed"]), *sizes, r["error before"], r["error after"], *change, r["seconds"]))
        errors = (claim["error before"] / 100, claim["error after"] / 100)
        rows.append((network, "paper", None, None, claim["factor"], *errors, (errors[0] - errors[1]), None, None, None))
    notes = (
        "before: the parameters as 32-bit floats; after: the size of model.attar on disk, header, biases and checksums included",
        "error before: of the baseline trained on for as many epochs as the compression took; both read the test split once",
        "accuracy change: paired, result minus baseline, with its 95 % interval",
        "time: training, compression and the baseline's further training",
    )
    return markdown(Table("Deep Compression on MNIST, claim and result", tuple(columns), tuple(rows), notes))


def page(results: dict) -> str:
    """This folder's README: every run, and the stages and layers of the first seed, each beside the paper's claim."""
    parts = [INTRODUCTION, claims(results).replace("### ", "## ")]
    for network in PAPER:
        runs = [r for r in results["runs"] if r["network"] == network]
        factors, changes = (
            spread([f(r) for r in runs]) for f in (lambda r: r["bytes before"] / r["bytes after"], lambda r: r["difference"]["difference"])
        )
        parts.append(
            f"**{network}**: {factors.mean:.1f}x (standard deviation {factors.deviation:.1f} over {len(runs)} seeds), "
            f"accuracy {100 * changes.mean:+.2f} points (standard deviation {100 * changes.deviation:.2f})."
        )
        first = runs[0]["report"]
        report = Report.from_json(json.dumps(first))
        parts.append(f"## {network}, seed {runs[0]['seed']}")
        parts += [markdown(table) for table in report.all_tables()]
    parts.append(f"Measured on {results['processor']}, {results['threads']} threads, PyTorch {results['torch']}, {results['date']}.")
    return "\n\n".join(parts) + "\n"


def with_claims(text: str, results: dict) -> str:
    """The project's README with the table of claims between its two marks."""
    before, _, rest = text.partition("<!-- results -->\n")
    after = rest.partition("<!-- end of results -->")[2]
    where = (
        f"Measured on {results['processor']}, {results['threads']} threads, {results['date']}: [papers/{HERE.name}](papers/{HERE.name})."
    )
    return f"{before}<!-- results -->\n{claims(results)}\n\n{where}\n<!-- end of results -->{after}"


INTRODUCTION = """# Deep Compression (Han, Mao, Dally, ICLR 2016)

Prune the small weights, let the others share a few values, and code what is left. Recipes: [lenet_300_100.yaml](lenet_300_100.yaml),
[lenet5.yaml](lenet5.yaml). This page is written by

    python papers/han2016_deep_compression/reproduce.py

from [result.json](result.json). The paper counts neither header nor checksums; its densities and bits, written with its own fillers
and Huffman codes, are 38x in real bytes for LeNet-5."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path("runs/han2016_deep_compression"))
    parser.add_argument("--data-dir")
    parser.add_argument("--table", action="store_true", help="only rewrite README.md from result.json")
    options = parser.parse_args()
    stored = HERE / "result.json"
    if not options.table:
        here = machine()
        runs = [run(network, seed, options.out, options.data_dir) for network in options.networks for seed in options.seeds]
        processor = f"{here.processor} ({' '.join(here.features)})"
        facts = {"processor": processor, "threads": torch.get_num_threads(), "torch": here.torch, "date": time.strftime("%Y-%m-%d")}
        stored.write_text(json.dumps({**facts, "runs": runs}, indent=1) + "\n")
    results = json.loads(stored.read_text())
    (HERE / "README.md").write_text(page(results))
    front = HERE.parents[1] / "README.md"
    front.write_text(with_claims(front.read_text(), results))


if __name__ == "__main__":
    main()
