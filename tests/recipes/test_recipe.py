"""Recipes from YAML and Python: what is not one is said, and nothing in a file executes."""

import pytest

from attar.errors import AttarError, RecipeError
from attar.recipes import Recipe, Stage, load_recipe, stock_recipes


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_in_order(tmp_path):
    recipe = load_recipe(written(tmp_path, "- train: {epochs: 2, lr: 0.1}\n- prune: {keep: {conv*: 0.5}}\n- quantize\n"))
    assert recipe == Recipe(
        (Stage("train", {"epochs": 2, "lr": 0.1}), Stage("prune", {"keep": {"conv*": 0.5}}), Stage("quantize", {})), "mine"
    )
    assert [stage.verb for stage in recipe.without("train").stages] == ["prune", "quantize"]
    assert load_recipe(recipe.as_data()).stages == recipe.stages


@pytest.mark.parametrize("name", stock_recipes())
def test_stock_recipes_are_documents(name):
    assert load_recipe(name).stages
    text = stock_recipes()[name].read_text()
    assert text.startswith("# ")
    assert "# run:" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prune: {keep: 0.1}", "must be a list of verbs"),
        ("", "must be a list of verbs"),
        ("- [1, 2]", "stage 1: must be one verb"),
        ("- {prune: {keep: 0.1}, train: {}}", "stage 1: must be one verb"),
        ("- prune: 0.1", r"stage 1 \(prune\): arguments must be names"),
        ("- prune: {keep: 0.1, keep: 0.2}", "keep given twice"),
        ("- prune: {keep: {a: 1, a: 1}}", "a given twice"),
        ("- prune: {keep: [", "is not YAML"),
        ("- &a prune\n- *a", "uses YAML aliases"),
        ("- !!python/object/apply:os.system ['true']", "is not YAML"),
        ("- prune: {saliency: os:system}", "pass --allow os"),
        ("- quantize: {method: subprocess.sub:run}", "pass --allow subprocess"),
        ("- prune: {saliency: 'attar.pruning.saliency.nothing:x'}", "no module 'attar.pruning.saliency.nothing'"),
    ],
)
def test_what_is_no_recipe(tmp_path, text, says):
    with pytest.raises(AttarError, match=says):
        load_recipe(written(tmp_path, text))


def test_a_typo_in_the_name_gets_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'deep-compression'"):
        load_recipe("deep-compresion")


def test_a_huge_file_is_refused_unread(tmp_path):
    with pytest.raises(RecipeError, match="larger than"):
        load_recipe(written(tmp_path, "#" * (2 << 20)))


def test_an_allowed_package_may_be_named(tmp_path, monkeypatch):
    (tmp_path / "my_criteria.py").write_text("def ones(weight):\n    return weight.abs()\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = written(tmp_path, "- prune: {keep: 0.5, saliency: 'my_criteria:ones'}")
    with pytest.raises(RecipeError, match="--allow my_criteria"):
        load_recipe(path)
    recipe = load_recipe(path, allow=["my_criteria"])
    assert callable(recipe.stages[0].arguments["saliency"])
    assert recipe.as_data() == [{"prune": {"keep": 0.5, "saliency": "my_criteria:ones"}}]
