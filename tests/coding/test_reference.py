import ast
from pathlib import Path

import pytest

import attar.coding.reference as reference
from attar.coding import CODECS, encode
from attar.coding.dictionary import DICTIONARY

FORMAT = Path(reference.__file__).with_name("FORMAT.md").read_text()


def test_it_shares_no_code_with_the_decoder_that_it_checks():
    tree = ast.parse(Path(reference.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"json", "math", "struct", "zlib", "dataclasses", "typing", "attar.coding.dictionary"}


def test_the_dictionary_is_the_one_that_the_format_prints():
    block = FORMAT.split("```dictionary\n")[1].split("```")[0]
    lines = block.splitlines()
    assert b"".join(line.encode() for line in lines[:-1]) + bytes.fromhex(lines[-1]) == DICTIONARY


def test_the_examples_of_the_format_decode():
    assert reference._unpack(bytes.fromhex("39"), 3, 4) == [1, 2, 3]
    assert reference._huffman(bytes.fromhex("6e2c"), 4, 3) == [0, 0, 1, 2]
    for data, alphabet, symbols in _entropy_examples():
        assert reference._entropy(bytes.fromhex(data), len(symbols), alphabet) == symbols
    assert reference._escapes([0, 3, 2], 2) == [0, 6]


def _entropy_examples() -> list[tuple[str, int, list[int]]]:
    """The lines `[0, 1] with A = 2 is c0 ff ee` of the section on the entropy coder."""
    section = FORMAT.split("### Codec `entropy`")[1].split("\n### ")[0]
    found = []
    for line in section.splitlines():
        if " with A = " in line:
            symbols, rest = line.strip().split(" with A = ")
            alphabet, data = rest.split(" is ")
            found.append((data, int(alphabet), ast.literal_eval(symbols)))
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("codec", ["packed", "huffman", "huffman-escape", "entropy"])
def test_it_decodes_lenet5(lenet5_network, codec):
    found = reference.decode(encode(lenet5_network, codec=codec))
    assert {name for name, _, _ in found.tensors} == set(lenet5_network.tensors)
    for name, _, body in found.tensors:
        assert reference.dense(body) == lenet5_network.tensors[name].flatten().tolist(), name


def test_it_notices_what_does_not_fit(bundle, lenet5_network):
    data = bytearray(encode(lenet5_network, codec=next(iter(CODECS))))
    data[len(data) // 2] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        reference.decode(bytes(data))
