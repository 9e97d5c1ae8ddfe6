"""A network and an optimizer as plain values for a checkpoint, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from attar.errors import AttarError
from attar.forms import Form, attach, bake, describe, names, owners, rebuild

__all__ = ["gathered", "model_state", "optimizer_state", "restore_model", "restore_optimizer"]


def model_state(model: nn.Module) -> dict[str, Any]:
    """Everything in which a network may differ from its freshly built twin, for `save_state` and `restore_model`.

    Forms (structure and arrays), parameters (values, ties, whether they train), all buffers, and what modules keep as
    extra state. Tensors are views of the network's own, not copies; those split over processes are gathered, so that all
    processes must call.
    """
    return {
        "forms": [_form_state(form, holders) for form, holders in owners(model).items() if isinstance(form, Form)],
        "parameters": [
            {"names": paths, "values": gathered(parameter), "trains": parameter.requires_grad}
            for parameter, paths in _by_object(model.named_parameters(remove_duplicate=False))
        ],
        "buffers": [{"names": paths, "values": gathered(b)} for b, paths in _by_object(model.named_buffers(remove_duplicate=False))],
        "extra": {path: module.get_extra_state() for path, module in model.named_modules() if _has_extra_state(module)},
    }


def restore_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Make `model`, freshly built or not, the network that `model_state` saw: forms are attached or baked, ties made or cut.

    Raises AttarError where the network is another one: a name or a shape differs.
    """
    for entry in state["forms"]:
        form = rebuild(entry["form"], entry["arrays"])
        for path, name in entry["holders"]:
            attach(_module(model, path), name, form)
    formed = {(path, name) for entry in state["forms"] for path, name in entry["holders"]}
    for path, layer in list(model.named_modules()):
        for name in names(layer) - {name for place, name in formed if place == path}:
            bake(layer, name)
    for kind, here in (("parameters", model.named_parameters), ("buffers", model.named_buffers)):
        found = _by_object(here(remove_duplicate=False))
        _require_same(kind, found, state[kind])
        together = {path: paths for _, paths in found for path in paths}
        for entry in state[kind]:
            _restore_tensor(model, entry, together)
    for path, extra in state["extra"].items():
        _module(model, path).set_extra_state(extra)


def optimizer_state(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the optimizer keeps of each parameter, in the order of its parameters; gathered like `model_state`."""
    return [{name: gathered(value) for name, value in optimizer.state.get(p, {}).items()} for p in _parameters(optimizer)]


def restore_optimizer(optimizer: Optimizer, state: Sequence[Mapping[str, Any]]) -> None:
    """The inverse of `optimizer_state`, for an optimizer made anew over the same parameters."""
    for parameter, kept in zip(_parameters(optimizer), state, strict=True):
        if kept:
            optimizer.state[parameter] = {name: _like(parameter, name, value) for name, value in kept.items()}


def gathered(value: Any) -> Any:
    """A tensor as a whole, detached, if need be from all processes (which must all call); anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    gather = getattr(value, "full_tensor", None)  # a DTensor, whose module takes a second to import
    return value.detach() if gather is None else gather().detach()


def _form_state(form: Form, holders: Sequence[Any]) -> dict[str, Any]:
    description, arrays = describe(form)
    arrays = {name: gathered(array) for name, array in arrays.items()}
    return {"holders": [[holder.path, holder.name] for holder in holders], "form": description, "arrays": arrays}


def _by_object(named: Any) -> list[tuple[Tensor, list[str]]]:
    """Each distinct tensor with all the names it goes by."""
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in named:
        found.setdefault(id(tensor), (tensor, []))[1].append(name)
    return list(found.values())


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise AttarError(f"the state is of another network: there is no layer {path!r} here; build the network it was saved from") from None


def _require_same(kind: str, found: Sequence[tuple[Tensor, list[str]]], entries: Sequence[Mapping[str, Any]]) -> None:
    here = {name: tensor.shape for tensor, paths in found for name in paths}
    there = {name: entry["values"].shape for entry in entries for name in entry["names"]}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            this, that = (f"shape {list(shapes[name])}" if name in shapes else "none" for shapes in (here, there))
            raise AttarError(
                f"the state is of another network: among the {kind}, {name!r} is of {this} here and {that} there;"
                " build the network it was saved from"
            )


def _restore_tensor(model: nn.Module, entry: Mapping[str, Any], together: Mapping[str, list[str]]) -> None:
    """One parameter or buffer under all its names and no other; `together` says which names are one tensor now."""
    places = [_place(model, name) for name in entry["names"]]
    module, leaf = places[0]
    here = getattr(module, leaf)
    if set(together[entry["names"][0]]) != set(entry["names"]) or here.dtype != entry["values"].dtype:
        fresh = torch.empty_like(here, dtype=entry["values"].dtype, requires_grad=False)
        here = nn.Parameter(fresh, requires_grad=False) if isinstance(here, nn.Parameter) else fresh
        for module, leaf in places:
            setattr(module, leaf, here)
    with torch.no_grad():
        here.copy_(entry["values"])
    if "trains" in entry:
        here.requires_grad_(entry["trains"])


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _like(parameter: Tensor, name: str, value: Any) -> Any:
    """`value` of the optimizer placed, laid out and split as its parameter is; the count of steps stays where it is."""
    if not isinstance(value, Tensor) or name == "step":
        return value
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor  # takes a second to import; here it is imported already

        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
