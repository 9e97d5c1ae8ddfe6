"""Steps against hand counts, and total products against PyTorch's own execution."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from attar.evaluation.einsum import Step, contractions

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5}


class Products(TorchDispatchMode):
    """Multiplications of the products and element-wise products that run."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::bmm":
            self.total += result.numel() * args[0].shape[-1]
        elif func._schema.name in ("aten::mul", "aten::mul_"):
            self.total += result.numel()
        return result


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("i,j->ij", [(2,), (3,)], [Step(6, False, 0, (0, 1))]),
        ("ij,ij->", [(2, 3), (2, 3)], [Step(6, True, 0, (0, 1))]),
        ("ij->i", [(2, 3)], [Step(0, False, 4, ())]),
        ("ii->", [(3, 3)], [Step(0, False, 2, ())]),
        ("...ij,...jk->...ik", [(7, 2, 3), (7, 3, 4)], [Step(7 * 24, True, 0, (0, 1))]),
        ("ij,jk", [(2, 3), (3, 4)], [Step(24, True, 0, (0, 1))]),
        ("ij,k->k", [(2, 3), (4,)], [Step(4, False, 5, (0, 1))]),  # i and j are summed before the product
        ("bi,ij,bj->b", [(2, 3), (3, 4), (2, 4)], [Step(24, True, 0, (0, 1)), Step(8, True, 0, (2,))]),
    ],
)
def test_steps_by_hand(equation, shapes, expected):
    assert contractions(equation, shapes) == expected


def test_a_path_changes_the_order():
    shapes = [(2, 3), (3, 4), (4, 5)]
    left = contractions("ij,jk,kl->il", shapes)
    right = contractions("ij,jk,kl->il", shapes, [1, 2, 0, 1])
    assert [s.products for s in left] == [24, 40]
    assert [s.products for s in right] == [60, 30]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_products_are_those_that_pytorch_runs(data):
    term = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True).map("".join)
    terms = data.draw(st.lists(term, min_size=2, max_size=4))
    used = sorted(set("".join(terms)))
    output = "".join(data.draw(st.lists(st.sampled_from(used), unique=True)))
    shapes = [tuple(SIZES[i] for i in term) for term in terms]
    equation = f"{','.join(terms)}->{output}"
    path = None
    if data.draw(st.booleans()):
        path = []
        for left in range(len(terms), 1, -1):
            path += data.draw(st.lists(st.integers(0, left - 1), min_size=2, max_size=2, unique=True))
    with Products() as ran:
        result = torch.ops.aten.einsum(equation, [torch.ones(s) for s in shapes], path=path)
    assert sum(step.products for step in contractions(equation, shapes, path)) == ran.total
    assert result.numel() == math.prod(SIZES[i] for i in output)
