"""Places computed while the program runs, against PyTorch; and places out of range, of which none may be read."""

import pytest
import torch
import torch.nn.functional as F
from compiling import agree_all, execute, lowered
from hypothesis import given, settings
from hypothesis import strategies as st

CASES = {
    "embedding": lambda x, i: F.embedding(i.abs(), x[0]),
    "row": lambda x, i: x[i],
    "last": lambda x, i: x[..., i],
    "middle": lambda x, i: x[:, i],
    "two": lambda x, i: x[i, i.flip(0)],
    "apart": lambda x, i: x[i, :, i],
    "broadcast": lambda x, i: x[i[:, :1], i[0]],
    "after_permute": lambda x, i: x.permute(2, 0, 1)[i],
    "with_slice": lambda x, i: x[1:, i[0], ::2],
    "mask_known": lambda x, i: x[:, torch.tensor([True, False, True, True])],
    "index_select": lambda x, i: x.index_select(1, i[0].abs()),
    "index_select_negative_dim": lambda x, i: x.index_select(-1, i[1].abs()),
    "take_along": lambda x, i: torch.take_along_dim(x, i.abs()),
    "one_hot": lambda x, i: F.one_hot(i.abs(), 5),
    "index_add": lambda x, i: x.index_add(1, i[0].abs(), x[:, :3], alpha=2),
    "index_copy": lambda x, i: x.index_copy(1, torch.tensor([2, 0]), x[:, 1:3]),
    "index_fill": lambda x, i: x.index_fill(2, i[0].abs(), -1.0),
    "index_put": lambda x, i: x.index_put((i[:, 0],), x[1]),
    "index_put_add": lambda x, i: x.index_put((i, i), torch.ones(()), accumulate=True),
    "index_put_mask": lambda x, i: x.index_put((x > 20,), torch.tensor(0.5)),
    "boolean_source": lambda x, i: (x > 9)[i],
    "row_sum": lambda x, i: x[i] + 1,
}
# with as many samples as indices
ALONG = {
    "gather": lambda x, i: x.gather(1, i[..., None].expand(2, 3, 5)[:, :2]),
    "gather_last": lambda x, i: x.gather(-1, i[:, None]),
    "take_along_dim": lambda x, i: torch.take_along_dim(x, i[:, :1, None], 1),
    "scatter": lambda x, i: x.scatter(1, i[..., None], x * 2),
    "scatter_value": lambda x, i: x.scatter(-1, i[:, None], 7),
    "scatter_add": lambda x, i: x.scatter_add(1, i[..., None], x),
    "scatter_reduce": lambda x, i: x.scatter_reduce(1, i[..., None], x - 9, "amax"),
}


@pytest.mark.parametrize("parts", [1, 3])
def test_places(parts):
    x = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    i = torch.tensor([[0, 2, -1], [-3, 1, 1]])
    agree_all(CASES, x, i, parts=parts)
    agree_all(ALONG, x[:2], i.abs(), parts=parts)


def test_integer_places_of_other_types():
    x = torch.arange(12.0).reshape(4, 3)
    agree_all({"int32": lambda x, i: x[i], "embedding": lambda x, i: F.embedding(i, x)}, x, torch.tensor([3, 0, 1], dtype=torch.int32))


def test_bags_of_rows():
    """Empty bags, a row left out, weights, the last start as an end."""
    weight, places = torch.arange(20.0).reshape(5, 4) * torch.tensor([1, -1, 1, -1]), torch.tensor([4, 0, 2, 2, 1, 3])
    starts, factors = torch.tensor([0, 2, 2, 5]), torch.linspace(-1, 1, 6)
    bags = {mode: lambda w, p, s, f, mode=mode: F.embedding_bag(p, w, s, mode=mode) for mode in ("sum", "mean", "max")}
    bags |= {
        f"{mode}_padded": lambda w, p, s, f, mode=mode: F.embedding_bag(p, w, s, mode=mode, padding_idx=2)
        for mode in ("sum", "mean", "max")
    }
    bags["weighted"] = lambda w, p, s, f: F.embedding_bag(p, w, s, mode="sum", per_sample_weights=f)
    bags["ends"] = lambda w, p, s, f: F.embedding_bag(p[:5], w, s, mode="mean", include_last_offset=True)
    bags["matrix"] = lambda w, p, s, f: F.embedding_bag(p.view(2, 3), w, mode="mean")
    agree_all(bags, weight, places, starts, factors, parts=2)


def test_places_out_of_range_read_and_write_nothing_else():
    """PyTorch refuses them; a compiled program takes the nearest that there is."""
    x = torch.arange(5.0)
    program = lowered(lambda x, i: (x[i], x.scatter(0, i, -1.0)), x, torch.zeros(3, dtype=torch.long))
    taken, put = execute(program, [x, torch.tensor([99, -99, 2])])
    assert taken.tolist() == [4, 0, 2]
    assert put.tolist() == [-1, 1, -1, 3, -1]


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=2),
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(0, 9),
)
@settings(max_examples=25)
def test_any_dimension_of_any_shape(shape, places, dim, parts, seed):
    generator = torch.Generator().manual_seed(seed)
    d = dim % len(shape)
    x = torch.randn(shape, generator=generator)
    i = torch.randint(-shape[d], shape[d], places, generator=generator)
    agree_all(
        {"index": lambda x, i: x[(slice(None),) * d + (i,)], "select": lambda x, i: x.index_select(d, i.flatten() % shape[d])},
        x,
        i,
        parts=parts,
    )
