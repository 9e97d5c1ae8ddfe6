"""Pruning filters by their L1 norm on CIFAR-10: run it, and print the paper's claims beside what was measured.

    python papers/li2017_pruning_filters/reproduce.py                           # all; needs $ATTAR_DATA or --data-dir
    python papers/li2017_pruning_filters/reproduce.py --stages counts criteria  # what needs no training
    python papers/li2017_pruning_filters/reproduce.py --table                   # rewrite the tables here and in the project's README

Three networks are trained on from the pretrained ResNet-56, for the same epochs with the same settings: pruned by plan A, by plan B,
and whole, as the control. All three are measured on the test split at the end. A run that was killed goes on where it was.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from attar import compress, load
from attar.data.cifar import cifar10
from attar.evaluation import Column, Report, Table, evaluate, machine, markdown, paired
from attar.graph import Coupling, Selection, apply, couple, trace
from attar.pruning import plan
from attar.recipes import Recipe, Stage, load_recipe
from attar.task import Task
from attar.zoo import load_weights, preprocessing, weights
from attar.zoo.cifar_resnet import resnet56, resnet110
from attar.zoo.resnet import resnet34
from attar.zoo.vgg import vgg16_cifar

HERE = Path(__file__).parent
BATCH_SIZE = 256
STAGES = ("counts", "criteria", "runs")


@dataclass(frozen=True)
class Plan:
    """One of the paper's: which filters go, and what the paper says that this saves.

    `keep` maps a layer to the share that stays; `parameters` and `macs` are the paper's, in % removed.
    """

    build: Callable[[], Any]
    keep: dict[str, float]
    parameters: float
    macs: float


def first_convolutions(depths: tuple[int, ...], widths: tuple[int, ...], removed: tuple[int, ...], skip: set[int]) -> dict[str, float]:
    """The share that stays of the first convolution of every block, where `removed` % of its stage go, but for the layers in `skip`.

    The paper numbers convolutions from 1, the stem, without projections: layer 2k is the first of block k. It rounds the
    number of filters that stay down.
    """
    keep = {}
    layer = 0
    for stage, (depth, width, percent) in enumerate(zip(depths, widths, removed, strict=True), 1):
        for block in range(depth):
            layer += 2
            if percent and layer not in skip:
                keep[f"layer{stage}.{block}.conv1"] = (width * (100 - percent) // 100) / width
    return keep


CIFAR, IMAGENET = (16, 32, 64), (64, 128, 256, 512)
SKIPPED_34 = {2, 8, 14, 16, 26, 28, 30, 32}
# the paper's Table 1 and section 4
PLANS = {
    "VGG-16-A": Plan(vgg16_cifar, {f"features.conv{i}": 0.5 for i in (1, 8, 9, 10, 11, 12, 13)}, 64.0, 34.2),
    "ResNet-56-A": Plan(resnet56, first_convolutions((9, 9, 9), CIFAR, (10, 10, 10), {16, 20, 38, 54}), 9.4, 10.4),
    "ResNet-56-B": Plan(resnet56, first_convolutions((9, 9, 9), CIFAR, (60, 30, 10), {16, 18, 20, 34, 38, 54}), 13.7, 27.6),
    "ResNet-110-A": Plan(resnet110, first_convolutions((18, 18, 18), CIFAR, (50, 0, 0), {36}), 2.3, 15.9),
    "ResNet-110-B": Plan(resnet110, first_convolutions((18, 18, 18), CIFAR, (50, 40, 30), {36, 38, 74}), 32.4, 38.6),
    "ResNet-34-A": Plan(resnet34, first_convolutions((3, 4, 6, 3), IMAGENET, (30, 30, 30, 0), SKIPPED_34), 7.6, 15.5),
    "ResNet-34-B": Plan(resnet34, first_convolutions((3, 4, 6, 3), IMAGENET, (50, 60, 40, 0), SKIPPED_34), 10.8, 24.2),
}
RECIPES = {"A": HERE / "resnet56_a.yaml", "B": HERE / "resnet56_b.yaml"}
ERRORS = {"A": (6.96, 6.90), "B": (6.96, 6.94)}  # in %, before and after


def couplings(names: list[str]) -> dict[Callable[[], Any], Coupling]:
    """The groups of each network that the plans are for, traced on one picture."""
    found = {}
    for build in dict.fromkeys(PLANS[name].build for name in names):
        model = build()
        found[build] = couple(trace(model.eval(), (torch.zeros(1, *model.example_shape),)))
    return found


def selections(names: list[str]) -> dict[str, Selection]:
    """Each plan as the filters that go, and what that saves; by count alone, so random weights will do."""
    known = couplings(names)
    return {name: plan(known[PLANS[name].build], keep=PLANS[name].keep, allocation="layer") for name in names}


def counts() -> list[dict]:
    """What each plan saves, beside the paper's figures."""
    return [
        {"plan": name, "parameters": s.parameters, "macs": s.macs, "paper": [PLANS[name].parameters, PLANS[name].macs]}
        for name, s in selections(list(PLANS)).items()
    ]


def largest(weight: Tensor) -> Tensor:
    """The wrong way round: what has the largest norm goes."""
    return -weight.abs()


CRITERIA: dict[str, dict[str, Any]] = {
    "smallest L1 norm, independent": {"saliency": "l1"},
    "smallest L1 norm, greedy": {"saliency": "l1", "greedy": True},
    "smallest L2 norm": {"saliency": "l2"},
    "random, seed 0": {"saliency": "random", "seed": 0},
    "random, seed 1": {"saliency": "random", "seed": 1},
    "random, seed 2": {"saliency": "random", "seed": 2},
    "largest L1 norm": {"saliency": largest},
}


def criteria(model: nn.Module, task: Task, samples: int) -> list[dict]:
    """Accuracy on `samples` validation pictures right after each criterion has chosen the filters of each plan, without fine-tuning."""
    split = Subset(task.validation, range(min(samples, len(task.validation))))
    whole = evaluate(model, split, task, batch_size=BATCH_SIZE).metrics["top-1"]
    rows: list[dict] = [{"plan": "", "criterion": "not pruned", "samples": len(split), "accuracy": float(whole.mean()), "difference": None}]
    example = task.example()
    coupling = couple(trace(model, example))
    for letter in RECIPES:
        for criterion, options in CRITERIA.items():
            selection = plan(coupling, keep=PLANS[f"ResNet-56-{letter}"].keep, allocation="layer", **options)
            pruned = apply(model, selection, example, coupling=coupling).model
            hits = evaluate(pruned, split, task, batch_size=BATCH_SIZE).metrics["top-1"]
            row = {"plan": letter, "criterion": criterion, "samples": len(split), "accuracy": float(hits.mean())}
            rows.append({**row, "difference": asdict(paired(whole, hits))})
            print(f"plan {letter}, {criterion}: {100 * rows[-1]['accuracy']:.2f} %", flush=True)
    return rows


def recipe(letter: str, epochs: int) -> Recipe:
    """A plan's recipe with that many epochs; the control's is the same without pruning."""
    stages = load_recipe(RECIPES.get(letter, RECIPES["A"])).stages
    trained = [Stage(s.verb, {**s.arguments, "epochs": epochs} if s.verb == "finetune" else s.arguments) for s in stages]
    return Recipe(tuple(s for s in trained if letter in RECIPES or s.verb != "prune"), letter)


def run(letters: list[str], seed: int, epochs: int, out: Path, model: nn.Module, task: Task) -> list[dict]:
    """The control and each plan with one seed, trained for `epochs`, then measured on the test split."""
    rows, scores = [], {}
    for letter in ["control", *letters]:
        begun = time.monotonic()
        folder = out / f"{letter}-{epochs}-{seed}"
        result = compress(model, task, recipe(letter, epochs), out=folder, seed=seed, resume=True)
        clock = out / f"{folder.name}.seconds"  # of all goes at this run, if it was killed
        seconds = time.monotonic() - begun + (float(clock.read_text()) if clock.exists() else 0.0)
        clock.write_text(str(seconds))
        print(f"{letter}, seed {seed}, {seconds:.0f} s: {result.verdict}", flush=True)
        scores[letter] = evaluate(load(result.path), task.test, task, batch_size=BATCH_SIZE).metrics["top-1"]
        report = json.loads(result.report.to_json())
        given, hits, size = report["baseline"]["metrics"]["top-1"]["mean"], float(scores[letter].mean()), result.path.stat().st_size
        row = {"plan": letter, "seed": seed, "epochs": epochs, "seconds": seconds, "bytes before": report["baseline"]["bytes"]}
        row |= {"bytes after": size, "error as given": 1 - given, "error after": 1 - hits, "facts": facts()}
        rows.append({**row, "against control": asdict(paired(scores["control"], scores[letter])), "report": report})
    return rows


def removed(pair: list[int]) -> float:
    return 1 - pair[1] / pair[0]


def count_table(rows: list[dict]) -> str:
    columns = [Column("plan")]
    for what in ("parameters", "MACs"):
        columns += [Column(f"{what} {when}", "count") for when in ("before", "after")]
        columns += [Column(name, "percent") for name in ("removed", "paper")]
    table = tuple(
        (r["plan"], *r["parameters"], removed(r["parameters"]), r["paper"][0] / 100, *r["macs"], removed(r["macs"]), r["paper"][1] / 100)
        for r in rows
    )
    notes = (
        "counted on one picture, not measured; the paper rounds the number of filters that stay down, and its FLOP are our MACs",
        "ResNet-34: the paper's 2.16e7 parameters and 3.64e9 FLOP are those without the projections, of which nothing is removed (172,032"
        " weights, 1,792 parameters of norms, 19,267,584 MACs); so counted 7.6 and 10.8 % of the parameters go, and 15.5 and 24.2 % of the"
        " MACs",
        "ResNet-56-A: 9.4 % is what the paper's rounded 7.7e5 of 8.5e5 give; the paper's 13.7 % (ResNet-56-B) and 38.6 % (ResNet-110-B) are"
        " ours cut off after one digit",
    )
    return markdown(Table("What the plans save, claim and count", tuple(columns), table, notes))


def criteria_table(rows: list[dict]) -> str:
    columns = [Column("plan"), Column("filters that go"), Column("top-1", "percent")]
    columns += [Column(name, "points") for name in ("change", "low", "high")]
    table = tuple(
        (r["plan"], r["criterion"], r["accuracy"], *((r["difference"] or {}).get(k) for k in ("difference", "low", "high"))) for r in rows
    )
    notes = (
        f"top-1 on {rows[0]['samples']:,} validation pictures, with the batch norms' statistics as they were",
        "change: paired, from the network that is not pruned, with its 95 % interval",
        "greedy scores choose the same filters here: every convolution that is cut reads the residual stream, of which nothing is removed",
        "the pretrained network was trained on these pictures too, so its own accuracy here is no estimate of that on new ones",
    )
    return markdown(Table("Criteria compared, without fine-tuning", tuple(columns), table, notes))


def claims(rows: list[dict]) -> str:
    """Every run beside the paper's claim, in Markdown."""
    columns = [Column("plan"), Column("seed"), Column("epochs", "count"), Column("before", "bytes"), Column("after", "bytes")]
    columns += [Column(name, "percent") for name in ("error as given", "error of control", "error after")]
    columns += [Column(name, "points") for name in ("accuracy change", "low", "high")]
    columns += [Column("time", "seconds")]
    table: list[tuple] = []
    for letter, (before, after) in ERRORS.items():
        for r in (r for r in rows if r["plan"] == letter):
            control = next(c for c in rows if c["plan"] == "control" and (c["seed"], c["epochs"]) == (r["seed"], r["epochs"]))
            change = [r["against control"][k] for k in ("difference", "low", "high")]
            errors = (r["error as given"], control["error after"], r["error after"])
            table.append((letter, str(r["seed"]), r["epochs"], r["bytes before"], r["bytes after"], *errors, *change, r["seconds"]))
        if any(r["plan"] == letter for r in rows):
            paper = (before / 100, None, after / 100, (before - after) / 100, None, None, None)
            table.append((letter, "paper", 40, None, None, *paper))
    notes = (
        "control: the network as given, trained on for the same epochs at the same rate",
        "accuracy change: paired, result minus control, with its 95 % interval; the paper's is from the network as given",
        "before: the parameters as 32-bit floats; after: the size of model.attar on disk; time: of the plan's own run",
    )
    return markdown(Table("ResNet-56 on CIFAR-10, claim and result", tuple(columns), tuple(table), notes))


def measured(facts: dict) -> str:
    return f"Measured on {facts['processor']}, {facts['threads']} threads, PyTorch {facts['torch']}, {facts['date']}."


def measured_by_seed(rows: list[dict]) -> str:
    """As `measured`, where seeds were run on several machines or days."""
    seeds: dict[str, list[int]] = {}
    for row in rows:
        seeds.setdefault(measured(row["facts"]), []).append(row["seed"])
    named = (f"{text.removesuffix('.')} (seed {', '.join(map(str, sorted(set(some))))})." for text, some in seeds.items())
    return " ".join(named if len(seeds) > 1 else seeds)


def page(results: dict) -> str:
    """This folder's README: the counts, the criteria, every run, and the report of each plan's first seed."""
    parts = [INTRODUCTION, count_table(results["counts"]["rows"]).replace("### ", "## ")]
    if "criteria" in results:
        parts += [criteria_table(results["criteria"]["rows"]).replace("### ", "## "), measured(results["criteria"])]
    if "runs" in results:
        rows = results["runs"]["rows"]
        parts += [claims(rows).replace("### ", "## "), measured_by_seed(rows)]
        for letter in dict.fromkeys(r["plan"] for r in rows if r["plan"] in RECIPES):
            first = next(r for r in rows if r["plan"] == letter)
            parts.append(f"## Plan {letter}, seed {first['seed']}, {first['epochs']} epochs\n\nThe baseline here is the network as given.")
            parts += [markdown(table) for table in Report.from_json(json.dumps(first["report"])).all_tables()]
    return "\n\n".join(parts) + "\n"


def with_claims(text: str, results: dict) -> str:
    """The project's README with this paper's tables between its two marks."""
    begin, end = f"<!-- {HERE.name} -->\n", f"<!-- end of {HERE.name} -->"
    before, _, rest = text.partition(begin)
    if "runs" in results:
        tables = [claims(results["runs"]["rows"]), measured_by_seed(results["runs"]["rows"])]
    else:
        tables = [count_table(results["counts"]["rows"])]
    tables.append(f"All of it: [papers/{HERE.name}](papers/{HERE.name}).")
    inside = "\n\n".join(tables)
    return f"{before}{begin}{inside}\n{end}{rest.partition(end)[2]}"


INTRODUCTION = """# Pruning filters for efficient ConvNets (Li, Kadav, Durdanovic, Samet, Graf, ICLR 2017)

The filters with the smallest L1 norm leave the network, with their maps and the next layer's slices; one short training follows.
Recipes: [resnet56_a.yaml](resnet56_a.yaml), [resnet56_b.yaml](resnet56_b.yaml), and with the paper's 40 epochs
[resnet56_b_full.yaml](resnet56_b_full.yaml). This page is written by

    python papers/li2017_pruning_filters/reproduce.py

from [result.json](result.json)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="what to do again; the rest stays in result.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--plans", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning; the paper: 40")
    parser.add_argument("--samples", type=int, default=2000, help="validation pictures on which criteria are compared")
    parser.add_argument("--out", type=Path, default=Path("runs/li2017_pruning_filters"))
    parser.add_argument("--data-dir")
    parser.add_argument("--table", action="store_true", help="only rewrite README.md from result.json")
    options = parser.parse_args()
    stored = HERE / "result.json"
    results = json.loads(stored.read_text()) if stored.exists() else {}
    for stage in [] if options.table else options.stages:
        rows = perform(stage, options)
        if stage == "runs":  # those of other seeds stay
            again = {(row["seed"], row["epochs"]) for row in rows}
            stayed = [row for row in results.get(stage, {"rows": []})["rows"] if (row["seed"], row["epochs"]) not in again]
            rows = sorted(stayed + rows, key=lambda row: (row["epochs"], row["seed"]))
        results[stage] = {**facts(), "rows": rows}
        stored.write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "README.md").write_text(page(results))
    front = HERE.parents[1] / "README.md"
    front.write_text(with_claims(front.read_text(), results))


def perform(stage: str, options: argparse.Namespace) -> list[dict]:
    """The rows of one stage."""
    if stage == "counts":
        return counts()
    model = load_weights(resnet56(), weights("resnet56", options.data_dir)).eval()

    def task(seed: int) -> Task:
        return cifar10(options.data_dir, seed=seed, **preprocessing(model))

    if stage == "criteria":
        return criteria(model, task(0), options.samples)
    runs = [run(options.plans, seed, options.epochs, options.out, model, task(seed)) for seed in options.seeds]
    return [row for rows in runs for row in rows]


def facts() -> dict:
    here = machine()
    processor = f"{here.processor} ({' '.join(here.features)})"
    return {"processor": processor, "threads": torch.get_num_threads(), "torch": here.torch, "date": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    main()
