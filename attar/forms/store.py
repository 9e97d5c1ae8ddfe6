"""A form as plain data and back: a description and named arrays, for checkpoints and files alike."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attar.errors import FormatError
from attar.forms.base import Form, Numbers, Part, Symbols
from attar.forms.codebook import Codebook
from attar.forms.dense import Dense
from attar.forms.sparse import Sparse

__all__ = ["KINDS", "describe", "rebuild"]

KINDS: dict[int, type[Form]] = {kind.number: kind for kind in (Dense, Sparse, Codebook)}


def describe(form: Form, prefix: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A form as (description, arrays): the description is JSON and names each array by `prefix` and path.

    >>> import torch
    >>> description, arrays = describe(Sparse(torch.tensor([True, False]), torch.tensor([1.0])), "fc")
    >>> sorted(arrays)
    ['fc.mask', 'fc.values.values']
    """
    parts: dict[str, Any] = {}
    arrays: dict[str, Tensor] = {}
    for name, part in form.parts().items():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(part, Form):
            parts[name], inner = describe(part, path)
            arrays |= inner
        else:
            parts[name] = {"alphabet": part.alphabet} if isinstance(part, Symbols) else {}
            arrays[path] = part.values
    return {"form": form.number, "parts": parts}, arrays


def rebuild(description: Mapping[str, Any], arrays: Mapping[str, Tensor], prefix: str = "") -> Form:
    """The inverse of `describe`; raises FormatError where the description or an array does not fit."""
    kind = KINDS.get(description.get("form", -1))
    if kind is None:
        raise FormatError(f"form number {description.get('form')!r} is unknown: the file comes from a newer version, or is damaged")
    parts: dict[str, Part] = {}
    for name, inner in description["parts"].items():
        path = f"{prefix}.{name}" if prefix else name
        if "form" in inner:
            parts[name] = rebuild(inner, arrays, path)
        elif path not in arrays:
            raise FormatError(f"array {path!r} is missing")
        else:
            parts[name] = Symbols(arrays[path], inner["alphabet"]) if "alphabet" in inner else Numbers(arrays[path])
    try:
        return kind.from_parts(parts)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{kind.__name__} cannot be put together: {error}") from None
