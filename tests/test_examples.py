"""Every example runs as a user would run it, and is short enough to be read."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    assert len(path.read_text().splitlines()) <= 80
    done = subprocess.run([sys.executable, str(path), str(tmp_path / "out")], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("SMALLER")
