"""Frozen dataclasses as JSON values and back, strictly: a field that is missing, unknown or of another type is an error."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from attar.errors import FormatError

__all__ = ["from_plain", "to_plain"]


def to_plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, tuples as lists, numbers and text as they are.

    >>> from attar.evaluation.tables import Kept
    >>> to_plain((Kept(0.5), None))
    [{'fraction': 0.5}, None]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    return value


def from_plain(kind: Any, data: Any, where: str = "report") -> Any:
    """The inverse of `to_plain`, for a type made of dataclasses, `tuple[X, ...]`, `Mapping[str, X]`, `X | None` and plain types.

    Raises FormatError naming the place that does not fit.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else from_plain(next(k for k in inner if k is not types.NoneType), data, where)
    if origin is tuple:
        return tuple(from_plain(inner[0], item, f"{where}[{i}]") for i, item in enumerate(_required(data, list, where)))
    if origin is Mapping:
        return {key: from_plain(inner[1], item, f"{where}.{key}") for key, item in _required(data, dict, where).items()}
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, _required(data, dict, where), where)
    if kind is float:
        return float(data if data in ("inf", "-inf", "nan") else _required(data, int | float, where))
    return data if kind is Any else _required(data, kind, where)


def _dataclass(kind: Any, data: dict, where: str) -> Any:
    fields = typing.get_type_hints(kind)
    wrong = sorted(set(fields) ^ set(data))
    if wrong:
        raise FormatError(f"{where} must have the fields {', '.join(fields)}; {', '.join(wrong)} is missing or unknown")
    return kind(**{name: from_plain(field, data[name], f"{where}.{name}") for name, field in fields.items()})


def _required(data: Any, kind: Any, where: str) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", str(kind))
        raise FormatError(f"{where} must be {wanted}, got {type(data).__name__}")
    return data
