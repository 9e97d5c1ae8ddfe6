"""Lowering as a whole: what is computed beforehand, what is left to PyTorch, what is refused; rules are tested beside themselves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compiling import agree, agree_all, execute, lowered
from torch import nn

from attar.compiler.ir import Lanes, check
from attar.compiler.kernels.segment import Torch
from attar.compiler.lower import leaves, lower
from attar.compiler.ops import RULES, TAKES_LANES
from attar.errors import AttarError
from attar.graph import trace


def test_every_rule_is_of_an_op_that_pytorch_has():
    for name in RULES:
        namespace, packet, overload = name.split(".")
        assert overload in getattr(getattr(torch.ops, namespace), packet).overloads(), name


def test_rules_that_take_lanes_are_rules():
    assert RULES.keys() >= TAKES_LANES


def test_what_needs_no_input_is_computed_now():
    weight = torch.randn(3, 4)
    program = lowered(lambda x: x + (weight.t() @ weight).softmax(-1).diagonal() + torch.arange(4), torch.zeros(2, 4))
    assert len(program.ops) == 2
    agree(lambda x: x + weight.exp().sum(0), torch.ones(2, 4))


def test_what_nobody_reads_is_left_out():
    program = lowered(lambda x: (x.exp().sin(), x + 1)[1], torch.zeros(3))
    assert len(program.ops) == 1


def test_a_constant_is_held_once_and_what_repeats_is_not_held():
    weight = torch.randn(5, 1)
    program = lowered(lambda x: x * weight.expand(5, 1000) + (x - 1) * weight.expand(5, 1000), torch.ones(5, 1000))
    held = {id(value.buffer): value.buffer.size for op in program.ops for value in op.inputs if value.buffer.data is not None}
    assert list(held.values()) == [5]


def test_results_may_be_inputs_constants_views_and_twice_the_same():
    x = torch.arange(6.0).reshape(2, 3)
    agree(lambda x: (x, torch.ones(2), x.t(), (y := x + 1), y, y[0], torch.zeros_like(x)), x)


def test_an_op_without_a_rule_runs_in_pytorch_and_is_named():
    x = torch.rand(3, 3) + torch.eye(3)
    program = agree(lambda x: (torch.erfinv(x / 10) + 1).sin(), x, torch_ops=["aten.erfinv.default"])
    assert [type(op).__name__ for op in program.ops].count("Torch") == 1
    agree(lambda x: torch.linalg.slogdet(x * 2)[1] + 1, x, torch_ops=["aten._linalg_slogdet.default"])


def test_an_op_with_several_results_runs_once_for_each_that_is_read():
    x = torch.rand(4, 3)
    program = agree(lambda x: torch.frexp(x)[0] * 2, x, torch_ops=["aten.frexp.Tensor"])
    assert sum(isinstance(op, Torch) for op in program.ops) == 1
    program = agree(lambda x: torch.frexp(x), x, torch_ops=["aten.frexp.Tensor"])
    assert sum(isinstance(op, Torch) for op in program.ops) == 2


def test_types_that_c_has_not_stay_within_pytorch():
    x = torch.randn(2, 8)
    program = agree(lambda x: torch.fft.ifft(torch.fft.fft(x + 1) * 2).real + 1, x, torch_ops=["aten.real.default"])
    assert sum(isinstance(op, Torch) for op in program.ops) == 1
    agree(lambda x: (x * 2).to(torch.bfloat16).float() + 1, x, torch_ops=["aten.to.dtype"])


def test_constants_of_half_precision():
    half = torch.randn(3).to(torch.bfloat16)
    agree(lambda x: x + half, torch.randn(2, 3))


def test_an_op_that_is_random_is_never_a_constant():
    program = lowered(lambda x: x + torch.rand(3), torch.zeros(3))
    assert program.notes == ["aten.rand.default"]
    assert execute(program, [torch.zeros(3)])[0].tolist() != execute(program, [torch.zeros(3)])[0].tolist()


def test_sizes_that_depend_on_data_are_refused():
    with pytest.raises(AttarError, match="size depends on the values"):
        lowered(lambda x: x.nonzero(), torch.ones(3))


@pytest.mark.parametrize(("given", "reason"), [(torch.complex64, "input x is complex64"), (torch.float16, "input x is float16")])
def test_inputs_of_types_that_c_has_not_are_refused(given, reason):
    class Absolute(nn.Module):
        def forward(self, x):
            return x.abs()

    network = trace(Absolute(), (torch.ones(2, dtype=given),))
    with pytest.raises(AttarError, match=reason):
        lower(network, [torch.ones(2, dtype=given)])


def test_a_result_of_a_type_that_c_has_not_is_refused():
    with pytest.raises(AttarError, match="complex64"):
        lowered(lambda x: torch.fft.fft(x), torch.ones(4))


def test_ops_are_taken_apart_by_pytorch():
    cases = {
        "normalize": lambda x: F.normalize(x, dim=1),
        "cosine": lambda x: F.cosine_similarity(x, x + 1),
        "glu": lambda x: F.glu(x),
        "addr": lambda x: torch.addr(x[:, :3], x[:, 0], x[0, :3]),
        "std": lambda x: x.std(1),
        "logaddexp": lambda x: torch.logaddexp(x, x + 1),
        "hinge": lambda x: F.soft_margin_loss(x, x.sign()),
    }
    agree_all(cases, torch.randn(3, 4))


def test_arguments_are_found_by_name_and_by_position():
    x = [torch.full((2, 2), float(i)) for i in range(5)]

    class Sums(nn.Module):
        def forward(self, first, pair, *, scale):
            return first + pair[0]["a"] * scale + pair[1]

    example = {"first": x[0], "pair": ({"a": x[1]}, x[2]), "scale": 3.0}
    network = trace(Sums(), example)
    values = leaves(network, example)
    assert [v is w if isinstance(w, torch.Tensor) else v == w for v, w in zip(values, (x[0], x[1], x[2], 3.0), strict=True)] == [True] * 4
    program = lower(network, values)
    check(program)
    assert execute(program, [x[0], x[1], x[2]])[0].tolist() == (x[0] + x[1] * 3 + x[2]).tolist()


def test_arguments_that_one_name_gathers():
    class Sum(nn.Module):
        def forward(self, first, *rest):
            return first + rest[0] * rest[1]

    x = tuple(torch.full((2, 2), float(i + 1)) for i in range(3))
    values = leaves(trace(Sum(), x), x)
    assert all(v is w for v, w in zip(values, x, strict=True))


def test_maps_leave_lanes_before_an_op_that_wants_arrays():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    program = lowered(lambda x: conv(x).relu().flip(1).softmax(1), torch.randn(1, 2, 5, 5))
    assert any(isinstance(op.output, Lanes) for op in program.ops)
    assert not isinstance(program.outputs[0], Lanes)
    assert not any(isinstance(value, Lanes) for value in program.ops[-1].inputs)


def test_the_program_is_the_same_every_time():
    def texts():
        torch.manual_seed(0)
        layer = nn.Linear(3, 4)
        program = lowered(lambda x: layer(x).relu() + 1, torch.ones(2, 3))
        return [(str(op), [np.asarray(v.data).tolist() for v in op.inputs if v.buffer.data is not None]) for op in program.ops]

    assert texts() == texts()
