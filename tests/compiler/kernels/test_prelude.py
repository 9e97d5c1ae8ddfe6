"""The prelude's functions against double precision: everywhere close, right where numbers end."""

import ctypes
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attar.compiler.build import c_compiler
from attar.compiler.kernels.prelude import PRELUDE
from attar.compiler.target import TARGETS, flags, host

# name -> (the truth in double precision, units in the last place that it may be off, for results of SMALL or more)
FUNCTIONS = {
    "exp": (torch.exp, 2),
    "log": (torch.log, 2),
    "tanh": (torch.tanh, 8),
    "erf": (torch.erf, 8),
    "sigmoid": (torch.sigmoid, 4),
    "softplus": (lambda x: F.softplus(x, threshold=500), 6),
}

SMALL = 1e-35  # below it a factor of the result may be subnormal, which has fewer digits


@pytest.fixture(scope="module", params=["plain -O1", "generic", "host"])
def library(request, tmp_path_factory):
    """A loop over each function, as the compiler builds it: without vectors, with the smallest, with this machine's."""
    options = {"plain -O1": ("-O1", "-ffp-contract=off"), "generic": flags(TARGETS["generic"]), "host": flags(host())}[request.param]
    folder = tmp_path_factory.mktemp("prelude")
    loops = [
        f"void f_{name}(const float *restrict x, float *restrict y, long n) {{ for (long i = 0; i < n; i++) y[i] = attar_{name}f(x[i]); }}"
        for name in FUNCTIONS
    ]
    (folder / "f.c").write_text(PRELUDE + "\n".join(loops))
    command = [*c_compiler(), *options, "-shared", "-fPIC", "-o", str(folder / "f.so"), str(folder / "f.c"), "-lm"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "f.so"))


def values(library, name, x):
    y = np.empty_like(x)
    getattr(library, f"f_{name}")(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_long(x.size))
    return y


def samples():
    """Floats of every size, by their bits, and many of the sizes that networks have."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    return np.concatenate([bits, *(generator.normal(0, scale, 50_000).astype(np.float32) for scale in (0.01, 1, 5, 50))])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_close_everywhere(library, name):
    truth, units = FUNCTIONS[name]
    x = samples()
    exact = truth(torch.from_numpy(x).double())
    got, wanted, rounded = values(library, name, x), exact.numpy(), exact.float().numpy()
    assert np.array_equal(np.isnan(got), np.isnan(rounded))
    infinite = np.isinf(rounded)
    assert np.array_equal(got[infinite], rounded[infinite])
    usual = np.isfinite(rounded) & (np.abs(wanted) >= SMALL)
    error = np.abs(got[usual].astype(np.float64) - wanted[usual]) / np.spacing(np.abs(rounded[usual]))
    assert error.max() <= units, x[usual][error.argmax()]
    small = np.abs(wanted) < SMALL
    assert np.abs(got[small] - wanted[small]).max(initial=0) <= 2e-38


def test_where_numbers_end(library):
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 88.7, 89, -103, -150, 1e-45, 3e38], np.float32)
    for name, (truth, _) in FUNCTIONS.items():
        wanted = truth(torch.from_numpy(x).double()).float().numpy()
        np.testing.assert_allclose(values(library, name, x), wanted, rtol=2e-6, atol=1e-37, err_msg=name)
