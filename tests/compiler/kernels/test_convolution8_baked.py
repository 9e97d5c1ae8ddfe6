"""Convolutions of bytes as baked code: the C around it, run with the interpreter in its place, against NumPy's integers, bit for bit."""

import ctypes
import dataclasses
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import partial
from unittest.mock import patch

import emulating
import numpy as np
import pytest
import torch
from compiling import execute, lowered
from emulating import LAYOUT, Emulator
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from integers import reference
from torch import nn

from attar.compiler.baked import bake
from attar.compiler.baked.instructions import Kind
from attar.compiler.baked.interpret import call
from attar.compiler.build import build
from attar.compiler.choose import choose
from attar.compiler.emit import emit, listing
from attar.compiler.fuse import fuse
from attar.compiler.ir import Array, Lanes, Program, Space, array, lanes
from attar.compiler.kernels import convolution8_baked
from attar.compiler.kernels.convolution8 import Convolution8
from attar.compiler.kernels.convolution8_baked import BakedConvolution8, baked8
from attar.compiler.kernels.lanes import Line, Move, Part
from attar.compiler.kernels.words import Affine, Pack, Unpack
from attar.compiler.plan import lay_out, place
from attar.compiler.quantize import quantize
from attar.compiler.run import Engine, Signature
from attar.compiler.target import TARGETS

AVX512, GENERIC = TARGETS["avx512"], TARGETS["generic"]
ELF = platform.system() == "Linux" and platform.machine() == "x86_64" and shutil.which("cc")
needs_elf = pytest.mark.skipif(not ELF, reason="no C compiler for x86-64 and ELF here")
needs_avx512 = pytest.mark.skipif(not AVX512.runs_here, reason="this processor has no AVX-512")
BYTES = Affine(1.0, 0)  # bytes as they are
numbers = st.integers


@dataclass
class WithScratch(Emulator):
    """An emulator whose functions have the memory that they are given for sums which wait: so many bytes for 16 pixels."""

    scratch: dict[int, int] = field(default_factory=dict)

    @property
    def text(self):
        return "void *attar_scratch;\n" + super().text.replace("(void)scratch;", "attar_scratch = scratch;")

    def run(self, library, memory, steps):
        def scratched(program, x, *, tiles, **others):
            pointer = ctypes.c_void_p.in_dll(library, "attar_scratch").value
            room = (ctypes.c_uint8 * (tiles * self.scratch[id(program)])).from_address(pointer) if pointer else ()
            call(program, x, tiles=tiles, scratch=(np.frombuffer(room, np.uint8), 0) if pointer else None, **others)

        with patch.object(emulating, "call", scratched):
            super().run(library, memory, steps)


def emulator(program):
    layers = [(name, layer) for op in program.ops if isinstance(op, BakedConvolution8) for name, _, layer in op.layers]
    parts = [(f"{name}_{n}", layer.program[f.start : f.stop], layer) for name, layer in layers for n, f in enumerate(layer.functions)]
    functions = {name: part for name, part, _ in parts}
    return WithScratch(functions, scratch={id(functions[name]): layer.scratch for name, _, layer in parts})


def program(weight, sizes, *, sides=(), **about):
    """Whole numbers packed to bytes, the convolution, and what it gives: bytes as numbers, or float32.

    A side is packed by its numbers, or float32 where it is None.
    """
    outputs, columns, _ = weight.shape
    about.setdefault("word", np.arange(columns)[None])
    about.setdefault("shift", np.zeros((*about["word"].shape, len(sizes)), np.int64))
    about.setdefault("group", np.zeros(outputs, np.int64))
    about.setdefault("begin", np.zeros(outputs, np.int32))
    about.setdefault("scale", np.ones(outputs, np.float32))
    zero, affine = about.pop("zero", 0), about.get("affine")
    space = Space(sizes)
    low, high = about["shift"].min((0, 1)), about["shift"].max((0, 1))
    space.reach.append(tuple((n, n, int(a), int(z)) for n, a, z in zip(sizes, low, high, strict=True)))
    lines = tuple(Line(n) for n in sizes)
    ops, given, maps = [], [], []
    for number, (channels, grid) in enumerate([(4 * (int(about["word"].max()) + 1), Affine(1.0, zero)), *((outputs, s) for s in sides)]):
        given.append(array((sizes[0], channels, *sizes[1:]), "float32", argument=number))
        if grid is None:
            maps.append(lanes(channels, sizes, space))
            ops.append(Move(maps[-1], (given[-1],), (Part(channels, lines),)))
        else:
            words = -(-channels // 4)
            maps.append(lanes(words, sizes, space, "int32"))
            ops.append(Pack(maps[-1], (given[-1],), (Part(words, lines),), grid.word, grid, (channels,)))
    output = lanes(outputs, sizes, space) if affine is None else lanes(-(-outputs // 4), sizes, space, "int32")
    ops.append(Convolution8(output, tuple(maps), sides=tuple(sides), **about, weight=weight))
    result = array((sizes[0], outputs, *sizes[1:]), "float32", argument=len(given))
    part = (Part(outputs, lines),)
    ops.append(Move(result, (output,), part, None) if affine is None else Unpack(result, (output,), part, None, BYTES))
    return Program(tuple(given), (result,), ops)


def computed(made, inputs, parts=1, *, shifted_later=False):
    """(pixels, all of the map's memory, the convolution) by baked code."""
    lay_out(made, LAYOUT)
    number = next(n for n, op in enumerate(made.ops) if isinstance(op, Convolution8))
    buffer = made.ops[number].output.buffer
    if shifted_later:
        buffer.tiled, buffer.clean = False, True
        buffer.settle()
    op = made.ops[number] = baked8(made.ops[number])
    whole = dataclasses.replace(made, outputs=(*made.outputs, Array(buffer, (buffer.size,), (1,))))
    run = emulator(whole)
    pixels, memory = execute(whole, [torch.from_numpy(x) for x in inputs], parts, LAYOUT, baked=run)
    each_once(op, run)
    return pixels.numpy(), memory.numpy(), op


def streamed(made, inputs):
    """The outputs by the C kernels."""
    lay_out(made, GENERIC)
    return execute(made, inputs, 1, GENERIC)


def each_once(op, run):
    """Every function writes every 16 pixels once, whatever the threads share."""
    space = op.output.space
    wanted = sum(len(layer.functions) for _, _, layer in op.layers) * space.tiles * space.tile // 16
    assert sum(tiles for _, _, tiles in run.calls) == wanted
    assert len(set(run.calls)) == len(run.calls)


def equal(weight, sizes, inputs, parts=1, *, shifted_later=False, **about):
    """Baked code gives the integers' pixels and, where they are read shifted, what stands for zero everywhere else."""
    expected = reference(program(weight, sizes, **about), *inputs)[0]
    found, memory, op = computed(program(weight, sizes, **about), inputs, parts, shifted_later=shifted_later)
    np.testing.assert_array_equal(found, expected)
    if shifted_later:
        y, affine = op.output, op.convolution.affine
        padding = np.ones(y.offset + y.channels * y.channel_stride, bool)
        padding[y.offset + np.arange(y.channels)[:, None] * y.channel_stride + y.at(y.pixels().reshape(-1))] = False
        assert (memory[: padding.size][padding] == (0 if affine is None else affine.word)).all()
    return op


@st.composite
def layers(draw):
    """(weight, sizes, inputs, all else): shifts and groups of any kind, odd sizes, channels no multiple of 4, sides of either kind."""
    rng = np.random.default_rng(draw(numbers(0, 999)))
    dims = draw(numbers(1, 3))
    sizes = (draw(numbers(1, 2)), *(draw(numbers(1, 19 if dims < 3 else 5)) for _ in range(dims)))
    each = [draw(numbers(4, 13)) for _ in range(draw(numbers(1, 4)))]
    outputs, columns, groups = sum(each), draw(numbers(1, 40)), len(each)
    weight = rng.integers(-127, 128, (outputs, columns, 4)).astype(np.int8)
    weight *= rng.random((outputs, columns, 1)) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
    reach = draw(numbers(0, 2))
    shift = rng.integers(-reach, reach + 1, (groups, columns, len(sizes)))
    shift[..., 0] = 0
    zero = draw(st.sampled_from([0, 7, 128, 255]))
    about = {"shift": shift, "word": rng.integers(0, 5, (groups, columns)), "group": np.repeat(np.arange(groups), each), "zero": zero}
    about["begin"] = rng.integers(-9999, 9999, outputs).astype(np.int32)
    about["scale"] = rng.uniform(0, 0.01, outputs).astype(np.float32)
    about["sides"] = draw(st.sampled_from([(), (Affine(float(np.float32(0.013)), 0),), (Affine(float(np.float32(0.013)), 99),), (None,)]))
    value = "({0} + {1})" if about["sides"] else "{0}"
    about["epilogue"] = draw(st.sampled_from([value, f"attar_reluf({value})", f"attar_boundf({value}, 0.0f, 6.0f)"]))
    low = -5.0 if about["epilogue"] == value else 0.0
    about["affine"] = draw(st.sampled_from([None, Affine.between(low, 7.1), Affine.between(low, 300.0), Affine.between(-2.0, 7.1)]))
    x = rng.integers(-zero, 256 - zero, (sizes[0], 4 * (int(about["word"].max()) + 1), *sizes[1:])).astype(np.float32)
    side = [rng.uniform(-1, 2, (sizes[0], outputs, *sizes[1:])).astype(np.float32) for _ in about["sides"]]
    return weight, sizes, [x, *side], about


@settings(max_examples=15, deadline=None, phases=[Phase.generate])  # not shrunk: each example is compiled
@given(layers(), numbers(1, 3), st.booleans())
def test_random_layers_equal_integers(layer, parts, shifted_later):
    weight, sizes, inputs, about = layer
    op = equal(weight, sizes, inputs, parts, shifted_later=shifted_later, **about)
    programs = [layer.program["kind"] for _, _, layer in op.layers]
    assert sum(int((kind == Kind.DOT).sum()) for kind in programs) == (weight != 0).any(-1).sum()


@pytest.mark.parametrize("affine", [None, Affine(0.5, 77)], ids=["float32", "bytes"])
@pytest.mark.parametrize(("parts", "size", "planar"), [(1, 18, True), (1, 18, False), (3, 3, False)])
def test_sums_of_several_chunks_wait_in_the_scratch(monkeypatch, affine, parts, size, planar):
    monkeypatch.setattr(convolution8_baked, "bake", partial(bake, chunk=3000))
    rng = np.random.default_rng(0)
    sizes, weight = (1, size, size), rng.integers(-127, 128, (12, 30, 4)).astype(np.int8)
    x = rng.integers(0, 256, (1, 120, size, size)).astype(np.float32)
    about = {"scale": rng.uniform(0, 1e-3, 12).astype(np.float32), "affine": affine}
    about["shift"] = np.array([0, 0, int(planar)]) + np.zeros((1, 30, 3), np.int64)
    op = equal(weight, sizes, [x], parts, shifted_later=planar, **about)
    ((_, _, layer),) = op.layers
    assert {function.chunk for function in layer.functions} >= {0, 1}
    assert layer.scratch > 0
    assert size == 3 or (op.group > 1 and op.even == planar)


@pytest.mark.parametrize("affine", [None, Affine(1.0, 3)], ids=["float32", "bytes"])
def test_groups_that_share_a_word_are_one_layer(affine):
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(5), 6)
    weight = rng.integers(-9, 10, (30, 7, 4)).astype(np.int8)
    x = rng.integers(0, 256, (1, 60, 5, 7)).astype(np.float32)
    op = equal(weight, (1, 5, 7), [x], group=group, word=rng.integers(0, 15, (5, 7)), affine=affine)
    assert [first for _, first, _ in op.layers] == ([0, 6, 12, 18, 24] if affine is None else [0, 12, 24])


def test_ties_go_to_the_even_byte_and_bytes_are_held():
    sizes, weight = (1, 1, 16), np.zeros((4, 1, 4), np.int8)
    weight[:, 0, 0] = 1
    x = np.zeros((1, 4, *sizes[1:]), np.float32)
    x[0, 0, 0] = np.arange(16)
    for scale in (0.5, -100, 100, 2.0**26, -(2.0**26)):
        equal(weight, sizes, [x], scale=np.full(4, scale, np.float32), affine=Affine(1.0, 3))


def test_a_side_of_float32_may_be_anything():
    rng = np.random.default_rng(0)
    sizes, weight = (1, 4, 8), rng.integers(-127, 128, (6, 3, 4)).astype(np.int8)
    x = rng.integers(0, 256, (1, 12, 4, 8)).astype(np.float32)
    side = rng.choice(np.array([np.inf, -np.inf, 3e9, -3e9, 1e30, 0.25, 2.5], np.float32), (1, 6, 4, 8))
    for affine in (Affine(0.5, 40), None):
        about = {"scale": np.full(6, 1e-3, np.float32), "sides": (None,), "epilogue": "({0} + {1})"}
        equal(weight, sizes, [x, side], affine=affine, **about)
    side[0, :, 0] = np.nan
    weight, side, about["scale"] = weight[:4], side[:, :4].copy(), about["scale"][:4]
    found, _, _ = computed(program(weight, sizes, affine=Affine(0.5, 40), **about), [x, side])
    assert (found[0, :, 0] == 0).all()
    (wanted,) = streamed(program(weight, sizes, affine=Affine(0.5, 40), **about), [torch.from_numpy(v) for v in (x, side)])
    np.testing.assert_array_equal(found, wanted.numpy())


def test_each_product_is_rounded_before_they_are_added():
    """Numbers for which a multiply-add that rounds once gives another byte."""
    rng = np.random.default_rng(0)
    sizes, weight = (1, 96, 96), np.zeros((4, 1, 4), np.int8)
    weight[:, 0, 0] = 1
    x = rng.integers(0, 256, (1, 4, 96, 96)).astype(np.float32)
    side = rng.integers(0, 256, (1, 4, 96, 96)).astype(np.float32) * np.float32(0.1)
    for numbers_of_side in (Affine(0.1, 0), None):
        about = {"scale": np.full(4, 0.1, np.float32), "sides": (numbers_of_side,), "epilogue": "({0} + {1})"}
        op = equal(weight, sizes, [x, side], affine=Affine(1.0 / 3, 3), **about)
        ((_, _, layer),) = op.layers
        assert (layer.program["kind"] == Kind.MULTIPLY).sum() == 8


def first(made, target=LAYOUT):
    lay_out(made, target)
    return next(op for op in made.ops if isinstance(op, Convolution8))


class Special(Convolution8):
    """One that has kernels of its own."""


def test_it_is_not_offered_where_it_cannot_do_it():
    rng = np.random.default_rng(0)
    layer = partial(program, rng.integers(-9, 10, (8, 3, 4)).astype(np.int8), (1, 9, 9))
    side = {"sides": (Affine(1.0, 0),)}
    assert baked8(first(layer())) is not None
    assert baked8(first(layer(epilogue="({0} + {1})", **side))) is not None
    assert baked8(first(layer(), TARGETS["avx2"])) is None
    assert baked8(first(layer(epilogue="attar_sigmoidf({0})"))) is None
    assert baked8(first(layer(epilogue="{0} * {1}", **side))) is None
    assert baked8(first(layer(epilogue="attar_boundf({0}, 3.0f, 1.0f)"))) is None
    assert baked8(first(layer(scale=np.full(8, np.inf, np.float32)))) is None
    assert baked8(first(layer(group=np.arange(8), word=np.zeros((8, 3), int)))) is None
    assert baked8(first(layer(group=np.repeat([0, 1], [3, 5]), word=np.zeros((2, 3), int)))) is None
    plain = first(layer())
    assert baked8(Special(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)})) is None


def test_it_is_not_offered_where_a_loop_is_as_quick():
    weight = np.ones((512, 128, 4), np.int8)
    assert baked8(first(program(weight, (1, 7, 7)))) is None
    assert baked8(first(program(weight[:64], (1, 7, 7)))) is not None
    assert baked8(first(program(weight * (np.arange(128) % 2 == 0)[:, None], (1, 7, 7)))) is not None


class Bottlenecks(nn.Module):
    """As ResNet's: sums of branches, strides, and a mean at the end, so that the last sum is of bytes and stays float32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.one, self.two, self.three = nn.Conv2d(24, 12, 1), nn.Conv2d(12, 20, 3, padding=1), nn.Conv2d(20, 24, 1)
        self.four, self.five, self.six = nn.Conv2d(24, 32, 3, stride=2, padding=1, groups=4), nn.Conv2d(32, 40, 1), nn.Conv2d(24, 40, 1, 2)
        for layer in self.children():
            layer.weight.data *= torch.rand_like(layer.weight) < 0.4

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.three(torch.relu(self.two(torch.relu(self.one(x))))))
        return torch.relu(self.five(torch.relu(self.four(x))) + self.six(x)).mean((2, 3))


def bottlenecks(target=LAYOUT):
    model, x = Bottlenecks().eval(), torch.randn(1, 3, 27, 31)
    made = fuse(lowered(model, x))
    ranges = {op.output.buffer: (-3.0, 3.0) for op in made.ops if isinstance(op.output, Lanes)}
    made = quantize(made, ranges, GENERIC)  # for which all becomes bytes that can
    assert made.notes == []
    lay_out(made, target)
    return made, x


def with_code(made):
    """All convolutions of bytes by baked code."""
    made.ops = [baked8(op) if isinstance(op, Convolution8) else op for op in made.ops]
    assert None not in made.ops
    return made


@pytest.mark.parametrize("parts", [1, 2])
def test_a_network_in_bytes_gives_what_its_loops_give(parts):
    made, x = bottlenecks(GENERIC)
    (wanted,) = execute(made, [x], 1, GENERIC)
    made = with_code(bottlenecks()[0])
    ops = [op for op in made.ops if isinstance(op, BakedConvolution8)]
    assert len(ops) == 7
    assert [op.convolution.affine is None for op in ops].count(True) == 1
    assert any(op.output.buffer.clean for op in ops)
    assert any(op.output.buffer.tiled for op in ops)
    assert len({layer for op in ops for _, _, layer in op.layers}) == 10
    (found,) = execute(made, [x], parts, LAYOUT, baked=emulator(made))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)  # the last sum is of floats, which the loop may fuse


@needs_elf
def test_it_is_built_for_avx512_and_its_listing_is_what_is_built(tmp_path):
    made = with_code(bottlenecks(AVX512)[0])
    place(made)
    source = emit(made)
    library = build(source, AVX512, tmp_path)
    assert len(source.starts) >= 10
    assert source.code.tobytes() in library.read_bytes()
    text = listing(made)
    weights = [op.convolution.weight for op in made.ops if isinstance(op, BakedConvolution8)]
    assert text.count("vpdpbusd") == sum(int((weight != 0).any(-1).sum()) for weight in weights)
    (tmp_path / "listing.s").write_text(text)
    subprocess.run(["cc", "-c", "listing.s"], cwd=tmp_path, check=True)
    if shutil.which("objcopy"):
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", "listing.o", "listing.bin"], cwd=tmp_path, check=True)
        assert (tmp_path / "listing.bin").read_bytes() == source.code.tobytes()


def test_it_is_offered_where_the_target_has_vnni():
    made, _ = bottlenecks(AVX512)
    known = [{"kernel": "baked"} for op in made.ops if isinstance(op, Convolution8)]
    taken, choices = choose(made, AVX512, known)
    assert sum(isinstance(op, BakedConvolution8) for op in taken.ops) == 7
    assert choices == []
    assert all("columns of 4" in str(op) and str(op).endswith(", baked") for op in taken.ops if isinstance(op, BakedConvolution8))
    without = dataclasses.replace(AVX512, needs=AVX512.needs - {"avx512_vnni"})
    with pytest.raises(KeyError, match="baked"):
        choose(made, without, known)


@needs_avx512
@pytest.mark.parametrize("threads", [1, 2])
def test_the_processor_computes_what_the_interpreter_does(tmp_path, threads):
    made, x = bottlenecks()
    made = with_code(made)
    (wanted,) = execute(made, [x], 1, LAYOUT, baked=emulator(made))
    memory = place(made)
    shapes = [Signature(f"{n}", a.shape, a.dtype) for n, a in enumerate((*made.inputs, *made.outputs))]
    about = {"inputs": shapes[:1], "outputs": shapes[1:], "steps": len(made.ops), "batched": False, "threads": threads}
    with Engine(build(emit(made), AVX512, tmp_path), memory.constants, memory.arena, **about) as built:
        (found,) = built.run([x])
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6, atol=1e-6)


@needs_avx512
def test_it_is_timed_beside_the_others():
    _, choices = choose(bottlenecks(AVX512)[0], AVX512)
    timed = [choice for choice in choices if "baked" in choice.seconds]
    assert timed
    assert all(choice.seconds["baked"] > 0 for choice in timed)
