"""One Markdown table of the results of all tools: a row per network, then how often each outcome came.

run: python benchmarks/coverage/table.py benchmarks/coverage/results/*.json [--out FILE]
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

EQUAL, WRONG, BROKEN = "pruned and equal", "pruned but WRONG", "pruned but broken"  # as judge.py says them; this file needs no torch
OUTCOMES = [EQUAL, "equal, ratio out of range", WRONG, BROKEN, "nothing pruned", "error", "timeout", "crash"]

Records = dict[str, dict[str, Any]]  # network -> its record


def read(path: Path) -> tuple[dict[str, Any], Records]:
    head, *rest = (json.loads(line) for line in path.read_text().splitlines())
    return head, {record["network"]: record for record in rest}


def cell(record: dict[str, Any] | None) -> str:
    """Outcome, parameters kept, error, seconds; a failure gives its reason in place of the figures it has not."""
    if record is None:
        return "not run"
    parts = [f"**{record['outcome']}**" if record["outcome"] == EQUAL else record["outcome"]]
    if record.get("after") is not None and record["outcome"] != "nothing pruned":
        parts.append(f"{record['ratio']:.0%} kept")
    if record.get("error") is not None:
        parts.append(f"error {record['error']:.0e}")
    if record.get("seconds") is not None:
        parts.append(f"{record['seconds']:.2f} s")
    if record["outcome"] != EQUAL and record.get("reason"):
        parts.append(shorten(record["reason"]))
    return ", ".join(parts).replace("|", "\\|")


def shorten(reason: str, *, width: int = 90) -> str:
    return reason if len(reason) <= width else reason[: width - 3].rstrip() + "..."


def rows(tools: dict[str, Records]) -> list[str]:
    networks = list(dict.fromkeys(name for records in tools.values() for name in records))
    lines = [f"| network | {' | '.join(tools)} |", f"|---|{'---|' * len(tools)}"]
    return lines + [f"| {name} | {' | '.join(cell(records.get(name)) for records in tools.values())} |" for name in networks]


def summary(tools: dict[str, Records]) -> list[str]:
    """How often each outcome came, by the best of the tries; and how many networks any try left wrong or broken."""
    lines = [f"| outcome | {' | '.join(tools)} |", f"|---|{'---|' * len(tools)}"]
    counts = {name: Counter(record["outcome"] for record in records.values()) for name, records in tools.items()}
    lines += [f"| {outcome} | {' | '.join(str(count[outcome]) for count in counts.values())} |" for outcome in OUTCOMES]
    through = [sum(_through_norm(record) for record in records.values()) for records in tools.values()]
    harmed = [
        sum(any(each["outcome"] in (WRONG, BROKEN) for each in record["tries"]) for record in records.values())
        for records in tools.values()
    ]
    lines.append(f"| networks | {' | '.join(str(len(records)) for records in tools.values())} |")
    lines.append(f"| of the wrong: cut through a norm that mixes channels | {' | '.join(map(str, through))} |")
    return [*lines, f"| wrong or broken by any setting tried | {' | '.join(map(str, harmed))} |"]


def _through_norm(record: dict[str, Any]) -> bool:
    return record["outcome"] == WRONG and record["reason"].startswith("cut through")


def machines(heads: list[dict[str, Any]]) -> list[str]:
    return [
        f"- {head['tool']}: {', '.join(f'{name} {number}' for name, number in head['versions'].items())}, Python {head['python']}; "
        f"{head['processor']}, {head['cores']} cores, {head['threads']} used, load {head['load']:.1f}"
        for head in heads
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="written beside being printed")
    chosen = parser.parse_args()
    loaded = [read(path) for path in chosen.results]
    tools = {head["tool"]: records for head, records in loaded}
    text = "\n".join([*summary(tools), "", *rows(tools), "", *machines([head for head, _ in loaded])]) + "\n"
    print(text)
    if chosen.out:
        chosen.out.write_text(text)


if __name__ == "__main__":
    main()
