"""Recurrent layers: one hidden size in every gate, layer and direction."""

import pytest
from tiny import TOKENS as LONG
from tiny import Net, check, noise, weight
from torch import nn
from torch.nn import Linear

from attar.graph import couple, trace

TOKENS = LONG[:, :3]  # export takes recurrent layers step by step


def places(layers=1, directions=1, *, biases=True):
    """Every tensor of a recurrent layer `r` and the next layer `b`; layers after the first read the hidden units."""
    made, read = [], []
    for layer in range(layers):
        for direction in ("", "_reverse")[:directions]:
            names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if biases else [])]
            made += [f"r.{name}_l{layer}{direction}.0" for name in names]
            read += [f"r.weight_ih_l{layer}{direction}.1"] * (layer > 0) + [f"r.weight_hh_l{layer}{direction}.1"]
    return {"r.weight_ih_l0": f"4 channel: {' '.join(made)} > {' '.join(read)} b.weight.1"}


def net(recurrent, width=4):
    return Net(lambda net, x: net.b(net.r(x)[0]), r=recurrent, b=Linear(width, 2)), TOKENS


def decode(net, x):
    return net.b(net.d(x, net.r(x)[1])[0])


def steps(net, x):
    """A loop over the tokens, from the cell's own first state; both states of an LSTM are read."""
    state = None
    for i in range(x.shape[1]):
        state = net.r(x[:, i], state)
    return net.b(state[0] + state[1] if isinstance(state, tuple) else state)


def of_cell(*parts):
    made = " ".join(f"r.{part}.0" for part in ("weight_ih", "weight_hh", *parts))
    return {"r.weight_ih": f"4 channel: {made} > r.weight_hh.1 b.weight.1"}


BIASES = ("bias_ih", "bias_hh")
BOTH = "r.weight_ih_l0.0 r.weight_hh_l0.0 r.bias_ih_l0.0 r.bias_hh_l0.0"
CASES = {
    "lstm cell": (Net(steps, r=nn.LSTMCell(3, 4), b=Linear(4, 2)), TOKENS, of_cell(*BIASES)),
    "gru cell": (Net(steps, r=nn.GRUCell(3, 4), b=Linear(4, 2)), TOKENS, of_cell(*BIASES)),
    "gru cell without biases": (Net(steps, r=nn.GRUCell(3, 4, bias=False), b=Linear(4, 2)), TOKENS, of_cell()),
    "rnn cell": (Net(steps, r=nn.RNNCell(3, 4, nonlinearity="relu"), b=Linear(4, 2)), TOKENS, of_cell(*BIASES)),
    "inputs of a cell": (
        Net(lambda net, x: net.r(net.a(x[:, 0])) * 1.0, a=Linear(3, 5), r=nn.GRUCell(5, 4)),
        TOKENS,
        {"a": "5 channel: a.weight.0 a.bias.0 > r.weight_ih.1"},
    ),
    "first state of a cell given": (
        Net(lambda net, x, h: net.b(net.r(x[:, 0], h)), r=nn.GRUCell(3, 4), b=Linear(4, 2)),
        (TOKENS, noise(2, 4)),
        {},
    ),
    "lstm": (*net(nn.LSTM(3, 4, batch_first=True)), places()),
    "lstm in both directions": (*net(nn.LSTM(3, 4, batch_first=True, bidirectional=True), 8), places(directions=2)),
    "two layers": (*net(nn.LSTM(3, 4, 2)), places(2)),
    "two layers in both directions": (
        *net(nn.GRU(3, 4, 2, bidirectional=True, bias=False, batch_first=True), 8),
        places(2, 2, biases=False),
    ),
    "gru": (*net(nn.GRU(3, 4, batch_first=True)), places()),
    "rnn": (*net(nn.RNN(3, 4, nonlinearity="relu", batch_first=True)), places()),
    "projection": (
        *net(nn.LSTM(3, 4, proj_size=3, batch_first=True), 3),
        {"r.weight_hr_l0": "3 channel: r.weight_hr_l0.0 > r.weight_hh_l0.1 b.weight.1"},
    ),
    "inputs": (
        Net(lambda net, x: net.r(net.a(x))[0] * 1.0, a=Linear(3, 5), r=nn.GRU(5, 4, batch_first=True)),
        TOKENS,
        {"a": "5 channel: a.weight.0 a.bias.0 > r.weight_ih_l0.1"},
    ),
    "last state": (Net(lambda net, x: net.b(net.r(x)[1][0][-1]), r=nn.LSTM(3, 4, batch_first=True), b=Linear(4, 2)), TOKENS, places()),
    "first state given": (
        Net(lambda net, x, h: net.b(net.r(x, (h, h))[0]), r=nn.LSTM(3, 4, batch_first=True), b=Linear(4, 2)),
        (TOKENS, noise(1, 2, 4)),
        {},
    ),
    "first state learnt": (
        Net(lambda net, x: net.b(net.r(x, net.h.expand(1, 2, 4))[0]), r=nn.GRU(3, 4, batch_first=True), h=weight(1, 1, 4), b=Linear(4, 2)),
        TOKENS,
        {"h": f"4 channel: h.2 {BOTH} > r.weight_hh_l0.1 b.weight.1"},
    ),
    "encoder and decoder": (
        Net(decode, r=nn.GRU(3, 4, batch_first=True), d=nn.GRU(3, 4, batch_first=True), b=Linear(4, 2)),
        TOKENS,
        {
            "r.weight_ih_l0": f"4 channel: {BOTH} {BOTH.replace('r.', 'd.')} > r.weight_hh_l0.1 d.weight_hh_l0.1 b.weight.1",
        },
    ),
}


pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # that PyTorch computes them its slower way


@pytest.mark.parametrize(("model", "inputs", "expected"), CASES.values(), ids=CASES)
def test_groups(model, inputs, expected):
    check(model, inputs, expected)


def test_the_layer_remembers_its_new_sizes():
    smaller = check(*CASES["lstm in both directions"]).model.r
    assert (smaller.hidden_size, smaller.input_size, smaller.proj_size) == (3, 3, 0)
    assert all(a is b for a, b in zip(smaller._flat_weights, smaller.parameters(), strict=True))
    smaller = check(*CASES["projection"]).model.r
    assert (smaller.hidden_size, smaller.input_size, smaller.proj_size) == (4, 3, 2)


def test_reasons_of_what_stays():
    coupling = couple(trace(CASES["projection"][0], (TOKENS,)))
    assert coupling.fixed("r.weight_hh_l0", 0) == ["an LSTM with a projection keeps its cells"]
    coupling = couple(trace(CASES["first state given"][0], CASES["first state given"][1]))
    assert not coupling.groups
