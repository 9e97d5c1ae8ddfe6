"""The networks of the survey and of our proofs, exact to the parameter.

A constructor takes no argument and returns an `nn.Module`, initialised from PyTorch's global seed. Beside its layers the
module says what it takes:

- `example_shape`: the shape of one input, without the batch, such as (1, 28, 28);
- `mean`, `std`, where it takes pictures: one value per channel; its inputs are `(x / white - mean) / std`, as `attar.data` gives them.

`weights(name)` is the file with pretrained weights, where there is one, and `load_weights(model, path)` reads it. To add a
network, add a file here and list its constructors in `__all__`; a file whose name begins with `_` is a helper.
"""

from attar.zoo._weights import load_weights, preprocessing, weights

__all__ = ["load_weights", "preprocessing", "weights"]
