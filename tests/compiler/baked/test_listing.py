"""The listing: the same code, and each weight where it stands."""

import re

import numpy as np
import pytest

from attar.compiler.baked import Epilogue, assemble, listing

EPILOGUES = {
    "float32": (False, Epilogue(low=0.0, high=6.0, masked=True, residual=True)),
    "int32": (True, Epilogue("int32", masked=True)),
    "dequantised": (True, Epilogue("float32", low=0.0, residual=True, scale=np.ones(35, np.float32))),
    "uint8": (True, Epilogue("uint8", 7, 200, True, True, np.full(35, 0.01, np.float32), 7, 0.5, 9)),
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_the_listing_assembles_to_the_same_bytes(gas, case, name):
    int8, epilogue = EPILOGUES[name]
    layer = case(1, rows=35, columns=200, density=0.4, tiles=2, int8=int8, bytes_out=name == "uint8")
    baked = layer.bake(epilogue, chunk=8000, prefetch=2)
    assert len(baked.functions) > 2
    assert gas(listing(baked)).tobytes() == assemble(baked.program)[0].tobytes()


@pytest.mark.parametrize("int8", [False, True])
def test_weights_are_written_with_their_places(case, int8):
    layer = case(2, rows=33, columns=50, density=0.5, tiles=1, int8=int8)
    said = listing(layer.bake(Epilogue("int32") if int8 else Epilogue(), chunk=6000))
    found = np.zeros_like(layer.weight)
    lines = re.findall(r"(?:vfmadd231ps|vpdpbusd) .*# row (\d+), column (\d+): (.*)", said)
    for row, column, value in lines:
        found[int(row), int(column)] = [int(part) for part in value.strip("[]").split(",")] if int8 else np.float32(value)
    assert (found == layer.weight).all()
    assert len(lines) == (layer.weight.any(2) if int8 else layer.weight != 0).sum()
