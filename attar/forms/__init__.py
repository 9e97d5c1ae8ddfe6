"""What a weight has become. Level 0: no algorithms here, only representations, and how they enter a module.

A form rebuilds its dense weight (`form()`), names the arrays to store (`form.parts()`) and counts the work of
applying it (`form.work(positions)`). Forms nest: the values of a `Sparse` may be a `Codebook`.
"""

from attar.forms.base import Form, Numbers, Part, Symbols, Work
from attar.forms.codebook import Codebook
from attar.forms.dense import Dense
from attar.forms.holders import Holder, attach, bake, dense, names, of, owners  # after dense.py: `forms.dense` is the context manager
from attar.forms.sparse import Sparse
from attar.forms.store import KINDS, describe, rebuild

__all__ = [
    "KINDS",
    "Codebook",
    "Dense",
    "Form",
    "Holder",
    "Numbers",
    "Part",
    "Sparse",
    "Symbols",
    "Work",
    "attach",
    "bake",
    "dense",
    "describe",
    "names",
    "of",
    "owners",
    "rebuild",
]
