"""Saliency criteria: how much each element of a weight matters. This folder is the registry: one file, one function.

A criterion is a function named like its module and listed in the module's `__all__`. It returns scores that
broadcast to the weight, higher for what should stay, finite wherever its evidence is. Its *parameter names* say
which evidence it needs (`weight`, `grad`, ...); a criterion that draws takes `seed=0`. It never sees layers, masks,
budgets or granularity. `tests/contracts/test_saliency.py` runs over every file in here;
`attar.pruning._evidence.score` calls it.
"""

__all__: list[str] = []
