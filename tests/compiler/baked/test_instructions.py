"""The language: what is refused, and the table."""

import numpy as np
import pytest

from attar.compiler.baked.instructions import (
    INSTRUCTION,
    OUT,
    TABLE,
    Kind,
    X,
    bounds,
    check,
    insert,
    instruct,
    join,
    pointers_used,
    points_at,
)


def around(*body):
    return join([instruct(Kind.LOOP), *body, instruct([Kind.REPEAT, Kind.RET])])


def test_every_kind_is_in_the_table():
    assert list(TABLE) == list(Kind) == list(range(len(Kind)))


def test_fields_are_repeated_and_records_moved_whole():
    program = instruct([Kind.LOAD, Kind.STORE], reg=[1, 2], base=OUT, value=[64, -4])
    assert program.dtype == INSTRUCTION
    longer = insert(program, np.array([0, 2]), instruct(Kind.RET, value=7))
    assert longer["kind"].tolist() == [Kind.RET, Kind.LOAD, Kind.STORE, Kind.RET]
    assert longer["value"].tolist() == [7, 64, -4, 7]
    assert join([program, longer])[2:].tolist() == longer.tolist()


def test_register_numbers_are_not_pointers():
    program = join([instruct(Kind.MAX, reg=1, source=2, base=X), instruct(Kind.LOAD, base=X), instruct(Kind.STORE, base=OUT)])
    assert points_at(program, X).tolist() == [False, True, False]
    assert pointers_used(program) == {X, OUT}


def test_bounds_of_several_functions():
    assert bounds(join([around(), around(instruct(Kind.MOVE))])).tolist() == [0, 3, 7]


@pytest.mark.parametrize(
    ("program", "rule"),
    [
        (instruct([Kind.LOOP, Kind.REPEAT]), "end in RET"),
        (instruct([200, Kind.RET]), "known kinds"),
        (instruct(Kind.RET), "one LOOP"),
        (instruct([Kind.REPEAT, Kind.LOOP, Kind.RET]), "one LOOP"),
        (instruct([Kind.LOOP, Kind.REPEAT, Kind.LOOP, Kind.REPEAT, Kind.RET]), "one LOOP"),
        (around(instruct(Kind.MOVE, reg=32)), "below 32"),
        (around(instruct(Kind.MOVE, base=32)), "below 32"),
        (around(instruct(Kind.LOAD, base=4)), "one of POINTERS, got LOAD .* at 1"),
        (around(instruct(Kind.LEA, base=X, reg=5)), "must write one of POINTERS"),
        (around(instruct(Kind.PREFETCH, base=X)), "r8 to r11"),
        (around(instruct(Kind.LOAD_MASK, base=OUT)), "must use MASK"),
        (around(instruct(Kind.LOAD, base=X, masked=1)), "masks by lane"),
        (around(instruct(Kind.MOVE, masked=2)), "masks by lane"),
        (around(instruct(Kind.SHIFT_LEFT, value=32)), "0 to 31"),
    ],
)
def test_what_is_not_in_the_language_is_refused(program, rule):
    with pytest.raises(ValueError, match=rule):
        check(program)
