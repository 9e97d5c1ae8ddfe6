"""A network run on identities instead of numbers: what every dimension of every tensor is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from attar.graph.identities import Identities, Vector
from attar.graph.network import Network, op_name, size

__all__ = ["Call", "Labels", "Origin", "Product", "Propagation", "Rule", "Spot", "flat", "layer_of", "still"]

Origin = tuple[str, int]  # a dimension of a held tensor


@dataclass(frozen=True, eq=False)
class Labels:
    """One vector of identities for each dimension of a tensor.

    `zero`: for each dimension, whether what is removed from it is zero in the masked network (every removed slice of
    every parameter set to zero), so that a sum may leave it out. `origin`: for each dimension, that of the held tensor
    which it is, untouched.
    """

    dims: tuple[Vector, ...]
    zero: tuple[bool, ...] = ()
    origin: tuple[Origin | None, ...] = ()

    def __post_init__(self) -> None:
        if len(self.zero) != len(self.dims):
            object.__setattr__(self, "zero", (False,) * len(self.dims))
        if len(self.origin) != len(self.dims):
            object.__setattr__(self, "origin", (None,) * len(self.dims))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(vector) for vector in self.dims)

    def take(self, order: Sequence[int]) -> Labels:
        """The dimensions in another order, or some of them."""
        return Labels(tuple(self.dims[d] for d in order), tuple(self.zero[d] for d in order), tuple(self.origin[d] for d in order))

    def replace(self, d: int, vector: Vector) -> Labels:
        """Another vector in one dimension, made of the same identities."""
        return Labels((*self.dims[:d], vector, *self.dims[d + 1 :]), self.zero, self.origin)


@dataclass(frozen=True)
class Spot:
    """A place in the network that keeps something from being cut: where, which op, why, and a rewrite that would help."""

    layer: str
    op: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, eq=False)
class Product:
    """Work: `constant` times the number of kept indices of each vector, in multiply-accumulates."""

    layer: str
    constant: int
    vectors: tuple[Vector, ...]


@dataclass(frozen=True)
class Call:
    """One op of the graph: its arguments by the names of its schema, tensors as `Labels`, and the shapes of its results."""

    node: fx.Node
    name: str
    args: Mapping[str, Any]
    shapes: tuple[tuple[int, ...] | None, ...]

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, *names: str) -> Any:
        """The first of several names that the op's schema has; None where it has none of them."""
        return next((self.args[name] for name in names if name in self.args), None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the only result."""
        (shape,) = self.shapes
        assert shape is not None
        return shape

    def tensors(self) -> Iterator[Labels]:
        """All tensors among the arguments, lists taken apart, in order."""
        return flat(list(self.args.values()))


Rule = Callable[["Propagation", Call], Any]


@dataclass
class Propagation:
    """What is known while the graph is run on identities; rules call it.

    `exact=False` lets norms and means average over what is left of a cut dimension; `approximate` then has, for each
    such node, the dimensions of its first argument that it averages over. `sizes` has, for each node whose arguments
    hold a number that depends on what is kept (groups), the vector that it counts. `unmasked` are dimensions of held
    tensors that must not be zeroed in the masked network, because an op would divide by zero.
    """

    network: Network
    exact: bool = True
    ids: Identities = field(default_factory=Identities)
    labels: dict[fx.Node, Any] = field(default_factory=dict)
    held: dict[str, Labels] = field(default_factory=dict)
    consumed: set[Origin] = field(default_factory=set)
    heads: list[Vector] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)
    sizes: dict[fx.Node, Vector] = field(default_factory=dict)
    approximate: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    unmasked: set[Origin] = field(default_factory=set)

    def run(self, rules: Mapping[str, Rule]) -> Propagation:
        """Visit every node in order."""
        for node in self.network.graph.nodes:
            self.labels[node] = self._visit(node, rules)
        return self

    # What rules are made of.

    def live(self, labels: Labels, d: int) -> bool:
        """Whether anything of a dimension could still be removed."""
        return self.ids.live(labels.dims[d])

    def live_dims(self, labels: Labels, dims: Iterable[int] | None = None) -> list[int]:
        """The dimensions of which something could still be removed."""
        return [d for d in (range(len(labels.dims)) if dims is None else dims) if self.live(labels, d)]

    def fix(self, labels: Labels, dims: Iterable[int] | None, reason: str) -> None:
        """Keep dimensions (None: all) whole."""
        for d in range(len(labels.dims)) if dims is None else dims:
            self.ids.fix(labels.dims[d], reason)

    def fresh(self, shape: Sequence[int], zero: bool = False) -> Labels:
        """A tensor whose dimensions can be cut as one likes."""
        return Labels(tuple(self.ids.fresh(n) for n in shape), (zero,) * len(shape))

    def unsupported(self, call: Call, reason: str, hint: str = "") -> None:
        """Say that something is kept because this op is in the way."""
        self.spots.append(Spot(layer_of(call.node), call.name, reason, hint))

    def contract(self, call: Call, operands: Sequence[Labels], letters: Sequence[str], out: str, *, work: int = 1) -> Labels:
        """`einsum` on identities: sizes of one letter go together, and what is summed over may go where a factor is zero.

        `work` multiplies the multiply-accumulates, for dimensions that the letters do not show.
        """
        vectors: dict[str, Vector] = {}
        for labels, names in zip(operands, letters, strict=True):
            for d, letter in enumerate(names):
                vector = labels.dims[d]
                if letter not in vectors or len(vectors[letter]) == 1:
                    vectors[letter] = vector
                elif len(vector) > 1:
                    self.ids.unite(vectors[letter], vector)
        for letter, vector in vectors.items():
            if self.ids.live(vector):
                self._meet(call, operands, letters, out, letter, vector)
        met = {letter: v for letter, v in vectors.items() if letter in out or sum(letter in names for names in letters) > 1}
        if any(letter not in out for letter in met):  # a letter of one operand is summed before, and products alone are no MACs
            self.products.append(Product(layer_of(call.node), work, tuple(met.values())))
        zero = tuple(_zero_along(operands, letters, letter, vectors[letter]) for letter in out)
        return Labels(tuple(vectors[letter] for letter in out), zero)

    def _meet(self, call: Call, operands: Sequence[Labels], letters: Sequence[str], out: str, letter: str, vector: Vector) -> None:
        """A removable letter: summed over, it needs a factor that is zero; shared and kept, it is a head."""
        having = [(x, names.index(letter)) for x, names in zip(operands, letters, strict=True) if letter in names]
        if letter in out:
            if len(having) > 1 and not any(x.origin[d] for x, d in having):
                self.heads.append(vector)
            return
        if not _zero_along(operands, letters, letter, vector):
            self.ids.fix(vector, f"{call.name} sums over it, and removed elements are not zero there")
        for x, d in having:
            if (origin := x.origin[d]) is not None:
                self.consumed.add(origin)

    # The graph.

    def _visit(self, node: fx.Node, rules: Mapping[str, Rule]) -> Any:
        if node.op == "get_attr":
            return self._held(str(node.target))
        if node.op == "placeholder":
            return still(_shapes(node)[0])
        if node.op == "output":
            for source in node.all_input_nodes:
                for labels in flat(self.labels[source]):
                    self.fix(labels, None, "it is the network's output")
            return None
        if not isinstance(node.target, torch._ops.OpOverload):
            if op_name(node) == "getitem":
                whole, position = self.labels[node.all_input_nodes[0]], node.args[1]
                return whole[position] if isinstance(whole, list | tuple) else None  # type: ignore[index]
            return None  # arithmetic of sizes
        shapes = _shapes(node)
        if all(shape is None for shape in shapes):
            return None
        call = Call(node, node.target._opname, self._bind(node), shapes)
        rule = rules.get(f"{call.name}.{node.target._overloadname}", rules.get(call.name))
        result = rule(self, call) if rule is not None else self.unknown(call)
        for labels, shape in zip(flat(result), (s for s in shapes if s is not None), strict=True):
            assert labels.shape == shape, f"{node.name}: labels of shape {labels.shape} for a result of {shape}"
        return result

    def _held(self, name: str) -> Labels:
        if name not in self.held:
            tensor = self.network.tensors[name]
            labels = self.fresh(tensor.shape, zero=isinstance(tensor, nn.Parameter))
            self.held[name] = Labels(labels.dims, labels.zero, tuple((name, d) for d in range(tensor.ndim)))
        return self.held[name]

    def _bind(self, node: fx.Node) -> dict[str, Any]:
        def labels(value: Any) -> Any:
            if isinstance(value, fx.Node):
                found = self.labels[value]
                return found if found is not None else _plain(value.meta.get("val"))
            if isinstance(value, list | tuple):
                return [labels(v) for v in value]
            return value

        assert isinstance(node.target, torch._ops.OpOverload)
        arguments = node.target._schema.arguments
        bound = {a.name: a.default_value for a in arguments if a.has_default_value()}
        bound |= {a.name: labels(value) for a, value in zip(arguments, node.args, strict=False)}
        return bound | {name: labels(value) for name, value in node.kwargs.items()}

    def unknown(self, call: Call) -> Any:
        """An op without a rule: all that enters is kept, and said."""
        reason = f"{call.name} has no coupling rule"
        if any(self.live_dims(labels) for labels in call.tensors()):
            self.unsupported(call, reason, "build it from ops that have one, or keep it out of the layers to be cut")
        for labels in call.tensors():
            self.fix(labels, None, reason)
        results = [still(shape) for shape in call.shapes]
        return results if isinstance(call.node.meta["val"], list | tuple) else results[0]


def flat(value: Any) -> Iterator[Labels]:
    """The labels in a value, lists taken apart."""
    if isinstance(value, Labels):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)


def still(shape: Sequence[int] | None) -> Labels | None:
    """A tensor of which nothing can be removed."""
    return None if shape is None else Labels(tuple(np.zeros(n, dtype=np.int64) for n in shape))


def layer_of(node: fx.Node) -> str:
    """The path of the innermost module that a node belongs to, '' where it is the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(list(stack.values())))[0]) if stack else ""


def _zero_along(operands: Sequence[Labels], letters: Sequence[str], letter: str, vector: Vector) -> bool:
    """Whether a product is zero at the removed indices of a letter: a factor that has all of them is."""
    return any(
        x.zero[names.index(letter)] and len(x.dims[names.index(letter)]) == len(vector)
        for x, names in zip(operands, letters, strict=True)
        if letter in names
    )


def _shapes(node: fx.Node) -> tuple[tuple[int, ...] | None, ...]:
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(tuple(size(s) for s in v.shape) if isinstance(v, Tensor) else None for v in values)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.SymInt):
        return size(value)
    return value
