"""Views and copies against PyTorch, on values that all differ, so that an element out of place is seen."""

import pytest
import torch
import torch.nn.functional as F
from compiling import agree, agree_all, lowered
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.compiler.kernels.map import Map


def ramp(*shape, dtype=torch.float32):
    return torch.arange(torch.Size(shape).numel(), dtype=dtype).reshape(shape)


VIEWS = {
    "permute": lambda x: x.permute(2, 0, 3, 1),
    "transpose": lambda x: x.transpose(-1, 1),
    "slice": lambda x: x[:, 1:, ::2, -3:],
    "slice_far": lambda x: x[:, :100, -100:],
    "select": lambda x: x[-1, :, 0],
    "squeeze": lambda x: x[:1, :, :1].squeeze(),
    "squeeze_one": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(-2),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "expand_more": lambda x: x[0, 0].expand(2, -1, -1),
    "view": lambda x: x.view(6, -1),
    "view_split": lambda x: x.view(2, 3, 2, 2, 5),
    "flatten": lambda x: x.flatten(1, 2),
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "reshape_copy": lambda x: x.transpose(1, 2).reshape(8, -1),
    "split": lambda x: x.split(2, -1),
    "split_sizes": lambda x: x.split((1, 4), 3),
    "chunk": lambda x: x.chunk(2, 1),
    "unbind": lambda x: x.unbind(1),
    "diagonal": lambda x: x.diagonal(1, -2, -1),
    "unfold": lambda x: x.unfold(3, 3, 2),
    "narrow": lambda x: x.narrow(2, 1, 2),
    "movedim": lambda x: x.movedim(0, -1),
    "mT": lambda x: x.mT,
    "swap": lambda x: x.swapaxes(0, 2),
    "flip": lambda x: x.flip(1, -1),
    "flip_view": lambda x: x.flip(3).view(6, 20)[:, 1:].flip(0),
    "contiguous": lambda x: x.mT.contiguous().view(-1),
}
COPIES = {
    "cat": lambda x: torch.cat([x, x[:, :1], x[:, :0]], 1),
    "cat_last": lambda x: torch.cat([x.mT, x.mT], -1),
    "cat_types": lambda x: torch.cat([x.long(), x]),
    "cat_nothing": lambda x: torch.cat([x.new_zeros(0), x.flatten()]),
    "stack": lambda x: torch.stack([x, x + 1], -1),
    "stack_first": lambda x: torch.stack([x[0], x[1]]),
    "pad": lambda x: F.pad(x, (1, 2, 3, 0, 0, 1)),
    "pad_value": lambda x: F.pad(x, (1, 0), value=-1.5),
    "pad_negative": lambda x: F.pad(x, (-1, 2, 1, -2)),
    "reflect": lambda x: F.pad(x, (2, 3, 1, 3), mode="reflect"),
    "replicate": lambda x: F.pad(x, (2, 0, 1, 3), mode="replicate"),
    "circular": lambda x: F.pad(x, (2, 1, 0, 3), mode="circular"),
    "reflect_1d": lambda x: F.pad(x[0], (2, 3), mode="reflect"),
    "roll": lambda x: x.roll((1, -2), (2, 3)),
    "roll_row": lambda x: x.roll(7),
    "repeat": lambda x: x.repeat(2, 1, 1, 3, 2),
    "tile": lambda x: x.tile(2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(3, 2),
    "repeat_interleave_all": lambda x: x.repeat_interleave(2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.reshape(1, 12, 2, 5), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[..., :4], 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x.reshape(2, 6, 2, 5), 3),
    "im2col": lambda x: F.unfold(x, (2, 3), dilation=(1, 2), padding=(1, 2), stride=(2, 1)),
    "im2col_flat": lambda x: F.unfold(x, 2),
    "triu": lambda x: (x.triu(), x.triu(1), x.tril(-1)),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :, 1:3] * 2, 2, 1, 3),
    "select_scatter": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 2),
    "copy": lambda x: (torch.ops.aten.copy(x, x[:1, :1].long() * 2), torch.ops.aten.copy(x.long(), x + 0.5)),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x[:1, :1]),
    "meshgrid": lambda x: torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="ij"),
}


@pytest.mark.parametrize("parts", [1, 3])
def test_views_and_copies(parts):
    agree_all(VIEWS | COPIES, ramp(2, 3, 4, 5), parts=parts, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64])
def test_types_are_kept(dtype):
    agree_all({name: COPIES[name] for name in ("cat", "stack", "pad", "roll", "repeat", "repeat_interleave")}, ramp(2, 3, 4, 5).to(dtype))


def test_no_elements():
    x = torch.empty(2, 0, 4)
    cases = {
        "permute": lambda x: x.permute(2, 0, 1),
        "cat": lambda x: torch.cat([x, x], 1),
        "reshape": lambda x: x.reshape(4, 0),
        "flip": lambda x: x.flip(1),
    }
    agree_all(cases | {"pad": lambda x: F.pad(x, (0, 0, 1, 2)), "roll": lambda x: x.roll(1, 1), "repeat": lambda x: x.repeat(2, 3, 1)}, x)


@pytest.mark.parametrize("name", sorted(set(VIEWS) - {"reshape_copy", "flip_view", "contiguous"}))
def test_views_cost_nothing(name):
    """The only steps are the copies of the results to where the caller wants them."""
    program = lowered(VIEWS[name], ramp(2, 3, 4, 5))
    assert len(program.ops) <= len(program.outputs)
    assert all(isinstance(op, Map) and op.inputs[0].buffer.argument == 0 for op in program.ops)


@given(st.data())
@settings(max_examples=30)
def test_any_chain_of_views_is_pytorchs(data):
    """Permuted, sliced, flipped, expanded, reshaped, in any order, by any number of threads."""
    shape = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4), "shape")
    moves = data.draw(
        st.lists(
            st.tuples(st.sampled_from(["permute", "slice", "flip", "expand", "flatten", "split"]), st.randoms(use_true_random=False)),
            max_size=5,
        )
    )
    kept = [(kind, random.getstate()) for kind, random in moves]

    def chain(x):
        for (kind, random), (_, state) in zip(moves, kept, strict=True):
            random.setstate(state)
            d = random.randrange(x.ndim) if x.ndim else 0
            if kind == "permute":
                x = x.permute(random.sample(range(x.ndim), x.ndim))
            elif kind == "slice" and x.ndim:
                start = random.randrange(x.shape[d])
                x = x[(slice(None),) * d + (slice(start, None, random.randint(1, 3)),)]
            elif kind == "flip" and x.ndim:
                x = x.flip(d)
            elif kind == "expand":
                x = x.unsqueeze(d).expand(*x.shape[:d], 2, *x.shape[d:])
            elif kind == "flatten" and x.ndim > 1:
                x = x.reshape(-1)
            elif kind == "split" and x.ndim:
                x = torch.cat(list(x.split(max(1, x.shape[d] // 2), d))[::-1], d)
        return x * 1

    agree(chain, ramp(*shape), parts=data.draw(st.integers(1, 3)), rtol=0, atol=0)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=15)
def test_transposing_copies_of_any_size(rows, columns, batch, parts):
    """They go by squares, of which the last are cut."""
    agree(lambda x: x.mT.contiguous().view(batch, -1), ramp(batch, rows, columns), parts=parts, rtol=0, atol=0)
