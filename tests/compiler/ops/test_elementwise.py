"""Each rule against PyTorch: values, types, broadcasting, the odd numbers, threads."""

import operator

import pytest
import torch
import torch.nn.functional as F
from compiling import agree, agree_all, lowered
from hypothesis import given, settings
from hypothesis import strategies as st

SPECIAL = torch.tensor(
    [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-30, 1.0, -1.0, 0.5, -0.5, 2.5, 3.5, -2.5, 88.5, -87.0, 1e20, -1e20]
)
WIDE = torch.cat([SPECIAL, torch.linspace(-9, 9, 83)])

UNARY = {
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "mish": F.mish,
    "gelu": lambda x: F.gelu(x.clamp(-1e30, 1e30)),  # of infinity, PyTorch's own gives nan on some processors and infinity on others
    "gelu_tanh": lambda x: F.gelu(x.clamp(-1e30, 1e30), approximate="tanh"),
    "logsigmoid": F.logsigmoid,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "rrelu": F.rrelu,
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.3),
    "softplus": lambda x: F.softplus(x, 2.0, 10.0),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "threshold": lambda x: F.threshold(x, 0.1, 20.0),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 2.0),
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "square": torch.square,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "lgamma": torch.lgamma,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "frac": torch.frac,
    "isnan": torch.isnan,
    "isinf": torch.isinf,
    "isfinite": torch.isfinite,
    "logical_not": torch.logical_not,
    "nan_to_num": torch.nan_to_num,
    "nan_to_num_given": lambda x: torch.nan_to_num(x, 1.0, 2.0, 3.0),
    "logit": lambda x: torch.logit(x, 0.1),
    "logit_exact": torch.logit,
    "clamp": lambda x: x.clamp(-0.25, 0.75),
    "clamp_crossed": lambda x: x.clamp(0.75, -0.25),
    "clamp_min": lambda x: x.clamp(min=0.5),
    "clamp_max": lambda x: x.clamp(max=0.5),
    "power_2": lambda x: x**2,
    "power_3": lambda x: x**3,
    "power_half": lambda x: x**0.5,
    "power_minus_2": lambda x: x**-2,
    "power_1.7": lambda x: x**1.7,
    "base": lambda x: 2.0**x,
    "rsub": lambda x: 1 - x,
    "rdiv": lambda x: 1 / x,
    "remainder": lambda x: x.clamp(-1e5, 1e5) % 0.7,
    "fmod": lambda x: torch.fmod(x.clamp(-1e5, 1e5), 0.7),
    "floor_divide": lambda x: x.clamp(-1e5, 1e5) // 0.75,
    "div_trunc": lambda x: torch.div(x, 0.75, rounding_mode="trunc"),
    "bool": lambda x: x.bool(),
    "double": lambda x: x.double(),
    "int": lambda x: x.nan_to_num(0, 5, -5).clamp(-1e8, 1e8).int(),
    "long": lambda x: x.nan_to_num(0, 5, -5).clamp(-1e8, 1e8).long(),
    "compared": lambda x: (x < 0.5, x <= 0.5, x > 0.5, x >= 0.5, x == 0.5, x != 0.5),
    "masked_fill": lambda x: x.masked_fill(x > 0, float("-inf")),
    "where": lambda x: torch.where(x > 0, x, 2.0),
    "full_like": lambda x: torch.full_like(x, 0.1) + x,
    "dropout": lambda x: F.dropout(x, 0.5, training=False) + 1,
    "clone": lambda x: x.clone() + x.detach(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_one_float(dtype):
    tolerance = 5e-6 if dtype is torch.float32 else 1e-12  # single-precision functions are a few units off, some of them after a sum
    agree_all(UNARY, WIDE.to(dtype), rtol=tolerance, atol=tolerance / 5)


BINARY = {
    "add": operator.add,
    "add_alpha": lambda x, y: torch.add(x, y, alpha=2),
    "sub": operator.sub,
    "sub_alpha": lambda x, y: torch.sub(x, y, alpha=3),
    "rsub": lambda x, y: torch.rsub(x, y, alpha=2),
    "mul": operator.mul,
    "div": operator.truediv,
    "floor_div": operator.floordiv,
    "div_floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "div_trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "remainder": operator.mod,
    "fmod": torch.fmod,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "where": lambda x, y: torch.where(x > y, x, y),
    "where_number": lambda x, y: torch.where(x > y, 1, y),
    "masked_fill": lambda x, y: x.masked_fill(y > 0, 3),
    "clamp": lambda x, y: x.clamp(min=y),
    "clamp_both": lambda x, y: torch.clamp(x, y, y + 1),
    "clamp_max": lambda x, y: x.clamp(max=y),
    "addcmul": lambda x, y: torch.addcmul(x, y, x, value=2),
    "isclose": lambda x, y: torch.isclose(x, y),
}
FLOATS = {
    "pow": lambda x, y: x.abs() ** y,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "copysign": torch.copysign,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "xlogy": torch.xlogy,
    "addcdiv": lambda x, y: torch.addcdiv(x, y, y * y + 1, value=0.5),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp_high": lambda x, y: torch.lerp(x, y, 0.7),
    "lerp_tensor": lambda x, y: torch.lerp(x, y, y.sigmoid()),
    "int_exponent": lambda x, y: x ** torch.tensor(3),
}
INTEGERS = {
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "bitwise_not": lambda x, y: ~x,
    "power": lambda x, y: x ** (y % 4),
    "times_float": lambda x, y: x * 0.5,
    "plus_bool": lambda x, y: x + (y > 0),
    "sigmoid": lambda x, y: torch.sigmoid(x),
    "sqrt": lambda x, y: torch.sqrt(x.abs()),
    "float": lambda x, y: x.float(),
    "byte": lambda x, y: x.abs().to(torch.uint8),
    "abs": lambda x, y: (x.abs(), x.sign(), -x, x.relu(), x.clamp(-2, 3)),
    "floor": lambda x, y: (x.floor(), x.round(), x.isnan(), x.isfinite(), x.isinf()),
    "wraps": lambda x, y: (x + 2**31 - 2) * (2**31 - 1) * x,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_two_floats(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, 5, dtype=dtype, generator=generator)
    y = torch.randn(3, 5, dtype=dtype, generator=generator)
    y[0, 0] = x[0, 0, 0]
    agree_all(BINARY | FLOATS, x, y, parts=3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_functions_of_two_integers(dtype):
    x = torch.arange(-6, 7, dtype=dtype)[:, None]
    y = torch.tensor([-3, -1, 1, 2, 5], dtype=dtype)
    agree_all(BINARY | INTEGERS, x, y, parts=2)


def test_functions_of_truth_values():
    x, y = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    cases = {
        name: BINARY[name] for name in ("eq", "ne", "logical_and", "logical_or", "logical_xor", "maximum", "minimum", "mul", "add", "div")
    }
    cases |= {
        "and": operator.and_,
        "or": operator.or_,
        "xor": operator.xor,
        "not": lambda x, y: ~x,
        "logical_not": lambda x, y: x.logical_not(),
    }
    cases |= {"to": lambda x, y: (x.float(), x.long(), x + 1, x * 2.5), "where": lambda x, y: torch.where(x, y, True)}
    agree_all(cases, x, y)


@given(
    st.lists(st.sampled_from([1, 2, 3, 17]), max_size=4),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.int32]),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.int32, torch.bool]),
    st.integers(1, 4),
)
@settings(max_examples=25)
def test_shapes_and_types_meet_as_in_pytorch(shape, single, first, second, parts):
    """Any two types, any broadcasting, operands permuted or not, any number of threads."""

    def operand(flags, dtype, lead):
        sizes = [1 if one else n for n, one in zip(shape, flags, strict=False)][lead:]
        return torch.randint(-3, 4, sizes).to(dtype)

    x, y = operand(single[:4], first, 0), operand(single[4:], second, min(1, len(shape)))
    agree(lambda x, y: (x + y, x * y, torch.where(y > 0, x, y), x.mT - 1 if x.ndim > 1 else x), x, y, parts=parts)


def test_prelu_has_a_slope_for_each_channel_or_one_for_all():
    generator = torch.Generator().manual_seed(1)
    x, slopes = torch.randn(2, 3, 4, generator=generator), torch.tensor([0.1, -0.2, 0.3])
    agree_all({"channels": F.prelu, "one": lambda x, w: F.prelu(x, w[:1])}, x, slopes)
    agree_all({"vector": lambda x: F.prelu(x, torch.tensor([0.25]))}, torch.randn(5, generator=generator))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_no_dimensions_and_no_elements(shape):
    agree_all({"sum": lambda x: x + 1, "all": lambda x: torch.where(x > 0, x.exp(), x)}, torch.ones(shape), parts=2)


def test_numbers_are_written_exactly():
    agree(
        lambda x: (x + 0.1, x * 1e-40, x - 16777217, x + 1e38, x.double() * 0.1, x.long() + 2**53 + 1),
        torch.tensor([1.0, 3.0]),
        rtol=0,
        atol=0,
    )


def test_training_dropout_is_not_left_out():
    program = lowered(lambda x: F.dropout(x, 0.5, training=True), torch.ones(3))
    assert program.notes
