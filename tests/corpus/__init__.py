"""Networks of many kinds, for whatever must hold for all: hand-written awkward ones, the zoo's, and small `transformers`.

Each is in eval mode, on one fixed example of two samples, with random weights by a fixed seed.

>>> [(name, type(model).__name__) for name, model, example in networks(["unet", "zoo_lenet5"])]
[('unet', 'UNet'), ('zoo_lenet5', 'LeNet5')]
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from attar.names import members
from corpus.attention import ATTENTION
from corpus.convolutional import CONVOLUTIONAL
from corpus.examples import Example, Table, ramp
from corpus.language import LANGUAGE
from corpus.mobile import MOBILE
from corpus.odd import ODD, REFUSED
from corpus.sequence import SEQUENCE
from corpus.small import SMALL
from corpus.transformers_ import REFUSED_TRANSFORMERS, TRANSFORMERS

__all__ = ["HAND_WRITTEN", "TRANSFORMERS", "UNTRACEABLE", "names", "networks"]


def _transformer(class_name: str, options: dict[str, Any]) -> nn.Module:
    import transformers  # takes seconds, and most tests want none of them

    transformers.logging.set_verbosity_error()
    made = getattr(transformers, class_name)
    return made(made.config_class(**options))


HAND_WRITTEN: Table = SMALL | CONVOLUTIONAL | MOBILE | ATTENTION | LANGUAGE | SEQUENCE | ODD

# name -> (how to build it, an example, a part of the reason for which it has no graph); `networks` gives none of them
UNTRACEABLE: dict[str, tuple[Callable[[], nn.Module], Example, str]] = REFUSED | {
    f"transformers_{name}": (partial(_transformer, class_name, options), example, reason)
    for name, (class_name, options, example, reason) in REFUSED_TRANSFORMERS.items()
}


def names() -> list[str]:
    """The name of every network: a hand-written one's own, `zoo_...`, `transformers_...`."""
    return [*HAND_WRITTEN, *(f"zoo_{name}" for name in members("zoo")), *(f"transformers_{name}" for name in TRANSFORMERS)]


_every_name = names


def networks(names: Iterable[str] | None = None) -> Iterator[tuple[str, nn.Module, Example]]:
    """(name, network in eval mode, example) of each of `names`, or of all; each is built when its turn comes."""
    for name in _every_name() if names is None else names:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch and `transformers` say of how they are called is not ours
            model, example = _build(name)
        _vary(model)
        yield name, model.eval(), example


def _build(name: str) -> tuple[nn.Module, Example]:
    kind, _, rest = name.partition("_")
    if kind == "transformers":
        class_name, options, example = TRANSFORMERS[rest]
        return _transformer(class_name, options), example
    if kind == "zoo":
        model = members("zoo")[rest]()
        return model, ramp(2, *model.example_shape)
    make, example = HAND_WRITTEN[name]
    return make(), example


@torch.no_grad()
def _vary(model: nn.Module) -> None:
    """Tell channels apart that a fresh network treats alike: statistics of batch norms, and weights that are all equal."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for weight in model.parameters():
        if weight.numel() > 1 and bool((weight == weight.flatten()[0]).all()):
            weight.add_(0.1 * torch.randn_like(weight))
