import pytest

from attar.coding import encode, header, validate
from attar.coding.container import open_envelope
from attar.forms import KINDS


def test_parts_are_named_as_the_constructor_names_them():
    assert header.part_names(1) == ("mask", "values")
    assert header.part_names(2) == ("indices", "centroids")


def test_the_parts_of_every_form_come_in_the_order_of_its_constructor(lenet5_network):
    form = lenet5_network.forms["fc1.weight"]
    for made in (form, form.values, form.values.centroids):
        assert tuple(made.parts()) == header.part_names(made.number)
    assert set(KINDS) == {0, 1, 2}  # a new form must be added to the test above


@pytest.mark.parametrize("codec", ["packed", "huffman-escape", "auto"])
def test_what_is_read_is_written_again_to_the_same_bytes(lenet5_network, codec):
    data = encode(lenet5_network, codec=codec)
    head, start, end = open_envelope(data)
    found = validate(data)
    text = head[head.index(b"[") : head.rindex(b"]") + 1].decode()
    assert header.write(text, list(found.tensors), list(found.streams)) == head
    assert found.end == end
    assert min(stream.offset for stream in found.streams) == start


def test_the_allowance_lets_honest_sparse_networks_pass():
    assert header.allowance(100) == 1 << 26
    vgg16 = 138_357_544  # 99.9 % sparse with codes of 4 bits and gaps of 10: 240 kB
    assert header.allowance(240_000) > vgg16 * (4 + 9)
