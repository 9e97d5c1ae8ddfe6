"""The plan of a cut: which units of which groups go, and what that saves. Nothing is touched until it is applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from attar.errors import AttarError
from attar.graph.coupling import Coupling, Kept

__all__ = ["Cut", "Selection", "select"]


@dataclass(frozen=True)
class Cut:
    """What goes of one group: `removed` are units, of `units` that there are."""

    group: str
    kind: str
    units: int
    removed: tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """A plan for the network with that `fingerprint`; the pairs are before and after.

    `macs` are multiply-accumulates of convolutions, linear layers and matrix products on the example that was traced.
    """

    fingerprint: str
    exact: bool
    cuts: tuple[Cut, ...]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    macs: tuple[int, int]

    def __str__(self) -> str:
        lines = [f"{cut.group}: {cut.units} -> {cut.units - len(cut.removed)} {_plural(cut.kind)}" for cut in self.cuts]
        pairs = {"parameters": self.parameters, "bytes": self.bytes, "MACs": self.macs}
        lines += [f"{name}: {a:,} -> {b:,} ({100 * (b / a - 1):+.1f} %)" for name, (a, b) in pairs.items() if a]
        return "\n".join(lines if self.cuts else ["nothing is removed", *lines])

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        """Group -> units that go."""
        return {cut.group: cut.removed for cut in self.cuts}

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON; `Selection.from_data` is the inverse."""
        cuts = [{"group": c.group, "kind": c.kind, "units": c.units, "removed": list(c.removed)} for c in self.cuts]
        pairs = {name: list(getattr(self, name)) for name in ("parameters", "bytes", "macs")}
        return {"fingerprint": self.fingerprint, "exact": self.exact, "cuts": cuts, **pairs}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Selection:
        """A plan from plain values; raises AttarError where they are none."""
        try:
            cuts = tuple(Cut(c["group"], c["kind"], int(c["units"]), tuple(int(u) for u in c["removed"])) for c in data["cuts"])
            pairs = [(int(data[name][0]), int(data[name][1])) for name in ("parameters", "bytes", "macs")]
            return Selection(str(data["fingerprint"]), bool(data["exact"]), cuts, *pairs)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise AttarError(f"this is no selection: {type(error).__name__} {error}; write one with as_data()") from None


def select(coupling: Coupling, removed: Mapping[str, Iterable[int]]) -> Selection:
    """The plan in which units go from groups, both by name and number; groups that lose nothing are left out.

    Raises AttarError for a group or a unit that is not there, one named twice, or a group that would lose all.

    >>> import torch
    >>> from attar.graph import couple, trace
    >>> coupling = couple(trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.zeros(1, 4),)))
    >>> print(select(coupling, {"0": [3, 5]}))
    0: 8 -> 6 channels
    parameters: 58 -> 44 (-24.1 %)
    bytes: 232 -> 176 (-24.1 %)
    MACs: 48 -> 36 (-25.0 %)
    """
    cuts = []
    for name, units in removed.items():
        group, given = coupling.group(name), list(units) if isinstance(units, Iterable) else [units]
        legal = isinstance(units, Iterable) and all(type(unit) is int and 0 <= unit < group.units for unit in given)
        if not legal or len(set(given)) < len(given):
            raise AttarError(f"the units of group {name!r} are the whole numbers 0 to {group.units - 1}, each once; got {given}")
        gone = tuple(sorted(given))
        if len(gone) == group.units:
            raise AttarError(f"group {name!r} would lose all {group.units} of its {_plural(group.kind)}: a layer keeps one at least")
        if gone:
            cuts.append(Cut(name, group.kind, group.units, gone))
    kept, whole = coupling.kept({cut.group: cut.removed for cut in cuts}), coupling.kept({})
    if emptied := kept.emptied():
        raise AttarError(
            f"nothing would be left of {', '.join(emptied[:3])}: the selection removes units that only stand together; keep more"
        )
    sizes = [_sizes(coupling, k) for k in (whole, kept)]
    parameters, size = ((sizes[0][i], sizes[1][i]) for i in (0, 1))
    macs = (whole.macs, kept.macs)
    return Selection(coupling.fingerprint, coupling.propagation.exact, tuple(cuts), parameters, size, macs)


def _sizes(coupling: Coupling, kept: Kept) -> tuple[int, int]:
    """Parameters, and bytes of all that is held."""
    parameters = size = 0
    for name, tensor in coupling.network.tensors.items():
        count = 1
        for n in kept.shape(name):
            count *= n
        parameters += count if isinstance(tensor, nn.Parameter) else 0
        size += count * tensor.element_size()
    return parameters, size


def _plural(kind: str) -> str:
    return {"head": "heads", "inner": "inner channels"}.get(kind, "channels")
