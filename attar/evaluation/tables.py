"""Tables as plain data, typed by the units of their columns, and their text forms: Markdown, aligned text, JSON.

A share of something is either *kept* or *removed*, and the two are types: a column of one refuses the other, because
tables that mix them (the survey's Table 2 does) cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.errors import AttarError, FormatError

__all__ = [
    "UNITS",
    "Column",
    "Kept",
    "LayerRow",
    "Removed",
    "StageRow",
    "Table",
    "as_dict",
    "format_bytes",
    "from_dict",
    "layer_table",
    "markdown",
    "stage_table",
    "text",
    "total",
]


@dataclass(frozen=True)
class Kept:
    """The share of something that is left: after / before; above 1 where it grew.

    >>> Kept.of(200, 50).factor, Kept.of(200, 50).removed
    (4.0, Removed(fraction=0.75))
    """

    fraction: float

    def __post_init__(self) -> None:
        if not self.fraction >= 0:
            raise AttarError(f"a kept share must be at least 0, got {self.fraction}: it is after / before")

    @classmethod
    def of(cls, before: float, after: float) -> Kept:
        """after / before."""
        if before <= 0:
            raise AttarError(f"a share of nothing has no meaning: before must be above 0, got {before}")
        return cls(after / before)

    @property
    def factor(self) -> float:
        """r = before / after; infinite where nothing is left."""
        return 1 / self.fraction if self.fraction else float("inf")

    @property
    def removed(self) -> Removed:
        return Removed(1 - self.fraction)


@dataclass(frozen=True)
class Removed:
    """The share of something that is gone: 1 - after / before = 1 - 1/r; below 0 where it grew.

    >>> round(Removed.from_factor(35).percent, 2)
    97.14
    """

    fraction: float

    def __post_init__(self) -> None:
        if not self.fraction <= 1:
            raise AttarError(f"a removed share must be at most 1, got {self.fraction}: it is 1 - after / before")

    @classmethod
    def from_factor(cls, factor: float) -> Removed:
        """1 - 1/r."""
        if factor <= 0:
            raise AttarError(f"a factor must be above 0, got {factor}: it is before / after")
        return cls(1 - 1 / factor)

    @property
    def percent(self) -> float:
        return 100 * self.fraction

    @property
    def kept(self) -> Kept:
        return Kept(1 - self.fraction)

    @property
    def factor(self) -> float:
        """r = before / after."""
        return self.kept.factor


def format_bytes(count: float) -> str:
    """A number of bytes as a person reads it, in powers of 1000.

    >>> format_bytes(1724320), format_bytes(812)
    ('1.72 MB', '812 B')
    """
    value, units = float(count), iter(("kB", "MB", "GB", "TB"))
    unit = "B"
    while value >= 999.5 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"


@dataclass(frozen=True)
class Unit:
    """What the cells of a column are: the type they must have, how they print, and the label in the column's head."""

    types: tuple[type, ...]
    show: Callable[[Any], str]
    label: str


_NUMBER = (int, float)

UNITS: dict[str, Unit] = {
    "text": Unit((str,), str, ""),
    "count": Unit((int,), lambda n: f"{n:,}", ""),
    "bytes": Unit((int,), lambda n: f"{n:,}", "bytes"),
    "kept": Unit((Kept,), lambda share: f"{100 * share.fraction:.2f}", "% kept"),
    "removed": Unit((Removed,), lambda share: f"{share.percent:.2f}", "% removed"),
    "factor": Unit(_NUMBER, lambda r: f"{r:.2f}x", ""),
    "percent": Unit(_NUMBER, lambda share: f"{100 * share:.2f}", "%"),
    "points": Unit(_NUMBER, lambda share: f"{100 * share:+.2f}", "points"),
    "bits": Unit(_NUMBER, lambda bits: f"{bits:.2f}".rstrip("0").rstrip("."), "bits"),
    "milliseconds": Unit(_NUMBER, lambda t: f"{t:.3g}", "ms"),
    "seconds": Unit(_NUMBER, lambda t: f"{t:.1f}", "s"),
    "number": Unit(_NUMBER, lambda x: f"{x:.4g}", ""),
}
"""Unit -> what its cells are. `percent` and `points` hold fractions (0.98), shown times 100."""


@dataclass(frozen=True)
class Column:
    """A column's name and the unit of its cells, one of `UNITS`."""

    name: str
    unit: str = "text"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise AttarError(f"a column's unit must be one of {', '.join(UNITS)}, got {self.unit!r}")

    @property
    def head(self) -> str:
        """Name and unit, as printed."""
        label = UNITS[self.unit].label
        return f"{self.name} ({label})" if label else self.name


@dataclass(frozen=True)
class Table:
    """A title, typed columns, rows of cells (None: not measured) and notes.

    Raises AttarError for a row of another length, or a cell that is not of its column's unit: so a column never mixes
    what is kept with what is removed.

    >>> Table("sizes", (Column("layer"), Column("weights", "kept")), (("fc1", Removed(0.92)),))
    Traceback (most recent call last):
    attar.errors.AttarError: column 'weights' of table 'sizes' holds kept, got Removed(fraction=0.92): use its .kept
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise AttarError(f"a row of table {self.title!r} must have {len(self.columns)} cells, got {len(row)}: {row}")
            for column, cell in zip(self.columns, row, strict=True):
                if cell is None or (isinstance(cell, UNITS[column.unit].types) and not isinstance(cell, bool)):
                    continue
                remedy = f": use its .{column.unit}" if isinstance(cell, Kept | Removed) and column.unit in ("kept", "removed") else ""
                raise AttarError(f"column {column.name!r} of table {self.title!r} holds {column.unit}, got {cell!r}{remedy}")

    def cells(self) -> list[list[str]]:
        """The rows as text; a dash where nothing was measured."""
        return [["–" if c is None else UNITS[k.unit].show(c) for k, c in zip(self.columns, row, strict=True)] for row in self.rows]


def markdown(table: Table) -> str:
    """The table in Markdown, numbers to the right.

    >>> print(markdown(Table("sizes", (Column("layer"), Column("size", "bytes")), (("fc1", 1200),))))
    ### sizes
    <BLANKLINE>
    | layer | size (bytes) |
    |:--|--:|
    | fc1 | 1,200 |
    """
    lines = [[column.head for column in table.columns], *table.cells()]
    head, *body = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]
    rule = "|" + "|".join(":--" if column.unit == "text" else "--:" for column in table.columns) + "|"
    notes = ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join([f"### {table.title}", "", head, rule, *body, *notes])


def _escaped(cell: str) -> str:
    """A cell that can break neither the row nor the page it is rendered in."""
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def text(table: Table) -> str:
    """The table as aligned plain text, for a terminal; units stand below the names."""
    names, units = [column.name for column in table.columns], [UNITS[column.unit].label for column in table.columns]
    lines = [names, *([units] if any(units) else []), *table.cells()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    lines.insert(len(lines) - len(table.rows), ["-" * width for width in widths])

    def aligned(line: list[str]) -> str:
        cells = zip(table.columns, line, widths, strict=True)
        return "  ".join(cell.ljust(w) if c.unit == "text" else cell.rjust(w) for c, cell, w in cells).rstrip()

    return "\n".join([table.title, "", *map(aligned, lines), *(f"* {note}" for note in table.notes)])


def as_dict(table: Table) -> dict[str, Any]:
    """The table as JSON values; a kept or removed share is its fraction, the column's unit says which."""
    return {
        "title": table.title,
        "columns": [{"name": column.name, "unit": column.unit} for column in table.columns],
        "rows": [[cell.fraction if isinstance(cell, Kept | Removed) else cell for cell in row] for row in table.rows],
        "notes": list(table.notes),
    }


def from_dict(data: Mapping[str, Any]) -> Table:
    """The inverse of `as_dict`; raises FormatError where the data is no table."""
    shares = {"kept": Kept, "removed": Removed}
    try:
        columns = tuple(Column(**column) for column in data["columns"])
        rows = tuple(
            tuple(shares[c.unit](cell) if c.unit in shares and cell is not None else cell for c, cell in zip(columns, row, strict=True))
            for row in data["rows"]
        )
        return Table(str(data["title"]), columns, rows, tuple(data["notes"]))
    except (AttarError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"this is no table: {error}") from None


@dataclass(frozen=True)
class StageRow:
    """One stage of a compression: what the network is after it. `metric` is measured on the validation split."""

    stage: str
    parameters: int
    nonzeros: int
    bytes: int
    metric: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class LayerRow:
    """One layer's weight in the layout of Han, Mao, Dally, "Deep Compression", 2016, Tables 2 to 5.

    Bits are means over the kept weights, before and after entropy coding; None where that does not apply. The rates
    are shares of the dense weight's bytes: `rate_packed` pruned and quantized (P+Q), `rate_coded` coded too (P+Q+H).
    """

    layer: str
    weights: int
    kept: Kept
    weight_bits: float | None = None
    weight_bits_coded: float | None = None
    index_bits: float | None = None
    index_bits_coded: float | None = None
    rate_packed: Kept | None = None
    rate_coded: Kept | None = None


def total(rows: Sequence[LayerRow], layer: str = "total") -> LayerRow:
    """The sum of layers: shares weighted by weights, bits by kept weights; None where any layer lacks the figure.

    Raises AttarError where there is no row.
    """
    if not rows:
        raise AttarError("a total needs at least one layer, got none")
    weights = sum(row.weights for row in rows)

    def share(name: str) -> Kept | None:
        values = [getattr(row, name) for row in rows]
        return None if None in values else Kept(sum(v.fraction * row.weights for v, row in zip(values, rows, strict=True)) / weights)

    def bits(name: str) -> float | None:
        values, kept = [getattr(row, name) for row in rows], [row.kept.fraction * row.weights for row in rows]
        return None if None in values or not sum(kept) else sum(v * k for v, k in zip(values, kept, strict=True)) / sum(kept)

    figures = {name: bits(name) for name in ("weight_bits", "weight_bits_coded", "index_bits", "index_bits_coded")}
    kept = share("kept")
    assert kept is not None
    return LayerRow(layer, weights, kept, **figures, rate_packed=share("rate_packed"), rate_coded=share("rate_coded"))


def stage_table(rows: Sequence[StageRow], *, metric: str = "top-1", unit: str = "percent") -> Table:
    """Size and accuracy after each stage; the first row is what the factors are taken from. `unit` is the metric's."""
    columns = (
        Column("stage"),
        Column("parameters kept", "count"),
        Column("parameters", "kept"),
        Column("size", "bytes"),
        Column("factor r", "factor"),
        Column("size", "removed"),
        Column(f"{metric}, validation", unit),
        Column("time", "seconds"),
    )
    cells = []
    for row in rows:
        size, parameters = Kept.of(rows[0].bytes, row.bytes), Kept.of(rows[0].parameters, row.nonzeros)
        cells.append((row.stage, row.nonzeros, parameters, row.bytes, size.factor, size.removed, row.metric, row.seconds))
    notes = ("factor r = bytes before / bytes after; size removed = 1 - 1/r, in bytes",)
    return Table("Stage by stage", columns, tuple(cells), notes)


def layer_table(rows: Sequence[LayerRow], *, paper: Sequence[LayerRow] = (), source: str = "paper") -> Table:
    """Each layer and the total, with the figures of a paper below, where it has that layer (`total` for the total).

    Raises AttarError for a figure of the paper whose layer is not in the table.
    """
    columns = (
        Column("layer"),
        Column("weights", "count"),
        Column("weights", "kept"),
        Column("weight, packed", "bits"),
        Column("weight, coded", "bits"),
        Column("index, packed", "bits"),
        Column("index, coded", "bits"),
        Column("rate P+Q", "kept"),
        Column("rate P+Q+H", "kept"),
    )
    ours = [*rows, total(rows)]
    theirs = {row.layer: replace(row, layer=f"· {source}") for row in paper}
    strangers = set(theirs) - {row.layer for row in ours}
    if strangers:
        raise AttarError(f"the paper's figures name layers that the table has not: {', '.join(sorted(strangers))}")
    cells = []
    for row in ours:
        # a LayerRow's fields are the columns, in order
        cells += [tuple(vars(r).values()) for r in (row, theirs.get(row.layer)) if r is not None]
    notes = (
        "rates are shares of the bytes of the dense 32-bit weight: P+Q pruned and quantized, P+Q+H entropy-coded too",
        "bits are means over the kept weights; in the total each layer counts by its kept weights",
    )
    return Table("Layer by layer", columns, tuple(cells), notes)
