"""Tables of result files: one Markdown page beside each JSON file, and the short table in the project's README.

run: python benchmarks/engines/table.py
"""

import json
from pathlib import Path
from typing import Any

from attar.evaluation import Column, Table, markdown

INT8 = "-int8"
ABOUT = (Column("zeros asked", "percent"), Column("pattern"), Column("batch", "count"), Column("threads", "count"))


def where(result: dict[str, Any]) -> str:
    """Processor, its instruction sets, versions and date, in one line."""
    machine, versions = result["machine"], result["versions"]
    engines = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{machine['processor']} ({' '.join(machine['features'])}), {machine['processors']} processors; {engines}; {result['date']}"


def timed(result: dict[str, Any]) -> Table:
    """A row for each engine of each record, the subject first."""
    rows = []
    for record in result["records"]:
        for name, figures in record["engines"].items():
            ratio = record["ratios"].get(name, {})
            rows.append(
                (
                    record["case"],
                    record["sparsity"],
                    record["pattern"],
                    record["batch"],
                    record["threads"],
                    name,
                    figures["median"],
                    figures["spread"],
                    *(ratio.get(key) for key in ("ratio", "low", "high", "verdict")),
                    f"{figures['error']:.1e}",
                )
            )
    first = result["records"][0]
    subject, rounds = first["subject"], len(first["engines"][first["subject"]]["milliseconds"])
    columns = (
        *(Column("network"), *ABOUT),
        Column("engine"),
        Column("median", "milliseconds"),
        Column("spread", "milliseconds"),
        Column(f"{subject} is", "factor"),
        Column("low", "factor"),
        Column("high", "factor"),
        Column("verdict"),
        Column("error"),
    )
    notes = (
        f"medians of {rounds} rounds, each of which runs every engine once"
        + (", and once before without the clock" if first.get("warm") else ""),
        "spread: the range of the middle half; factor: median of that engine / median of the first, with its 95 % interval",
        "error: largest difference from PyTorch's output, relative to its largest value",
        where(result),
    )
    return Table("Time of one call", columns, tuple(rows), notes)


def effective(result: dict[str, Any]) -> Table:
    """Layers: the subject beside the best other fp32 engine, and its arithmetic rate, counting nonzeros only."""
    rows = []
    for record in result["records"]:
        own = record["engines"][record["subject"]]["median"]
        others = {name: record["engines"][name]["median"] for name in record["ratios"] if not name.endswith(INT8)}
        best = min(others, key=others.__getitem__)
        about = tuple(record[key] for key in ("case", "sparsity", "pattern", "batch", "threads"))
        rate = record["flop"] * (1 - record["zeros"]) / own / 1e6
        rows.append((*about, own, rate, best, others[best], others[best] / own))
    subject = result["records"][0]["subject"]
    columns = (
        *(Column("layer"), *ABOUT),
        Column(subject, "milliseconds"),
        Column("GFLOP/s of nonzeros", "number"),
        Column("best dense fp32"),
        Column("its time", "milliseconds"),
        Column(f"{subject} is", "factor"),
    )
    how = "a twelfth of what a chain of sixteen takes longer than one of four, warm; the strided layer alone"
    if not result["records"][0].get("warm"):
        how = "a sixteenth of a chain, with what is done to its input and output, caches as the other engines left them"
    return Table("One layer, against the best dense fp32 engine", columns, tuple(rows), (how, where(result)))


def further(result: dict[str, Any]) -> list[Table]:
    """Memory and top-1, where they were measured."""
    engines = [(record, name, figures) for record in result["records"] for name, figures in record["engines"].items()]
    memory = tuple(
        (
            record["case"],
            record["sparsity"],
            name,
            figures["memory"]["peak"],
            figures["memory"]["held"],
            figures["build_seconds"],
            figures["memory"]["build_seconds"],
        )
        for record, name, figures in engines
        if "memory" in figures
    )
    accuracy = tuple(
        (record["case"], name, counts["of_all"], counts["pictures"], counts["of_odd"], counts["odd"])
        for record, name, figures in engines
        if (counts := figures.get("top1"))
    )
    tables = []
    if memory:
        head = (Column("network"), Column("zeros asked", "percent"), Column("engine"))
        figures = (Column("peak", "bytes"), Column("held", "bytes"), Column("built in", "seconds"), Column("built again in", "seconds"))
        note = "what a fresh process grows by: peak while the engine is built, from an ONNX file or the network, and run; held afterwards"
        tables.append(Table("Memory and time to build", (*head, *figures), memory, (note, where(result))))
    if accuracy:
        counts = (Column("right of all", "count"), Column("all", "count"), Column("right of odd", "count"), Column("odd", "count"))
        note = "odd: the pictures at odd positions, of which none calibrated int8"
        tables.append(Table("Top-1", (Column("network"), Column("engine"), *counts), accuracy, (note, where(result))))
    return tables


def page(result: dict[str, Any]) -> str:
    """All tables of a result, and the command that made it."""
    tables = [*([effective(result)] if result["kind"] == "layers" else []), timed(result), *further(result)]
    return "\n\n".join([f"`{result['command']}`", *map(markdown, tables)]) + "\n"


def short(title: str, results: list[dict[str, Any]]) -> Table:
    """One line for each whole network, share of zeros and precision on one processor, one sample on one thread, beside the fastest
    peer of that precision."""
    rows = []
    for record in (one for result in results for one in result["records"] if one["batch"] == one["threads"] == 1):
        times = {name: figures["median"] for name, figures in record["engines"].items()}
        for own in (name for name in times if name.startswith("attar")):
            peers = [n for n in times if not n.startswith("attar") and n.endswith(INT8) == own.endswith(INT8)]
            best = min(peers, key=times.__getitem__)
            about = (record["case"], "int8" if own.endswith(INT8) else "fp32", record["sparsity"], record["pattern"])
            rows.append((*about, times[own], times[best], best, times[best] / times[own]))
    columns = (
        *(Column("network"), Column("precision"), *ABOUT[:2]),
        Column("Attar", "milliseconds"),
        Column("best peer", "milliseconds"),
        Column("which"),
        Column("Attar is", "factor"),
    )
    return Table(title, columns, tuple(rows), (where(results[0]),))


def with_engines(text: str, folder: Path) -> str:
    """The project's README with the short table of each kind of processor between its two marks."""
    begin, end = "<!-- engines -->\n", "<!-- end of engines -->"
    before, _, rest = text.partition(begin)
    tables = []
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        whole = [result for path in sorted(kind.glob("*.json")) if (result := json.loads(path.read_text()))["kind"] == "whole"]
        tables.append(markdown(short({"avx512": "AVX-512", "avx2": "AVX2"}.get(kind.name, kind.name), whole)))
    inside = "\n\n".join(tables)
    return f"{before}{begin}{inside}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    folder = Path(__file__).parent / "results"
    for path in sorted(folder.glob("*/*.json")):
        path.with_suffix(".md").write_text(page(json.loads(path.read_text())))
    front = Path(__file__).parents[2] / "README.md"
    front.write_text(with_engines(front.read_text(), folder))


if __name__ == "__main__":
    main()
