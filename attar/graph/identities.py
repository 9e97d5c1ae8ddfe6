"""Which indices, of all dimensions of all tensors, stay or go together: a union-find whose members may be conjunctions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIXED", "Identities", "Vector"]

Vector = NDArray[np.int64]
FIXED = 0  # the identity of an index that nobody asks about: a size of 1, a batch, a position
_RESERVED = 256  # identities below are fixed, one for each reason


class Identities:
    """One identity for each index that could be removed; an index is removed iff its identity is.

    A dimension of a tensor is described by a vector of identities, and an element is kept iff the identities of all
    its indices are: every kept mask is an outer product by construction, and the cost grows with the sum of the
    dimensions. Identities are *united* (they go together), *fixed* (they always stay, for a reason), or found to be
    the *conjunction* of others: "channel 7 is head 1 and position 3" is kept iff both are. That is how a view that
    splits a dimension into heads and width, or groups and channels, is seen.
    """

    def __init__(self) -> None:
        self._parent = np.arange(1 << 12)
        self._conjoined = np.zeros(1 << 12, dtype=bool)
        self._count = _RESERVED
        self._reasons = [""]
        self._parts: dict[int, tuple[int, ...]] = {}
        self._conjunctions: dict[tuple[int, ...], int] = {}
        self._known: dict[int, tuple[int, ...]] = {}  # the atoms of conjunctions, until any identity changes

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int) -> Vector:
        """Identities that are new; an index that is alone in its dimension can never go."""
        if count == 1:
            return np.zeros(1, dtype=np.int64)
        start, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            size = 1 << self._count.bit_length()
            self._conjoined = np.concatenate([self._conjoined, np.zeros(size - len(self._parent), dtype=bool)])
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), size)])
        return np.arange(start, self._count)

    def find(self, ids: Vector) -> Vector:
        """The representative of each identity."""
        roots = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[ids] = roots
        return roots

    def atoms(self, identity: int) -> tuple[int, ...]:
        """The free identities whose conjunction `identity` is, outermost first; none where it is fixed."""
        root = self._root(identity)
        if root < _RESERVED:
            return ()
        if not self._conjoined[root]:
            return (root,)
        if root not in self._known:
            self._known[root] = tuple(part for part in self._flat(root) if part >= _RESERVED)
        return self._known[root]

    def live(self, ids: Vector) -> bool:
        """Whether any of them could still be removed."""
        roots = self.find(ids)
        free = roots >= _RESERVED
        if not free.any():
            return False
        conjoined = self._conjoined[roots]
        return bool((free & ~conjoined).any()) or any(self.atoms(r) for r in set(roots[free & conjoined].tolist()))

    def free(self, ids: Vector) -> NDArray[np.bool_]:
        """For each of them, whether it could still be removed."""
        roots = self.find(ids)
        result = roots >= _RESERVED
        for root in set(roots[result & self._conjoined[roots]].tolist()):
            if not self.atoms(root):
                result[roots == root] = False
        return result

    def reasons(self, ids: Vector) -> list[str]:
        """Why those that are fixed are, each reason once, without the indices that nobody asks about."""
        roots = self.find(ids)
        found = dict.fromkeys(self._reasons[r] for r in np.unique(roots[roots < _RESERVED]).tolist())
        for root in set(roots[self._conjoined[roots]].tolist()):
            found |= dict.fromkeys(self._reasons[part] for part in self._flat(root) if part < _RESERVED)
        return [reason for reason in found if reason]

    def is_conjunction(self, ids: Vector) -> NDArray[np.bool_]:
        """For each of them, whether it is made of several."""
        return self._conjoined[self.find(ids)]

    def fix(self, ids: Vector, reason: str) -> None:
        """Let them stay always, for a reason."""
        roots = self.find(ids)
        free = roots[roots >= _RESERVED]
        if not len(free):
            return
        place = self._place(reason)
        conjoined = self._conjoined[free]
        gone = [atom for root in set(free[conjoined].tolist()) for atom in self.atoms(root)]
        self._parent[free[~conjoined]] = place
        self._parent[gone] = place
        self._known.clear()

    def unite(self, a: Vector, b: Vector) -> None:
        """Let each of `a` go together with the one of `b` in its place; what meets a fixed one is fixed by its reason."""
        a, b = self.find(a), self.find(b)
        differ = (a != b) & ((a >= _RESERVED) | (b >= _RESERVED))
        if not differ.any():
            return
        a, b = a[differ], b[differ]
        special = self._conjoined[a] | self._conjoined[b]
        self._hook(a[~special], b[~special])
        for u, v in dict.fromkeys(zip(a[special].tolist(), b[special].tolist(), strict=True)):
            self._unite_conjunctions(u, v)

    def conjoin(self, a: Vector, b: Vector) -> Vector:
        """The conjunctions of `a` and `b`, broadcast against each other."""
        a, b = np.broadcast_arrays(self.find(a), self.find(b))
        result = np.where(a < _RESERVED, b, a)
        both = (a >= _RESERVED) & (b >= _RESERVED) & (a != b)
        if both.any():
            known: dict[tuple[int, int], int] = {}
            for pair in zip(a[both].tolist(), b[both].tolist(), strict=True):
                if pair not in known:
                    known[pair] = self._conjunction(*pair)
            result[both] = [known[pair] for pair in zip(a[both].tolist(), b[both].tolist(), strict=True)]
        return result

    def outer(self, vectors: Sequence[Vector]) -> Vector:
        """The conjunctions of all combinations, one dimension for each vector."""
        result = np.zeros([1] * len(vectors), dtype=np.int64)
        for d, vector in enumerate(vectors):
            result = self.conjoin(result, vector.reshape([-1 if k == d else 1 for k in range(len(vectors))]))
        return np.broadcast_to(result, [len(vector) for vector in vectors])

    def factor(self, grid: Vector) -> list[Vector]:
        """Vectors, one for each dimension, whose outer conjunction the grid is; identities are split or united as that needs."""
        grid = self.find(grid)
        result = [np.zeros(n, dtype=np.int64) for n in grid.shape]
        varying = _varying(grid)
        if len(varying) <= 1:
            d = varying[0] if varying else int(np.argmax(grid.shape))
            result[d] = grid[tuple(slice(None) if k == d else 0 for k in range(grid.ndim))].copy()
            return result
        atoms = [self.atoms(identity) for identity in grid.ravel().tolist()]
        for slot in range(max(map(len, atoms))):
            level = np.array([of[slot] if slot < len(of) else FIXED for of in atoms]).reshape(grid.shape)
            for d, vector in enumerate(self._factor_level(level)):
                result[d] = self.conjoin(result[d], vector)
        return result

    def removed(self, atoms: Iterable[int]) -> NDArray[np.bool_]:
        """For each identity (by its number, after `find`), whether it goes when `atoms` do."""
        gone = np.zeros(self._count, dtype=bool)
        gone[list(atoms)] = True
        whole = [root for root in self._parts if self._root(root) == root]
        parts = [self.atoms(root) for root in whole]
        each = np.repeat(np.array(whole, dtype=np.int64), [len(of) for of in parts])
        gone[each[gone[np.array([atom for of in parts for atom in of], dtype=np.int64)]]] = True
        return gone

    def _root(self, identity: int) -> int:
        parent = self._parent
        while (above := int(parent[identity])) != identity:
            identity = above
        return identity

    def _flat(self, root: int) -> tuple[int, ...]:
        """The parts of a conjunction, each a fixed or a free identity, outermost first."""
        found: dict[int, None] = {}
        for part in self._parts[root]:
            place = self._root(part)
            found |= dict.fromkeys(self._flat(place)) if self._conjoined[place] else {place: None}
        self._parts[root] = tuple(found)
        return self._parts[root]

    def _place(self, reason: str) -> int:
        if reason not in self._reasons:
            if len(self._reasons) == _RESERVED:
                return _RESERVED - 1
            self._reasons.append(reason)
        return self._reasons.index(reason)

    def _hook(self, a: Vector, b: Vector) -> None:
        self._known.clear()
        while len(a):
            self._parent[np.maximum(a, b)] = np.minimum(a, b)  # of several for one place the last stays; the others come again
            a, b = self.find(a), self.find(b)
            differ = (a != b) & ((a >= _RESERVED) | (b >= _RESERVED))
            a, b = a[differ], b[differ]

    def _unite_conjunctions(self, u: int, v: int) -> None:
        a, b = self.atoms(u), self.atoms(v)
        if set(a) == set(b):
            self._merge(u, v)
        elif not a or not b:
            self._fix_atoms(a or b, u if not a else v)
        else:
            only_a, only_b = [x for x in a if x not in b], [x for x in b if x not in a]
            if len(a) == 1 and only_a:
                self._become(a[0], b)
            elif len(b) == 1 and only_b:
                self._become(b[0], a)
            elif not only_a or not only_b:  # {x} and {x, y}: y must follow x
                for y in only_a or only_b:
                    self._unite_one(next(x for x in a if x in b), y)
            elif len(only_a) == 1:
                self._become(only_a[0], tuple(only_b))
            elif len(only_b) == 1:
                self._become(only_b[0], tuple(only_a))
            else:  # sound and coarse: one after the other
                for k, x in enumerate(only_a):
                    self._unite_one(x, only_b[min(k, len(only_b) - 1)])
                for x in only_b[len(only_a) :]:
                    self._unite_one(only_a[-1], x)

    def _unite_one(self, u: int, v: int) -> None:
        self.unite(np.array([u]), np.array([v]))

    def _fix_atoms(self, atoms: Sequence[int], like: int) -> None:
        """Fix atoms for the reason for which the identity `like` is fixed."""
        root = self._root(like)
        place = root if root < _RESERVED else next(iter(self._flat(root)), FIXED)
        self._parent[list(atoms)] = place
        self._known.clear()

    def _merge(self, u: int, v: int) -> None:
        """Two identities that are the same conjunction become one, so that the next comparison is quick."""
        u, v = sorted((self._root(u), self._root(v)), key=lambda root: (self._conjoined[root], root))
        self._parent[v] = u
        self._known.clear()

    def _become(self, atom: int, parts: tuple[int, ...]) -> None:
        self._known.clear()
        if len(parts) == 1:
            self._parent[max(atom, parts[0])] = min(atom, parts[0])
        else:
            self._parts[atom] = parts
            self._conjoined[atom] = True

    def _conjunction(self, u: int, v: int) -> int:
        atoms = tuple(dict.fromkeys((*self.atoms(u), *self.atoms(v))))
        if len(atoms) < 2:
            return atoms[0] if atoms else FIXED
        if atoms not in self._conjunctions:
            identity = int(self.fresh(2)[0])
            self._become(identity, atoms)
            self._conjunctions[atoms] = identity
        return self._conjunctions[atoms]

    def _factor_level(self, level: Vector) -> list[Vector]:
        """`factor` for a grid of atoms."""
        varying = _varying(level)
        if len(varying) <= 1:
            return self.factor(level)
        vectors = [self.fresh(n) if d in varying else np.zeros(n, dtype=np.int64) for d, n in enumerate(level.shape)]
        thin = level[tuple(slice(None) if d in varying else slice(0, 1) for d in range(level.ndim))]
        self.unite(thin.ravel(), self.outer([v if d in varying else v[:1] for d, v in enumerate(vectors)]).ravel())
        return vectors


def _varying(grid: Vector) -> list[int]:
    return [d for d in range(grid.ndim) if bool((grid != grid.take([0], d)).any())]
