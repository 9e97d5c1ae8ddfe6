"""Maps that lie where maps lay that are done with: results are the same bits, and nothing that is still read is overwritten."""

import dataclasses

import pytest
import torch
from compiling import execute, lowered
from emulating import LAYOUT
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from attar.compiler.fuse import fuse
from attar.compiler.kernels.convolution import Convolution
from attar.compiler.kernels.convolution_baked import baked
from attar.compiler.kernels.convolution_outer import outer
from attar.compiler.plan import homes, lay_out, place
from attar.compiler.target import host


class Residual(nn.Module):
    """Blocks of a wide map: each adds to it; `again` reads the first sum once more at the end."""

    def __init__(self, channels, kernel, again=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, 5, 1), nn.Conv2d(5, channels, kernel, padding="same")) for _ in range(3)
        )
        self.again = again

    def forward(self, x):
        x = sums = self.stem(x).relu()
        for number, block in enumerate(self.blocks):
            x = (block(x) + x).relu()
            sums = x if number == 0 else sums
        return x + sums if self.again else x


def laid_out(model, x, kernel, target):
    program = fuse(lowered(model.eval(), x))
    lay_out(program, target)
    return dataclasses.replace(program, ops=[kernel(op) or op if isinstance(op, Convolution) else op for op in program.ops])


def blocked(block):
    return lambda op: op.blocked(block) if op.takes(block) else None


KERNELS = {f"block{n}": (blocked(n), host()) for n in (1, 2, 4, 8)} | {"outer": (outer, host()), "baked": (baked, LAYOUT)}


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=3, phases=[Phase.explicit, Phase.generate])
@given(channels=st.integers(1, 70), kernel=st.sampled_from([1, 3]), size=st.integers(1, 40), parts=st.sampled_from([1, 3]))
def test_sums_take_the_place_of_what_they_add_to(name, channels, kernel, size, parts):
    way, target = KERNELS[name]
    x = torch.randn(1, 3, size, size + 1)
    program = laid_out(Residual(channels, kernel), x, way, target)
    assert len(homes(program)) == 3 - (kernel > 1)  # the result is tiled, what a 3x3 convolution adds to is planar
    assert len(set(homes(program).values())) == 1
    (together,), (apart,) = (execute(program, [x], parts, target, over=over) for over in (True, False))
    assert torch.equal(together, apart)


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_read_later_stays(name):
    way, target = KERNELS[name]
    x, model = torch.randn(1, 3, 20, 20), Residual(40, 3, again=True)
    program = laid_out(model, x, way, target)
    assert len(homes(program)) == 1  # the first block's: the second adds to what is read again, the third adds two maps
    (found,) = execute(program, [x], 2, target)
    torch.testing.assert_close(found, model(x).detach(), rtol=1e-4, atol=1e-4)


def test_the_arena_is_smaller():
    x = torch.randn(1, 3, 40, 40)
    program = laid_out(Residual(64, 1), x, blocked(4), host())
    assert place(program).arena < place(program, over=False).arena
    with_home = homes(program)
    place(program)
    assert all(buffer.place == home.place for buffer, home in with_home.items())
