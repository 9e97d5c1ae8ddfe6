"""Relative indices: the positions of the nonzeros of a flat mask as small symbols, by two conventions.

A position is told by its gap, the distance from the position before it; the first is measured from -1, so a gap is at least 1.
A gap that is too large for `bits` bits is cut into pieces:

- *fillers* (Han, Mao, Dally, "Deep Compression", 2016; the authors' released decoder): code c advances by c + 1 and always is an
  entry. While the gap exceeds 2^bits, an entry of code 2^bits - 1 is put in whose value is zero: a filler.
- *escape*: symbol s < 2^bits - 1 advances by s + 1 and is an entry; symbol 2^bits - 1 advances by 2^bits - 1 and is none, so no
  value is stored for it. With one bit this is the mask itself.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attar.errors import FormatError

__all__ = ["best_bits", "escape_decode", "escape_encode", "fillers_decode", "fillers_encode"]


def fillers_encode(mask: ArrayLike, bits: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Gap codes of all entries, and which of them are fillers.

    >>> codes, is_filler = fillers_encode([1, 0, 0, 0, 0, 0, 1], bits=2)
    >>> codes.tolist(), is_filler.tolist()
    ([0, 3, 1], [False, True, False])
    """
    return _cut(_gaps(mask), 1 << _checked_bits(bits), (1 << bits) - 1)


def fillers_decode(codes: ArrayLike, n: int) -> NDArray[np.int64]:
    """Positions of all entries, fillers among them, in a mask of n elements; FormatError where one is outside.

    >>> fillers_decode([0, 3, 1], n=7).tolist()
    [0, 4, 6]
    """
    return _inside(np.cumsum(np.asarray(codes, np.int64) + 1) - 1, n)


def escape_encode(mask: ArrayLike, bits: int) -> NDArray[np.int32]:
    """Gap symbols, of which 2^bits - 1 is the escape.

    >>> escape_encode([1, 0, 0, 0, 0, 0, 1], bits=2).tolist()
    [0, 3, 2]
    """
    escape = (1 << _checked_bits(bits)) - 1
    return _cut(_gaps(mask), escape, escape)[0]


def escape_decode(symbols: ArrayLike, bits: int, n: int, *, count: int | None = None) -> NDArray[np.int64]:
    """Positions of the entries in a mask of n elements; `count` is how many there must be, where the caller knows.

    FormatError where a position is outside the mask, an escape comes last, or the count differs.

    >>> escape_decode([0, 3, 2], bits=2, n=7).tolist()
    [0, 6]
    """
    escape = (1 << _checked_bits(bits)) - 1
    array = np.asarray(symbols, np.int64)
    is_entry = array != escape
    if array.size and not is_entry[-1]:
        raise FormatError("the last gap symbol must not be an escape: the file is corrupt")
    positions = (np.cumsum(array + is_entry) - 1)[is_entry]
    if count is not None and positions.size != count:
        raise FormatError(f"gaps must give {count} positions, got {positions.size}: the file is corrupt")
    return _inside(positions, n)


def best_bits(mask: ArrayLike, convention: str) -> int:
    """Bits from 1 to 16 for the `convention`, "fillers" or "escape": of those within 1 % of the least size, the fewest symbols.

    The size in bits, for N symbols of empirical entropy H, D of them distinct, is estimated as N H + D log2(N) / 2, the second term
    for learning the distribution; and with fillers the entropy of where they are, which is what they add to the values' stream.
    Scattered entries have much the same size at any bits; each symbol takes time to decode.

    >>> best_bits([1, 0, 0, 0] * 100, "escape")
    3
    """
    if convention not in ("fillers", "escape"):
        raise ValueError(f"convention must be 'fillers' or 'escape', got {convention!r}")
    gaps = _gaps(mask)
    estimates = [(*_estimate(gaps, bits, convention), bits) for bits in range(1, 17)]
    least = min(size for size, _, _ in estimates)
    return min((symbols, bits) for size, symbols, bits in estimates if size <= 1.01 * least)[1]


def _estimate(gaps: NDArray[np.int64], bits: int, convention: str) -> tuple[float, int]:
    """The estimated size in bits and the number of symbols."""
    top = (1 << bits) - 1
    step = top + 1 if convention == "fillers" else top
    pieces = int(((gaps - 1) // step).sum())
    counts = np.bincount((gaps - 1) % step, minlength=top + 1)
    counts[top] += pieces
    counts = counts[counts > 0]
    symbols = gaps.size + pieces
    size = _entropy_bits(counts) + counts.size * math.log2(max(symbols, 1)) / 2
    if convention == "fillers":
        size += _entropy_bits(np.array([count for count in (gaps.size, pieces) if count]))
    return size, symbols


def _entropy_bits(counts: NDArray[np.int64]) -> float:
    return float((counts * np.log2(counts.sum() / counts)).sum())


def _gaps(mask: ArrayLike) -> NDArray[np.int64]:
    return np.diff(np.flatnonzero(np.asarray(mask)), prepend=-1)


def _cut(gaps: NDArray[np.int64], step: int, piece: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """While a gap exceeds `step`, take `step` from it and emit `piece`; then emit what is left, less one."""
    pieces = (gaps - 1) // step
    last = np.cumsum(pieces + 1) - 1
    symbols = np.full(gaps.size + int(pieces.sum()), piece, np.int32)
    symbols[last] = (gaps - 1) % step
    is_piece = np.ones(symbols.size, bool)
    is_piece[last] = False
    return symbols, is_piece


def _inside(positions: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    if positions.size and int(positions[-1]) >= n:
        raise FormatError(f"gaps must stay inside the {n} elements, the last position is {positions[-1]}: the file is corrupt")
    return positions


def _checked_bits(bits: int) -> int:
    if not 1 <= bits <= 16:
        raise ValueError(f"bits must be in 1 to 16, got {bits}")
    return bits
