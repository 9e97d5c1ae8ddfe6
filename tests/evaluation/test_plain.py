"""Dataclasses to JSON and back; what does not fit is named with its place."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from attar.errors import FormatError
from attar.evaluation.plain import from_plain, to_plain


@dataclass(frozen=True)
class Inner:
    x: float
    name: str | None = None


@dataclass(frozen=True)
class Outer:
    one: Inner
    many: tuple[Inner, ...] = ()
    named: Mapping[str, Inner] = field(default_factory=dict)
    count: int = 0


VALUE = Outer(Inner(1.5), (Inner(math.inf, "a"), Inner(-math.inf)), {"k": Inner(2.0)}, 3)


def test_round_trip_through_strict_json():
    document = json.dumps(to_plain(VALUE), allow_nan=False)
    assert from_plain(Outer, json.loads(document)) == VALUE


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"one": {"x": "1"}}, "report.one must have the fields x, name; name is missing or unknown"),
        ({"one": {"x": "1", "name": None}}, "report.one.x must be .*got str"),
        ({"many": [{"x": 1, "name": None}, 5]}, r"report.many\[1\] must be dict, got int"),
        ({"named": {"k": []}}, "report.named.k must be dict, got list"),
        ({"count": True}, "report.count must be int, got bool"),
        ({"count": 1.5}, "report.count must be int, got float"),
        ({"extra": 1}, "extra is missing or unknown"),
    ],
)
def test_damage_is_named(damage, message):
    with pytest.raises(FormatError, match=message):
        from_plain(Outer, {**to_plain(VALUE), **damage})
