"""Each formula against a hand count, and every name of the tables against PyTorch's own ops."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attar.evaluation.counters import count
from attar.evaluation.formulas import FORMULAS, MOVES, VIEWS, Call, Cost, Operand
from attar.forms import Sparse
from attar.graph import trace


class Function(nn.Module):
    """A network of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def total(model, *shapes):
    if not isinstance(model, nn.Module):
        model = Function(model)
    counted = count(trace(model, tuple(torch.randn(*s) for s in shapes)))
    assert not counted.unknown
    return counted.total


def macs(n):
    return Cost(n, n, n)


def test_tables_are_disjoint_and_name_real_ops():
    assert not set(FORMULAS) & VIEWS
    assert not set(FORMULAS) & MOVES
    assert not VIEWS & MOVES
    missing = [name for name in {*FORMULAS, *VIEWS, *MOVES} if name != "getitem" and not _exists(name)]
    assert missing == []


def _exists(name):
    if name in ("attar.grouped_mm", "transformers.grouped_mm_fallback"):  # ours, and the one that stands for
        return True
    return hasattr(torch.ops.aten, name) or hasattr(torch.ops.aten, name + "_")


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv1d(3, 4, 5, padding=2), (2, 3, 10), 2 * 4 * 3 * 5 * 10),
        (nn.Conv1d(3, 4, 5, padding="same"), (2, 3, 10), 2 * 4 * 3 * 5 * 10),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2), (1, 4, 9, 9), 8 * 2 * 9 * 4 * 4),
        (nn.Conv2d(6, 6, 3, groups=6, bias=False), (2, 6, 5, 5), 2 * 6 * 9 * 9),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 3 * 2 * 8 * 27),
        (nn.ConvTranspose1d(2, 3, 4, stride=2), (1, 2, 5), 5 * 2 * 3 * 4),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5), 2 * 25 * 4 * 3 * 9),
        (nn.Linear(7, 5), (2, 3, 7), 6 * 35),
        (nn.Conv2d(3, 4, 3), (3, 6, 6), 4 * 3 * 9 * 16),  # without a batch
    ],
)
def test_layers_cost_a_mac_for_each_weight_and_position(layer, shape, expected):
    assert total(layer, shape) == macs(expected)


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (torch.matmul, [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
        (torch.matmul, [(4,), (4, 5)], 20),
        (torch.bmm, [(2, 3, 4), (2, 4, 5)], 120),
        (torch.mm, [(3, 4), (4, 5)], 60),
        (torch.mv, [(3, 4), (4,)], 12),
        (torch.dot, [(4,), (4,)], 4),
        (torch.addmm, [(5,), (3, 4), (4, 5)], 60),
        (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 120),
        (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 120),
        (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(2, 3, 4), (2, 5, 4)], 120),
    ],
)
def test_products_cost_a_mac_for_each_term(function, shapes, expected):
    assert total(function, *shapes) == macs(expected)


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (F.relu, (2, 5), Cost(0, 10)),
        (F.relu6, (2, 5), Cost(0, 20)),
        (torch.sigmoid, (2, 5), Cost(20, 10)),
        (F.gelu, (2, 5), Cost(40, 10)),
        (lambda x: F.gelu(x, approximate="tanh"), (2, 5), Cost(70, 20)),
        (lambda x: x + x, (2, 5), Cost(0, 10)),
        (lambda x: torch.sub(x, x, alpha=2), (2, 5), Cost(10, 10)),
        (lambda x: x * 3 / x, (2, 5), Cost(20, 0)),
        (lambda x: x.clamp(min=0), (2, 5), Cost(0, 10)),
        (lambda x: x.clamp(0, 1), (2, 5), Cost(0, 20)),
        (lambda x: F.softmax(x, 1), (2, 5), Cost(20, 30)),
        (lambda x: F.log_softmax(x, 1), (2, 5), Cost(10 + 2, 40)),
        (lambda x: F.log_softmax(x, 0), (2, 5), Cost(10 + 5, 40)),
        (lambda x: x.sum(1), (2, 5), Cost(0, 8)),
        (lambda x: x.mean(1), (2, 5), Cost(2, 8)),
        (lambda x: x.max(1).values, (2, 5), Cost(0, 8)),
        (lambda x: torch.max(x, x), (2, 5), Cost(0, 10)),
        (lambda x: x.var(1), (2, 5), Cost(10 + 4, 10 + 16)),
        (lambda x: x.std(1), (2, 5), Cost(10 + 6, 10 + 16)),
        (lambda x: x.prod(1), (2, 5), Cost(8, 0)),
        (lambda x: x.logsumexp(1), (2, 5), Cost(10 + 2, 16 + 12)),
        (lambda x: torch.linalg.vector_norm(x, dim=1), (2, 5), Cost(12, 8)),
        (lambda x: F.glu(x, 1), (2, 6), Cost(18, 6)),
        (lambda x: F.max_pool2d(x, 2), (1, 3, 4, 4), Cost(0, 12 * 3)),
        (lambda x: F.max_pool2d(x, 3, 1, 1), (1, 1, 4, 4), Cost(0, 16 * 8)),
        (lambda x: F.avg_pool2d(x, (2, 4)), (1, 3, 4, 4), Cost(6, 6 * 7)),
        (lambda x: F.max_pool1d(x, 2), (1, 3, 4), Cost(0, 6)),
        (lambda x: F.adaptive_avg_pool2d(x, 1), (1, 3, 4, 4), Cost(3, 3 * 15)),
        (lambda x: F.adaptive_avg_pool1d(x, 2), (1, 1, 5), Cost(2, (3 + 3) - 2)),  # windows 0..2 and 2..4 overlap
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (1, 1, 3, 3), Cost(36 * 4, 36 * 3)),
        (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), (1, 1, 3, 3), Cost()),
        (lambda x: torch.cat([x.view(5, 2).t(), x], 0)[1:].clone(), (2, 5), Cost()),
    ],
)
def test_element_wise_reductions_and_windows(function, shape, expected):
    assert total(function, shape) == expected


@pytest.mark.parametrize(
    ("norm", "shape", "expected"),
    [
        (nn.BatchNorm2d(3), (2, 3, 4, 4), Cost(96, 96)),
        (nn.LayerNorm(6), (2, 5, 6), Cost(60 * 3 + 10 * 3, 60 * 4 + 10)),
        (nn.LayerNorm(6, elementwise_affine=False), (2, 5, 6), Cost(60 * 2 + 10 * 3, 60 * 3 + 10)),
        (nn.GroupNorm(2, 4), (3, 4, 5), Cost(60 * 3 + 6 * 3, 60 * 4 + 6)),
        (nn.InstanceNorm1d(4), (3, 4, 5), Cost(60 * 2 + 12 * 3, 60 * 3 + 12)),
        (nn.RMSNorm(6), (2, 5, 6), Cost(60 * 3 + 10 * 2, 60 + 10)),
    ],
)
def test_norms(norm, shape, expected):
    assert total(norm, shape) == expected


def test_attention_is_two_products_a_scale_and_a_softmax():
    heads, queries, keys, width, out = 2, 3, 5, 4, 6
    shapes = [(1, heads, queries, width), (1, heads, keys, width), (1, heads, keys, out)]
    scores = heads * queries * keys
    expected = macs(scores * (width + out)) + Cost(scores + 2 * scores, 3 * scores)
    assert total(F.scaled_dot_product_attention, *shapes) == expected

    def masked(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(queries, keys))

    assert total(masked, *shapes).additions == expected.additions + scores


def test_grouped_query_attention_counts_the_queries_heads():
    def grouped(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    assert total(grouped, (1, 4, 3, 8), (1, 2, 3, 8), (1, 2, 3, 8)).macs == 2 * 4 * 9 * 8


@pytest.mark.parametrize("batch_first", [True, False])
def test_lstm_by_hand(batch_first):
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
    steps = 5 * 2
    first, second = 4 * 4 * (3 + 4), 4 * 4 * (8 + 4)
    expected = 2 * (first + second) * steps
    units = 4 * 4 * steps  # four units in each of two layers and two directions
    assert total(lambda_lstm(lstm), (5, 2, 3)) == macs(expected) + Cost(11 * units, 8 * units)


def lambda_lstm(layer):
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)[0]

    return First()


def test_lstm_with_projection():
    assert total(lambda_lstm(nn.LSTM(3, 4, proj_size=2)), (5, 1, 3)).macs == 5 * (16 * 3 + 16 * 2 + 2 * 4)


@pytest.mark.parametrize(("layer", "gates", "unit"), [(nn.GRU, 3, (7, 7)), (nn.RNN, 1, (1, 1))])
def test_other_recurrent_layers(layer, gates, unit):
    steps = 5
    expected = macs(gates * 4 * (3 + 4) * steps) + Cost(unit[0] * 4 * steps, unit[1] * 4 * steps)
    assert total(lambda_lstm(layer(3, 4, batch_first=True)), (1, 5, 3)) == expected


def test_cell_is_one_step_of_the_layer():
    cell = total(nn.LSTMCell(3, 4), (2, 3))
    layer = total(lambda_lstm(nn.LSTM(3, 4)), (1, 2, 3))
    assert cell == layer


def test_weight_norm_is_applied_at_every_call():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    assert total(model, (1, 3)) == macs(12) + Cost(2 * 12 + 2 * 4, 12 - 4)


def test_embedding_bag_adds_its_rows():
    model = nn.EmbeddingBag(10, 4, mode="sum")
    counted = count(trace(model, (torch.zeros(2, 3, dtype=torch.long),)))
    assert counted.total == Cost(0, 2 * 2 * 4)


def test_grouped_products_are_one_for_each_row_and_a_sparse_weight_costs_its_share():
    rows, weight, ends = Operand((6, 4)), Operand((3, 4, 5)), Operand((3,))
    for name, keys in (("attar.grouped_mm", ("input", "weight")), ("_grouped_mm", ("self", "mat2"))):
        call = Call({keys[0]: rows, keys[1]: weight, "offs": ends}, (Operand((6, 5)),))
        assert FORMULAS[name](call) == macs(6 * 4 * 5)
    mask = torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[:, 0] = True
    sparse = Operand((3, 4, 5), "w", Sparse(mask, torch.ones(15)))
    assert FORMULAS["attar.grouped_mm"](Call({"input": rows, "weight": sparse}, (Operand((6, 5)),))).macs == 6 * 5


def test_a_cosine_is_three_inner_products():
    assert total(lambda x, y: F.cosine_similarity(x, y, dim=1), (2, 8), (2, 8)) == Cost(3 * 16 + 4 * 2, 3 * 14 + 2 * 2)
    assert total(lambda x, y: F.cosine_similarity(x, y, dim=0), (5, 1), (5, 3)) == Cost(3 * 15 + 4 * 3, 3 * 12 + 2 * 3)


def test_order_takes_comparisons_only():
    assert total(lambda x: torch.sort(x, dim=0)[0], (8, 3)) == Cost(0, 24 * 3)
    assert total(torch.argsort, (2, 9)) == Cost(0, 18 * 4)
    assert total(torch.argsort, (2, 1)) == Cost()
    assert total(lambda x: torch.topk(x, 1)[0], (2, 9)) == Cost(0, 18)
    assert total(lambda x: torch.topk(x, 4)[0], (2, 9)) == Cost(0, 18 * 3)


def test_a_histogram_looks_at_each_number_once():
    assert total(lambda x: torch.histc(x, 4, 0, 3), (5,)) == Cost(5, 20)


def test_a_fourier_transform_has_n_log_n_butterflies_and_half_for_real_numbers():
    butterflies = 8 * 3
    assert total(lambda x: torch.fft.fft(x).real, (2, 8)) == Cost(2 * 2 * butterflies, 3 * 2 * butterflies)
    assert total(lambda x: torch.fft.fftn(x, dim=(0, 1)).real, (4, 8)) == Cost(2 * 32 * 5, 3 * 32 * 5)
    assert total(lambda x: torch.fft.fftn(x).real, (4, 8)) == Cost(2 * 32 * 5, 3 * 32 * 5)
    assert total(lambda x: torch.fft.rfft(x).real, (2, 8)) == Cost(2 * butterflies, 3 * butterflies)
    assert total(lambda x: torch.fft.irfft(torch.complex(x, x)), (2, 5)) == Cost(2 * butterflies, 3 * butterflies)
