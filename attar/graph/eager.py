"""The smaller network as a module of its own class: parameters cut in place, and the sizes that its layers remember corrected."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from attar.errors import SurgeryError
from attar.graph.coupling import Coupling, Kept
from attar.graph.labels import layer_of
from attar.graph.rewrite import Literal, cut_tensor

__all__ = ["attempts", "cut_module"]

_MOST_ATTEMPTS = 8


def cut_module(model: nn.Module, coupling: Coupling, kept: Kept) -> nn.Module:
    """Cut the tensors of `model`, in place, wherever they are held, and the sizes that PyTorch's own layers remember.

    Raises SurgeryError where a tensor to be cut is made while the network runs, so that no attribute holds it.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    cut: dict[int, Tensor] = {}
    for name, indices in kept.indices.items():
        path, _, leaf = name.rpartition(".")
        owner = modules.get(path)
        old = getattr(owner, leaf, None)
        if not isinstance(old, Tensor):
            raise SurgeryError(f"the tensor {name} is made while the network runs: register it as a buffer to keep the class")
        cut[id(old)] = _cut(old, indices)
    for module in modules.values():
        for table in (module._parameters, module._buffers):
            for leaf, tensor in table.items():
                if id(tensor) in cut:
                    table[leaf] = cut[id(tensor)]  # type: ignore[assignment]
        for leaf, value in list(vars(module).items()):
            if isinstance(value, Tensor) and id(value) in cut:
                setattr(module, leaf, cut[id(value)])
    groups = _groups(coupling, kept)
    for path, module in modules.items():
        _correct(module, groups.get(path))
    return model


def attempts(model: nn.Module, literals: Sequence[Literal]) -> Iterator[list[tuple[str, str, int]]]:
    """Ways to correct the integers that layers remember: (layer's path, attribute, new value), the likeliest first.

    The graph says which numbers in which layer's code changed; a layer's attribute of the old value is where the number
    came from, unless another attribute has the same value. Then several ways are tried, alike for layers of one class.
    """
    modules = dict(model.named_modules())
    wanted: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for layer, old, new in dict.fromkeys((literal.layer, literal.old, literal.new) for literal in literals):
        module = modules.get(layer)
        for name, value in vars(module).items() if module is not None else ():
            if type(value) is int and value == old:
                assert module is not None
                wanted.setdefault((type(module).__qualname__, name), []).append((layer, name, new))
    keys = list(wanted)
    subsets = [s for size in range(len(keys), -1, -1) for s in itertools.combinations(keys, size)] if len(keys) <= 8 else [tuple(keys), ()]
    for subset in subsets[:_MOST_ATTEMPTS]:
        yield [change for key in subset for change in wanted[key]]


def _cut(old: Tensor, indices: Mapping[int, np.ndarray]) -> Tensor:
    new = cut_tensor(old.detach(), indices)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _groups(coupling: Coupling, kept: Kept) -> dict[str, int]:
    """Layer -> how many groups its convolution or norm has now."""
    return {layer_of(node): kept.count(vector) for node, vector in coupling.propagation.sizes.items()}


def _correct(module: nn.Module, groups: int | None) -> None:
    """The sizes that PyTorch's own layers keep beside their tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        module.groups = groups or module.groups
        a, b = module.weight.shape[:2]
        module.in_channels, module.out_channels = (a, b * module.groups) if module.transposed else (b * module.groups, a)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        own = module.weight if module.weight is not None else module.running_mean
        module.num_features = module.num_features if own is None else len(own)
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = groups or module.num_groups
        module.num_channels = module.num_channels if module.weight is None else len(module.weight)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.RNNBase):
        _correct_recurrent(module)
    elif isinstance(module, nn.RNNCellBase):
        _correct_cell(module)


def _correct_cell(module: nn.RNNCellBase) -> None:
    module.hidden_size = module.weight_hh.shape[1]
    module.input_size = module.weight_ih.shape[1]


def _correct_recurrent(module: nn.RNNBase) -> None:
    state = module.weight_hh_l0
    assert isinstance(state, Tensor)
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.hidden_size = state.shape[0] // gates
    module.proj_size = state.shape[1] if module.proj_size else 0
    first = module.weight_ih_l0
    assert isinstance(first, Tensor)
    module.input_size = first.shape[1]
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]
