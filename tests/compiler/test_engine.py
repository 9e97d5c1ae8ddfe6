"""The whole way from a model to an engine: what it takes and gives, threads, the cache, machines without a compiler, bad input."""

import concurrent.futures
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from corpus import networks
from torch import nn

import attar.compiler.build as build_module
from attar.compiler import Engine, TorchEngine, compile
from attar.compiler.build import NoCompilerError, c_compiler
from attar.compiler.target import TARGETS, host
from attar.errors import AttarError


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x, scale=None):
        y = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
        return {"logits": y if scale is None else y * scale, "shape": 5}


@pytest.fixture(scope="module")
def model():
    return Small().eval()


@pytest.fixture(scope="module")
def engine(model):
    return compile(model, (torch.zeros(1, 3, 6, 7),))


def x(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_any_number_of_samples(engine, model, samples):
    value = x(samples, 3, 6, 7)
    torch.testing.assert_close(engine(value)["logits"], model(value)["logits"].detach(), rtol=1e-4, atol=1e-5)


def test_the_result_has_the_network_s_structure(engine, model):
    value = x(2, 3, 6, 7)
    given = engine(value.numpy())
    assert given["shape"] == 5
    assert isinstance(given["logits"], np.ndarray)
    assert isinstance(engine(x=value)["logits"], torch.Tensor)
    np.testing.assert_allclose(given["logits"], model(value)["logits"].detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "value",
    [
        x(2, 3, 7, 6).transpose(2, 3).numpy(),
        x(2, 3, 6, 14)[..., ::2].numpy(),
        np.frombuffer(b"\0" + x(2, 3, 6, 7).numpy().tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3, 6, 7),
        x(2, 3, 6, 7).numpy().astype(">f4").astype("<f4"),
        np.asfortranarray(x(2, 3, 6, 7).numpy()),
    ],
    ids=["transposed", "every second", "misaligned", "swapped twice", "Fortran order"],
)
def test_arrays_of_any_layout(engine, model, value):
    expected = model(torch.from_numpy(np.array(value, np.float32)))["logits"].detach().numpy()
    np.testing.assert_allclose(engine(value)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (x(2, 3, 6, 8), r"x must have shape \[any, 3, 6, 7\], got \[2, 3, 6, 8\]"),
        (x(3, 6, 7), r"must have shape"),
        (x(2, 3, 6, 7).double(), "must be float32, got float64"),
        (np.zeros((2, 3, 6, 7), np.int64), "must be float32, got int64"),
        (np.zeros((2, 3, 6, 7), ">f4"), "must be float32"),
    ],
)
def test_wrong_arrays_are_refused(engine, value, message):
    with pytest.raises(AttarError, match=message):
        engine(value)


def test_wrong_arguments_are_refused(engine):
    with pytest.raises(AttarError, match="takes no y"):
        engine(y=x(1, 3, 6, 7))
    with pytest.raises(AttarError):
        engine()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(model, threads):
    value = x(5, 3, 6, 7)
    with compile(model, (x(1, 3, 6, 7),), threads=threads) as engine:
        assert engine.threads == threads
        whole = engine(value)["logits"]
        for n in range(5):
            assert torch.equal(engine(value[n : n + 1])["logits"], whole[n : n + 1])
    with pytest.raises(AttarError, match="closed"):
        engine(value)


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_from_several_threads(model, threads):
    with compile(model, (x(1, 3, 6, 7),), threads=threads) as engine, concurrent.futures.ThreadPoolExecutor(4) as pool:
        values = [x(2, 3, 6, 7, seed=n) for n in range(24)]
        for value, found in zip(values, pool.map(engine, values), strict=True):
            torch.testing.assert_close(found["logits"], model(value)["logits"].detach(), rtol=1e-4, atol=1e-5)


def test_threads_must_be_some(model):
    with pytest.raises(AttarError, match="threads must be at least 1"):
        compile(model, (x(1, 3, 6, 7),), threads=0)


@pytest.mark.parametrize("value", [x(4, 3), torch.zeros(4, 3), torch.ones(1, 3)], ids=["noise", "zeros", "ones"])
def test_samples_that_meet_keep_their_number(value):
    """A network that mixes its samples must not run them one by one, which an example of zeros would not show."""

    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    engine = compile(Centred(), (value,))
    assert not engine.batched
    value = x(*value.shape)
    torch.testing.assert_close(engine(value), value - value.mean(0))
    with pytest.raises(AttarError, match="shape"):
        engine(x(2, 3))


def test_a_part_that_pytorch_runs(model):
    class Odd(nn.Module):
        def forward(self, x):
            y = torch.special.bessel_j0(x * 2) + 1
            return y * 3, torch.special.bessel_j1(x)

    engine = compile(Odd(), (x(2, 5),))
    assert engine.report.segments
    value = x(3, 5, seed=2)
    for got, want in zip(engine(value), Odd()(value), strict=True):
        torch.testing.assert_close(got, want)


def test_the_second_time_comes_from_the_cache(model):
    first = compile(model, (x(1, 3, 6, 8),))
    second = compile(model, (x(1, 3, 6, 8),))
    assert (first.report.cached, second.report.cached) == (False, True)
    assert second.report.error == first.report.error
    other = Small().eval()
    other.fc.bias.data += 1
    assert not compile(other, (x(1, 3, 6, 8),)).report.cached


def test_the_generic_target_gives_equal_outputs(engine, model):
    value = x(2, 3, 6, 7)
    generic = compile(model, (x(1, 3, 6, 7),), target="generic")
    torch.testing.assert_close(generic(value)["logits"], engine(value)["logits"], rtol=1e-4, atol=1e-5)


def test_equal_steps_of_repeated_layers():
    """GCC 12 folded two equal steps of this network into a function that did nothing."""
    ((_, model, example),) = networks(["vit_linear"])
    assert compile(model, example).report.error < 1e-5


def test_bytes_by_calibration():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    samples = x(16, 8, 9, 9)
    engine = compile(model, (samples[:1],), precision="int8", calibration=(samples,))
    assert engine.batched
    assert 0 < engine.report.error < 0.1
    expected = model(samples).detach()
    assert (engine(samples) - expected).abs().max() < 0.1 * expected.abs().max()
    assert compile(model, (samples[:1],), precision="int8", calibration=(samples,)).report.cached
    assert not compile(model, (samples[:1],), precision="int8", calibration=(samples * 2,)).report.cached


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "needs calibration"),
        ({"precision": "int4"}, "precision must be float32, or int8"),
        ({"calibration": (x(2, 3, 6, 7),)}, "float32 none"),
        ({"precision": "int8", "calibration": (x(0, 3, 6, 7),)}, "holds no sample"),
        ({"precision": "int8", "calibration": (torch.full((2, 3, 6, 7), float("nan")),)}, "not finite"),
    ],
)
def test_precision_and_calibration_must_fit(model, options, message):
    with pytest.raises(AttarError, match=message):
        compile(model, (x(1, 3, 6, 7),), **options)


def test_a_target_that_this_machine_has_not(model):
    with pytest.raises(AttarError, match="there is no target 'neon'"):
        compile(model, (x(1, 3, 6, 7),), target="neon")
    for name, target in TARGETS.items():
        if not target.runs_here:
            with pytest.raises(AttarError, match=f"cannot run code for {name}"):
                compile(model, (x(1, 3, 6, 7),), target=name)
    assert host().runs_here


@pytest.fixture
def _no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build_module.sys, "executable", shutil.which("false", path="/bin:/usr/bin"))


@pytest.mark.usefixtures("_no_compiler")
def test_without_a_compiler_pytorch_runs(model):
    with pytest.raises(NoCompilerError, match=r"apt install gcc.*pip install ziglang"):
        c_compiler()
    with pytest.warns(UserWarning, match="runs in PyTorch"):
        engine = compile(model, (x(1, 3, 6, 7),))
    assert isinstance(engine, TorchEngine)
    value = x(2, 3, 6, 7)
    assert torch.equal(engine(value)["logits"], model(value)["logits"])
    assert isinstance(engine(value.numpy())["logits"], np.ndarray)
    engine.close()
    with pytest.raises(AttarError, match="closed"):
        engine(value)


def test_a_compiler_that_fails(model, monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo broken 1.0 && exit 0\necho 'broken: no such flag' >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(AttarError, match="does not build the program: broken: no such flag"):
        compile(model, (x(1, 3, 6, 7),))


def test_a_cache_that_cannot_be_written(model, monkeypatch, tmp_path):
    place = tmp_path / "file"
    place.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    engine = compile(model, (x(1, 3, 6, 7),))
    assert isinstance(engine, Engine)
    assert not engine.library.is_relative_to(place)


def test_a_damaged_cache_is_built_anew(model, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compile(model, (x(1, 3, 6, 7),)).library.parent
    (folder / "complete").unlink()  # as if a process had been killed before the end
    (folder / "net.so").unlink()
    (folder / "net.so").write_bytes(b"half")
    value = x(1, 3, 6, 7)
    torch.testing.assert_close(compile(model, (value,))(value)["logits"], model(value)["logits"].detach(), rtol=1e-4, atol=1e-5)


BUILD = """
import torch
from attar.compiler import compile
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(80, 2)).eval()
x = torch.randn(1, 3, 6, 7)
print(compile(model, (x,))(x).tolist())
"""


def test_two_processes_build_the_same_at_once(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", BUILD], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    one, two = (process.communicate(timeout=300)[0] for process in both)
    assert one == two != ""
    assert len([p for p in (tmp_path / "attar" / "compiled").iterdir() if "." not in p.name]) == 1
