"""A network as data. Level 0; may import `forms`, never the other way.

`trace(model, example)` gives the graph of ATen ops with the tensors and forms it holds; `couple(network)` finds which
slices of them live and die together; `select` makes a plan of what goes, and `apply` cuts and checks. `weights(model)`
lists what weight-level methods apply to, which needs no graph.
"""

from attar.graph.constants import absorb_
from attar.graph.coupling import Coupling, Group, Kept, Place, couple
from attar.graph.evidence import collect
from attar.graph.fold import Folded, fold_batch_norms
from attar.graph.network import Input, Network, Program, op_name, shape
from attar.graph.select import Cut, Selection, select
from attar.graph.surgery import Surgery, apply
from attar.graph.trace import call_with, eval_mode, trace
from attar.graph.verify import masked
from attar.graph.weights import Weight, by_pattern, require_finite, weights

__all__ = [
    "Coupling",
    "Cut",
    "Folded",
    "Group",
    "Input",
    "Kept",
    "Network",
    "Place",
    "Program",
    "Selection",
    "Surgery",
    "Weight",
    "absorb_",
    "apply",
    "by_pattern",
    "call_with",
    "collect",
    "couple",
    "eval_mode",
    "fold_batch_norms",
    "masked",
    "op_name",
    "require_finite",
    "select",
    "shape",
    "trace",
    "weights",
]
