"""Removing single weights: criteria, budgets, schedules, and the step that prunes while a network trains.

A criterion (`saliency/`, one file each) scores one weight and knows nothing else; an allocation turns the scores of
many layers and a budget into masks; a schedule says how much is kept at which step.
"""

from attar.pruning.allocation import global_, per_layer, std_threshold
from attar.pruning.scan import sensitivity, within_drop
from attar.pruning.schedule import cubic, iterative, one_shot
from attar.pruning.step import GradualPruning
from attar.pruning.weights import prune_weights

__all__ = [
    "GradualPruning",
    "cubic",
    "global_",
    "iterative",
    "one_shot",
    "per_layer",
    "prune_weights",
    "sensitivity",
    "std_threshold",
    "within_drop",
]
