"""Names to callables, by looking into the folders: the folder is the registry.

A *family* is a package. Its members are the callables that its modules list in `__all__`; modules whose name
begins with an underscore are helpers. Nothing is registered anywhere: to add a member, add a file.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable

from attar.errors import AttarError

__all__ = ["FAMILIES", "find", "load_dotted", "members", "nearest", "summary"]

FAMILIES = {
    "saliency": "attar.pruning.saliency",
    "quantization": "attar.quantization",
    "zoo": "attar.zoo",
    "data": "attar.data",
}


def members(family: str) -> dict[str, Callable]:
    """Every member of a family, by name, sorted.

    >>> sorted(members("saliency"))[:2]
    ['l1', 'l2']
    """
    package = importlib.import_module(FAMILIES[family])
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        found.update({name: getattr(module, name) for name in module.__all__})
    return dict(sorted(found.items()))


def find(family: str, name: str | Callable) -> Callable:
    """The member called `name`; a callable is passed through, so that a user's own needs no registration.

    Raises AttarError, with the nearest valid name, when there is none.
    """
    if callable(name):
        return name
    known = members(family)
    if name not in known:
        raise AttarError(f"there is no {family} {name!r}{nearest(name, known)}; `attar ls {family}` lists them")
    return known[name]


def nearest(name: str, valid: Iterable[str]) -> str:
    """The suggestion to append to an error: `, did you mean 'x'?`, or nothing.

    >>> nearest("magnitud", ["magnitude", "random"])
    ", did you mean 'magnitude'?"
    """
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def load_dotted(path: str) -> Callable:
    """`package.module:callable` as an object; an error inside the module is raised as it is, never read as 'not found'."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise AttarError(f"no module {error.name!r} for {path!r}: give package.module:callable, importable from here") from None
        raise
    found = getattr(module, attribute, None)
    if not callable(found):
        raise AttarError(f"{module_name!r} has no callable {attribute!r}: give package.module:callable")
    return found


def summary(member: Callable) -> str:
    """The first sentence of a member's docstring."""
    return (member.__doc__ or "").strip().split("\n")[0]
