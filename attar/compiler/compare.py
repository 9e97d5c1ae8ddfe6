"""A compiled network beside PyTorch: what both are called with, and how far their outputs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from attar.compiler.run import Engine
from attar.errors import AttarError
from attar.graph import Input, Network, eval_mode
from attar.graph.verify import difference, smaller

__all__ = ["arguments", "calibrated", "differs", "is_free", "repeated", "shown"]


def is_free(one: Input) -> bool:
    """Whether an input takes any number of samples."""
    return one.shape is not None and len(one.shape) > 0 and one.shape[0] is None


def differs(engine: Engine, network: Network, values: Sequence[Any]) -> float:
    """The largest difference of the outputs from PyTorch's, relative to each output's largest value; two samples where they are apart."""
    program = network.program()
    with torch.no_grad(), eval_mode(program):
        expected = pytree.tree_leaves(program(**arguments(network, values)))
    try:
        found = engine.run([value for value, one in zip(values, network.inputs, strict=True) if one.shape is not None])
    except AttarError:
        if engine.batched:  # it may be that samples meet
            return float("inf")
        raise
    return difference([torch.from_numpy(ours).double() for ours in found], [t.double() for t in expected if isinstance(t, Tensor)])


def shown(network: Network, values: Sequence[Any], samples: Sequence[Tensor] | None, *, batched: bool, count: int = 2) -> list[Any]:
    """What the program is compared on, `count` samples where they are apart: calibration's, or noise like the example, of which zeros
    would show nothing."""
    if samples is not None:
        own = calibrated(network, values, samples)
        return [
            repeated(value, count)[:count] if batched and is_free(one) else value for value, one in zip(own, network.inputs, strict=True)
        ]
    noise = list(smaller(network, tuple(values), batch=count if batched else None, shrink=False))
    for position, (value, one) in enumerate(zip(noise, network.inputs, strict=True)):
        if batched and is_free(one):
            noise[position] = torch.stack([value[0], _another(value[0], value[1]), *value[2:]])
    return noise


def calibrated(network: Network, values: Sequence[Any], samples: Sequence[Tensor]) -> list[Any]:
    """The network's inputs: the calibration's tensors, and of `values` what it always takes."""
    given = iter(samples)
    return [next(given) if one.shape is not None else value for value, one in zip(values, network.inputs, strict=True)]


def repeated(samples: Tensor, group: int) -> Tensor:
    """The samples, the first ones again up to whole groups.

    >>> repeated(torch.arange(5), 4).tolist()
    [0, 1, 2, 3, 4, 0, 1, 2]
    """
    whole = -(-len(samples) // group) * group
    return torch.cat([samples] * -(-whole // len(samples)))[:whole]


def _another(first: Tensor, second: Tensor) -> Tensor:
    """A sample that is not the first: the second, turned around or halved where it has to be."""
    for other in (second, second.flip(-1) if second.ndim else second, second / 2 if second.is_floating_point() else second):
        if not torch.equal(first, other):
            return other
    return second


def arguments(network: Network, values: Sequence[Any]) -> dict[str, Any]:
    """The arguments by name, nested as the network takes them."""

    def build_up(tree: Any) -> Any:
        if isinstance(tree, int):
            return values[tree]
        return {k: build_up(v) for k, v in tree.items()} if isinstance(tree, Mapping) else type(tree)(build_up(v) for v in tree)

    return {name: build_up(tree) for name, tree in network.call.items()}
