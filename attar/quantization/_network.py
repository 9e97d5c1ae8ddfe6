"""A quantizer over the weights of a network."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from attar.errors import AttarError
from attar.forms import Dense, Form, Sparse
from attar.graph import Weight, by_pattern, require_finite, weights
from attar.names import find

__all__ = ["quantize_weights"]


def quantize_weights(
    model: nn.Module,
    *,
    bits: int | Mapping[str, int] = 4,
    method: str | Callable[..., Form] = "kmeans",
    layers: str | Iterable[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Form]:
    """Attach, in place, the form that `method` makes of each weight, and return the forms by the weight's name.

    `bits` is one number, or one for each pattern on layer names (the first that matches); `layers` narrows what is
    quantized; `options` go to the method. Of a `Sparse` weight only the kept values are quantized: zero stays zero,
    and costs no code.

    Raises AttarError for a pattern that matches nothing, NaN or infinite weights, no weight to quantize, or a weight
    that carries another form already; and as the method does.

    >>> model = nn.Linear(8, 4)
    >>> forms = quantize_weights(model, bits=2)
    >>> len(model.weight.unique())
    4
    """
    quantizer = find("quantization", method)
    require_finite(model)
    bits_of: dict[str, Any] = by_pattern(model, bits)
    patterns = list(bits) if layers is None and isinstance(bits, Mapping) else [layers] if isinstance(layers, str) else layers
    chosen = weights(model, patterns)
    if isinstance(bits, Mapping):
        chosen = [weight for weight in chosen if weight.name in bits_of]
    if not chosen:
        raise AttarError(f"{type(model).__name__} has no weight to quantize: it needs a convolution, linear, recurrent or attention layer")
    made = {}
    for weight in chosen:
        made[weight.name] = _quantized(weight, quantizer, {"bits": bits_of.get(weight.name, bits), "seed": seed, **options})
    for weight in chosen:
        weight.become(made[weight.name])
    return made


def _quantized(weight: Weight, quantizer: Callable[..., Form], options: Mapping[str, Any]) -> Form:
    values = weight.form.values if isinstance(weight.form, Sparse) else weight.form
    if values is not None and not isinstance(values, Dense):
        raise AttarError(f"{weight.name} carries a {type(values).__name__} already: bake the form before quantizing it again")
    if isinstance(weight.form, Sparse):
        return Sparse(weight.form.mask, quantizer(weight.form.values().detach(), **options))
    return quantizer(weight.dense(), **options)
