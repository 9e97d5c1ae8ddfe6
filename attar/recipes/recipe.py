"""A recipe: a list of verbs with arguments, from Python or YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attar.errors import RecipeError
from attar.names import load_dotted, nearest

__all__ = ["Recipe", "Stage", "load_recipe", "stock_recipes"]

_LARGEST_FILE = 1 << 20
_NAMES_A_METHOD = ("saliency", "method")  # the arguments that may be a `package.module:callable`


@dataclass(frozen=True)
class Stage:
    """One verb with its arguments."""

    verb: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Stages in their order, and the name they go by in reports."""

    stages: tuple[Stage, ...]
    name: str = "recipe"

    def without(self, verb: str) -> Recipe:
        """The recipe without a verb: `train`, where the network comes with weights."""
        return Recipe(tuple(stage for stage in self.stages if stage.verb != verb), self.name)

    def as_data(self) -> list[dict[str, Any]]:
        """The recipe as plain values, to be written down and compared; a callable is its dotted name."""
        return [{stage.verb: {name: _plain(value) for name, value in stage.arguments.items()}} for stage in self.stages]


def load_recipe(source: Recipe | str | Path | Sequence[Mapping[str, Any]], *, allow: Iterable[str] = ()) -> Recipe:
    """A recipe from its stock name, a YAML file, or a list of one-entry mappings `{verb: {argument: value}}`.

    A file may name callables (`saliency: package.module:function`) of packages in `allow` only: a recipe from a
    stranger executes nothing of its own.

    Raises RecipeError for a file that is missing, too large, not YAML, or not a list of verbs.

    >>> load_recipe([{"prune": {"keep": 0.1}}]).stages[0].verb
    'prune'
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, str | Path):
        path = _path(source)
        return Recipe(_stages(_read(path), path.name, allow), path.stem)
    return Recipe(_stages(source, "the recipe", None))


def stock_recipes() -> dict[str, Path]:
    """The recipes that come with Attar, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "stock").glob("*.yaml"))}


def _path(source: str | Path) -> Path:
    stock = stock_recipes()
    if str(source) in stock:
        return stock[str(source)]
    path = Path(source)
    if not path.is_file():
        raise RecipeError(f"there is no recipe {str(source)!r}{nearest(str(source), stock)}: give a file, or one of {', '.join(stock)}")
    return path


def _read(path: Path) -> Any:
    if path.stat().st_size > _LARGEST_FILE:
        raise RecipeError(f"{path} is larger than {_LARGEST_FILE} bytes: that is no recipe")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise RecipeError(f"{path} uses YAML aliases, which can blow up a small file: write the values out")
        return yaml.load(text, Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path} is not YAML: {reason}") from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key given twice, where YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _stages(data: Any, where: str, allow: Iterable[str] | None) -> tuple[Stage, ...]:
    if not isinstance(data, Sequence) or isinstance(data, str) or not data:
        raise RecipeError(f"{where} must be a list of verbs with arguments, such as `- prune: {{keep: 0.1}}`, got {type(data).__name__}")
    stages = []
    for position, item in enumerate(data, 1):
        if isinstance(item, str):
            item = {item: {}}
        if not isinstance(item, Mapping) or len(item) != 1:
            raise RecipeError(f"{where}, stage {position}: must be one verb with its arguments, got {item!r}")
        ((verb, arguments),) = item.items()
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
            raise RecipeError(f"{where}, stage {position} ({verb}): arguments must be names with values, got {arguments!r}")
        stages.append(Stage(str(verb), {name: _resolved(name, value, allow) for name, value in arguments.items()}))
    return tuple(stages)


def _resolved(name: str, value: Any, allow: Iterable[str] | None) -> Any:
    """The callable that a dotted path names, if its package is allowed (`attar` always is; from Python, any)."""
    if name not in _NAMES_A_METHOD or not isinstance(value, str) or ":" not in value:
        return value
    package = value.partition(":")[0].partition(".")[0]
    if allow is not None and package not in {"attar", *allow}:
        raise RecipeError(
            f"the recipe names {value!r}, and a file may execute allowed packages only: pass --allow {package} if you trust it"
        )
    return load_dotted(value)


def _plain(value: Any) -> Any:
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
