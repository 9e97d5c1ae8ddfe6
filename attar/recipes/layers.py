"""From what a file spends on each tensor to the survey's per-layer table."""

from collections.abc import Sequence

from attar.coding import SizeRow
from attar.evaluation import Kept, LayerRow

__all__ = ["layer_rows"]


def layer_rows(packed: Sequence[SizeRow], coded: Sequence[SizeRow], formed: Sequence[str]) -> tuple[LayerRow, ...]:
    """One row for each tensor in `formed`: the same network written without entropy coding, and as its file has it."""
    before = {row.name: row for row in packed}
    rows = []
    for row in coded:
        if row.name not in formed:
            continue
        plain = before[row.name]
        dense = 4 * row.weights
        index = bool(plain.index_symbols)
        rows.append(
            LayerRow(
                row.name.removesuffix(".weight"),
                row.weights,
                Kept(row.kept / row.weights),
                weight_bits=plain.packed_value_bits,
                weight_bits_coded=row.value_bits,
                index_bits=plain.packed_index_bits if index else None,
                index_bits_coded=row.index_bits if index else None,
                rate_packed=Kept(plain.bytes / dense),
                rate_coded=Kept(row.bytes / dense),
            )
        )
    return tuple(rows)
