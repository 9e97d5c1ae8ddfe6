"""Convolutions over lanes as baked code: a function of machine code for each block of rows and chunk of columns.

Baked code takes 16 pixels at a time, of which a tile has several, 64 bytes apart. All functions in turn run over a group of
tiles whose inputs stay in the second cache, so that each function's code comes once for the group.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attar.compiler.baked import LANES, PROTOTYPE, Baked, Epilogue, Strides, assemble, bake, listing
from attar.compiler.ir import Array, Buffer, Lanes, constant
from attar.compiler.kernels.convolution import Convolution, InPlaceOf, runs
from attar.compiler.kernels.lanes import CLEAN, ByTiles, clean, pointer
from attar.compiler.kernels.taps import linear

__all__ = ["BakedConvolution", "baked", "near", "step", "worth"]

_CACHE = 512 << 10  # bytes of input that stay in the second cache beside code and weights
_GROUP = 16  # times 16 pixels: a larger group gains nothing
_FEW = 4  # outputs: with fewer to share it, an input is loaded for nearly every product
_CODE = 512 << 10  # bytes of code, beyond which weights that are mostly not zero are quicker read by a loop
_TERM = 11  # bytes of code and weight for a product
_REACH = 1 << 31  # bytes that a displacement reaches


@dataclass(frozen=True, eq=False)
class BakedConvolution(InPlaceOf, ByTiles):
    """`convolution` by baked code, one product for each weight that is not zero; its epilogue holds a sum within `bounds`."""

    convolution: Convolution
    bounds: tuple[float, float]

    kernel = "baked"
    shares = "blocks of outputs"

    @property
    def maps(self) -> list[Lanes]:
        """The map that is read, the one that is written, and the side where there is one."""
        x, _, *sides = self.inputs
        return [x, self.output, *sides]

    @property
    def _word_out(self) -> int:
        """Channels to an element of the output."""
        return 1

    @property
    def _word_beside(self) -> int:
        """Channels to an element of the side."""
        return 1

    @property
    def read(self) -> np.ndarray:
        """The channels that it reads."""
        return self.convolution.channel

    @property
    def even(self) -> bool:
        """Whether what leads from 16 pixels to the next leads from a tile to the next, too; a call then runs over a group of tiles."""
        return all(value.space.tile // LANES * step(value) == 4 * value.tile_stride for value in self.maps)

    @property
    def group(self) -> int:
        """Tiles of a group."""
        x = self.inputs[0]
        fit = min(_GROUP, max(1, _CACHE // (4 * LANES * len(np.unique(self.read)))))
        return min(x.space.tiles, max(1, round(fit * LANES / x.space.tile)))

    @cached_property
    def layers(self) -> list[tuple[str, int, Baked]]:
        """For each run of outputs that read the same channels: a name, the first output, the code."""
        op, (x, y, *sides) = self.convolution, self.maps
        low, high = (bound if math.isfinite(bound) else None for bound in self.bounds)
        epilogue = Epilogue(low=low, high=high, residual=bool(sides))
        bias = np.ascontiguousarray(self.inputs[1].data)
        call = y.space.tile // LANES * (self.group if self.even else 1)
        strides = Strides(step(x), step(y), 4 * y.channel_stride)
        found = []
        for a, b in runs(op.group):
            layer = bake(op.weight[a:b], op.offsets[op.group[a]], bias=bias[a:b], strides=strides, epilogue=epilogue, prefetch=call)
            found.append((f"baked_{hashlib.sha256(layer.program.tobytes()).hexdigest()[:12]}", a, layer))
        return found

    @cached_property
    def _stream(self) -> Array:
        """The words of all layers; each begins a line of the cache."""
        return constant(np.concatenate([layer.stream for _, _, layer in self.layers]).view(np.float32))

    @cached_property
    def constants(self) -> tuple[Buffer, ...]:
        padding = self.output.padding if self.output.buffer.clean else ()
        return tuple(value.buffer for value in (self._stream, *padding))

    def code(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: assemble(layer.program) for name, _, layer in self.layers}

    def functions(self) -> dict[str, str]:
        found = {"clean": CLEAN, "baked": f"\n// machine code\ntypedef {PROTOTYPE.format(name='baked')}\n"}
        for name, _, layer in self.layers:
            symbols = ", ".join(f"{name}_{number}" for number in range(len(layer.functions)))
            found[name] = f'__attribute__((visibility("hidden"))) baked {symbols};\n'
        return found

    def listing(self) -> str:
        parts = []
        for name, first, layer in self.layers:
            text = re.sub(r"\.Lfunction(\d+)", rf"{name}_\1", listing(layer))
            about = f"# {name}, whose row 0 is output {first}\n" if len(self.layers) > 1 else ""
            parts.append(about + re.sub(r"\.Lloop(\d+)", rf".L{name}_\1", text))
        return "\n".join(parts)

    def over_tiles(self, at: Callable[[Buffer], str]) -> str:
        x, y, *sides = self.maps
        call = f"(stop - group) * {y.space.tile // LANES}" if self.even else str(y.space.tile // LANES)
        tile = "group" if self.even else "tile"
        beside = f"{pointer(sides[0], at)} + {tile} * {sides[0].tile_stride} + f->beside" if sides else "0"
        scratch = max(layer.scratch for _, _, layer in self.layers) // 4 * (y.space.tile // LANES)
        waiting = "0" if not scratch else "scratch" if self.even else f"scratch + (tile - group) * {scratch}"
        run = (
            f"f->run({pointer(x, at)} + {tile} * {x.tile_stride}, {at(self._stream.buffer)} + f->weights, "
            f"{pointer(y, at)} + {tile} * {y.tile_stride} + f->out, {call}, 0, {beside}, {waiting});"
        )
        each = "for (long tile = group; tile < stop; tile++) "
        lines = ["for (const struct piece *f = code + starts[lo]; f < code + starts[hi]; f++)", f"    {'' if self.even else each}{run}"]
        if y.buffer.clean:
            lines.append(f"{each}{{ {self._clean(at, 'outputs[lo], outputs[hi]')} }}")
        room = f"\nint32_t scratch[{scratch * self.group}] __attribute__((aligned(64)));  // for sums that wait for their next columns"
        return f"{self._tables()}{room if scratch else ''}\n{self._over_groups(lines)}"

    def _clean(self, at: Callable[[Buffer], str], share: str) -> str:
        """C that makes what is no pixel of a tile zero, in a share of the words of outputs."""
        return clean(self.output, at, share)

    def _over_groups(self, lines: list[str]) -> str:
        """C: the lines for the tiles [group, stop) of each group, and blocks of outputs [lo, hi)."""
        body = "\n".join(f"    {line}" for line in lines)
        return f"""const long blocks = sizeof starts / sizeof *starts - 1;
const long lo = blocks * p / n, hi = blocks * (p + 1) / n;
for (long group = first; group < end; group += {self.group}) {{
    const long stop = attar_mini(group + {self.group}, end);
{body}
}}"""

    def _tables(self) -> str:
        """C: the functions, each with the place of its layer's weights, outputs and side; where each block of outputs begins."""
        _, y, *sides = self.maps
        rows: list[str] = []
        starts, outputs, words = [], [], 0
        for name, first, layer in self.layers:
            beside = sum(first // self._word_beside * side.channel_stride for side in sides)
            for number, function in enumerate(layer.functions):
                if function.chunk == 0:
                    starts.append(len(rows))
                    outputs.append((first + function.row) // self._word_out)
                rows.append(f"{{{name}_{number}, {words}, {first // self._word_out * y.channel_stride}, {beside}}}")
            words += layer.stream.size
        starts.append(len(rows))
        outputs.append(-(-len(self.convolution.weight) // self._word_out))
        table = ",\n".join(f"    {', '.join(rows[at : at + 4])}" for at in range(0, len(rows), 4))
        text = f"""static const struct piece {{ baked *run; long weights, out, beside; }} code[] = {{
{table}
}};
static const int32_t starts[] = {{{", ".join(map(str, starts))}}};  // the first function of each block of outputs"""
        if not y.buffer.clean:
            return text
        return f"{text}\nstatic const int32_t outputs[] = {{{', '.join(map(str, outputs))}}};  // where its outputs begin"


def baked(op: Convolution) -> BakedConvolution | None:
    """The convolution by baked code, for a program that is laid out; None where that cannot do it, or cannot gain."""
    x, bias, *others = op.inputs
    y = op.output
    bounds = linear(op.epilogue, len(others))
    fits = x.space.lanes == LANES and bias.data is not None and all(_alike(r, y) for r in others)
    gains = worth(op.group, int(np.count_nonzero(op.weight)), op.weight.size)
    return BakedConvolution(y, op.inputs, op, bounds) if bounds and bounds[0] <= bounds[1] and fits and gains and near(x, y) else None


def step(value: Lanes) -> int:
    """Bytes from 16 pixels to the next."""
    return 4 * (value.tile_stride if value.space.tile == LANES else LANES)


def near(*maps: Lanes) -> bool:
    """Whether displacements reach all of these maps."""
    return max(value.buffer.bytes for value in maps) < _REACH


def worth(group: np.ndarray, kept: int, products: int) -> bool:
    """Whether code for `kept` of so many products may gain: outputs share what they read, and the code is short or skips much."""
    return min(b - a for a, b in runs(group)) >= _FEW and (kept <= products // 2 or kept * _TERM <= _CODE)


def _alike(one: Array | Lanes, two: Lanes) -> bool:
    """Whether pixels of all channels lie as far apart in both."""
    return isinstance(one, Lanes) and (one.channel_stride, one.tile_stride) == (two.channel_stride, two.tile_stride)
