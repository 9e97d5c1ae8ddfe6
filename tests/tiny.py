"""Hand-made networks of a few layers, and their groups in words.

>>> net = Net(lambda net, x: net.b(torch.relu(net.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
>>> described(couple(trace(net, (VECTORS,))))
{'a': '4 channel: a.weight.0 a.bias.0 > b.weight.1'}
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attar.evaluation import count, count_by_running
from attar.graph import Coupling, Surgery, apply, couple, select, trace

__all__ = ["PICTURES", "TOKENS", "VECTORS", "Net", "check", "cut_one_of_each", "described", "noise", "weight"]


class Net(nn.Module):
    """Layers and parameters by name, and a function that is its forward."""

    def __init__(self, function: Callable[..., Any], **held: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(noise(*shape))


PICTURES, TOKENS, VECTORS = noise(2, 2, 4, 4), noise(2, 5, 3), noise(2, 3)


def described(coupling: Coupling) -> dict[str, str]:
    """Each group: its units, its kind (and of what), the places that make it > those that read it; running statistics left out."""
    found = {}
    for group in coupling.groups:
        kind = f"{group.kind} of {group.outer}" if group.outer else group.kind
        made, read = (
            " ".join(f"{p.tensor}.{p.dim}" for p in group.places if p.consumed is consumed and "running_" not in p.tensor)
            for consumed in (False, True)
        )
        found[group.name] = f"{group.units} {kind}: {made} > {read}".strip()
    return found


def cut_one_of_each(model: nn.Module, *inputs: Tensor, exact: bool = True) -> tuple[Coupling, Surgery]:
    """The second unit of every group removed; the self-check of `apply` has seen it."""
    coupling = couple(trace(model, inputs), exact=exact)
    return coupling, apply(model, select(coupling, {group.name: [1] for group in coupling.groups}), inputs, coupling=coupling)


def check(model: nn.Module, inputs: Tensor | tuple[Tensor, ...], expected: Mapping[str, str], *, exact: bool = True) -> Surgery:
    """The groups are those, one unit of each can go, and the work is what the counters say, before and after."""
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    coupling, surgery = cut_one_of_each(model, *given, exact=exact)
    assert described(coupling) == expected
    assert surgery.selection.macs == (count(coupling.network).total.macs, count_by_running(surgery.model, given).total.macs)
    return surgery
