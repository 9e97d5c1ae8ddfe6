"""What a layer must be."""

import numpy as np
import pytest

from attar.compiler.baked import Epilogue, Strides, bake

FLOATS, BYTES = np.ones((3, 2), np.float32), np.ones((3, 2, 4), np.int8)
ONE_EACH = np.ones(3, np.float32)


def attempt(weight=FLOATS, offset=None, bias=None, strides=None, **epilogue):
    bias = np.zeros(3, np.float32 if weight.dtype == np.float32 else np.int32) if bias is None else bias
    offset = np.arange(2) if offset is None else offset
    return bake(weight, offset, bias=bias, strides=strides or Strides(64, 64, 64), epilogue=Epilogue(**epilogue))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"weight": FLOATS.astype(np.float64)}, "weight must be"),
        ({"weight": BYTES[..., :3]}, "weight must be"),
        ({"weight": FLOATS[:0], "bias": np.zeros(0, np.float32)}, "weight must be"),
        ({"offset": np.arange(3)}, "offset must be 2 whole numbers"),
        ({"offset": np.arange(2.0)}, "offset must be 2 whole numbers"),
        ({"offset": np.array([0, 2**29])}, "offset must stay within 2 GiB"),
        ({"bias": np.zeros(3, np.int32)}, "bias must be float32"),
        ({"bias": np.zeros(2, np.float32)}, "bias must be float32"),
        ({"strides": Strides(64, 64, 2**30)}, "out_channel .* within 2 GiB"),
        ({"strides": Strides(64, 64, 64, 64, 2**30)}, "residual_channel.* within 2 GiB"),
        ({"strides": Strides(2**31, 64, 64)}, "a stride must stay within 2 GiB"),
        ({"strides": Strides(64, 64, 64, 2**31)}, "a stride must stay within 2 GiB"),
        ({"output": "uint8"}, "output must be 'float32'"),
        ({"weight": BYTES, "output": "int16"}, "output must be 'float32'"),
        ({"scale": ONE_EACH}, "not used"),
        ({"weight": BYTES, "output": "uint8"}, "needed"),
        ({"weight": BYTES, "scale": ONE_EACH[:2]}, "3 finite numbers"),
        ({"weight": BYTES, "scale": ONE_EACH * np.inf}, "3 finite numbers"),
        ({"weight": BYTES, "output": "int32", "scale": ONE_EACH}, "not used"),
        ({"weight": BYTES, "output": "int32", "low": 0}, "as they are"),
        ({"weight": BYTES, "output": "int32", "residual": True}, "as they are"),
        ({"residual": True, "residual_type": "uint8"}, "must be float32 and have no scale"),
        ({"residual": True, "residual_scale": 0.5}, "must be float32 and have no scale"),
        ({"residual": True, "residual_zero": 5}, "residual_zero must be 0"),
        ({"weight": BYTES, "scale": ONE_EACH, "residual": True, "residual_type": "int8"}, "residual_type must be"),
        ({"low": 1.0, "high": 0.0}, "low must not be above high"),
        ({"low": float("nan"), "high": 0.0}, "low must not be above high"),
        ({"weight": BYTES, "output": "uint8", "scale": ONE_EACH, "zero": 256}, "whole numbers in 0..255"),
        ({"weight": BYTES, "output": "uint8", "scale": ONE_EACH, "high": 6.5}, "whole numbers in 0..255"),
        ({"weight": BYTES, "output": "uint8", "scale": ONE_EACH, "low": 3, "masked": True}, "zero must be within"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, rule):
    with pytest.raises(ValueError, match=rule):
        attempt(**change)


def test_the_cases_above_are_otherwise_sound():
    assert len(attempt().functions) == 1
    for epilogue in ({"output": "int32"}, {"scale": ONE_EACH}, {"output": "uint8", "scale": ONE_EACH, "zero": 3, "low": 3, "masked": True}):
        assert len(attempt(BYTES, **epilogue).functions) == 1
