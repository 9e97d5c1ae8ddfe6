"""Attar makes a trained PyTorch network small and fast, and proves it.

The public verbs, and the types they take and give; `attar --help` is the same from the command line.
"""

from attar.compiler import Engine, compile
from attar.errors import AttarError
from attar.evaluation import Report
from attar.recipes import Recipe, Result, compress, evaluate, finetune, inspect, load, prune, quantize, save
from attar.task import Task

__all__ = [
    "AttarError",
    "Engine",
    "Recipe",
    "Report",
    "Result",
    "Task",
    "compile",
    "compress",
    "evaluate",
    "finetune",
    "inspect",
    "load",
    "prune",
    "quantize",
    "save",
]
