"""Runs of rows times their own matrices: beside a loop, for ends that a hostile input gives, its gradient, and from a traced network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import noise

from attar.graph import op_name, trace
from attar.graph.grouped import grouped_mm

X, W = noise(7, 4), noise(3, 4, 2)


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-2, 9), min_size=3, max_size=3))
def test_every_row_is_in_the_first_run_that_ends_behind_it_or_is_zero(ends):
    expected = torch.zeros(7, 2)
    for row in range(7):
        group = next((i for i, end in enumerate(ends) if row < end), None)
        if group is not None:
            expected[row] = X[row] @ W[group]
    torch.testing.assert_close(grouped_mm(X, W, torch.tensor(ends)), expected)


def test_the_gradient_is_that_of_the_products():
    x, w = X.double().requires_grad_(), W.double().requires_grad_()
    for ends in ([2, 5, 7], [3, 1, 6], [0, 0, 0]):
        assert torch.autograd.gradcheck(lambda x, w, ends=ends: grouped_mm(x, w, torch.tensor(ends)), (x, w))


def test_the_op_of_transformers_becomes_ours_with_the_same_bits():
    pytest.importorskip("transformers.integrations.moe")

    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(W.clone())

        def forward(self, x, ends):
            return torch.ops.transformers.grouped_mm_fallback(x, self.weight, offs=ends)

    model, example = Experts().eval(), (X, torch.tensor([2, 5, 7]))
    network = trace(model, example)
    assert [op_name(node) for node in network.graph.nodes if node.op == "call_function"] == ["attar.grouped_mm.default"]
    assert torch.equal(network.program()(*example), model(*example))
