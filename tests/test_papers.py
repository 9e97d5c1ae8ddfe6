"""The pages of reproduced papers, and the project's README, say what the stored results say."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPERS = sorted(path.parent for path in (ROOT / "papers").glob("*/reproduce.py"))


@pytest.mark.parametrize("folder", PAPERS, ids=lambda path: path.name)
def test_pages_come_from_the_stored_results(folder):
    spec = importlib.util.spec_from_file_location(folder.name, folder / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = json.loads((folder / "result.json").read_text())
    assert (folder / "README.md").read_text() == module.page(results)
    front = (ROOT / "README.md").read_text()
    assert front == module.with_claims(front, results)


def test_the_table_of_engines_comes_from_the_stored_results():
    folder = ROOT / "benchmarks" / "engines"
    spec = importlib.util.spec_from_file_location("table", folder / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    front = (ROOT / "README.md").read_text()
    assert front == module.with_engines(front, folder / "results")
    for path in (folder / "results").glob("*/*.json"):
        assert path.with_suffix(".md").read_text() == module.page(json.loads(path.read_text()))
