"""A smaller graph: held tensors cut, and the sizes that are written in it as numbers corrected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from attar.errors import SurgeryError
from attar.graph.coupling import Coupling, Kept
from attar.graph.labels import Labels, flat, layer_of
from attar.graph.network import Network, op_name, shape, size
from attar.graph.propagate import propagate

__all__ = ["Literal", "cut_network", "cut_tensor"]

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Literal:
    """A number written in the graph that had to change: by which layer's code, in which op, from what to what."""

    layer: str
    op: str
    old: int
    new: int


@dataclasses.dataclass
class _Edit:
    """One node being rewritten: its labels, what is kept, and the graph it is in."""

    old: fx.Node
    node: fx.Node
    kept: Kept
    labels: Mapping[fx.Node, Any]
    graph: fx.Graph
    constants: dict[str, Tensor]
    literals: list[Literal]

    @property
    def result(self) -> Labels:
        return self.labels[self.old]

    @property
    def operand(self) -> Labels:
        return self.labels[self.old.args[0]]  # type: ignore[index]

    def argument(self, position: int, default: Any = None) -> Any:
        """An argument of the original node, sizes as numbers."""
        value = self.old.args[position] if len(self.old.args) > position else default
        return size(value.meta["val"]) if isinstance(value, fx.Node) else value

    def number(self, old: int, new: int) -> int:
        """Note that a number changes."""
        if old != new:
            self.literals.append(Literal(layer_of(self.old), op_name(self.old).split(".")[1], old, new))
        return new

    def sizes(self, given: Sequence[Any], labels: Sequence[np.ndarray]) -> list[Any]:
        """Sizes as they are after the cut; one that is computed and changes is left to be inferred."""
        result: list[Any] = []
        for value, vector in zip(given, labels, strict=True):
            count = self.kept.count(vector)
            if isinstance(value, int) and value != -1:
                result.append(self.number(value, count))
            else:
                result.append(value if count == len(vector) or value == -1 else -1)
        if result.count(-1) > 1:  # one at most can be inferred: those that were to be, but are known, are written
            result = [self.kept.count(v) if r == -1 and g == -1 else r for r, g, v in zip(result, given, labels, strict=True)]
        if result.count(-1) > 1:
            raise SurgeryError(f"{self.old.name} in layer {layer_of(self.old)!r} reshapes to sizes of which two are computed")
        return result


def cut_tensor(tensor: Tensor, indices: Mapping[int, np.ndarray]) -> Tensor:
    """A copy of a tensor with only the given indices of each dimension."""
    for d, index in indices.items():
        tensor = tensor.index_select(d, torch.from_numpy(index).to(tensor.device))
    return tensor.contiguous()


def cut_network(coupling: Coupling, kept: Kept, shapes: Sequence[tuple[int, ...] | None]) -> tuple[Network, list[Literal]]:
    """The network without what is removed, and the numbers in its graph that changed.

    `shapes` are those of the inputs, for which the result is propagated and compared with what the coupling promised.
    Raises SurgeryError where a size cannot be rewritten.
    """
    network, run = coupling.network, coupling.propagation
    tensors = {name: _cut_held(tensor, kept.indices[name]) if name in kept.indices else tensor for name, tensor in network.tensors.items()}
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    literals: list[Literal] = []
    for old in network.graph.nodes:
        copied[old] = node = graph.node_copy(old, copied.__getitem__)
        rewrite = _REWRITES.get(_base(old))
        if rewrite is not None and _touched(run.labels, old, kept):
            constants: dict[str, Tensor] = {}
            rewrite(_Edit(old, node, kept, run.labels, graph, constants, literals))
            tensors |= constants
        if old in run.sizes:
            _groups(_Edit(old, node, kept, run.labels, graph, {}, literals), kept.count(run.sizes[old]))
    result = dataclasses.replace(network, graph=graph, tensors=tensors)
    propagate(result, shapes, byte_cap=1 << 62)
    for old, node in copied.items():
        promised = [tuple(kept.count(v) for v in labels.dims) for labels in flat(run.labels[old])]
        value = node.meta.get("val")
        got = [shape(v) for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, Tensor)]
        if old.op == "call_function" and promised and promised != got:
            raise SurgeryError(f"{old.name} in layer {layer_of(old)!r} has shape {got} after the cut, where {promised} was promised")
    return result, literals


def _cut_held(tensor: Tensor, indices: Mapping[int, np.ndarray]) -> Tensor:
    cut = cut_tensor(tensor.detach(), indices)
    return nn.Parameter(cut, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut


def _base(node: fx.Node) -> str:
    return node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""


def _touched(labels: Mapping[fx.Node, Any], node: fx.Node, kept: Kept) -> bool:
    near = [x for source in (node, *node.all_input_nodes) for x in flat(labels[source])]
    return any(not kept.mask(vector).all() for x in near for vector in x.dims)


# Rewrites: one for each op whose arguments hold sizes.


def _view(edit: _Edit) -> None:
    """As a reshape: what was contiguous may be so no more."""
    edit.node.target = aten.reshape.default
    edit.node.args = (edit.node.args[0], edit.sizes(edit.node.args[1], edit.result.dims))  # type: ignore[arg-type]


def _unflatten(edit: _Edit) -> None:
    d = edit.argument(1) % len(edit.operand.dims)
    given: Any = edit.node.args[2]
    edit.node.update_arg(2, edit.sizes(given, edit.result.dims[d : d + len(given)]))


def _expand(edit: _Edit) -> None:
    given: Any = edit.node.args[1]
    lead = len(given) - len(edit.operand.dims)
    result = []
    for d, (value, vector) in enumerate(zip(given, edit.result.dims, strict=True)):
        count = edit.kept.count(vector)
        if count == len(vector):
            result.append(value)
        elif d >= lead and len(edit.operand.dims[d - lead]) == len(vector):
            result.append(-1)
            edit.number(value if isinstance(value, int) and value != -1 else count, count)
        else:
            raise SurgeryError(f"{edit.old.name} in layer {layer_of(edit.old)!r} repeats something to a size that is cut")
    edit.node.update_arg(1, result)


def _created(edit: _Edit) -> None:
    position = 1 if edit.old.args and isinstance(edit.old.args[0], fx.Node) else 0
    edit.node.update_arg(position, edit.sizes(edit.node.args[position], edit.result.dims))  # type: ignore[arg-type]


def _slice(edit: _Edit) -> None:
    """A range of what is left; where that is no range, the rows by number."""
    d = edit.argument(1, 0) % len(edit.operand.dims)
    mask = edit.kept.mask(edit.operand.dims[d])
    if mask.all():
        return
    length = len(mask)
    if _base(edit.old) == "narrow":
        start, step = edit.argument(2) % length, 1
        end = start + edit.argument(3)
    else:
        start, end, step = slice(edit.argument(2), edit.argument(3), edit.argument(4, 1)).indices(length)
    chosen = np.arange(length)[start:end:step]
    rows = (np.cumsum(mask) - 1)[chosen[mask[chosen]]]
    source = edit.node.args[0]
    if len(rows) and bool((np.diff(rows) == 1).all()):
        first, last = int(rows[0]), int(rows[-1]) + 1
        for old, new in ((start, first), (min(end, length), last)):
            edit.number(old, new)
        edit.node.target = aten.slice.Tensor
        edit.node.args = (source, d, first, last)
    else:
        edit.node.target = aten.index_select.default
        edit.node.args = (source, d, _constant(edit, rows))


def _constant(edit: _Edit, rows: np.ndarray) -> fx.Node:
    name = f"{edit.old.name}_rows"
    edit.constants[name] = torch.from_numpy(rows.astype(np.int64))
    with edit.graph.inserting_before(edit.node):
        return edit.graph.get_attr(name)


def _select(edit: _Edit) -> None:
    d = edit.argument(1) % len(edit.operand.dims)
    mask = edit.kept.mask(edit.operand.dims[d])
    at = edit.argument(2) % len(mask)
    edit.node.update_arg(2, edit.number(at, int(np.cumsum(mask)[at] - 1)))


def _split(edit: _Edit) -> None:
    pieces: Any = edit.result
    position = 2
    d = edit.argument(position, edit.old.kwargs.get("dim", 0)) % len(edit.operand.dims)
    counts = [edit.kept.count(piece.dims[d]) for piece in pieces]
    if all(count == len(piece.dims[d]) for count, piece in zip(counts, pieces, strict=True)):
        return
    for piece, count in zip(pieces, counts, strict=True):
        edit.number(len(piece.dims[d]), count)
    edit.node.target = aten.split_with_sizes.default
    edit.node.args, edit.node.kwargs = (edit.node.args[0], counts, d), {}


def _repeat_each(edit: _Edit) -> None:
    """The size of the result, where it is written as well, is left to be found."""
    edit.node.kwargs = {name: value for name, value in edit.node.kwargs.items() if name != "output_size"}


def _norm(edit: _Edit) -> None:
    given: Any = edit.node.args[1]
    edit.node.update_arg(1, edit.sizes(given, edit.operand.dims[len(edit.operand.dims) - len(given) :]))


def _groups(edit: _Edit, count: int) -> None:
    """The number of groups of a convolution or a norm."""
    schema = edit.old.target._schema.arguments  # type: ignore[union-attr]
    position = next(i for i, a in enumerate(schema) if a.name in ("groups", "num_groups"))
    edit.node.update_arg(position, count)


_REWRITES: dict[str, Callable[[_Edit], None]] = {
    "view": _view,
    "_unsafe_view": _view,
    "reshape": _view,
    "unflatten": _unflatten,
    "expand": _expand,
    "broadcast_to": _expand,
    "zeros": _created,
    "ones": _created,
    "full": _created,
    "empty": _created,
    "new_zeros": _created,
    "new_ones": _created,
    "new_full": _created,
    "new_empty": _created,
    "slice": _slice,
    "narrow": _slice,
    "select": _select,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "unsafe_split": _split,
    "unsafe_chunk": _split,
    "unsafe_split_with_sizes": _split,
    "tensor_split": _split,
    "repeat_interleave": _repeat_each,
    "layer_norm": _norm,
    "rms_norm": _norm,
}
