"""Which slices of which tensors of a network live and die together: its groups, and what each would save."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attar.errors import AttarError
from attar.graph.identities import Vector
from attar.graph.labels import Origin, Propagation, Spot, flat
from attar.graph.network import Network
from attar.graph.rules import RULES
from attar.names import nearest

__all__ = ["Coupling", "Group", "Place", "couple"]


@dataclass(frozen=True)
class Place:
    """A dimension of a held tensor that a group has slices of; `consumed` where the network sums over it (an input of a layer)."""

    tensor: str
    dim: int
    consumed: bool


@dataclass(frozen=True)
class Group:
    """Units that can be removed one by one: each is a set of slices, at the same places, that go together.

    `kind` is "channel" (a filter, a neuron, a feature), "head" (of attention) or "inner" (the other factor where a
    dimension is a product of two: a position within every head, and of a grouped convolution the groups or the channels
    of each, whichever are fewer); `outer` is then the group of the first factor. `units` is how many there are.
    """

    name: str
    kind: str
    units: int
    places: tuple[Place, ...]
    outer: str = ""
    atoms: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False, compare=False)

    @property
    def produced(self) -> tuple[Place, ...]:
        """The places that make the units (rows of weights, biases, norms); the rest read them."""
        return tuple(place for place in self.places if not place.consumed)


class Coupling:
    """The groups of a network, and what is kept of every tensor when some of their units are removed."""

    def __init__(self, propagation: Propagation) -> None:
        self.propagation = propagation
        self.network = propagation.network
        self.groups = _groups(propagation)
        self.spots: tuple[Spot, ...] = tuple(dict.fromkeys(propagation.spots))

    def group(self, name: str) -> Group:
        """The group of that name; raises AttarError where there is none."""
        found = self._by_name.get(name)
        if found is None:
            raise AttarError(f"there is no group {name!r}{nearest(name, list(self._by_name))}: `attar inspect` lists the groups")
        return found

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def fingerprint(self) -> str:
        """Of the network's structure: a plan made for another one does not fit it."""
        text = [f"{name} {tuple(tensor.shape)}" for name, tensor in self.network.tensors.items()]
        text += [f"{group.name} {group.kind} {group.units}" for group in self.groups]
        return hashlib.blake2b("\n".join(text).encode(), digest_size=8).hexdigest()

    def members(self, group: Group, place: Place) -> NDArray[np.int64]:
        """For each index of a place's dimension, the unit of the group that it belongs to; -1 where to none."""
        ids, vector = self.propagation.ids, self.propagation.held[place.tensor].dims[place.dim]
        unit = {int(atom): k for k, atom in enumerate(group.atoms)}
        roots = ids.find(vector)
        of = {root: next((unit[atom] for atom in ids.atoms(root) if atom in unit), -1) for root in set(roots.tolist())}
        return np.array([of[root] for root in roots.tolist()], dtype=np.int64)

    def kept(self, removed: Mapping[str, Iterable[int]]) -> Kept:
        """What stays of every tensor when the given units of the groups (by name) go."""
        atoms = [self.group(name).atoms[list(units)] for name, units in removed.items()]
        gone = self.propagation.ids.removed(np.concatenate(atoms).tolist() if atoms else ())
        return Kept(self, gone)

    def fixed(self, tensor: str, dim: int) -> list[str]:
        """Why a dimension of a held tensor, or a part of it, stays whole; nothing where all of it can be cut."""
        return self.propagation.ids.reasons(self.propagation.held[tensor].dims[dim])


class Kept:
    """What is kept of every dimension, for one choice of removed units."""

    def __init__(self, coupling: Coupling, gone: NDArray[np.bool_]) -> None:
        self._find = coupling.propagation.ids.find
        self._gone = gone
        self._held = coupling.propagation.held
        self._products = coupling.propagation.products
        self._labels = coupling.propagation.labels

    def mask(self, vector: Vector) -> NDArray[np.bool_]:
        """For each index of a dimension, whether it stays."""
        return ~self._gone[self._find(vector)]

    def count(self, vector: Vector) -> int:
        """How many indices of a dimension stay."""
        return int(self.mask(vector).sum())

    @cached_property
    def indices(self) -> dict[str, dict[int, NDArray[np.int64]]]:
        """Of every held tensor that is cut, the indices that stay, by dimension: old index = indices[tensor][dim][new index]."""
        found: dict[str, dict[int, NDArray[np.int64]]] = {}
        for name, labels in self._held.items():
            for d, vector in enumerate(labels.dims):
                mask = self.mask(vector)
                if not mask.all():
                    found.setdefault(name, {})[d] = np.flatnonzero(mask)
        return found

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of all products of the network, on its example."""
        return sum(product.constant * int(np.prod([self.count(v) for v in product.vectors], dtype=np.int64)) for product in self._products)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """What is left of a held tensor's shape."""
        return tuple(self.count(vector) for vector in self._held[tensor].dims)

    def emptied(self) -> list[str]:
        """The nodes that nothing would be left of."""
        return [
            node.name
            for node, value in self._labels.items()
            for labels in flat(value)
            if any(len(v) and self._gone[self._find(v)].all() for v in labels.dims)
        ]


def couple(network: Network, *, exact: bool = True) -> Coupling:
    """Run a traced network on identities and collect its groups.

    `exact=False` also lets what a norm or a mean averages over be cut (the residual stream of a transformer): the
    result then is another function, not the network with a mask.

    >>> import torch
    >>> from torch import nn
    >>> from attar.graph import trace
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [(group.name, group.units) for group in couple(trace(model, (torch.zeros(1, 4),))).groups]
    [('0', 8)]
    """
    return Coupling(Propagation(network, exact).run(RULES))


_SLOTS = 8  # positions in a conjunction that are told apart
_PIECES = {"slice", "narrow", "split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split"}


@dataclass(frozen=True)
class _Occurrences:
    """The free atoms of one vector, once for each slot of a conjunction that they take: atom, slot, first index; and the conjunctions."""

    atoms: list[int]
    slots: list[int]
    first: list[int]
    conjunctions: set[tuple[int, ...]]


def _groups(run: Propagation) -> tuple[Group, ...]:
    """Atoms that take the same slots of the same places are the units of one group; pieces of a cut-up tensor are told apart."""
    places = [(name, d) for name, labels in run.held.items() for d in range(len(labels.dims))]
    vectors = [run.held[name].dims[d] for name, d in places] + _pieces(run)
    found = [_occurrences(run, vector) for vector in vectors]
    if not any(o.atoms for o in found):
        return ()
    atoms = np.array([atom for o in found for atom in o.atoms], dtype=np.int64)
    where = np.array([k * _SLOTS + min(slot, _SLOTS - 1) for k, o in enumerate(found) for slot in o.slots], dtype=np.int64)
    first = np.array([at for o in found for at in o.first], dtype=np.int64)
    order = np.lexsort((where, atoms))
    atoms, where, first = atoms[order], where[order], first[order]
    starts = np.flatnonzero(np.r_[True, atoms[1:] != atoms[:-1]]).tolist()
    families: dict[bytes, list[int]] = {}
    for start, end in zip(starts, [*starts[1:], len(atoms)], strict=True):
        if where[start] < len(places) * _SLOTS:  # what is in no held tensor needs no cutting
            families.setdefault(where[start:end].tobytes(), []).append(start)
    members = [sorted(starts, key=lambda start: int(first[start])) for starts in families.values()]
    units = [atoms[m] for m in members]
    heads = {atom for vector in run.heads for identity in set(vector.tolist()) for atom in run.ids.atoms(identity)}
    outer = _outer(units, {c for o in found for c in o.conjunctions}, heads)
    kinds = ["inner" if k in outer else "head" if int(of[0]) in heads else "channel" for k, of in enumerate(units)]
    vectors_of = [np.unique(np.frombuffer(key, dtype=np.int64) // _SLOTS) for key in families]
    at = [[places[k] for k in of if k < len(places)] for of in vectors_of]
    spans = [(int(first[m[0]]), int(first[m[-1]]) + 1) for m in members]
    names = _names(run, at, spans, kinds)
    groups = [
        Group(
            names[k],
            kinds[k],
            len(of),
            tuple(Place(name, d, (name, d) in run.consumed) for name, d in at[k]),
            names[outer[k]] if k in outer else "",
            of,
        )
        for k, of in enumerate(units)
        if len(of) > 1 and any(isinstance(run.network.tensors[name], nn.Parameter) for name, _ in at[k])
    ]
    rank = {place: k for k, place in enumerate(places)}
    return tuple(sorted(groups, key=lambda group: [rank[p.tensor, p.dim] for p in group.produced or group.places]))


def _pieces(run: Propagation) -> list[Vector]:
    """The vectors of pieces that the network cuts a tensor into: each must keep something of its own."""
    return [
        vector
        for node, value in run.labels.items()
        if node.op == "call_function" and getattr(node.target, "_opname", "") in _PIECES
        for labels in flat(value)
        for vector in labels.dims
        if run.ids.live(vector)
    ]


def _occurrences(run: Propagation, vector: Vector) -> _Occurrences:
    ids = run.ids
    free, roots = ids.free(vector), ids.find(vector)
    conjoined = ids.is_conjunction(vector) & free
    plain, first = np.unique(roots[free & ~conjoined], return_index=True)
    at = {(atom, 0): index for atom, index in zip(plain.tolist(), np.flatnonzero(free & ~conjoined)[first].tolist(), strict=True)}
    conjunctions: set[tuple[int, ...]] = set()
    for position in np.flatnonzero(conjoined).tolist():
        atoms = ids.atoms(int(roots[position]))
        if atoms not in conjunctions:
            conjunctions.add(atoms)
            for slot, atom in enumerate(atoms):
                at.setdefault((atom, slot), position)
    return _Occurrences([atom for atom, _ in at], [slot for _, slot in at], list(at.values()), conjunctions)


def _outer(units: list[NDArray[np.int64]], conjunctions: set[tuple[int, ...]], heads: set[int]) -> dict[int, int]:
    """For each family that is a position within another, that other: heads before width, else the finer before the coarser."""
    family = {int(atom): k for k, of in enumerate(units) for atom in of}
    marked = {family[atom] for atom in heads if atom in family}
    found: dict[int, int] = {}
    for together in {tuple(dict.fromkeys(family[atom] for atom in c)) for c in conjunctions}:
        candidates = [k for k in together if k in marked] or sorted(together, key=lambda k: -len(units[k]))
        candidates = [k for k in candidates if len(units[k]) > 1] or candidates
        found |= {k: candidates[0] for k in together if k != candidates[0]}
    return found


def _names(run: Propagation, at: list[list[Origin]], spans: list[tuple[int, int]], kinds: list[str]) -> list[str]:
    """The path of the layer that makes a group, and its range of indices where a layer makes several."""
    bases = []
    for places, kind in zip(at, kinds, strict=True):
        makers = [place for place in places if place not in run.consumed] or places
        tensor, _ = next((place for place in makers if len(run.held[place[0]].dims) > 1), makers[0])
        path, _, leaf = tensor.rpartition(".")
        base = path if leaf == "weight" and path else tensor
        bases.append(base + {"head": "/heads", "inner": "/inner"}.get(kind, ""))
    names: list[str] = []
    for k, (base, (first, last)) in enumerate(zip(bases, spans, strict=True)):
        name = base if bases.count(base) == 1 else f"{base}[{first}:{last}]"
        names.append(name if name not in names else f"{name}#{k}")
    return names
