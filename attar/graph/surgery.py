"""The one place that edits networks: a plan is applied to a copy, and the copy is compared with the masked original."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from attar.errors import AttarError, SurgeryError
from attar.forms import Dense, Form, Sparse, attach, bake, owners
from attar.graph import verify
from attar.graph.caches import forget
from attar.graph.coupling import Coupling, Kept, couple
from attar.graph.eager import attempts, cut_module
from attar.graph.labels import layer_of
from attar.graph.network import Network, Program
from attar.graph.rewrite import Literal, cut_network, cut_tensor
from attar.graph.select import Selection, select
from attar.graph.trace import trace

__all__ = ["SINGLE_TOLERANCE", "TOLERANCE", "Surgery", "apply"]

TOLERANCE = 1e-9  # of the self-check, relative to the largest output, in float64
SINGLE_TOLERANCE = 1e-4  # where a network does not run in float64


@dataclass(frozen=True, eq=False)
class Surgery:
    """A smaller network, and what is to be known of it.

    `kept` maps each tensor that was cut, and each of its dimensions that was, to the old indices that stayed, in order,
    so that an optimizer's or an averaged model's state can follow. `error` is the largest difference from the masked
    original that the self-check saw, relative to the largest output. `notes` say why the result is a graph module where
    it is one.
    """

    model: nn.Module
    selection: Selection
    kept: Mapping[str, Mapping[int, np.ndarray]]
    error: float
    notes: tuple[str, ...] = ()

    @property
    def eager(self) -> bool:
        """Whether the model is of its own class still."""
        return not isinstance(self.model, Program)


def apply(model: nn.Module, selection: Selection, example: verify.Example, *, coupling: Coupling | None = None) -> Surgery:
    """A copy of `model` without what the selection removes; the original is not touched.

    The copy is a module of the same class where that can be had, else a graph module. Either is compared with the masked
    original (for `exact=False`: with norms over what is left) in float64, on two batch sizes of the smallest example that
    the network takes. `coupling` is the one that the selection was made from, to save the time of tracing again.

    Raises AttarError for a selection that was made for another network (it may have been cut since), or a weight whose
    form cannot be cut; SurgeryError where a size cannot be rewritten or the result differs, naming the layer.

    >>> from attar.graph import select
    >>> model, example = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.zeros(1, 4),)
    >>> surgery = apply(model, select(couple(trace(model, example)), {"0": [3, 5]}), example)
    >>> surgery.model[0], surgery.kept["2.weight"][1].tolist()
    (Linear(in_features=4, out_features=6, bias=True), [0, 1, 2, 4, 6, 7])
    """
    if coupling is None:
        coupling = couple(trace(model, example), exact=selection.exact)
    if coupling.fingerprint != selection.fingerprint:
        raise AttarError(
            f"the selection was made for another network (fingerprint {selection.fingerprint}, this one has {coupling.fingerprint}): "
            "couple and select again, also after each cut"
        )
    if (count := len(verify.leaves(coupling.network, example))) != (wanted := len(coupling.network.inputs)):
        raise AttarError(f"the network was traced with {wanted} inputs, and the example has {count}: give one like that it was traced with")
    select(coupling, selection.removed)  # a plan may come from a file: its units are checked again
    forget(model)
    try:
        return _applied(model, selection, example, coupling)
    finally:
        forget(model)


def _applied(model: nn.Module, selection: Selection, example: verify.Example, coupling: Coupling) -> Surgery:
    kept = coupling.kept(selection.removed)
    forms = _cut_forms(coupling.network, kept)
    plain = _baked(model)
    check = _Check(plain, coupling, kept, example)
    network, literals = cut_network(coupling, kept, _shapes(coupling.network, example))
    note = "the network came as a graph" if isinstance(model, Program) else None
    if note is None:
        found, note = _eager(plain, check, literals)
        if found is not None:
            _attach(found, forms)
            return Surgery(found, selection, kept.indices, check.worst, check.notes)
    result = copy.deepcopy(dataclasses.replace(network, forms={}).program())
    check.require(result, network)
    _attach(result, forms)
    return Surgery(result.train(model.training), selection, kept.indices, check.worst, (note, *check.notes))


class _Check:
    """Compares candidates with the reference, and remembers the largest difference of the one that passed.

    In float64 wherever the network runs in it, else as the network itself computes.
    """

    def __init__(self, plain: nn.Module, coupling: Coupling, kept: Kept, example: verify.Example) -> None:
        self.plain, self.coupling, self.kept = plain, coupling, kept
        network = coupling.network
        small = [verify.smaller(network, example, batch=batch) for batch in (1, 2)]
        self.given = [verify.smaller(network, example, batch=batch, shrink=False) for batch in (1, 2)]
        self.traced = verify.smaller(network, example, batch=2, shrink=False)  # the batch that labels are of, wherever it is free
        self.expected: dict[int, list[torch.Tensor]] = {}
        self.worst = 0.0
        own = [verify.smaller(network, example, batch=None, shrink=False)]
        self.double, self.small = self._settled([small, self.given, own])
        self.given = own if self.small is own else self.given

    def _settled(self, tries: list[list[verify.Example]]) -> tuple[bool, list[verify.Example]]:
        """The precision and the first examples that the network takes."""
        refusal: Exception | None = None
        for double, examples in itertools.product((True, False), tries):
            self.run = verify.reference(self.plain, self.coupling, self.kept, double=double)
            try:
                self.reference(examples[0])
            except SurgeryError:
                raise
            except Exception as error:  # a size or a type that does not fit, in whatever way it says so
                refusal = refusal or error
            else:
                return double, examples
        raise SurgeryError(f"the network does not run on an example like the one given: {_first_line(refusal)}") from refusal

    @property
    def tolerance(self) -> float:
        return TOLERANCE if self.double else SINGLE_TOLERANCE

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.double else (f"checked to {SINGLE_TOLERANCE} in its own precision only: the network does not run in float64",)

    def compare(self, candidate: nn.Module, examples: list[verify.Example]) -> float:
        """The largest difference on the examples, of a candidate that is widened where the check is; raises what it raises."""
        return max(
            verify.difference(verify.outputs(candidate, example, double=self.double), self.reference(example)) for example in examples
        )

    def reference(self, example: verify.Example) -> list[torch.Tensor]:
        if id(example) not in self.expected:
            found = self.run(example)
            if not any(bool(tensor.isfinite().any()) for tensor in found):
                raise SurgeryError(
                    "the network gives no finite number on its example, so that a cut cannot be checked: give another example"
                )
            self.expected[id(example)] = found
        return self.expected[id(example)]

    def require(self, candidate: nn.Module, network: Network) -> None:
        """Raise SurgeryError where a graph module does not give what it must, naming the first layer that differs."""
        examples = self.small if verify.legal(self.coupling.network, self.small[0]) else self.given
        try:
            error = self.compare(verify.widened(candidate) if self.double else candidate, examples)
        except SurgeryError:
            raise
        except Exception as failure:
            raise SurgeryError(f"the smaller network does not run: {_first_line(failure)}") from failure
        if not error <= self.tolerance:
            node = verify.differs_first(self.plain, self.coupling, self.kept, network, self.traced) if self.double else None
            where = f", first at {node.name} in layer {layer_of(node)!r}" if node is not None else ""
            raise SurgeryError(f"the smaller network differs from the masked original by {error:.1e}{where}: nothing was changed")
        self.worst = error


def _eager(plain: nn.Module, check: _Check, literals: list[Literal]) -> tuple[nn.Module | None, str]:
    """The network cut as a module of its class, or None and why that cannot be had."""
    name = type(plain).__name__
    try:
        candidate = cut_module(copy.deepcopy(plain), check.coupling, check.kept)
    except SurgeryError as refusal:
        return None, f"{name} became a graph module: {refusal}"
    trial = verify.widened(candidate) if check.double else copy.deepcopy(candidate)
    layers = dict(trial.named_modules())
    reason = ""
    for changes in attempts(candidate, literals):
        before = [(path, attribute, getattr(layers[path], attribute)) for path, attribute, _ in changes]
        for path, attribute, new in changes:
            setattr(layers[path], attribute, new)
        try:
            error = check.compare(trial, check.small)
        except SurgeryError:
            raise
        except Exception as failure:  # sizes that do not fit show in many ways
            reason = reason or _first_line(failure)
        else:
            if error <= check.tolerance:
                check.worst = error
                for path, attribute, new in changes:
                    setattr(candidate.get_submodule(path), attribute, new)
                return candidate, ""
            reason = reason or f"its outputs differ by {error:.1e}"
        for path, attribute, old in before:
            setattr(layers[path], attribute, old)
    return None, f"{name} became a graph module, because its own code does not fit the smaller tensors ({reason}){_hint(literals)}"


def _hint(literals: list[Literal]) -> str:
    if not literals:
        return ""
    first = literals[0]
    where = f"in layer {first.layer!r}" if first.layer else "in its forward"
    return f": {where}, {first.op} has the number {first.old} that had to become {first.new}; size() or -1 instead would keep the class"


def _shapes(network: Network, example: verify.Example) -> list[tuple[int, ...] | None]:
    return [tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else None for leaf in verify.leaves(network, example)]


# Forms.


def _cut_forms(network: Network, kept: Kept) -> dict[str, Form]:
    """The forms of the result: those of weights that are not cut as copies, sparse ones cut with their masks."""
    found: dict[str, Form] = {}
    for name, form in network.forms.items():
        if name not in kept.indices:
            found[name] = copy.deepcopy(form)
        elif isinstance(form, Sparse) and isinstance(form.values, Dense):
            mask = cut_tensor(form.mask, kept.indices[name])
            found[name] = Sparse(mask, cut_tensor(network.tensors[name].detach(), kept.indices[name])[mask])
        elif not isinstance(form, Dense):
            raise AttarError(f"{name} carries a {type(form).__name__}, which cannot be cut: prune structure before, or bake the form")
    return found


def _baked(model: nn.Module) -> nn.Module:
    """The model, where its weights are all plain, or a copy in which they are."""
    if not any(isinstance(owner, Form) for owner in owners(model)):
        return model
    result = copy.deepcopy(model)
    for owner, holders in owners(result).items():
        if isinstance(owner, Form):
            bake(holders[0].layer, holders[0].name, model=result)
    return result


def _attach(model: nn.Module, forms: Mapping[str, Form]) -> None:
    for name, form in forms.items():
        path, _, leaf = name.rpartition(".")
        attach(model.get_submodule(path), leaf, form, model=model)


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
