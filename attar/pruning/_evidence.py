"""Calling a criterion by the names of its parameters."""

import hashlib
import inspect
from collections.abc import Callable, Mapping

from torch import Tensor

from attar.errors import AttarError
from attar.graph.evidence import STATISTICS

__all__ = ["layer_seed", "needed", "score"]


def needed(criterion: Callable[..., Tensor]) -> set[str]:
    """The evidence that a criterion names beyond the weight and a seed; nothing is to be collected where it is empty.

    A parameter with a default that is no statistic is the criterion's own option.

    >>> sorted(needed(lambda weight, grad, hessian_diag, *, damping=0.1, seed=0: weight))
    ['grad', 'hessian_diag']
    """
    parameters = inspect.signature(criterion).parameters.values()
    named = {
        p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and (p.default is p.empty or p.name in STATISTICS)
    }
    return named - {"weight", "seed"}


def score(criterion: Callable[..., Tensor], evidence: Mapping[str, Tensor | int]) -> Tensor:
    """The scores of one weight, expanded to its shape: the criterion gets the evidence that its parameters name.

    Raises AttarError where it needs evidence that is not there, or gives scores that do not fit the weight.

    >>> import torch
    >>> score(lambda weight, grad: weight * grad, {"weight": torch.ones(2), "grad": torch.ones(2), "seed": 0}).tolist()
    [1.0, 1.0]
    """
    name = getattr(criterion, "__name__", type(criterion).__name__)
    parameters = inspect.signature(criterion).parameters.values()
    missing = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name not in evidence]
    if missing:
        raise AttarError(
            f"saliency {name!r} needs {', '.join(missing)}, and only {', '.join(sorted(evidence))} can be had here: use another"
        )
    scores = criterion(**{p.name: evidence[p.name] for p in parameters if p.name in evidence})
    weight = evidence["weight"]
    assert isinstance(weight, Tensor)
    try:
        return scores.detach().expand(weight.shape)
    except RuntimeError:
        raise AttarError(
            f"scores must broadcast to the weight, of shape {list(weight.shape)}: saliency {name!r} gave {list(scores.shape)}"
        ) from None


def layer_seed(seed: int, name: str) -> int:
    """One seed for each layer: with the same one, layers of one shape would get the same scores.

    >>> layer_seed(0, "conv1") == layer_seed(0, "conv1") != layer_seed(0, "conv2")
    True
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest(), "little")
