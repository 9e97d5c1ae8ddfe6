"""Forms to bytes and back. Level 2; imports level 0 only. FORMAT.md is the law.

`save(network, path)` writes one file and tells what its bytes are spent on; `load(path)` gives the network again, without
its class and without executing anything. `validate(data)` proves that a file is whole before anything is allocated.
"""

from attar.coding.container import validate
from attar.coding.files import decode, encode, load, save, size_rows, write_atomically
from attar.coding.sizes import SizeRow
from attar.coding.tensors import CODECS

__all__ = ["CODECS", "SizeRow", "decode", "encode", "load", "save", "size_rows", "validate", "write_atomically"]
