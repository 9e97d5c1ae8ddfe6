"""Copies between maps: phases of maps of every size and layout, as NumPy slices them."""

import itertools

import numpy as np
import pytest
import torch
from compiling import execute
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from attar.compiler.ir import LaneBuffer, Program, Space, array, check, lanes
from attar.compiler.kernels.lanes import Line, Move, Part, from_lanes
from attar.compiler.plan import lay_out
from attar.compiler.target import TARGETS

HERE = [name for name, target in TARGETS.items() if target.runs_here]
numbers = st.integers


def padded(sizes, draw):
    """A space whose rows have padding between them, of which a reader of shifted pixels asks."""
    space = Space(sizes)
    space.reach.append(tuple((n, n, -draw(numbers(0, 2)) if d else 0, draw(numbers(0, 2)) if d else 0) for d, n in enumerate(sizes)))
    return space


@st.composite
def phase_splits(draw):
    """(input, a program that copies it to a map, its phases to a map, and those to an array, layouts, what is wanted)."""
    dims, channels = draw(numbers(1, 3)), draw(numbers(1, 67))
    sizes = (draw(numbers(1, 2)), *(draw(numbers(1, (90, 33, 9)[dims - 1])) for _ in range(dims)))
    strides = [draw(numbers(1, 3)) for _ in range(dims)]
    x = torch.randn(sizes[0], channels, *sizes[1:])
    planes = (sizes[0], *(-(-n // s) for n, s in zip(sizes[1:], strides, strict=True)))
    every = list(itertools.product(*map(range, strides)))
    used = draw(st.lists(st.sampled_from(every), min_size=1, max_size=4, unique=True)) if draw(st.booleans()) else every
    wanted = np.zeros((sizes[0], channels * len(used), *planes[1:]), np.float32)
    parts = []
    for number, rest in enumerate(used):
        taken = x.numpy()[(..., *(slice(r, None, s) for r, s in zip(rest, strides, strict=True)))]
        wanted[(slice(None), slice(number * channels, (number + 1) * channels), *map(slice, taken.shape[2:]))] = taken
        lines = [Line(max(0, -(-(n - r) // s)), r, s) for n, r, s in zip(sizes[1:], rest, strides, strict=True)]
        parts.append(Part(channels, (Line(sizes[0]), *lines), 0, number * channels))
    source = array(x.shape, "float32", argument=0)
    given, phases = lanes(channels, sizes, padded(sizes, draw)), lanes(wanted.shape[1], planes, padded(planes, draw))
    whole = Part(channels, tuple(map(Line, sizes)))
    to_lanes = draw(st.booleans())  # else phases are taken of the array
    first = [Move(given, (source,), (whole,))] if to_lanes else []
    ops = [
        *first,
        Move(phases, (given if to_lanes else source,), tuple(parts)),
        from_lanes(phases, array(wanted.shape, "float32", argument=1)),
    ]
    return x, Program((source,), (ops[-1].output,), ops), [draw(st.booleans()) for _ in ops], wanted


@pytest.mark.parametrize("target", HERE)
@settings(max_examples=10, phases=[Phase.generate], deadline=None)  # not shrunk: each example is compiled
@given(phase_splits(), st.sampled_from([1, 3]))
def test_phases_are_slices(target, case, parts):
    x, program, tiled, wanted = case
    lay_out(program, TARGETS[target])
    for buffer, flag in zip((b for b in program.buffers() if isinstance(b, LaneBuffer)), tiled, strict=False):
        buffer.tiled = flag
        buffer.settle()
    check(program)
    np.testing.assert_array_equal(execute(program, [x], parts, TARGETS[target])[0].numpy(), wanted)


def test_neighbours_are_read_once():
    source = array((1, 3, 8, 9), "float32", argument=0)
    output = lanes(12, (1, 4, 5), Space((1, 4, 5)))
    rests = list(itertools.product((0, 1), (0, 1)))
    lines = [(Line(1), Line(4, i, 2), Line(5 - j, j, 2)) for i, j in rests]
    move = Move(output, (source,), tuple(Part(3, one, 0, 3 * number) for number, one in enumerate(lines)))
    assert move.pairs == [(0, 1), (2, 3)]
    assert not move.runs
