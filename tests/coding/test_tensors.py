import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attar.coding import CODECS, container, decode, encode, header, reference
from attar.coding.structure import DTYPES
from attar.errors import AttarError, FormatError
from attar.forms import Codebook, Dense, Form, Sparse

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in type, shape and every bit (NaN included)."""

    def raw(t: torch.Tensor) -> bytes:
        t = torch.view_as_real(t) if t.is_complex() else t
        return t.detach().contiguous().view(torch.uint8).numpy().tobytes() if t.ndim else raw(t.reshape(1))

    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def same_form(a: Form, b: Form) -> bool:
    if type(a) is not type(b):
        return False
    pairs = zip(a.parts().items(), b.parts().items(), strict=True)
    return all(n == m and (same_form(p, q) if isinstance(p, Form) else same(p.values, q.values)) for (n, p), (m, q) in pairs)


@st.composite
def forms(draw) -> Form:
    """Forms of every nesting, with masks from empty to full and with long runs of zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(0,), (1,), (7,), (3, 5), (40, 33), (8, 3, 3, 3), (300, 70), (2, 0, 3)]))
    dtype = draw(st.sampled_from(FLOATS))

    def values(count: int) -> torch.Tensor:
        drawn = torch.from_numpy(rng.standard_normal(count)).to(dtype)
        return drawn * (drawn > -0.5) if draw(st.booleans()) else drawn  # some zeros, of either sign

    def codebook(size: tuple[int, ...]) -> Codebook:
        k = draw(st.sampled_from([1, 2, 3, 31, 256, 300]))
        indices = (rng.random(size) ** 2 * k).astype(np.int64)
        return Codebook(torch.from_numpy(indices), values(k))

    if draw(st.booleans()):
        return codebook(shape) if draw(st.booleans()) else Dense(values(int(np.prod(shape))).view(shape))
    density = draw(st.sampled_from([0.0, 0.003, 0.08, 0.5, 1.0]))
    mask = torch.from_numpy(rng.random(shape) < density)
    kept = int(mask.sum())
    return Sparse(mask, codebook((kept,)) if draw(st.booleans()) else Dense(values(kept)))


@pytest.mark.parametrize("codec", CODECS)
@given(made=st.lists(forms(), min_size=1, max_size=4))
@settings(max_examples=12, deadline=None)
def test_every_form_survives_every_codec_and_the_reference_agrees(bundle, codec, made):
    network = bundle({f"layer{i}.weight": form for i, form in enumerate(made)})
    data = encode(network, codec=codec)
    again = decode(data)
    for name, form in network.forms.items():
        assert same_form(form, again.forms[name]), name
        assert same(network.tensors[name], again.tensors[name])
    for name, kind, body in reference.decode(data).tensors:
        assert kind == header.FORM
        dense = torch.tensor(reference.dense(body), dtype=network.tensors[name].dtype).view(network.tensors[name].shape)
        assert same(dense, network.tensors[name])
    assert encode(again, codec=codec) == data


@pytest.mark.parametrize("codec", CODECS)
def test_tensors_of_every_type_and_shape_survive(bundle, codec):
    torch.manual_seed(0)
    made: dict[str, torch.Tensor] = {}
    for dtype in DTYPES:
        for shape in ((), (0,), (3,), (2, 3), (0, 4), (70, 80)):
            drawn = torch.randn(shape) * 50
            made[f"{str(dtype)[6:]}_{'x'.join(map(str, shape))}"] = (
                drawn.to(dtype) if not dtype.is_complex else torch.complex(drawn, -drawn).to(dtype)
            )
    made["special"] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    made["trained"] = nn.Parameter(torch.randn(5000))
    made["frozen"] = nn.Parameter(torch.randn(3), requires_grad=False)
    made["turned"] = torch.randn(30, 40).T
    network = bundle(made)
    again = decode(encode(network, codec=codec))
    assert list(again.tensors) == list(made)
    for name, tensor in made.items():
        assert same(tensor, again.tensors[name]), name
        assert isinstance(again.tensors[name], nn.Parameter) == isinstance(tensor, nn.Parameter)
        assert again.tensors[name].requires_grad == tensor.requires_grad
    for name, _, body in reference.decode(encode(network, codec=codec)).tensors:
        assert same(torch.tensor(reference.dense(body), dtype=made[name].dtype).view(made[name].shape), made[name])


def test_what_is_loaded_can_be_written_to(bundle):
    again = decode(encode(bundle({"big": torch.zeros(5000), "small": torch.zeros(3)}), codec="raw"))
    for tensor in again.tensors.values():
        assert tensor.add_(1).sum() == tensor.numel()


def test_auto_is_never_larger_than_any_single_codec_beyond_the_records(lenet5_network):
    sizes = {codec: len(encode(lenet5_network, codec=codec)) for codec in CODECS}
    assert sizes["auto"] <= min(sizes.values()) + 16
    assert sizes["entropy"] < sizes["huffman-escape"] < sizes["huffman"] < sizes["packed"] < sizes["raw"]


def test_small_numbers_share_one_stream_and_large_raw_ones_are_aligned(lenet5_network):
    found = container.validate(encode(lenet5_network, codec="raw"))
    numbers = [stream for stream in found.streams if stream.alphabet == 0]
    assert len(numbers) == 1  # all biases and centroids
    assert all(stream.offset % 64 == 0 for stream in found.streams if stream.size > 4096)


def test_han_s_layout_has_one_code_for_each_entry_and_zero_for_fillers(bundle):
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[[0, 300, 999]] = True
    network = bundle({"w": Sparse(mask, Codebook(torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 3.0])))})
    found = container.validate(encode(network, codec="packed"))
    gaps, codes, _ = header.arrays(found.tensors[0].body)
    assert gaps.layout == header.FILLERS
    entries = 3 + 299 // 2**gaps.bits + 698 // 2**gaps.bits
    assert gaps.count == codes.count == entries
    assert found.streams[codes.streams[0]].alphabet == 4


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_a_kept_weight_that_is_zero_is_not_taken_for_a_filler(bundle, value):
    mask = torch.tensor([True, False, True] * 50)
    values = torch.ones(100)
    values[3] = value
    network = bundle({"w": Sparse(mask, values)})
    found = container.validate(encode(network, codec="packed"))
    layout = next(header.arrays(found.tensors[0].body)).layout
    assert layout == (header.ESCAPE if str(value) == "0.0" else header.FILLERS)
    again = decode(encode(network, codec="packed"))
    assert same_form(again.forms["w"], network.forms["w"])


def test_columns_are_taken_where_they_are_shorter(bundle):
    torch.manual_seed(0)
    mask = (torch.rand(300) < 0.1).repeat(400, 1)  # whole columns: runs, once transposed
    network = bundle({"w": Sparse(mask, Codebook(torch.arange(int(mask.sum())) % 7, torch.arange(1.0, 8.0)))})
    data = encode(network)
    layout = next(header.arrays(container.validate(data).tensors[0].body)).layout
    assert layout in (header.ESCAPE_COLUMNS, header.FILLERS_COLUMNS)
    assert same_form(decode(data).forms["w"], network.forms["w"])
    assert len(data) < len(encode(network, codec="entropy"))


def test_few_symbols_share_a_model(bundle):
    torch.manual_seed(0)
    made = {f"w{i}": Codebook((torch.rand(200) ** 3 * 30).long(), torch.arange(30.0)) for i in range(20)}
    found = container.validate(encode(bundle(made), codec="entropy"))
    assert sum(stream.alphabet > 0 for stream in found.streams) < 5


def test_numbers_whose_bytes_repeat_are_stored_by_planes(bundle):
    torch.manual_seed(0)
    network = bundle({"w": torch.randn(200, 100), "positions": torch.arange(4096), "mask": torch.ones(64, 1024, dtype=torch.bool).tril()})
    assert len(encode(network)) < 0.9 * len(encode(network, codec="raw"))
    again = decode(encode(network))
    assert all(same(again.tensors[name], tensor) for name, tensor in network.tensors.items())


def test_a_network_of_which_almost_nothing_is_left_can_still_be_loaded(bundle):
    mask = torch.zeros(3000, 3000, dtype=torch.bool)
    mask[7, 9] = True
    network = bundle({"w": Sparse(mask, torch.tensor([2.0]))})
    data = encode(network)
    assert same_form(decode(data).forms["w"], network.forms["w"])


def test_an_unknown_codec_lists_those_there_are(bundle):
    with pytest.raises(AttarError, match="huffman-escape"):
        encode(bundle({"w": torch.zeros(3)}), codec="zip")


def test_a_tensor_of_a_type_that_a_file_cannot_hold_is_named(bundle):
    with pytest.raises(FormatError, match=r"odd: .*float8"):
        encode(bundle({"odd": torch.zeros(3).to(torch.float8_e4m3fn)}))
