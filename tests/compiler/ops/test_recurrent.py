"""Recurrent layers of every kind, depth and direction against PyTorch's."""

import pytest
import torch
from compiling import agree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attar.compiler.kernels.recurrent import Recurrent

KINDS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *args, **options: nn.RNN(*args, nonlinearity="relu", **options),
}


@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 3),
)
@settings(max_examples=25)
def test_every_kind_of_every_size(kind, steps, inputs, size, layers, bidirectional, batch_first, bias, dtype, parts):
    torch.manual_seed(0)
    layer = KINDS[kind](inputs, size, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias).to(dtype).eval()
    program = agree(layer, torch.randn(2, steps, inputs, dtype=dtype), parts=parts)
    assert sum(isinstance(op, Recurrent) for op in program.ops) == layers * (2 if bidirectional else 1)


def test_states_that_are_given():
    torch.manual_seed(0)
    lstm, gru = nn.LSTM(3, 4, bidirectional=True), nn.GRU(3, 4)
    agree(lambda x, h, c: lstm(x, (h, c)), torch.randn(5, 2, 3), torch.randn(2, 2, 4), torch.randn(2, 2, 4))
    agree(gru, torch.randn(5, 2, 3), torch.randn(1, 2, 4))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_states_are_unrolled():
    torch.manual_seed(0)
    agree(nn.LSTM(3, 4, proj_size=2), torch.randn(3, 2, 3))


def test_weights_that_are_computed_are_unrolled():
    torch.manual_seed(0)
    gru = nn.GRU(3, 4)

    def scaled(x):
        return torch.func.functional_call(gru, {name: p * x.mean() for name, p in gru.named_parameters()}, (x,))

    program = agree(scaled, torch.randn(2, 2, 3))
    assert not any(isinstance(op, Recurrent) for op in program.ops)
