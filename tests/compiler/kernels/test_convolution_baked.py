"""Convolutions as baked code: the C around it, run with the interpreter in its place; what is built; where it can run, that it runs."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from compiling import execute, lowered
from emulating import LAYOUT, emulator
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from attar.compiler import compile as compile_
from attar.compiler.build import build
from attar.compiler.choose import choose
from attar.compiler.emit import emit, listing
from attar.compiler.fuse import fuse
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.convolution_baked import BakedConvolution, baked
from attar.compiler.plan import lay_out, place
from attar.compiler.run import Engine, Signature
from attar.compiler.target import TARGETS, host

AVX512 = TARGETS["avx512"]
ELF = platform.system() == "Linux" and platform.machine() == "x86_64" and shutil.which("cc")
needs_elf = pytest.mark.skipif(not ELF, reason="no C compiler for x86-64 and ELF here")
needs_avx512 = pytest.mark.skipif(not AVX512.runs_here, reason="this processor has no AVX-512")


def sparse(layer, density):
    layer.weight.data *= torch.rand_like(layer.weight) < density
    return layer


def laid_out(model, x, target=LAYOUT, *, kernel=baked):
    """The model's program, its convolutions by baked code where that is offered."""
    program = fuse(lowered(model.eval(), x))
    assert program.notes == []
    lay_out(program, target)
    program.ops = [kernel(op) or op if isinstance(op, Convolution) else op for op in program.ops]
    return program


def kernels(program):
    return [op.kernel for op in program.ops if isinstance(op, Convolution | BakedConvolution)]


def agrees(model, x, parts=1, wanted=None):
    """The program by baked code, which gives what PyTorch and the stream kernel give, and all its calls."""
    program = laid_out(model, x)
    assert kernels(program) == (wanted or ["baked"] * len(kernels(program)))
    run = emulator(program)
    (found,) = execute(program, [x], parts, LAYOUT, baked=run)
    expected = model(x).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))
    (streamed,) = execute(laid_out(model, x, kernel=lambda op: None), [x], parts, LAYOUT)
    torch.testing.assert_close(found, streamed, rtol=1e-5, atol=1e-6 * max(1.0, float(expected.abs().max())))
    _each_once(program, run)
    return program


def _each_once(program, run):
    """Every function writes every 16 pixels once, whatever the threads share."""
    ops = [op for op in program.ops if isinstance(op, BakedConvolution)]
    wanted, names = 0, set()
    for op in ops:
        space = op.output.space
        for name, _, layer in op.layers:
            wanted += space.tiles * space.tile // 16 * len(layer.functions)
            names |= {f"{name}_{n}" for n in range(len(layer.functions))}
    assert sum(tiles for _, _, tiles in run.calls) == wanted
    assert len(set(run.calls)) == len(run.calls)
    assert {name for name, _, _ in run.calls} == names


class Net(nn.Module):
    """Maps of every layout: planar to planar, planar to tiled, tiled to tiled and to planar; a residual, ReLU and its kin."""

    def __init__(self):
        super().__init__()
        self.first, self.next = sparse(nn.Conv2d(5, 40, 3, padding=1), 0.6), sparse(nn.Conv2d(40, 33, 3, padding=1), 0.05)
        self.one, self.two = sparse(nn.Conv2d(33, 35, 1), 0.3), sparse(nn.Conv2d(35, 33, 1), 0.3)
        self.last = sparse(nn.Conv2d(33, 6, 3, padding=1, stride=2), 0.1)

    def forward(self, x):
        y = torch.relu(self.next(torch.relu(self.first(x))))
        return self.last(nn.functional.relu6(y + self.two(nn.functional.hardtanh(self.one(y), -0.3, 0.4))))


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("size", [(4, 5), (13, 17)], ids=["one tile", "tiles"])
def test_a_network_of_every_layout(size, parts):
    torch.manual_seed(0)
    program = agrees(Net().eval(), torch.randn(1, 5, *size), parts)
    ops = [op for op in program.ops if isinstance(op, BakedConvolution)]
    layouts = {(op.inputs[0].buffer.tiled, op.output.buffer.tiled) for op in ops}
    assert len(layouts) >= 3
    assert any(len(op.inputs) == 3 for op in ops)
    assert any(op.output.buffer.clean for op in ops)
    assert {op.even for op in ops} == {True, False}


@pytest.mark.parametrize("parts", [1, 3])
def test_several_chunks_and_blocks_of_rows(parts):
    torch.manual_seed(0)
    program = agrees(sparse(nn.Conv2d(70, 45, 3, padding=1), 0.45), torch.randn(1, 70, 5, 5), parts)
    (op,) = [op for op in program.ops if isinstance(op, BakedConvolution)]
    ((_, _, layer),) = op.layers
    assert {function.chunk for function in layer.functions} >= {0, 1, 2}
    assert {function.row for function in layer.functions} == {0, 22}


def test_groups_are_layers_of_their_own():
    torch.manual_seed(0)
    program = agrees(sparse(nn.Conv2d(12, 105, 3, padding=1, groups=3), 0.5), torch.randn(2, 12, 6, 7), 2)
    (op,) = [op for op in program.ops if isinstance(op, BakedConvolution)]
    assert [first for _, first, _ in op.layers] == [0, 35, 70]


KINDS = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}


@st.composite
def convolutions(draw):
    """(layer, example): strides, dilations, groups, transposed, one to three dimensions, zeros."""
    dims, numbers = draw(st.sampled_from([1, 2, 2, 3])), st.integers
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = groups * draw(numbers(1, 9)), groups * draw(numbers(4, 35))
    kernel, stride, dilation, padding = ([draw(numbers(low, high)) for _ in range(dims)] for low, high in ((1, 3), (1, 2), (1, 2), (0, 2)))
    sizes = [max(draw(numbers(1, 9)), (k - 1) * d + 1) for k, d in zip(kernel, dilation, strict=True)]
    torch.manual_seed(draw(numbers(0, 99)))
    if draw(st.booleans()):
        padding = [min(p, ((k - 1) * d) // 2) for p, k, d in zip(padding, kernel, dilation, strict=True)]
        layer = KINDS[dims][1](inputs, outputs, kernel, stride, padding, [s - 1 for s in stride], groups, draw(st.booleans()), dilation)
    else:
        layer = KINDS[dims][0](inputs, outputs, kernel, stride, padding, dilation, groups, draw(st.booleans()))
    return sparse(layer, draw(st.sampled_from([0.0, 0.1, 0.3]))), torch.randn(draw(numbers(1, 2)), inputs, *sizes)


@settings(max_examples=8, phases=[Phase.generate], deadline=None)  # not shrunk: each example is compiled
@given(convolutions(), st.sampled_from([1, 2]))
def test_random_convolutions(case, parts):
    agrees(*case, parts)


def first(model, x, target=LAYOUT):
    program = laid_out(model, x, target, kernel=lambda op: None)
    return next(op for op in program.ops if isinstance(op, Convolution))


class Crossed(nn.Module):
    """Bounds of which the low one is above: PyTorch then gives the high one everywhere."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return torch.clamp(self.layer(x), 3.0, 1.0)


class Uneven(nn.Module):
    """The residual is planar, since a convolution reads it shifted; the sum is not."""

    def __init__(self):
        super().__init__()
        self.before, self.one, self.wide = nn.Conv2d(8, 8, 1), sparse(nn.Conv2d(8, 8, 1), 0.5), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        y = self.before(x)
        return self.one(y) + y, self.wide(y)


def test_it_is_not_offered_where_it_cannot_do_it():
    torch.manual_seed(0)
    x, layer = torch.randn(1, 8, 9, 9), sparse(nn.Conv2d(8, 8, 1), 0.5)
    assert baked(first(layer, x)) is not None
    assert baked(first(layer, x, TARGETS["avx2"])) is None
    assert baked(first(nn.Sequential(layer, nn.Sigmoid()), x)) is None
    assert baked(first(nn.Sequential(layer, nn.LeakyReLU()), x)) is None
    assert baked(first(nn.Conv2d(8, 8, 3, groups=8), x)) is None
    assert baked(first(nn.Conv2d(8, 12, 3, groups=4), x)) is None
    assert baked(first(Crossed(layer), x)) is None
    program = laid_out(Uneven(), x)
    (adding,) = [op for op in program.ops if len(op.inputs) == 3]
    assert adding.inputs[2].buffer.tiled != adding.output.buffer.tiled
    assert isinstance(adding, Convolution)


def test_it_is_not_offered_where_a_loop_is_as_quick():
    x = torch.randn(1, 256, 7, 7)
    assert baked(first(nn.Conv2d(256, 512, 1), x)) is None
    assert baked(first(sparse(nn.Conv2d(256, 512, 1), 0.2), x)) is not None
    assert baked(first(nn.Conv2d(256, 64, 1), x)) is not None


def test_a_group_of_tiles_keeps_its_inputs_in_the_cache():
    for channels, size in ((3, 100), (256, 56), (1024, 14), (2048, 7), (16, 4)):
        op = baked(first(sparse(nn.Conv2d(channels, 8, 1), 0.1), torch.zeros(1, channels, size, size)))
        space = op.output.space
        assert 1 <= op.group <= space.tiles
        assert op.group == 1 or op.group * space.tile * channels * 4 <= 1 << 20
        assert op.group * space.tile <= max(space.tile, 24 * 16)


@needs_elf
def test_it_is_built_for_avx512_and_its_listing_is_what_is_built(tmp_path):
    torch.manual_seed(0)
    program = laid_out(Net(), torch.randn(1, 5, 13, 17), AVX512)
    place(program)
    source = emit(program)
    library = build(source, AVX512, tmp_path)
    assert len(source.starts) >= len(kernels(program)) == 5
    assert source.code.tobytes() in library.read_bytes()
    assert {"net.c", "net.s", "net.code"} <= {path.name for path in tmp_path.iterdir()}
    (tmp_path / "listing.s").write_text(listing(program))
    subprocess.run(["cc", "-c", "listing.s"], cwd=tmp_path, check=True)
    if shutil.which("objcopy"):
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", "listing.o", "listing.bin"], cwd=tmp_path, check=True)
        assert (tmp_path / "listing.bin").read_bytes() == source.code.tobytes()


def test_a_program_without_it_has_no_machine_code(tmp_path):
    program = laid_out(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4), host(), kernel=lambda op: None)
    place(program)
    source = emit(program)
    build(source, host(), tmp_path)
    assert source.code.size == 0
    assert listing(program) == ""
    assert not (tmp_path / "net.s").exists()


def test_what_an_earlier_run_chose_is_taken_without_timing():
    torch.manual_seed(0)
    program = laid_out(Net(), torch.randn(1, 5, 13, 17), AVX512, kernel=lambda op: None)
    names = ["baked", "stream", "baked", "stream", "baked"]
    taken, choices = choose(program, AVX512, [{"kernel": name} for name in names])
    assert kernels(taken) == names
    assert choices == []


def test_a_listing_is_written_on_request(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(sparse(nn.Conv2d(3, 40, 3), 0.1), nn.ReLU()), torch.randn(1, 3, 11, 12)
    with compile_(model, (x,), listing=tmp_path / "net.lst") as engine:
        text = (tmp_path / "net.lst").read_text()
        names = {choice.kernel for choice in engine.report.choices}
    assert ("vfmadd231ps" in text) == ("baked" in names)
    assert text.startswith("# ")


def engine(program, memory, target, folder, threads):
    shapes = [Signature(f"{n}", a.shape, a.dtype) for n, a in enumerate((*program.inputs, *program.outputs))]
    inputs = len(program.inputs)
    library = build(emit(program), target, folder)
    about = {"inputs": shapes[:inputs], "outputs": shapes[inputs:], "steps": len(program.ops), "batched": False, "threads": threads}
    return Engine(library, memory.constants, memory.arena, **about)


@needs_avx512
@pytest.mark.parametrize(("size", "threads"), [((4, 5), 2), ((13, 17), 1), ((13, 17), 2)])
def test_the_processor_computes_what_pytorch_does(tmp_path, size, threads):
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 5, *size)
    program = laid_out(model, x, AVX512)
    assert set(kernels(program)) == {"baked"}
    memory = place(program)
    with engine(program, memory, AVX512, Path(tmp_path), threads) as built:
        (found,) = built.run([x])
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@needs_avx512
def test_it_is_timed_beside_the_others():
    torch.manual_seed(0)
    program = laid_out(Net(), torch.randn(1, 5, 13, 17), AVX512, kernel=lambda op: None)
    _, choices = choose(program, AVX512)
    assert choices
    assert all("baked" in choice.seconds and choice.seconds["baked"] > 0 for choice in choices)
