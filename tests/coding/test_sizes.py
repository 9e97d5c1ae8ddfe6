import pytest
import torch

from attar.coding import CODECS, encode, load, save, validate
from attar.coding.sizes import rows
from attar.forms import Codebook, Sparse


@pytest.mark.parametrize("codec", CODECS)
def test_rows_sum_to_the_file(tmp_path, lenet5_network, codec):
    made = save(lenet5_network, tmp_path / "m", codec=codec)
    assert sum(row.bytes for row in made) == (tmp_path / "m").stat().st_size
    assert [row.name for row in made] == [*load(tmp_path / "m").tensors, ""]
    assert min(row.value_bytes for row in made) >= 0
    assert 0 < made[-1].other_bytes < 500


@pytest.mark.parametrize("codec", CODECS)
def test_rows_count_weights_and_what_is_kept(lenet5_network, codec):
    data = encode(lenet5_network, codec=codec)
    for row in rows(validate(data), len(data))[:-1]:
        tensor, form = lenet5_network.tensors[row.name], lenet5_network.forms.get(row.name)
        assert row.shape == tuple(tensor.shape)
        assert row.weights == tensor.numel()
        assert row.kept == (form.nonzeros() if form is not None else tensor.numel())
        if form is not None:
            assert row.codebook_bytes == 4 * form.values.centroids.shape[0]


def test_the_exact_size_of_han_s_layout(bundle):
    """METHODS Q6: bits = (kept + fillers) (value bits + gap bits) + 32 for each centroid."""
    torch.manual_seed(0)
    mask = torch.rand(200, 300) < 0.06
    kept = int(mask.sum())
    network = bundle({"w": Sparse(mask, Codebook(torch.randint(31, (kept,)), torch.randn(31)))})
    data = encode(network, codec="packed")
    row, rest = rows(validate(data), len(data))
    positions = torch.nonzero(mask.flatten()).flatten().tolist()
    gaps = [b - a for a, b in zip([-1, *positions], positions, strict=False)]
    fillers = sum((gap - 1) >> row.index_width for gap in gaps)
    assert row.value_width == 5
    assert row.fillers == fillers > 0
    assert row.value_symbols == row.index_symbols == kept + fillers
    assert row.value_bytes == -(-(kept + fillers) * 5 // 8)
    assert row.index_bytes == -(-(kept + fillers) * row.index_width // 8)
    assert row.codebook_bytes == 4 * 31
    assert row.packed_value_bits == (kept + fillers) * 5 / kept
    assert row.index_bits == 8 * row.index_bytes / kept
    assert len(data) == row.bytes + rest.bytes


def test_huffman_stores_the_same_layout_in_fewer_bits(lenet5_network):
    tables = [rows(validate(data), len(data)) for data in (encode(lenet5_network, codec=c) for c in ("packed", "huffman"))]
    for packed, coded in zip(*tables, strict=True):
        assert (packed.index_symbols, packed.fillers) == (coded.index_symbols, coded.fillers)
    packed, coded = next(pair for pair in zip(*tables, strict=True) if pair[0].name == "fc1.weight")
    assert coded.value_bits < coded.packed_value_bits == packed.packed_value_bits
    assert coded.index_bits < coded.packed_index_bits


def test_a_shared_stream_is_divided_by_what_each_tensor_put_in(bundle):
    data = encode(bundle({"a": torch.zeros(10), "b": torch.zeros(30)}), codec="raw")
    a, b, _ = rows(validate(data), len(data))
    assert (a.value_bytes, b.value_bytes) == (40, 120)
    assert (a.value_bits, a.index_bits) == (32, 0)
