"""Removing weights, kernels, filters, heads and blocks: criteria, budgets, schedules, and the step that prunes while a network trains.

A criterion (`saliency/`, one file each) scores one weight and knows nothing else; an allocation turns the scores of
many layers and a budget into masks; a schedule says how much is kept at which step. Weights and kernels become `Sparse`
forms; filters and heads leave the network along the groups that `attar.graph` finds; blocks are bypassed.
"""

from attar.pruning._evidence import needed
from attar.pruning.allocation import global_, per_layer, std_threshold
from attar.pruning.blocks import Block, PrunedBlocks, find_blocks, prune_blocks, remove_blocks
from attar.pruning.granularity import GRANULARITIES, plan, prune_structure
from attar.pruning.kernels import prune_kernels
from attar.pruning.scan import sensitivity, within_drop
from attar.pruning.schedule import cubic, iterative, one_shot
from attar.pruning.step import GradualPruning
from attar.pruning.weights import prune_weights

__all__ = [
    "GRANULARITIES",
    "Block",
    "GradualPruning",
    "PrunedBlocks",
    "cubic",
    "find_blocks",
    "global_",
    "iterative",
    "needed",
    "one_shot",
    "per_layer",
    "plan",
    "prune_blocks",
    "prune_kernels",
    "prune_structure",
    "prune_weights",
    "remove_blocks",
    "sensitivity",
    "std_threshold",
    "within_drop",
]
