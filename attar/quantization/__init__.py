"""Fewer bits for each weight. This folder is the registry of quantizers: one file, one function.

A quantizer is a function named like its module and listed in the module's `__all__`:
`kmeans(weight, *, bits=4, seed=0) -> Form`. It is callable with the weight alone, of any shape (the kept values of a
sparse weight are one row), gives at most `2^bits` distinct values, is exact on a weight that is already of its form,
and raises AttarError for NaN or infinite weights and for bits it cannot give. `tests/contracts/test_quantizers.py`
runs over every file in here.
"""

from attar.quantization._network import quantize_weights

__all__ = ["quantize_weights"]
