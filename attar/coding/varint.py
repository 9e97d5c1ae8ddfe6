"""Whole numbers in as few bytes as they need: little-endian base 128 (LEB128), each byte's top bit says that another follows."""

from attar.errors import FormatError

__all__ = ["decode", "encode"]

LARGEST = (1 << 63) - 1  # what a signed 64-bit integer holds: nine bytes


def encode(value: int) -> bytes:
    """The shortest varint of a number in [0, 2^63).

    >>> encode(300).hex()
    'ac02'
    """
    if not 0 <= value <= LARGEST:
        raise ValueError(f"a varint holds numbers in [0, 2^63), got {value}")
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes, offset: int = 0) -> tuple[int, int]:
    """The number that starts at `offset`, and the offset after it; FormatError where it is cut off, too long or not the shortest.

    >>> decode(bytes([0xAC, 0x02]))
    (300, 2)
    """
    value = 0
    for index in range(9):
        if offset + index >= len(data):
            raise FormatError(f"a varint must end within the data, the one at byte {offset} does not: the file is truncated")
        byte = data[offset + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            if byte == 0 and index > 0:
                raise FormatError(f"a varint must be the shortest of its value, the one at byte {offset} ends in a zero byte")
            return value, offset + index + 1
    raise FormatError(f"a varint must be below 2^63, the one at byte {offset} is longer than nine bytes")
