"""A report as one self-contained HTML page: no script, no font, no picture from elsewhere; light, dark and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from attar.evaluation.tables import UNITS, Table, format_bytes

__all__ = ["Bar", "Chart", "page"]


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: its label, and its length in bytes."""

    label: str
    bytes: int


@dataclass(frozen=True)
class Chart:
    """Horizontal bars under a title, all in one linear scale from zero."""

    title: str
    bars: tuple[Bar, ...]


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{
  --paper: #fbfaf7; --card: #ffffff; --ink: #23201c; --soft: #6d665d; --line: #e4dfd6; --accent: #9a5b13; --bar: #c98a3c; --head: #f4f0e8;
  --good: #2c6e49; --bad: #a4262c;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --paper: #191714; --card: #211e1a; --ink: #ece6dc; --soft: #a79e91; --line: #39342d; --accent: #e3a85a; --bar: #b97b31; --head: #2a2621;
    --good: #7fc8a0; --bad: #f0868b;
  }}
}}
* {{ box-sizing: border-box; }}
body {{
  margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}}
main {{ max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }}
.mark {{ color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .14em; text-transform: uppercase; }}
h1 {{ margin: .1rem 0 1.25rem; font-size: 1.35rem; font-weight: 600; }}
h2 {{ margin: 0 0 .75rem; font-size: 1.05rem; font-weight: 600; }}
.verdict {{
  margin: 0 0 1.75rem; padding: 1.1rem 1.4rem; font-size: 1.15rem; background: var(--card);
  border: 1px solid var(--line); border-left: 5px solid var(--tone); border-radius: 6px;
}}
.verdict b {{ display: block; color: var(--tone); font-size: 1.7rem; line-height: 1.25; letter-spacing: .01em; }}
.gain {{ --tone: var(--good); }} .loss {{ --tone: var(--bad); }} .even {{ --tone: var(--soft); }}
section {{ margin: 0 0 1.75rem; padding: 1.1rem 1.4rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }}
.scroll {{ overflow-x: auto; }}
table {{ width: 100%; border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .4rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }}
th {{ background: var(--head); font-weight: 600; vertical-align: bottom; white-space: normal; }}
th span {{ display: block; color: var(--soft); font-weight: 400; font-size: .9em; }}
.text {{ text-align: left; }}
tr.aside td {{ color: var(--soft); font-style: italic; border-bottom-color: var(--line); }}
tr.total td {{ font-weight: 600; }}
tbody tr:last-child td {{ border-bottom: 0; }}
.notes {{ margin: .8rem 0 0; padding-left: 1.1rem; color: var(--soft); font-size: .82rem; }}
svg {{ display: block; width: 100%; height: auto; }}
svg text {{ fill: var(--ink); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
svg .value {{ fill: var(--soft); }}
svg rect {{ fill: var(--bar); }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 0; font-size: .875rem; }}
dt {{ color: var(--soft); }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
@media print {{
  :root {{
    --paper: #fff; --card: #fff; --ink: #000; --soft: #555; --line: #ccc; --accent: #7a4608; --bar: #b98b4e; --head: #f4f4f4;
    --good: #1d5a39; --bad: #8d1c22;
  }}
  html {{ font-size: 10pt; }}
  main {{ max-width: none; padding: 0; }}
  section, .verdict {{ padding: .6rem .8rem; }}
  tr, svg, .verdict {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
  .scroll {{ overflow: visible; }}
  table {{ font-size: .75rem; }}
  th, td {{ padding: .2rem .35rem; }}
  .verdict, th, svg rect {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
</style>
</head>
<body>
<main>
<div class="mark">Attar</div>
<h1>{title}</h1>
<p class="verdict {tone}"><b>{headline}</b>{detail}</p>
{body}
</main>
</body>
</html>
"""


def page(
    title: str,
    verdict: str,
    *,
    tables: Sequence[Table] = (),
    charts: Sequence[Chart] = (),
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The page: verdict first, the first table, the charts, the other tables, the facts of the environment, the notes.

    Every text is escaped.

    >>> "&lt;b&gt;" in page("<b>", "NO GAIN (1 kB to 1 kB)")
    True
    """
    sections = [*map(_table, tables[:1]), *map(_chart, charts), *map(_table, tables[1:])]
    if facts:
        items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
        sections.append(_section("Environment", f"<dl>{items}</dl>"))
    if notes:
        sections.append(_section("Notes", _notes(notes)))
    headline, _, detail = verdict.partition(" (")
    detail = f"({detail}" if detail else ""
    return _PAGE.format(
        title=escape(title), tone=_tone(verdict), headline=escape(headline), detail=escape(detail), body="\n".join(sections)
    )


def _tone(verdict: str) -> str:
    """The colour of the verdict, from its first word."""
    first = verdict.split(" ", 1)[0]
    return {"SMALLER": "gain", "FASTER": "gain", "NO": "even"}.get(first, "loss")


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _notes(notes: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>' if notes else ""


def _table(table: Table) -> str:
    kinds = ["text" if column.unit == "text" else "number" for column in table.columns]
    head = "".join(
        f'<th class="{kind}" scope="col">{escape(column.name)}<span>{escape(UNITS[column.unit].label)}</span></th>'
        for column, kind in zip(table.columns, kinds, strict=True)
    )
    rows = []
    for cells in table.cells():
        look = "aside" if cells[0].startswith("·") else "total" if cells[0] == "total" else ""
        body = "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in zip(kinds, cells, strict=True))
        rows.append(f'<tr class="{look}">{body}</tr>')
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return _section(table.title, f'<div class="scroll">{grid}</div>{_notes(table.notes)}')


_WIDTH, _ROW, _LABELS, _VALUES = 760, 26, 200, 90


def _chart(chart: Chart) -> str:
    """The bars as an inline picture; a long label is cut, and whole in its tooltip."""
    longest = max((bar.bytes for bar in chart.bars), default=0) or 1
    shapes = []
    for i, bar in enumerate(chart.bars):
        top, length = i * _ROW, (_WIDTH - _LABELS - _VALUES) * bar.bytes / longest
        label = bar.label if len(bar.label) <= 28 else f"…{bar.label[-27:]}"
        shapes.append(
            f"<g><title>{escape(bar.label)}: {bar.bytes:,} bytes</title>"
            f'<text x="{_LABELS - 10}" y="{top + 17}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{_LABELS}" y="{top + 4}" width="{max(length, 1):.1f}" height="{_ROW - 9}" rx="2"/>'
            f'<text class="value" x="{_LABELS + max(length, 1) + 8:.1f}" y="{top + 17}">{escape(format_bytes(bar.bytes))}</text></g>'
        )
    picture = (
        f'<svg viewBox="0 0 {_WIDTH} {_ROW * len(chart.bars)}" role="img" aria-label="{escape(chart.title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(shapes)}</svg>'
    )
    return _section(chart.title, picture)
