"""Bit packing: symbols of a known alphabet at the fixed width that holds them, least significant bit first."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attar.errors import FormatError

__all__ = ["LARGEST_ALPHABET", "as_symbols", "pack", "unpack", "width"]

LARGEST_ALPHABET = 1 << 16
BLOCK = 1 << 16  # symbols packed at a time, so that the work stays in cache; a multiple of 8


def width(alphabet: int) -> int:
    """Bits that hold any symbol of the alphabet: ceil(log2(alphabet)).

    >>> [width(a) for a in (1, 2, 3, 256, 65536)]
    [0, 1, 2, 8, 16]
    """
    if not 1 <= alphabet <= LARGEST_ALPHABET:
        raise ValueError(f"an alphabet must have 1 to {LARGEST_ALPHABET:,} symbols, got {alphabet}")
    return (alphabet - 1).bit_length()


def as_symbols(symbols: ArrayLike, alphabet: int) -> NDArray[np.int64]:
    """The symbols as a 1-D int64 array, each checked to be in [0, alphabet): what every encoder does first."""
    width(alphabet)
    array = np.asarray(symbols)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise ValueError(f"symbols must be a 1-D integer array, got shape {array.shape} of {array.dtype}")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < alphabet:
        raise ValueError(f"symbols must be in [0, {alphabet}), got {array.min()} to {array.max()}")
    return array.astype(np.int64)


def pack(symbols: ArrayLike, alphabet: int) -> bytes:
    """Symbols one after the other, `width(alphabet)` bits each; unused bits of the last byte are zero.

    >>> pack([1, 2, 3], 4).hex()
    '39'
    """
    bits, array = width(alphabet), as_symbols(symbols, alphabet)
    packed = b"".join(_pack_block(array[i : i + BLOCK], bits) for i in range(0, array.size, BLOCK))
    return packed[: -(-array.size * bits // 8)]


def unpack(data: bytes, count: int, alphabet: int) -> NDArray[np.int32]:
    """The inverse of `pack`; FormatError where the length is wrong, a padding bit is set or a symbol is outside the alphabet.

    >>> unpack(bytes([0x39]), 3, 4).tolist()
    [1, 2, 3]
    """
    bits = width(alphabet)
    size = -(-count * bits // 8)
    if len(data) != size:
        raise FormatError(f"{count} symbols of {bits} bits must take {size} bytes, got {len(data)}: the file is corrupt")
    if bits == 0:
        return np.zeros(count, np.int32)
    padded = np.zeros(-(-count // 8) * bits, np.uint8)  # whole octets
    padded[:size] = np.frombuffer(data, np.uint8)
    symbols = np.empty(-(-count // 8) * 8, np.int32)
    for i in range(0, symbols.size, BLOCK):
        symbols[i : i + BLOCK] = _unpack_block(padded[i // 8 * bits : (i + BLOCK) // 8 * bits], bits)
    if symbols[count:].any():
        raise FormatError("padding bits must be zero: the file is corrupt")
    if count and int(symbols.max()) >= alphabet:
        raise FormatError(f"symbols must be below {alphabet}, got {symbols.max()}: the file is corrupt")
    return symbols[:count]


# Eight symbols fill `bits` whole bytes. They are handled as an octet of two halves, four symbols each, which fit 64 bits.


def _pack_block(symbols: NDArray[np.int64], bits: int) -> bytes:
    octets = np.zeros((-(-symbols.size // 8), 2, 4), np.uint64)
    octets.reshape(-1)[: symbols.size] = symbols
    low, high = np.bitwise_or.reduce(octets << _shifts(bits), axis=2).T
    if bits < 16:  # a shift by all 64 bits is undefined
        low, high = low | high << np.uint64(4 * bits), high >> np.uint64(64 - 4 * bits) if bits else high
    return np.stack([low, high], axis=1).astype("<u8").view(np.uint8)[:, :bits].tobytes()


def _unpack_block(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
    octets = np.zeros((packed.size // bits, 16), np.uint8)
    octets[:, :bits] = packed.reshape(-1, bits)
    low, high = octets.view("<u8").T
    if bits < 16:
        high = low >> np.uint64(4 * bits) | high << np.uint64(64 - 4 * bits)
    halves = np.stack([low, high], axis=1)
    return (halves[:, :, None] >> _shifts(bits) & np.uint64((1 << bits) - 1)).reshape(-1)


def _shifts(bits: int) -> NDArray[np.uint64]:
    return np.arange(4, dtype=np.uint64) * np.uint64(bits)
