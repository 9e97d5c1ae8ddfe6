"""Baked layers against dense references, through the interpreter: float32 by tolerance, int8 exactly."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.compiler.baked import Epilogue, Strides, assemble, bake, interpret
from attar.compiler.baked.instructions import Kind, bounds

sizes = {
    "seed": st.integers(0, 2**32),
    "rows": st.integers(1, 67),
    "columns": st.integers(0, 60),
    "density": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    "tiles": st.integers(1, 4),
    "planar": st.booleans(),
}
ways = st.fixed_dictionaries(
    {"accumulators": st.sampled_from([4, 7, 30]), "chunk": st.sampled_from([7000, 24576]), "prefetch": st.sampled_from([None, 1, 3])}
)
bounds_of_floats = st.sampled_from([(None, None), (0.0, None), (0.0, 6.0), (-0.5, 0.5), (None, 1.0)])


def clamp(values, low, high):
    return np.clip(values, -np.inf if low is None else low, np.inf if high is None else high)


def count(baked, kind):
    return int((baked.program["kind"] == kind).sum())


@settings(max_examples=60)
@given(
    size=st.fixed_dictionaries(sizes),
    how=ways,
    limits=bounds_of_floats,
    masked=st.booleans(),
    residual=st.sampled_from([None, "apart", "in place"]),
)
def test_float32_equals_the_dense_layer(case, size, how, limits, masked, residual):
    layer = case(**size)
    epilogue = Epilogue(low=limits[0], high=limits[1], masked=masked, residual=residual is not None)
    got = layer.run(epilogue, in_place=residual == "in place", **how).view(np.float32)
    wanted = np.einsum("ok,ktl->otl", layer.weight.astype(np.float64), layer.columns_of_x) + layer.bias[:, None, None]
    if residual:
        wanted = wanted + layer.residual[layer.written(len(layer.weight))]
    wanted = np.where(layer.kept() | (not masked), clamp(wanted, *limits), 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(size=st.fixed_dictionaries(sizes), how=ways, int8=st.booleans())
def test_multiply_adds_are_as_many_as_weights_and_functions_keep_to_their_size(case, size, how, int8):
    layer = case(**size, int8=int8)
    baked = layer.bake(Epilogue(output="int32") if int8 else Epilogue(low=0.0), **how)
    assert count(baked, Kind.DOT if int8 else Kind.FMA) == (layer.weight.any(2) if int8 else layer.weight != 0).sum()
    code, starts = assemble(baked.program)
    assert np.diff(np.append(starts, code.size)).max() <= how["chunk"] + 63
    assert len(starts) == len(baked.functions)
    assert max(function.rows for function in baked.functions) <= how["accumulators"]
    heads = [(function.row, function.rows) for function in baked.functions if function.chunk == 0]
    assert sum(rows for _, rows in heads) == size["rows"]
    assert heads[-1][1] - heads[0][1] in (-1, 0, 1)
    assert baked.stream.ctypes.data % 64 == 0


@settings(max_examples=30)
@given(size=st.fixed_dictionaries(sizes), how=ways)
def test_int32_sums_are_exact(case, size, how):
    layer = case(**size, int8=True)
    assert (layer.run(Epilogue(output="int32"), **how).view(np.int32) == sums(layer)).all()


def sums(layer):
    """The int32 sums, `(Co, tiles, 16)`."""
    x = layer.columns_of_x.view(np.uint8).reshape(*layer.columns_of_x.shape, 4).astype(np.int64)
    total = np.einsum("okc,ktlc->otl", layer.weight.astype(np.int64), x) + layer.bias[:, None, None]
    return total.astype(np.int32)


@settings(max_examples=30)
@given(
    size=st.fixed_dictionaries(sizes),
    how=ways,
    limits=bounds_of_floats,
    masked=st.booleans(),
    residual=st.sampled_from([None, "apart", "in place"]),
)
def test_int8_to_float32_is_exact(case, size, how, limits, masked, residual):
    layer = case(**size, int8=True)
    scale = (np.random.default_rng(0).random(size["rows"]) * 1e-3).astype(np.float32)
    epilogue = Epilogue("float32", *limits, masked=masked, residual=residual is not None, scale=scale)
    wanted = sums(layer).astype(np.float32) * scale[:, None, None]
    if residual:
        wanted = wanted + layer.residual[layer.written(size["rows"])]
    wanted = np.where(layer.kept() | (not masked), clamp(wanted, *limits), 0).astype(np.float32)
    assert (layer.run(epilogue, in_place=residual == "in place", **how).view(np.float32) == wanted).all()


@settings(max_examples=60)
@given(
    size=st.fixed_dictionaries(sizes),
    how=ways,
    limits=st.sampled_from([(None, None), (20, None), (0, 255), (20, 200), (None, 77)]),
    zero=st.sampled_from([0, 20, 77]),
    masked=st.booleans(),
    residual=st.sampled_from([None, (0.5, 0), (0.37, 128), (1.0, 255)]),
    size_of_scale=st.sampled_from([0.0, 1e-4, 1.0, 1e8]),
)
def test_int8_to_uint8_is_exact(case, size, how, limits, zero, masked, residual, size_of_scale):
    layer = case(**size, int8=True, bytes_out=True)
    rows, low, high = size["rows"], *limits
    masked = masked and (low or 0) <= zero <= (255 if high is None else high)
    scale = (np.random.default_rng(size["seed"]).standard_normal(rows) * size_of_scale).astype(np.float32)
    residual_scale, residual_zero = residual or (1.0, 0)
    epilogue = Epilogue("uint8", low, high, masked, residual is not None, scale, zero, residual_scale, residual_zero)
    got = layer.run(epilogue, **how).view(np.uint8).reshape(-1, layer.tiles, 16, 4).transpose(0, 3, 1, 2).reshape(-1, layer.tiles, 16)
    values = sums(layer).astype(np.float32) * scale[:, None, None]
    if residual:
        held = layer.residual[layer.written(-(-rows // 4))].view(np.uint8).reshape(-1, layer.tiles, 16, 4)
        added = held.transpose(0, 3, 1, 2).reshape(-1, layer.tiles, 16)[:rows].astype(np.float32) - residual_zero
        values = values + added * np.float32(residual_scale)
    whole = np.rint(values.astype(np.float64)) * (layer.kept() | (not masked))
    wanted = clamp(whole + zero, low or 0, 255 if high is None else high)
    assert (got[:rows] == wanted).all()
    if not residual:
        assert (got[rows:] == clamp(zero, low or 0, 255 if high is None else high)).all()


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 67),
    output=st.sampled_from(["float32", "uint8"]),
    kind=st.sampled_from(["float32", "uint8"]),
    scale=st.sampled_from([1.0, 0.37]),
)
def test_a_residual_may_be_of_another_type_and_lie_elsewhere(case, seed, rows, output, kind, scale):
    layer = case(seed, rows=rows, columns=9, density=0.5, tiles=3, int8=True, bytes_out=output == "uint8", planar=True)
    rng, zero = np.random.default_rng(seed), 5 if kind == "uint8" else 0
    factors = rng.uniform(0, 1e-2, rows).astype(np.float32)
    if kind == "uint8":
        held = rng.integers(0, 256, (3, -(-rows // 4), 16, 4)).astype(np.uint8)
        added = held.transpose(1, 3, 0, 2).reshape(-1, 3, 16)[:rows].astype(np.float32) - zero
    else:
        held = rng.uniform(-20, 200, (3, rows, 16)).astype(np.float32)
        added = held.transpose(1, 0, 2)
    epilogue = Epilogue(output, residual=True, scale=factors, residual_scale=scale, residual_zero=zero, residual_type=kind)
    strides = replace(layer.strides, residual_tile=held[0].nbytes, residual_channel=64)
    out = np.zeros(layer.residual.size, np.uint32)
    baked = bake(layer.weight, layer.offset, bias=layer.bias, strides=strides, epilogue=epilogue, accumulators=15)
    interpret(baked, (layer.x, layer.start), out=(out, 0), tiles=3, residual=(held, 0))
    wanted = sums(layer).astype(np.float32) * factors[:, None, None] + added * np.float32(scale)
    if output == "float32":
        assert (out[layer.written(rows)].view(np.float32) == wanted).all()
    else:
        got = out[layer.written(-(-rows // 4))].view(np.uint8).reshape(-1, 3, 16, 4).transpose(0, 3, 1, 2).reshape(-1, 3, 16)
        assert (got[:rows] == np.clip(np.rint(wanted), 0, 255)).all()


def test_relu_keeps_nan_and_zero_weights_hide_it():
    """As in PyTorch, where a NaN comes through a ReLU; a weight that is not there multiplies nothing."""
    x, out = np.full(32, np.nan, np.float32), np.zeros(32, np.float32)
    x[:16] = -1
    weight = np.array([[1, -0.0], [0, 1]], np.float32)
    baked = bake(
        weight, np.array([0, 16]), bias=np.zeros(2, np.float32), strides=Strides(128, 128, 64), epilogue=Epilogue(low=0.0, high=6.0)
    )
    interpret(baked, (x, 0), out=(out, 0), tiles=1)
    assert count(baked, Kind.FMA) == 2
    assert (out[:16] == 0).all()
    assert np.isnan(out[16:]).all()


def test_tiles_may_be_run_in_any_groups(case):
    """What a caller does that keeps a group of tiles in the cache: pointers move by the strides."""
    layer = case(3, rows=33, columns=30, density=0.4, tiles=5)
    baked = layer.bake(Epilogue(low=0.0, masked=True, residual=True), chunk=6000)
    whole, parts = (np.zeros_like(layer.residual) for _ in range(2))
    arrays = (layer.mask, layer.residual)
    interpret(baked, (layer.x, 0), out=(whole, 0), tiles=5, mask=(arrays[0], 0), residual=(arrays[1], 0))
    for first, tiles in ((3, 2), (0, 1), (1, 2)):
        at = first * layer.strides.out_tile
        x = (layer.x, first * layer.strides.x_tile)
        interpret(baked, x, out=(parts, at), tiles=tiles, mask=(arrays[0], 2 * first), residual=(arrays[1], at))
    assert (whole.view(np.uint32) == parts.view(np.uint32)).all()


def test_sums_of_several_chunks_wait_where_they_fit(case):
    """In `out` where it holds sums, in a scratch where it holds bytes, or where a residual in it is still to be read."""
    scale = np.full(40, 1e-4, np.float32)
    for epilogue, scratch in (
        (Epilogue("int32"), 0),
        (Epilogue("float32", scale=scale, residual=True), 20 * 64),
        (Epilogue("uint8", scale=scale, zero=99), 20 * 64),
    ):
        layer = case(0, rows=40, columns=100, density=0.9, tiles=3, int8=True, bytes_out=epilogue.output == "uint8")
        whole, several = (layer.bake(epilogue, chunk=chunk) for chunk in (1 << 20, 9000))
        assert max(function.chunk for function in whole.functions) == whole.scratch == 0
        assert max(function.chunk for function in several.functions) > 0
        assert several.scratch == scratch
        got = layer.run(epilogue, chunk=9000)
        assert len(np.unique(got)) > 200
        assert (got == layer.run(epilogue, chunk=1 << 20)).all()


@settings(max_examples=20)
@given(tiles=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_prefetches_reach_the_end_of_the_next_function(case, tiles, seed):
    baked = case(seed, rows=45, columns=120, density=0.5, tiles=1).bake(Epilogue(), prefetch=tiles, chunk=7000)
    code, starts = assemble(baked.program)
    cuts, spans = bounds(baked.program), np.diff(np.append(starts, code.size))
    words = np.diff([*(function.word for function in baked.functions), baked.stream.size])
    for number in range(len(starts)):
        part = baked.program[cuts[number] : cuts[number + 1]]
        lines = {base: int(((part["kind"] == Kind.PREFETCH) & (part["base"] == base)).sum()) for base in (10, 11)}
        if number + 1 == len(starts):
            assert lines == {10: 0, 11: 0}
        else:
            assert 0 <= lines[11] * 64 * tiles - spans[number + 1] < 64 * tiles
            assert 0 <= lines[10] * 64 * tiles - 4 * words[number + 1] < 64 * tiles
    assert len(starts) > 2


@pytest.mark.parametrize(
    ("how", "rule"),
    [({"accumulators": 31}, "1..30"), ({"accumulators": 0}, "1..30"), ({"prefetch": 0}, "at least 1"), ({"chunk": 400}, "larger")],
)
def test_what_cannot_be_baked_is_refused(case, how, rule):
    with pytest.raises(ValueError, match=rule):
        case(0, rows=8, columns=8, density=1.0, tiles=1).bake(Epilogue(), **how)


def test_fewer_accumulators_than_share_a_word_are_refused(case):
    with pytest.raises(ValueError, match="got 3"):
        case(0, rows=8, columns=8, density=1.0, tiles=1, int8=True, bytes_out=True).bake(
            Epilogue("uint8", scale=np.ones(8, np.float32)), accumulators=3
        )
