"""Random programs, the GNU assembler, and layers with their references, for the tests of baked code."""

import platform
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest

from attar.compiler.baked import Strides, bake, interpret
from attar.compiler.baked.instructions import MASK, POINTERS, TABLE, Kind, instruct, join

VALUES = [0, 4, -4, 16, 63, 64, -512, 508, 512, -516, 8128, 8192, -8192, -8256, 127, 128, -128, -129, 2**31 - 1, -(2**31)]


def _random_body(rng, size):
    """Instructions of all kinds but those that shape a function, with any registers and displacements."""
    kinds = np.array([kind for kind in Kind if kind not in (Kind.LOOP, Kind.REPEAT, Kind.RET)])
    kind = rng.choice(kinds, size)
    form = np.array([TABLE[Kind(k)].form for k in kind.tolist()], object)
    memory = np.isin(form, ["load", "store", "word", "memory", "embedded"]) | (kind == Kind.LEA)
    base = np.where(memory, rng.choice([*POINTERS], size), rng.integers(0, 32, size))
    base = np.where(kind == Kind.PREFETCH, rng.integers(8, 12, size), np.where(kind == Kind.LOAD_MASK, MASK, base))
    reg = np.where(np.isin(kind, [Kind.LEA, Kind.NEXT]), rng.choice([*POINTERS], size), rng.integers(0, 32, size))
    maskable = np.isin(kind, [Kind.MAX, Kind.MIN, Kind.MOVE, Kind.TO_FLOAT, Kind.TO_INT])
    value = np.where(form == "shift", rng.integers(0, 32, size), rng.choice(VALUES, size))
    return instruct(kind, reg=reg, source=rng.integers(0, 32, size), base=base, masked=maskable & (rng.random(size) < 0.5), value=value)


@pytest.fixture(scope="session")
def random_program():
    def make(seed, functions=6, longest=60):
        rng = np.random.default_rng(seed)
        parts = []
        for _ in range(functions):
            head, body, tail = (_random_body(rng, int(rng.integers(0, most))) for most in (4, longest, 4))
            parts += [head, instruct(Kind.LOOP), body, instruct(Kind.REPEAT), tail, instruct(Kind.RET)]
        return join(parts)

    return make


@pytest.fixture(scope="session")
def gas(tmp_path_factory):
    """Text to the bytes of its .text section, by the GNU assembler."""
    if platform.machine() not in ("x86_64", "AMD64") or not (shutil.which("as") and shutil.which("objcopy")):
        pytest.skip("no GNU assembler for x86-64 here")
    folder = tmp_path_factory.mktemp("gas")

    def run(text):
        (folder / "a.s").write_text(text)
        subprocess.run(["as", "--64", "a.s", "-o", "a.o"], cwd=folder, check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", "a.o", "a.bin"], cwd=folder, check=True)
        return np.fromfile(folder / "a.bin", np.uint8)

    return run


@dataclass(frozen=True)
class _Case:
    """A layer on random memory: planar or tiled maps, offsets that need not be aligned, sentinels around what is written."""

    weight: np.ndarray
    offset: np.ndarray
    bias: np.ndarray
    strides: Strides
    tiles: int
    x: np.ndarray
    start: int
    mask: np.ndarray
    residual: np.ndarray

    @classmethod
    def random(cls, seed, *, rows, columns, density, tiles, int8=False, bytes_out=False, planar=False):
        rng = np.random.default_rng(seed)
        channels = -(-rows // 4) if bytes_out else rows
        plane = tiles * 16 + 37  # lanes of a planar channel, an odd number so that loads are not aligned
        if planar:
            offset, x_tile = np.arange(columns) * plane + rng.integers(-9, 10, columns), 64
            strides = Strides(x_tile, 64, 4 * plane)
        else:
            offset, x_tile = np.arange(columns) * 16, 64 * max(1, columns)
            strides = Strides(x_tile, 64 * channels, 64)
        size = (max(1, columns) * plane + tiles * 16 + 64) if planar else 16 * max(1, columns) * tiles
        shape = (rows, columns, 4) if int8 else (rows, columns)
        kept = rng.random(shape[:2]) < density
        if int8:
            weight = np.where(kept[..., None] & (rng.random(shape) < 0.7), rng.integers(-128, 128, shape), 0).astype(np.int8)
            bias = rng.integers(-5000, 5000, rows).astype(np.int32)
            x = rng.integers(0, 256, 4 * size).astype(np.uint8).view(np.uint32)
        else:
            weight = np.where(kept, rng.standard_normal(shape), 0).astype(np.float32)
            bias, x = rng.standard_normal(rows).astype(np.float32), rng.standard_normal(size).astype(np.float32)
        out_lanes = (strides.out_tile * (tiles - 1) + strides.out_channel * (channels - 1)) // 4 + 16
        residual = rng.integers(0, 2**32, out_lanes, np.uint32) if bytes_out else rng.standard_normal(out_lanes).astype(np.float32)
        mask = rng.integers(0, 2**16, tiles).astype(np.uint16)
        return cls(weight, offset, bias, strides, tiles, x, 4 * 20 if planar else 0, mask, residual)

    @property
    def columns_of_x(self):
        """x as `(K, tiles, 16)` lanes."""
        at = self.start // 4 + self.offset[:, None, None] + np.arange(self.tiles)[:, None] * (self.strides.x_tile // 4) + np.arange(16)
        return self.x[at]

    def written(self, channels):
        """Where in `out`, in lanes, `(channels, tiles, 16)`."""
        at = np.arange(channels)[:, None, None] * (self.strides.out_channel // 4)
        return at + np.arange(self.tiles)[:, None] * (self.strides.out_tile // 4) + np.arange(16)

    def kept(self):
        """The mask as `(tiles, 16)` booleans."""
        return (self.mask[:, None] >> np.arange(16) & 1).astype(bool)

    def bake(self, epilogue, **how):
        return bake(self.weight, self.offset, bias=self.bias, strides=self.strides, epilogue=epilogue, **how)

    def run(self, epilogue, in_place=False, **how):
        """What baked code writes, `(channels, tiles, 16)` lanes, after a check that it writes nothing else."""
        baked = self.bake(epilogue, **how)
        sentinel = np.uint32(0x7FC12345)
        out = self.residual.view(np.uint32).copy() if in_place else np.full(self.residual.size, sentinel)
        before = out.copy()
        residual = ((out if in_place else self.residual), 0) if epilogue.residual else None
        interpret(
            baked, (self.x, self.start), out=(out, 0), tiles=self.tiles, mask=(self.mask, 0) if epilogue.masked else None, residual=residual
        )
        channels = -(-len(self.weight) // 4) if epilogue.output == "uint8" else len(self.weight)
        at = self.written(channels)
        touched = np.zeros(out.size, bool)
        touched[at] = True
        assert (out == before)[~touched].all()
        return out[at]


@pytest.fixture(scope="session")
def case():
    return _Case.random
