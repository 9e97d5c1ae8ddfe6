"""The tools under test: each is a table of settings, name -> `prepare(model, example)`, tried in order until one succeeds.

`prepare` gets a network of its own, in eval mode, finds what a user of the tool would have to know (which layers to spare), and
returns `prune()`, which prunes the network, in place if the tool does so, and returns the pruned one; only `prune` is timed, and
it includes the tool's own analysis. All ask for half of the filters, by the L1 norm. A tool is imported by its own functions,
since no environment has them all.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from judge import Example, forward, is_mixing_norm
from torch import Tensor, nn

__all__ = ["PACKAGES", "TOOLS"]

Prepare = Callable[[nn.Module, Example], Callable[[], nn.Module]]

HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "num_key_value_heads", "num_kv_heads")
QUERIES = ("query", "q_proj", "q", "to_q", "q_lin", "query_proj")
KEYS = ("key", "value", "k_proj", "v_proj", "k", "v", "to_k", "to_v", "k_lin", "v_lin", "key_proj", "value_proj")
FUSED = ("qkv", "query_key_value", "in_proj", "c_attn", "Wqkv", "qkv_proj")
HEAD_SIZES, ALL_HEADS_SIZES = ("attention_head_size", "head_dim", "head_size"), ("all_head_size", "inner_dim")


# --------------------------------------------------------------------------------------------------------------- Torch-Pruning


def torch_pruning() -> dict[str, Prepare]:
    """1.6.1. `documented` follows its README and its transformer examples; the other two are what an expert would try next."""
    return {
        "documented: outputs ignored, heads declared": _tp_documented,
        "whole heads instead of head dimensions": _tp_whole_heads,
        "also ignored: mixing norms, and groups that break when cut alone": _tp_careful,
    }


def _tp_documented(model: nn.Module, example: Example) -> Callable[[], nn.Module]:
    return partial(_tp_prune, model, example, _tp_outputs(model, example))


def _tp_whole_heads(model: nn.Module, example: Example) -> Callable[[], nn.Module]:
    heads = {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 0.5}
    return partial(_tp_prune, model, example, _tp_outputs(model, example), **heads)


def _tp_careful(model: nn.Module, example: Example) -> Callable[[], nn.Module]:
    """The groups that leave the outputs' shapes alone and run after being cut alone; none through a norm that mixes channels."""
    ignored = {*_tp_outputs(model, example), *filter(is_mixing_norm, model.modules())}
    ignored |= {module for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    names = {module: name for name, module in model.named_modules()}
    shapes = [output.shape for output in forward(copy.deepcopy(model).double(), example)]
    roots = [names[group[0].dep.target.module] for group in _tp_groups(_tp_graph(model, example), ignored)]
    for root in roots:
        trial = copy.deepcopy(model)
        modules = dict(trial.named_modules())
        spared = {modules[names[module]] for module in ignored}
        try:
            group = next(g for g in _tp_groups(_tp_graph(trial, example), spared) if g[0].dep.target.module is modules[root])
            heads = max([1, *(count for module, count in _heads(trial).items() if any(d.target.module is module for d, _ in group))])
            width = len(group[0].idxs) // heads
            group.prune([head * width + i for head in range(heads) for i in range(max(1, width // 2))])
            _correct_heads(trial, _heads(model), names)
            runs = [output.shape for output in forward(trial.double(), example)] == shapes
        except Exception:  # whatever happens to the trial, this group is not for this tool
            runs = False
        if not runs:
            ignored.add(dict(model.named_modules())[root])
    return partial(_tp_prune, model, example, ignored)


def _tp_prune(model: nn.Module, example: Example, ignored: set[nn.Module], **options: Any) -> nn.Module:
    import torch_pruning as tp

    heads = _heads(model)
    names = {module: name for name, module in model.named_modules()}
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        global_pruning=False,
        ignored_layers=list(ignored),
        num_heads=heads,  # the pruner lowers the counts in it
        in_channel_groups={},  # its defaults are shared between pruners
        out_channel_groups={},
        unwrapped_parameters=_tp_kernels(model),
        output_transform=_differentiable,
        **options,
    )
    pruner.step()
    _correct_heads(model, heads, names)
    return model


def _tp_graph(model: nn.Module, example: Example) -> Any:
    import torch_pruning as tp

    build = tp.DependencyGraph().build_dependency
    return build(model, example, output_transform=_differentiable, unwrapped_parameters=_tp_kernels(model), verbose=False)


def _tp_groups(graph: Any, ignored: set[nn.Module]) -> Iterator[Any]:
    return graph.get_all_groups(list(ignored), [nn.modules.conv._ConvNd, nn.Linear, nn.LSTM])


def _tp_outputs(model: nn.Module, example: Example) -> set[nn.Module]:
    """The layers whose output channels are the network's: "do not prune the final classifier"."""
    from torch_pruning import ops

    last: set[nn.Module] = set()
    made: dict[Any, nn.Module] = {}
    handles = [
        module.register_forward_hook(lambda module, _, output: made.update({each.grad_fn: module for each in _differentiable(output)}))
        for module in model.modules()
        if not list(module.children())
    ]
    outputs = _differentiable(model(**example) if isinstance(example, Mapping) else model(*example))
    for handle in handles:
        handle.remove()
    last.update(made[output.grad_fn] for output in outputs if output.grad_fn in made)
    graph = _tp_graph(model, example)
    for group in _tp_groups(graph, set()):
        members = [dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        if any(isinstance(member, ops._OutputOp) or member in last for member in members):
            last.update(member for member in members if isinstance(member, nn.modules.conv._ConvNd | nn.Linear | nn.LSTM))
    return last


def _tp_kernels(model: nn.Module) -> list:
    """Free parameters that look like a convolution's kernel, whose filters are their first dimension (the default is the last)."""
    from torch_pruning._helpers import UnwrappedParameters

    owned = {id(p) for m in model.modules() if type(m).__module__.startswith("torch.nn") for p in m.parameters(recurse=False)}
    return [UnwrappedParameters(p, 0) for p in model.parameters() if p.ndim > 3 and id(p) not in owned]


def _differentiable(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.grad_fn is not None else []
    if isinstance(output, Mapping):
        output = list(output.values())
    return [tensor for each in output for tensor in _differentiable(each)] if isinstance(output, list | tuple) else []


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """The query, key and value layers, as Torch-Pruning's examples for transformers declare them, with their numbers of heads."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        layers = {name: layer for name, layer in module.named_children() if isinstance(layer, nn.Linear)}
        query = next((layers[name] for name in (*QUERIES, *FUSED) if name in layers), None)
        if query is None:
            continue
        size = next((s for s in (getattr(module, name, None) for name in HEAD_SIZES) if isinstance(s, int)), None)
        count = next((c for c in (getattr(module, name, None) for name in HEADS[:4]) if isinstance(c, int)), None)
        if count is None and size is not None:
            count = query.out_features // (size * (3 if any(layers.get(name) is query for name in FUSED) else 1))
        if count is None:
            continue
        found[query] = count
        for name in KEYS:
            if name in layers:
                found[layers[name]] = count * layers[name].out_features // query.out_features
    return found


def _correct_heads(model: nn.Module, heads: dict[nn.Module, int], names: dict[nn.Module, str]) -> None:
    """The attributes that Torch-Pruning leaves to its user: numbers and sizes of heads, as its examples set them."""
    counts = {names[layer]: count for layer, count in heads.items()}
    for path, module in model.named_modules():
        own = {name: layer for name, layer in module.named_children() if f"{path}.{name}".lstrip(".") in counts}
        query = next((name for name in (*QUERIES, *FUSED) if name in own), None)
        if query is None:
            continue
        count, width = counts[f"{path}.{query}".lstrip(".")], own[query].out_features // (3 if query in FUSED else 1)
        others = [counts[f"{path}.{name}".lstrip(".")] for name in own if name != query]
        _set(module, HEADS[:4], count)
        _set(module, HEADS[4:], others[0] if others else count)
        _set(module, ("num_key_value_groups",), count // others[0] if others else 1)
        _set(module, HEAD_SIZES, width // count)
        _set(module, ALL_HEADS_SIZES, width)


def _set(module: nn.Module, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if isinstance(getattr(module, name, None), int):
            setattr(module, name, value)


# -------------------------------------------------------------------------------------------------------------- torch-kirigami


def torch_kirigami() -> dict[str, Prepare]:
    """0.2.1. Its README's way; then what an expert would try next: sparing what it refuses, and a budget of parameters."""
    from torch_kirigami.pruning import ChannelRatio, ParameterBudget

    return {
        "documented: half of each width": lambda model, example: partial(_kirigami_prune, model, example, ChannelRatio(0.5)),
        "mixing norms held, and widths left out that it refuses to cut alone": _kirigami_careful,
        "half of all parameters, mixing norms held": lambda model, example: partial(
            _kirigami_prune, model, example, ParameterBudget.from_ratio(model, 0.5), hold=True
        ),
    }


def _kirigami_wrapped(model: nn.Module, example: Example) -> nn.Module:
    """The model with the example's arguments for its only ones: torch.fx traces a default too, and then no `is None` holds."""
    if not isinstance(example, Mapping) or not all(isinstance(value, Tensor) for value in example.values()):
        return model
    arguments, passed = ", ".join(example), ", ".join(f"{name}={name}" for name in example)
    scope: dict[str, Any] = {}
    exec(f"def forward(self, {arguments}): return list(self.model({passed}).values())", scope)  # torch.fx reads the signature
    wrapper = type("Wrapper", (nn.Module,), {"forward": scope["forward"]})()
    wrapper.model = model
    return wrapper.eval()


def _kirigami_careful(model: nn.Module, example: Example) -> Callable[[], nn.Module]:
    from torch_kirigami import KirigamiError
    from torch_kirigami.pruning import CandidateSpace, ChannelRatio, ExecutionError, PlanningError

    pruner = _kirigami_pruner(model, example, hold=True)
    space = pruner.discover_candidates()
    feasible: set[str] = set()
    for axis in space.channel_axes:
        alone = CandidateSpace(tuple(each for each in space.candidates if each.axis == axis), (axis,))
        try:
            pruner.plan(alone, budget=ChannelRatio(0.5), strategy=_kirigami_strategy())
            feasible |= {each.key for each in alone.candidates}
        except (KirigamiError, PlanningError, ExecutionError):
            continue
    return partial(_kirigami_prune, model, example, ChannelRatio(0.5), hold=True, feasible=feasible)


def _kirigami_prune(model: nn.Module, example: Example, budget: Any, *, hold: bool = False, feasible: set[str] | None = None) -> nn.Module:
    from torch_kirigami.pruning import CandidateSpace

    pruner = _kirigami_pruner(model, example, hold=hold)
    space = pruner.discover_candidates()
    if feasible is not None:
        candidates = tuple(each for each in space.candidates if each.key in feasible)
        axes = {each.axis for each in candidates}
        space = CandidateSpace(candidates, tuple(axis for axis in space.channel_axes if axis in axes))
    pruner.prune(space, budget=budget, strategy=_kirigami_strategy())
    return model


def _kirigami_strategy() -> Any:
    from torch_kirigami.pruning import Greedy, GroupMagnitude

    return Greedy(GroupMagnitude(p=1))


def _kirigami_pruner(model: nn.Module, example: Example, *, hold: bool) -> Any:
    from torch_kirigami import DependencyGraph, Fixed
    from torch_kirigami.pruning import Pruner

    inputs: dict[str, Any] = {"kwargs": dict(example)} if isinstance(example, Mapping) else {"args": tuple(example)}
    model = _kirigami_wrapped(model, example)
    graph = DependencyGraph.build(model, **inputs)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = [f"{path}.weight" for path, module in model.named_modules() if hold and is_mixing_norm(module)]
    return Pruner(model, graph=graph, constraints=[Fixed(graph.parameter(name).axis(0)) for name in held if name in parameters])


# ----------------------------------------------------------------------------------------------------------------------- Attar


def attar() -> dict[str, Prepare]:
    """This repository. One setting: there is nothing that a user would have to know."""
    from attar.pruning import prune_structure

    # what PyTorch imports at its first export is no more of the surgery than the tools' own imports are
    prune_structure(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), (torch.zeros(1, 4),), keep=0.5, allocation="layer")
    return {"default": lambda model, example: lambda: prune_structure(model, example, keep=0.5, allocation="layer").model}


TOOLS: dict[str, Callable[[], dict[str, Prepare]]] = {
    "attar": attar,
    "torch-pruning": torch_pruning,
    "torch-kirigami": torch_kirigami,
}
PACKAGES = {
    "attar": "attar",
    "torch-pruning": "torch-pruning",
    "torch-kirigami": "torch-kirigami",
}  # the distribution whose version is recorded
