"""Names are found by looking into the folders."""

import sys

import pytest

from attar import names
from attar.errors import AttarError


@pytest.mark.parametrize("family", names.FAMILIES)
def test_every_member_is_callable_and_says_what_it_is(family):
    found = names.members(family)
    assert found
    for name, member in found.items():
        assert callable(member)
        assert names.summary(member).endswith("."), f"{family} {name}: the first line of its docstring is not a sentence"
        assert names.find(family, name) is member


def test_a_callable_is_passed_through():
    assert names.find("saliency", len) is len


def test_a_typo_gets_the_nearest_name():
    with pytest.raises(AttarError, match="no quantization 'kmean', did you mean 'kmeans'"):
        names.find("quantization", "kmean")


def test_dotted_paths(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("value = 3\ndef build():\n    return 1\n")
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert names.load_dotted("mine:build")() == 1
    for bad, says in (("mine:value", "no callable 'value'"), ("mine", "no callable"), ("absent.module:f", "no module 'absent'")):
        with pytest.raises(AttarError, match=says):
            names.load_dotted(bad)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        names.load_dotted("broken:f")
    assert "mine" in sys.modules
