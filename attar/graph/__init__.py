"""A network as data. Level 0; may import `forms`, never the other way.

`trace(model, example)` gives the graph of ATen ops with the tensors and forms it holds; `weights(model)` lists what
weight-level methods apply to, which needs no graph.
"""

from attar.graph.network import Input, Network, Program, op_name, shape
from attar.graph.trace import call_with, eval_mode, trace
from attar.graph.weights import Weight, by_pattern, require_finite, weights

__all__ = [
    "Input",
    "Network",
    "Program",
    "Weight",
    "by_pattern",
    "call_with",
    "eval_mode",
    "op_name",
    "require_finite",
    "shape",
    "trace",
    "weights",
]
