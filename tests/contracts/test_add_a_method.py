"""Adding a saliency criterion or a quantizer touches one file: names, contract suites and `attar ls` find it by themselves."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from attar import names

CRITERION = '''
"""The square of a weight."""

__all__ = ["squared_weight"]


def squared_weight(weight):
    """The square of each element."""
    return weight.float().square()
'''

QUANTIZER = '''
"""Signs with one magnitude for each side, or equal clusters for more bits."""

from attar.quantization.kmeans import kmeans

__all__ = ["equal_shares"]


def equal_shares(weight, *, bits=4, seed=0):
    """Clusters that start with equal shares of the weights."""
    return kmeans(weight, bits=bits, init="density", empty="split", seed=seed)
'''


def contract(file):
    """A contract suite as a module: tests are not a package, so it is loaded by its path."""
    path = Path(__file__).with_name(file)
    spec = importlib.util.spec_from_file_location(f"contract_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add(monkeypatch, folder, family, name, text):
    """Put one file into a folder that belongs to the family, and nothing else."""
    (folder / f"{name}.py").write_text(text)
    package = importlib.import_module(names.FAMILIES[family])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setattr(package, name, None, raising=False)  # importing sets it: let it be taken away again
    monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
    importlib.invalidate_caches()


def listed(family):
    from typer.testing import CliRunner

    from attar.cli.main import app

    result = CliRunner().invoke(app, ["ls", family])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def new_criterion(monkeypatch, tmp_path):
    add(monkeypatch, tmp_path, "saliency", "squared_weight", CRITERION)
    yield "squared_weight"
    sys.modules.pop("attar.pruning.saliency.squared_weight", None)


@pytest.fixture
def new_quantizer(monkeypatch, tmp_path):
    add(monkeypatch, tmp_path, "quantization", "equal_shares", QUANTIZER)
    yield "equal_shares"
    sys.modules.pop("attar.quantization.equal_shares", None)


def test_a_criterion_is_found_and_held_to_the_contract(new_criterion):
    suite = contract("test_saliency.py")
    found = names.members("saliency")
    assert set(found) >= {"magnitude", "random", new_criterion}
    suite.check_declared(new_criterion, found[new_criterion])
    for check in suite.CHECKS:
        check(found[new_criterion])


def test_a_criterion_prunes_by_its_name(new_criterion):
    from torch import nn

    from attar.pruning import prune_weights

    model = nn.Linear(8, 4)
    largest = model.weight.detach().abs().flatten().topk(8).values.min()
    masks = prune_weights(model, keep=0.25, saliency=new_criterion)
    assert bool(((model.weight.detach().abs() >= largest) == masks["weight"]).all())


def test_a_quantizer_is_found_and_held_to_the_contract(new_quantizer):
    suite = contract("test_quantizers.py")
    found = names.members("quantization")
    assert set(found) >= {"kmeans", new_quantizer}
    for check in suite.CHECKS:
        check(found[new_quantizer])


def test_ls_shows_a_new_criterion(new_criterion):
    output = listed("saliency")
    assert new_criterion in output
    assert "magnitude" in output


def test_ls_shows_a_new_quantizer(new_quantizer):
    output = listed("quantization")
    assert new_quantizer in output
    assert "kmeans" in output


def test_it_is_gone_when_the_file_is(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        add(patch, tmp_path, "saliency", "squared_weight", CRITERION)
        assert "squared_weight" in names.members("saliency")
    sys.modules.pop("attar.pruning.saliency.squared_weight", None)
    assert "squared_weight" not in names.members("saliency")
