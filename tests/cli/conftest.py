"""A command line that runs in this process, and one compressed network for all tests."""

import pytest

from attar.cli.main import main

RECIPE = """
- train: {epochs: 2, lr: 0.05}
- prune: {keep: 0.3}
- quantize: {bits: 3}
- finetune: {epochs: 1, lr: 0.001}
"""


@pytest.fixture
def attar(capsys):
    """Runs a command and gives (exit status, stdout, stderr)."""

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def compressed(tmp_path_factory, recipe):
    """The output folder of a run on the embedded digits."""
    out = tmp_path_factory.mktemp("compressed") / "out"
    status = main(["compress", "zoo:digits_net", "--data", "digits", "--recipe", str(recipe), "--out", str(out)])
    assert status == 0
    return out
