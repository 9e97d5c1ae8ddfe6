"""The import law of DESIGN, read from the syntax trees: levels import downwards, and siblings do not know one another."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "attar"
LEVELS = {
    "forms": 0,
    "graph": 0,
    "pruning": 1,
    "quantization": 1,
    "coding": 2,
    "compiler": 2,
    "evaluation": 2,
    "training": 2,
    "recipes": 3,
    "cli": 3,
    "zoo": 3,
    "data": 3,
}
SHARED = {"errors", "machine", "names", "step", "task"}  # single files of level 0


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted name) of every import of the package, wherever in the file it stands."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            found += [(node.lineno, f"attar.{alias.name}") for alias in node.names] if module == "attar" else [(node.lineno, module)]
    return [(line, name) for line, name in found if name.split(".")[0] == "attar"]


def breaches(folder: str, text: str) -> list[str]:
    """What in a file of `folder` ('' for the package's own files) breaks the law."""
    here, found = LEVELS.get(folder, 0), []
    for line, name in imported(ast.parse(text)):
        there = name.split(".")[1] if "." in name else ""
        if there in SHARED or there == folder:
            continue
        if there not in LEVELS:
            found.append(f"line {line}: {name} is no folder of the house")
        elif not (here == 3 or (LEVELS[there] == 0 and (here > 0 or (folder, there) == ("graph", "forms")))):
            found.append(f"line {line}: level {here} ({folder or 'package'}) imports {name}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_import_law(path):
    parts = path.relative_to(PACKAGE).parts
    if parts == ("__init__.py",):
        return  # the public face names what level 3 gives
    assert breaches(parts[0] if len(parts) > 1 else "", path.read_text()) == []


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("forms", "from attar.graph import trace"),
        ("pruning", "from attar.quantization import kmeans"),
        ("evaluation", "import attar.coding"),
        ("coding", "def f():\n    from attar import recipes"),
        ("graph", "from attar.elsewhere import x"),
    ],
)
def test_a_breach_is_seen(folder, text):
    assert breaches(folder, text)


def test_every_folder_has_a_level():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert folders == set(LEVELS)
