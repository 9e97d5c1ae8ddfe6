"""Ops that hand tiles to one another give what they give one after the other, bit for bit."""

import dataclasses
import itertools

import pytest
import torch
from compiling import execute, lowered
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import attar.compiler.chain as chain_module
from attar.compiler import compile
from attar.compiler.chain import Chain, chained
from attar.compiler.choose import times
from attar.compiler.fuse import fuse
from attar.compiler.plan import lay_out, place
from attar.compiler.target import host


class Blocks(nn.Module):
    """Residual blocks: 3x3, 1x1 with a shortcut, 1x1; an element-wise op between; a factored layer at the end."""

    def __init__(self, narrow, wide, kernel):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, wide, 1)
        self.down, self.middle, self.up = (
            nn.Conv2d(wide, narrow, 1),
            nn.Conv2d(narrow, narrow, kernel, padding="same"),
            nn.Conv2d(narrow, wide, 1),
        )
        self.left, self.right = nn.Conv2d(wide, 2, 1, bias=False), nn.Conv2d(2, 5, 1)

    def forward(self, x):
        x = self.first(x).relu()
        for _ in range(2):
            x = (x + self.up(self.middle(self.down(x).relu()).sigmoid())).relu()
        return self.right(self.left(x)), x.mean((2, 3))


def program(model, x):
    planned = fuse(lowered(model.eval(), x))
    lay_out(planned, host())
    return planned


def always(groups, program, target):
    """As if each chain had been measured to be faster."""
    return [[2.0, 1.0] for _ in groups]


@settings(max_examples=8)
@given(
    narrow=st.integers(1, 9), wide=st.integers(1, 70), kernel=st.sampled_from([1, 3]), size=st.tuples(*[st.integers(1, 40)] * 2),
    parts=st.sampled_from([1, 2, 5]), near=st.sampled_from([1, 1 << 16, 1 << 30]),
)  # fmt: skip
def test_a_chain_gives_what_its_ops_give(narrow, wide, kernel, size, parts, near):
    x = torch.randn(2, 3, *size)
    apart = program(Blocks(narrow, wide, kernel), x)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_FAR": 0, "_TILES": 1, "_NEAR": near, "times": always}.items():
            patch.setattr(chain_module, name, value)
        together, choices = chained(apart, host())
        assert [c.kernel for c in choices] == ["chain"] * sum(isinstance(op, Chain) for op in together.ops) != []
        for got, want in zip(execute(together, [x], parts), execute(apart, [x], parts), strict=True):
            assert torch.equal(got, want)


def test_maps_that_pass_take_the_memory_of_a_group_of_tiles(monkeypatch):
    """And no two that live at once share it; what others read keeps a place of its own."""
    monkeypatch.setattr(chain_module, "times", always)
    together, _ = chained(program(Blocks(16, 64, 3), torch.randn(1, 3, 160, 160)), host())
    place(together)
    links = [op for op in together.ops if isinstance(op, Chain)]
    read = {value.buffer for op in together.ops for value in op.inputs}
    assert any(link.passing for link in links)
    for link in links:
        assert link.memory.size < link.memory.shape[0] * 2 * chain_module._NEAR
        assert not read & {buffer for buffer, _ in link.passing}
        for step, op in enumerate(link.ops):
            live = [
                b
                for b, _ in link.passing
                if any(b in touched(one) for one in link.ops[: step + 1]) and any(b in touched(one) for one in link.ops[step:])
            ]
            places = dict(link.passing)
            spans = sorted((places[b], places[b] + link.group * 4 * b.channels * b.space.root.tile) for b in live)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
            assert op.output.buffer in live or op.output.buffer in {value.buffer for value in link.outputs}


def touched(op):
    return {value.buffer for value in (op.output, *op.inputs)}


@pytest.mark.parametrize("faster", [True, False])
def test_a_network_takes_chains_where_they_are_faster(monkeypatch, tmp_path, faster):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(chain_module, "times", lambda groups, *_: [[1.0, 0.5 if faster else 0.98] for _ in groups])
    model, x = Blocks(16, 64, 3).eval(), torch.randn(1, 3, 48, 48)
    with compile(model, (x,), threads=2) as engine:
        ways = [choice.kernel for choice in engine.report.choices if choice.kernel in ("apart", "chain")]
        assert set(ways) == {"chain" if faster else "apart"}
        for got, want in zip(engine(x), model(x), strict=True):
            torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-4)


def test_chains_are_timed_beside_their_ops():
    planned = program(Blocks(16, 64, 3), torch.randn(1, 3, 48, 48))
    together, choices = chained(planned, host())
    assert choices
    for choice in choices:
        assert set(choice.seconds) == {"apart", "chain"}
        assert all(second > 0 for second in choice.seconds.values())
    again, none = chained(planned, host(), [dataclasses.asdict(choice) for choice in choices])
    assert none == []
    assert [str(op) for op in again.ops] == [str(op) for op in together.ops]
    assert times([], planned, host()) == []
