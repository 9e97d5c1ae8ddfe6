"""Judges a structurally pruned network against the masked original; it knows nothing of the tool that pruned it.

Which slices a tool removed is read from its result: the values of a parameter that stayed are found again in the original,
whose values are distinct (`perturb`). The masked original has every removed slice of every parameter at zero, on the
producer's side and on the consumers', so it computes what a correct surgery computes; both run in float64, also where the
network itself asks for float32. A cut through a norm that mixes channels (layer, group, RMS) is no masking: it differs, and the
verdict says through which norm.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["EQUAL", "RATIO", "TOLERANCE", "Verdict", "forward", "is_mixing_norm", "judge", "parameter_count", "perturb", "second_example"]

TOLERANCE = 1e-9
RATIO = (0.2, 0.75)  # half of the filters leaves about a quarter of a chain's weights, three quarters where only inner widths may go
EQUAL = "pruned and equal"

Example = tuple | Mapping[str, Any]
Kept = list[Tensor]  # for each dimension, the positions that stayed
_SMALL = 4096  # numbers, any of which may be all that a slice is known by; among more, a slice has others
_NARROW = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Verdict:
    """What came of one pruning; `success` is the outcome `EQUAL`."""

    outcome: str
    before: int  # parameters
    after: int
    error: float | None = None  # the largest over outputs and inputs of max |pruned - masked| / max |masked|
    reason: str = ""

    @property
    def success(self) -> bool:
        return self.outcome == EQUAL

    @property
    def ratio(self) -> float:
        return self.after / self.before


def judge(original: nn.Module, pruned: nn.Module, example: Example) -> Verdict:
    """The verdict on `pruned`, which some tool made of a copy of `original`; neither is changed.

    `original` is what the tool was given: `perturb` it before. `pruned` is any module whose `state_dict` has the original's
    parameter names (a parametrised weight may be there as the plain weight) and which takes the same example.
    """
    before, after = parameter_count(original), parameter_count(pruned)
    verdict = partial(Verdict, before=before, after=after)
    if after == before:
        return verdict("nothing pruned")
    examples = (example, second_example(example))
    wide = copy.deepcopy(pruned).double().eval()
    try:
        results = [forward(wide, each) for each in examples]
    except Exception as error:
        return verdict("pruned but broken", reason=first_line(error))
    try:
        reference, kept = masked(original, pruned)
    except ValueError as error:
        return verdict("pruned but WRONG", reason=str(error))
    expected = [forward(reference, each) for each in examples]
    if not all(_finite(outputs) for outputs in expected):
        raise ArithmeticError("the masked original gives values that are not finite: there is nothing to compare with")
    gap, reason = _difference(results, expected)
    if gap < TOLERANCE:
        inside = RATIO[0] <= after / before <= RATIO[1]
        return verdict(EQUAL if inside else "equal, ratio out of range", error=gap)
    through = sorted(_cut_norms(original, kept))
    if through:
        reason = f"cut through {through[0]}" + (f" and {len(through) - 1} more norms" if through[1:] else "")
    return verdict("pruned but WRONG", error=gap, reason=reason)


def first_line(error: BaseException) -> str:
    """The type and the first line of an error, short enough for a table."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def perturb(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """The same network, in place, with noise on every floating-point parameter and running statistic: no equal values in a small one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.numel() or not tensor.is_floating_point() or not (isinstance(tensor, nn.Parameter) or "running_" in name):
            continue
        scale = 0.02 * max(1.0, tensor.abs().max().item())
        while True:
            noise = scale * torch.randn(tensor.shape, generator=generator)
            noisy = (tensor * noise.exp() if name.endswith("running_var") else tensor + noise).to(tensor.dtype)
            if tensor.numel() > _SMALL or noisy.unique().numel() == tensor.numel():
                break
        tensor.copy_(noisy)
    return model


def second_example(example: Example, *, seed: int = 1) -> Example:
    """Another example of the same shapes: normal values, other tokens of the same range; what is constant (a mask) stays."""
    generator = torch.Generator().manual_seed(seed)

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_floating_point():
            return torch.randn(leaf.shape, generator=generator).to(leaf.dtype)
        if leaf.dtype == torch.bool or leaf.unique().numel() == 1:
            return leaf
        return torch.randint(int(leaf.min()), int(leaf.max()) + 1, leaf.shape, generator=generator, dtype=leaf.dtype)

    return _map(other, example)


class _Float64(TorchDispatchMode):
    """Turns every request for a narrower type into float64: a network that computes its softmax in float32 would round otherwise."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        widen = partial(_map, lambda leaf: torch.float64 if isinstance(leaf, torch.dtype) and leaf in _NARROW else leaf)
        if func._opname in ("_grouped_mm", "grouped_mm_fallback"):  # PyTorch has it for narrower types only
            return _grouped_products(args[0], args[1], args[2] if len(args) > 2 else (kwargs or {})["offs"])
        return func(*widen(args), **widen(kwargs or {}))


def _grouped_products(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Consecutive runs of rows, each times its own matrix; rows behind the last run give zeros."""
    parts = torch.tensor_split(rows, [int(end) for end in ends])
    products = [part @ matrix for part, matrix in zip(parts, matrices, strict=False)]
    return torch.cat([*products, rows.new_zeros(len(parts[-1]), matrices.shape[2])])


def forward(model: nn.Module, example: Example) -> list[Tensor]:
    """Every tensor of the output in float64, in order, for an example whose floating-point tensors are taken to float64."""
    wide = _map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else copy.copy(leaf), example)
    default, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder layer is another program than the one pruned
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), _Float64():
            return list(_tensors(model(**wide) if isinstance(wide, Mapping) else model(*wide)))
    finally:
        torch.set_default_dtype(default)
        torch.backends.mha.set_fastpath_enabled(fast)


def masked(original: nn.Module, pruned: nn.Module) -> tuple[nn.Module, dict[str, Kept]]:
    """The original in float64 with what `pruned` lacks at zero, and what stayed of each parameter.

    Of tied parameters one name does for all. A parameter that `pruned` lacks altogether is left as it is: nothing may read it,
    and if something does, the outputs differ.

    Raises ValueError where a parameter of `pruned` is not made of slices of the original's.
    """
    state = {name: value.detach() for name, value in pruned.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    reference = _plain(original, set(state))
    named = list(reference.named_parameters(remove_duplicate=False))
    found = {value: state[name] for name, value in named if name in state}
    kept = {}
    for name, value in named:
        part = state.get(name, found.get(value, value))
        kept[name] = _kept(name, value.detach(), part.detach())
    reference = reference.double().eval()
    for name, value in list(reference.named_parameters(remove_duplicate=False)):
        zeroed = value.detach().clone()
        for dim, positions in enumerate(kept[name]):
            if not (dim == 0 and ".parametrizations." in name):  # the producer's side of a weight norm: 0 / 0, and needless
                zeroed.index_fill_(dim, _complement(positions, value.shape[dim]), 0)
        owner, _, leaf = name.rpartition(".")
        setattr(reference.get_submodule(owner), leaf, nn.Parameter(zeroed, requires_grad=False))  # each name its own: tied ones are parted
    return reference, kept


def _plain(original: nn.Module, names: set[str]) -> nn.Module:
    """A copy of the original, each parametrised weight a plain one where `names` has it so."""
    model = copy.deepcopy(original)
    for path, module in list(model.named_modules()):
        leaves = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[union-attr, arg-type]
        if leaves and all(f"{path}.{leaf}".lstrip(".") in names for leaf in leaves):
            plain = {leaf: getattr(module, leaf).detach() for leaf in leaves}
            module.__class__ = type(module).__bases__[0]  # torch's own removal changes the class, which deep copies share
            del module.parametrizations
            for leaf, value in plain.items():
                setattr(module, leaf, nn.Parameter(value))
    return model


def _kept(name: str, whole: Tensor, part: Tensor) -> Kept:
    """The positions of `part` in `whole` along each dimension, found by the values that occur only once in `whole`."""
    if whole.dtype == part.dtype and torch.equal(whole, part):
        return [torch.arange(size) for size in whole.shape]
    if whole.ndim != part.ndim or whole.dtype != part.dtype or part.numel() == 0:
        raise ValueError(f"{name}: {tuple(part.shape)} of {part.dtype} cannot be slices of {tuple(whole.shape)} of {whole.dtype}")
    values, order, single = _single(whole)
    place = torch.searchsorted(values, part.flatten()).clamp_(max=len(values) - 1)
    found = (values[place] == part.flatten()) & single[place]
    if not (values[place] == part.flatten()).all():
        raise ValueError(f"{name}: a value that the original does not have")
    here = torch.unravel_index(found.nonzero().flatten(), part.shape)
    there = torch.unravel_index(order[place[found]], whole.shape)
    kept = [_positions(name, *each) for each in zip(here, there, part.shape, strict=True)]
    slices = whole[torch.meshgrid(*kept, indexing="ij")] if kept else whole
    if not torch.equal(slices, part):
        raise ValueError(f"{name}: its values are not slices of the original's")
    return kept


def _single(whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sorted distinct values, a flat position of each, and whether it is the only one."""
    values, inverse, counts = whole.flatten().unique(return_inverse=True, return_counts=True)
    order = torch.empty(len(values), dtype=torch.long)
    order[inverse] = torch.arange(whole.numel())
    return values, order, counts == 1


def _positions(name: str, here: Tensor, there: Tensor, size: int) -> Tensor:
    """For each position of the part along one dimension, the position in the whole that its values were found at."""
    result = torch.full((size,), -1)
    result[here] = there
    if (result < 0).any():
        raise ValueError(f"{name}: a slice without a value of its own")
    if result.unique().numel() != size:
        raise ValueError(f"{name}: one slice of the original appears twice")
    return result


def _complement(positions: Tensor, size: int) -> Tensor:
    removed = torch.ones(size, dtype=torch.bool)
    removed[positions] = False
    return removed.nonzero().flatten()


def is_mixing_norm(module: nn.Module) -> bool:
    """Whether it normalises over channels, by its type or by its type's name."""
    return isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm) or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))


def _cut_norms(original: nn.Module, kept: dict[str, Kept]) -> Iterator[str]:
    for path, module in original.named_modules():
        for leaf, value in module.named_parameters(recurse=False):
            positions = kept.get(f"{path}.{leaf}")
            if positions is not None and is_mixing_norm(module) and any(map(_shorter, positions, value.shape)):
                yield path
                break


def _shorter(positions: Tensor, size: int) -> bool:
    return len(positions) < size


def _difference(results: list[list[Tensor]], expected: list[list[Tensor]]) -> tuple[float, str]:
    worst = 0.0
    for ours, theirs in zip(results, expected, strict=True):
        if [a.shape for a in ours] != [b.shape for b in theirs]:
            return math.inf, f"outputs of shape {[*map(tuple, (a.shape for a in ours))]}, not {[*map(tuple, (b.shape for b in theirs))]}"
        for a, b in zip(ours, theirs, strict=True):
            if b.is_floating_point() and b.numel():
                gap = torch.where(a == b, 0, (a - b).abs()).max() / (b.abs().max() or 1)
                worst = max(worst, gap.nan_to_num(math.inf, math.inf).item())
            elif not torch.equal(a, b):
                return math.inf, "integer outputs differ"
    return worst, f"differs by {worst:.1e}"


def _finite(outputs: list[Tensor]) -> bool:
    return all(bool(each.isfinite().all()) for each in outputs)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def _map(function: Callable, tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map(function, value) for value in tree)
    return function(tree)
