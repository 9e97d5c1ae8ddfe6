"""What a network's own code remembers between calls: `functools.lru_cache` around a function that makes a table.

Tracing runs that code with fake tensors, and the check of surgery runs it in float64. A cache that kept such a result would give
it to the user's next call, which would fail or compute something else.
"""

import functools
import gc
import sys
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["forget"]

_Cache = functools._lru_cache_wrapper
_FOREIGN = {"torch", "numpy", "sympy", *sys.stdlib_module_names} - {"__main__"}  # their caches hold no table of a network
_MOST = 10_000  # objects looked at in one cache
# what stands around a function -> the attribute that holds it
_AROUND: dict[type, str] = {
    _Cache: "__wrapped__",
    staticmethod: "__func__",
    classmethod: "__func__",
    types.MethodType: "__func__",
    property: "fget",
    functools.partial: "func",
    functools.cached_property: "func",
}


def forget(model: nn.Module) -> None:
    """Empty every cache that holds a tensor and that the code of `model` can reach by name; the next call fills it again.

    >>> import torch
    >>> @functools.lru_cache
    ... def table(size): return torch.arange(size)
    >>> class Shift(nn.Module):
    ...     def forward(self, x): return x + table(len(x))
    >>> model = Shift()
    >>> _ = model(torch.zeros(2))
    >>> forget(model)
    >>> table.cache_info().currsize
    0
    """
    for cache in _reached(model):
        if cache.cache_info().currsize and _holds_tensor(cache):
            cache.cache_clear()


def _reached(model: nn.Module) -> Iterator[Any]:
    """The caches among all functions and classes that the methods of a model name, or that those name, and so on."""
    todo: list[Any] = [item for module in model.modules() for item in (type(module), *vars(module).values())]
    seen: set[int] = set()
    while todo:
        found = todo.pop()
        if not isinstance(found, type | types.FunctionType) and type(found) not in _AROUND:
            continue
        if id(found) in seen or str(getattr(found, "__module__", "")).partition(".")[0] in _FOREIGN:
            continue
        seen.add(id(found))
        if isinstance(found, _Cache):
            yield found
        todo += _named(found)


def _named(found: Any) -> list[Any]:
    """What a class, a function, or what stands around one, has at hand under a name."""
    if isinstance(found, type):
        return [*found.__mro__, *vars(found).values()]
    if isinstance(found, types.FunctionType):
        cells = [cell.cell_contents for cell in found.__closure__ or () if cell != types.CellType()]  # an empty one has no contents
        return [*cells, *_globals(found.__code__, found.__globals__)]
    return [getattr(found, _AROUND[type(found)])]


def _globals(code: types.CodeType, scope: dict[str, Any]) -> Iterator[Any]:
    """The values of the global names in a function's code, and of what it may take from a module among them."""
    for name in code.co_names:
        value = scope.get(name)
        if isinstance(value, types.ModuleType):
            yield from (vars(value)[attribute] for attribute in code.co_names if attribute in vars(value))
        elif value is not None:
            yield value
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals(inner, scope)


def _holds_tensor(cache: Any) -> bool:
    todo: list[Any] = [cache]
    seen: set[int] = set()
    while todo and len(seen) < _MOST:
        found = todo.pop()
        if isinstance(found, Tensor):
            return True
        if id(found) not in seen and not isinstance(found, type | types.FunctionType | types.ModuleType):
            seen.add(id(found))
            todo += gc.get_referents(found)
    return False
