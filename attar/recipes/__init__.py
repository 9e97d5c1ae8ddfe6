"""Where methods are composed: the public verbs, recipes, and the run that proves what they give. Level 3."""

from attar.recipes.check import check_recipe
from attar.recipes.folder import clear
from attar.recipes.inspection import InspectedLayer, Inspection, inspect
from attar.recipes.recipe import Recipe, Stage, load_recipe, stock_recipes
from attar.recipes.run import BATCH_SIZE, Result, compress
from attar.recipes.verbs import Evaluation, evaluate, finetune, load, prune, quantize, save

__all__ = [
    "BATCH_SIZE",
    "Evaluation",
    "InspectedLayer",
    "Inspection",
    "Recipe",
    "Result",
    "Stage",
    "check_recipe",
    "clear",
    "compress",
    "evaluate",
    "finetune",
    "inspect",
    "load",
    "load_recipe",
    "prune",
    "quantize",
    "save",
    "stock_recipes",
]
