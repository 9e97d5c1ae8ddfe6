"""How a form enters a module and leaves it.

`attach` makes the layer's class a cached subclass whose property computes the weight; the form is the child module
`weight_form`, never `weight` (export and functional_call break on that). The layer stays an ordinary module of its
own class: it trains, deep-copies, pickles, exports, and runs under DDP and FSDP.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attar.errors import AttarError
from attar.forms.base import Form

__all__ = ["Holder", "attach", "bake", "dense", "names", "of", "owners"]


@dataclass(frozen=True)
class Holder:
    """One place where a weight is held: `layer` is the module at `path`, `name` the attribute."""

    path: str
    layer: nn.Module
    name: str

    @property
    def full_name(self) -> str:
        """`path.name`, as in a state_dict of the plain network."""
        return f"{self.path}.{self.name}" if self.path else self.name


def of(layer: nn.Module, name: str) -> Form | None:
    """The form attached to `layer.name`, or None."""
    return layer._modules[_key(name)] if name in names(layer) else None  # type: ignore[return-value]


def names(layer: nn.Module) -> frozenset[str]:
    """The attributes of `layer` that forms compute."""
    return getattr(type(layer), "_formed_names", frozenset())


def attach(layer: nn.Module, name: str, form: Form, *, model: nn.Module | None = None) -> None:
    """Let `form` compute `layer.name` from now on, in the place of the parameter or form that was there.

    With `model`, every layer of it that holds the same weight gets the form: tied weights stay tied. What was frozen
    (`requires_grad=False`) stays frozen.

    Raises AttarError where the layer has no such parameter of its own, cannot carry a form, or has another shape.
    """
    held = of(layer, name) if name in names(layer) else layer._parameters.get(name)
    if held is None:
        raise AttarError(f"{type(layer).__name__} has no parameter {name!r} of its own to replace (is it a buffer, or parametrized?)")
    if tuple(held.shape) != form.shape:
        raise AttarError(f"a form of shape {list(form.shape)} cannot stand for {name!r} of shape {list(held.shape)}")
    places = [Holder("", layer, name)] if model is None else owners(model)[held]
    if isinstance(held, nn.Parameter) and not held.requires_grad:
        form.requires_grad_(False)
    for holder in places:
        _attach_one(holder.layer, holder.name, form)


def bake(layer: nn.Module, name: str, *, model: nn.Module | None = None) -> None:
    """Make the weight that the form computes an ordinary parameter again; the form is gone.

    With `model`, in every layer of it that holds the same form: tied weights stay tied.
    """
    form = of(layer, name)
    if form is None:
        raise AttarError(f"{type(layer).__name__}.{name} carries no form to bake")
    weight = nn.Parameter(form().detach().clone(), requires_grad=any(p.requires_grad for p in form.parameters()))
    for holder in [Holder("", layer, name)] if model is None else owners(model)[form]:
        del holder.layer._modules[_key(holder.name)]
        _retype(holder.layer, names(holder.layer) - {holder.name})
        holder.layer.register_parameter(holder.name, weight)
        _rebuild_flat_weights(holder.layer)


def owners(model: nn.Module) -> dict[nn.Parameter | Form, list[Holder]]:
    """Every weight of a network, parameter or form, with all the places that hold it."""
    table: dict[Any, list[Holder]] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, Form):  # what a form stores is the form's own affair
            continue
        for name, parameter in layer._parameters.items():
            if parameter is not None and not _inside_a_form(path, model):
                table.setdefault(parameter, []).append(Holder(path, layer, name))
        for name in sorted(names(layer)):
            table.setdefault(of(layer, name), []).append(Holder(path, layer, name))
    return table


@contextlib.contextmanager
def dense(model: nn.Module) -> Iterator[dict[nn.Parameter, Form]]:
    """While open, every formed weight of `model` is an ordinary parameter, one for each form; yields parameter -> form.

    Tracing, counting, timing and evaluation run inside: rebuilding costs time and shows as extra ops otherwise.
    """
    made: dict[Form, nn.Parameter] = {}
    undo: list[tuple[nn.Module, str, Form, type]] = []
    try:
        for layer in list(model.modules()):
            for name in sorted(names(layer)):
                form = of(layer, name)
                assert form is not None
                if form not in made:
                    with torch.no_grad():
                        # requires_grad stays on: PyTorch's matmul orders its sums by this flag, and a plain weight has it
                        made[form] = nn.Parameter(form().detach().clone())
                undo.append((layer, name, form, type(layer)))
                del layer._modules[_key(name)]
                layer._parameters[name] = made[form]
        for layer, *_ in undo:
            layer.__class__ = _plain(layer)
            _rebuild_flat_weights(layer)
        yield {parameter: form for form, parameter in made.items()}
    finally:
        for layer, name, form, formed in undo:
            layer.__class__ = formed
            layer._parameters.pop(name, None)
            layer._modules[_key(name)] = form
            layer.__dict__.pop("_flat_weights", None)


def _inside_a_form(path: str, model: nn.Module) -> bool:
    """Whether the module at `path` belongs to a form that is itself part of the network (a form used as a layer)."""
    parts = path.split(".") if path else []
    return any(isinstance(model.get_submodule(".".join(parts[:i])), Form) for i in range(1, len(parts)))


def _attach_one(layer: nn.Module, name: str, form: Form) -> None:
    if getattr(layer, "sparse", False) and isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        raise AttarError("an embedding with sparse=True cannot carry a form: build it with sparse=False")
    layer._parameters.pop(name, None)
    if hasattr(layer, "_flat_weights_names"):
        layer.__dict__.pop("_flat_weights", None)
    layer._modules[_key(name)] = form.train(layer.training)
    _retype(layer, names(layer) | {name})


def _key(name: str) -> str:
    """The name of the child that computes `name`."""
    return f"{name}_form"


def _plain(layer: nn.Module) -> Any:
    return getattr(type(layer), "_plain_class", type(layer))


def _retype(layer: nn.Module, formed: frozenset[str]) -> None:
    layer.__class__ = _formed_class(_plain(layer), formed)


@functools.cache
def _formed_class(plain: Any, formed: frozenset[str]) -> Any:
    """The subclass of `plain` whose attributes `formed` are computed by forms; `plain` itself when there are none."""
    if not formed:
        return plain
    body: dict[str, Any] = {name: property(functools.partial(_compute, key=_key(name))) for name in formed}
    if hasattr(plain, "flatten_parameters"):  # recurrent layers keep a list of their weights: compute it, keep nothing
        body["_flat_weights"] = property(_flat_weights, lambda _layer, _value: None)
        body["flatten_parameters"] = lambda _layer: None
    body |= {
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "_plain_class": plain,
        "_formed_names": formed,
        "__reduce_ex__": lambda layer, _protocol: (_empty, (plain, formed), _state(layer)),  # serves copy and pickle
    }
    return type(plain.__name__, (plain,), body)


def _compute(layer: nn.Module, key: str) -> Tensor:
    return layer._modules[key]()  # type: ignore[misc]


def _flat_weights(layer: nn.Module) -> list[Tensor | None]:
    return [getattr(layer, name, None) for name in layer._flat_weights_names]  # type: ignore[union-attr]


def _state(layer: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in layer.__dict__.items() if key != "_flat_weight_refs"}  # weak references cannot be pickled


def _empty(plain: Any, formed: frozenset[str]) -> nn.Module:
    """An empty instance of the formed class, for copy and pickle to fill."""
    formed_class = _formed_class(plain, formed)
    return formed_class.__new__(formed_class)


def _rebuild_flat_weights(layer: nn.Module) -> None:
    if hasattr(layer, "_flat_weights_names") and not names(layer):
        layer._init_flat_weights()  # type: ignore[operator]
