"""A graph run on fake tensors: every result's shape and type without its memory, under a cap, before anything runs for real.

This is what stands between a hostile graph and the machine: sizes are bounded, and the ops whose arguments PyTorch does not check
itself (tried in version 2.13: each of them crashes, or reads memory that is not its own) are checked here.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from attar.errors import TraceError
from attar.graph.network import Network, op_name

__all__ = ["BYTE_CAP", "fakes", "propagate"]

BYTE_CAP = 1 << 32
_MOST_STEPS = 500_000  # ops inside ops: an op may be made of many, one for each time step
_MOST_PIECES = 1 << 16


def propagate(network: Network, shapes: Sequence[tuple[int, ...] | None], *, byte_cap: int = BYTE_CAP) -> None:
    """Fill `meta["val"]` of every node with its fake result for inputs of `shapes` (None: the constant that the network has there).

    Raises TraceError where an op does not fit its arguments, or where more than `byte_cap` bytes would be alive at once.
    """
    for node, value in fakes(network, shapes, byte_cap=byte_cap).items():
        node.meta["val"] = value


def fakes(network: Network, shapes: Sequence[tuple[int, ...] | None], *, byte_cap: int = BYTE_CAP) -> dict[fx.Node, Any]:
    """What `propagate` fills in, as a mapping; the graph is left as it is."""
    meter = _Meter(byte_cap)
    results: dict[fx.Node, Any] = {}
    given = iter(zip(network.inputs, shapes, strict=True))
    last_use = {source: node for node in network.graph.nodes for source in node.all_input_nodes}
    with _quiet(), torch.no_grad(), FakeTensorMode(allow_fallback_kernels=False), meter:  # no kernel is run for real
        for node in network.graph.nodes:
            try:
                if node.op == "placeholder":
                    known, shape = next(given)
                    results[node] = known.constant if shape is None else torch.empty(shape, dtype=known.dtype)
                elif node.op == "get_attr":
                    held = network.tensors[str(node.target)]
                    results[node] = torch.empty(held.shape, dtype=held.dtype)
                elif node.op == "call_function":
                    results[node] = _call(node, results)
                meter.hold(results.get(node))
            except Exception as error:  # any op may fail in its own way, and each is a reason to refuse the graph
                raise TraceError(f"{node.name} ({op_name(node) or node.op}) does not fit: {_first_line(error)}") from None
            for source in node.all_input_nodes:
                if last_use[source] is node:
                    meter.release(results[source])
    return results


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While open, PyTorch does not print about ops that it cannot run: the error that is raised says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


class _Meter(TorchDispatchMode):
    """Counts the ops inside ops, and the bytes of what they give; views count in full, so that an expanded view cannot hide its size."""

    def __init__(self, byte_cap: int) -> None:
        super().__init__()
        self.byte_cap = byte_cap
        self.steps = 0
        self.alive = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise ValueError(f"the graph takes more than {_MOST_STEPS} steps")
        result = func(*args, **(kwargs or {}))
        self.require(_bytes(result))
        return result

    def require(self, count: int) -> None:
        if count > self.byte_cap:
            raise ValueError(f"it would need {count:,} bytes at once, and {self.byte_cap:,} are allowed")

    def hold(self, value: Any) -> None:
        self.alive += _bytes(value)
        self.require(self.alive)

    def release(self, value: Any) -> None:
        self.alive -= _bytes(value)


def _bytes(value: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


def _call(node: fx.Node, results: Mapping[fx.Node, Any]) -> Any:
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), results.__getitem__)
    if not isinstance(node.target, torch._ops.OpOverload):
        return _sizes(node.target, args)
    names = [argument.name for argument in node.target._schema.arguments]
    bound = {a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()}
    bound |= dict(zip(names, args, strict=False)) | kwargs
    name = op_name(node).removeprefix("aten.").removesuffix(".default")
    if name in _RECURRENT:
        return _RECURRENT[name](bound)
    if name in _CHECKS:
        _CHECKS[name](bound)
    return node.target(*args, **kwargs)


def _sizes(function: Any, args: tuple) -> Any:
    """Python's arithmetic of sizes: nothing but numbers of 64 bits, and the parts of a result of several tensors."""
    if function.__name__ == "getitem":
        _require(isinstance(args[0], tuple | list) and type(args[1]) is int, "only a result of several parts can be taken apart")
        return args[0][args[1]]
    _require(all(isinstance(value, bool | int | float) for value in args), "arithmetic of sizes takes numbers")
    result = function(*args)
    _require(isinstance(result, bool | int | float) and (not isinstance(result, int) or abs(result) < 1 << 63), "a size must fit 64 bits")
    return result


# What PyTorch does not check.


def _recurrent(gates: int) -> Callable[[Mapping[str, Any]], tuple[Tensor, ...]]:
    """The results of a recurrent layer, computed from its shapes (on fake tensors PyTorch would unroll it), all weights checked."""

    def results(bound: Mapping[str, Any]) -> tuple[Tensor, ...]:
        x, hx, layers = bound["input"], bound["hx"], bound["num_layers"]
        states = list(hx) if gates == 4 else [hx]
        weights = list(bound["params"])
        _require(all(isinstance(t, Tensor) and t.dtype == x.dtype for t in (*states, *weights)), "all tensors must have the input's type")
        _require(x.is_floating_point() and x.ndim == 3 and all(s.ndim == 3 for s in states), "input and states must have 3 dimensions")
        _require(len(states) == (2 if gates == 4 else 1), "the number of states is wrong")
        time, batch = x.shape[:2] if not bound["batch_first"] else (x.shape[1], x.shape[0])
        _require(time > 0, "a sequence must have at least one step")
        directions = 2 if bound["bidirectional"] else 1
        hidden, out = states[-1].shape[2], states[0].shape[2]
        expected = [(layers * directions, batch, size) for size in ((out, hidden) if gates == 4 else (out,))]
        _require([tuple(s.shape) for s in states] == expected, f"states must have shapes {expected}")
        _require(hidden > 0 and out > 0 and 1 <= layers <= len(weights), "sizes must be positive")
        shapes = []
        for layer in range(layers):
            width = x.shape[2] if layer == 0 else out * directions
            one: list[tuple[int, ...]] = [(gates * hidden, width), (gates * hidden, out)]
            one += [(gates * hidden,)] * 2 if bound["has_biases"] else []
            one += [(out, hidden)] if out != hidden else []
            shapes += one * directions
        _require([tuple(w.shape) for w in weights] == shapes, f"weights must have shapes {shapes}"[:200])
        output = (batch, time, out * directions) if bound["batch_first"] else (time, batch, out * directions)
        return (x.new_empty(output), *(x.new_empty(shape) for shape in expected))

    return results


def _attention(bound: Mapping[str, Any]) -> None:
    query, key, value, mask = bound["query"], bound["key"], bound["value"], bound["attn_mask"]
    _require(query.ndim == key.ndim == value.ndim >= 2, "query, key and value must have equally many dimensions")
    _require(key.shape[:-1] == value.shape[:-1] and query.shape[-1] == key.shape[-1], "query, key and value must fit together")
    if not bound["enable_gqa"]:
        torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    if mask is not None:
        scores = (*query.shape[:-1], key.shape[-2])
        _require(mask.ndim >= 2 and tuple(torch.broadcast_shapes(mask.shape, scores)) == scores, f"the mask must broadcast to {scores}")


def _weight_norm(bound: Mapping[str, Any]) -> None:
    v, g, dim = bound["v"], bound["g"], bound["dim"]
    _require(-1 <= dim < v.ndim and v.ndim > 0 and v.dtype == g.dtype, "weight norm must have a dimension of its weight")
    norm = tuple(size if i == dim else 1 for i, size in enumerate(v.shape))
    _require(tuple(g.shape) in ((norm,) if dim >= 0 else (norm, ())), f"the norm must have shape {norm}")


def _division(bound: Mapping[str, Any]) -> None:
    dividend, divisor = bound["self"], bound["other"]
    whole = not dividend.is_floating_point() and not (
        isinstance(divisor, float) or (isinstance(divisor, Tensor) and divisor.is_floating_point())
    )
    safe = type(divisor) is int and divisor not in (0, -1)  # the smallest integer over -1 stops the process
    _require(not (bound["rounding_mode"] == "trunc" and whole) or safe, "whole numbers can be divided with truncation by a constant only")


def _embedding_bag(bound: Mapping[str, Any]) -> None:
    weight, indices, offsets, weights = (bound[name] for name in ("weight", "indices", "offsets", "per_sample_weights"))
    _require(weight.ndim == 2 and indices.ndim == offsets.ndim == 1, "an embedding bag has a table, and lists of indices and offsets")
    _require({indices.dtype, offsets.dtype} <= {torch.int32, torch.int64}, "indices and offsets must be whole numbers")
    _require(weights is None or (weights.shape == indices.shape and weights.dtype == weight.dtype), "each index must have one weight")


def _histogram(bound: Mapping[str, Any]) -> None:
    low, high = bound["min"], bound["max"]
    _require(all(isinstance(edge, int | float) for edge in (low, high)), "the edges of a histogram must be numbers")
    # a range that overflows, or whose reciprocal does, sends numbers to bins before the first
    _require(abs(low) <= 1e6 and abs(high) <= 1e6 and high - low >= 1e-6, "a histogram's range must be within a million, and not narrow")
    _require(bound["self"].dtype in (torch.float32, torch.float64), "a histogram must be of float32 or float64")
    _require(bound["bins"] <= _MOST_PIECES, f"a histogram has at most {_MOST_PIECES} bins")


def _power(bound: Mapping[str, Any]) -> None:
    _require(abs(bound["n"]) <= 1 << 20, "a matrix power must be at most 2^20: PyTorch does not come back from the largest")


def _pieces(count: Callable[[Mapping[str, Any]], int]) -> Callable[[Mapping[str, Any]], None]:
    def check(bound: Mapping[str, Any]) -> None:
        _require(count(bound) <= _MOST_PIECES, f"a tensor can be cut into at most {_MOST_PIECES} pieces")

    return check


_RECURRENT = {"lstm.input": _recurrent(4), "gru.input": _recurrent(3), "rnn_tanh.input": _recurrent(1), "rnn_relu.input": _recurrent(1)}

_each = _pieces(lambda b: b["self"].shape[b["dim"]])
_every = _pieces(lambda b: math.ceil(b["self"].shape[b["dim"]] / max(1, b["split_size"])))
_CHECKS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "scaled_dot_product_attention": _attention,
    "_weight_norm": _weight_norm,
    "div.Tensor_mode": _division,
    "div.Scalar_mode": _division,
    "embedding_bag.padding_idx": _embedding_bag,
    "histc": _histogram,
    "linalg_matrix_power": _power,
    "matrix_power": _power,
    "unbind.int": _each,
    "unbind_copy.int": _each,
    "split.Tensor": _every,
    "split_copy.Tensor": _every,
    "unsafe_split.Tensor": _every,
    "chunk": _pieces(lambda b: b["chunks"]),
    "unsafe_chunk": _pieces(lambda b: b["chunks"]),
    "tensor_split.sections": _pieces(lambda b: b["sections"]),
    "hsplit.int": _pieces(lambda b: b["sections"]),
    "vsplit.int": _pieces(lambda b: b["sections"]),
}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
