"""What a rule of `ops/` builds a program with: constants, fresh memory, steps, and element-wise expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.compiler.ir import C_TYPES, Array, Lanes, Op, array
from attar.compiler.kernels.lanes import MapLanes, from_lanes, pixel_by_pixel
from attar.compiler.kernels.map import Map

__all__ = ["Builder", "Value", "broadcast", "dtype_name", "literal"]

Value = Array | Lanes


class Builder:
    """A program as it grows: its `ops` in order.

    While a rule runs, `result` is what the op gives in PyTorch, a tensor without memory (or several): its sizes and type are
    the truth that the rule must meet.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.result: Any = None
        self.padded: dict[Value, tuple[Value, tuple[int, ...]]] = {}  # a map with zeros around -> the map, the zeros before it
        self._constants: dict[tuple, Array] = {}
        self._arrays: dict[int, Array] = {}  # maps in lanes that were copied out, by id
        self._keep: list[Any] = []  # whose addresses are names above, so that none is given to another

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the op's result, or of its first."""
        return tuple(self._first.shape)

    @property
    def dtype(self) -> str:
        """The type of the op's result, or of its first."""
        return dtype_name(self._first.dtype)

    @property
    def _first(self) -> Tensor:
        return self.result if isinstance(self.result, Tensor) else self.result[0]

    def constant(self, data: np.ndarray | Tensor) -> Array:
        """A constant; what repeats along a dimension is held once, and the same memory seen twice is one buffer."""
        values = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
        key = (values.__array_interface__["data"][0], values.shape, values.strides, values.dtype.str)
        if key not in self._constants:
            self._keep.append(values)
            once = values[
                tuple(slice(0, 1) if s == 0 and n > 1 else slice(None) for n, s in zip(values.shape, values.strides, strict=True))
            ]
            made = array(once.shape, values.dtype.name, data=np.array(once, order="C"))
            self._constants[key] = broadcast(made, values.shape)
        return self._constants[key]

    def empty(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        """A fresh array, which the next op shall write."""
        return array(tuple(shape), dtype)

    def add(self, op: Op) -> Any:
        """Append a step; its output is the result."""
        self.ops.append(op)
        return op.output

    def plain(self, value: Value) -> Array:
        """A map in lanes as an array; an array as it is."""
        if not isinstance(value, Lanes):
            return value
        if id(value) not in self._arrays:
            self._keep.append(value)
            self._arrays[id(value)] = self.add(from_lanes(value, self.empty(value.shape, value.dtype)))
        return self._arrays[id(value)]

    def dense(self, value: Value) -> Array:
        """The value with row-major strides: itself where it has them, else a copy."""
        value = self.plain(value)
        return value if _row_major(value) else self.map("{0}", [value], value.dtype)

    def cast(self, value: Value, dtype: str) -> Any:
        """The value in another type, as `Tensor.to` converts it."""
        return value if value.dtype == dtype else self.map(converted("{0}", value.dtype, dtype), [value], dtype)

    def map(self, expression: str, inputs: Sequence[Value], dtype: str = "float32", shape: Sequence[int] | None = None) -> Any:
        """Element by element over `shape`, or the inputs' shape by PyTorch's broadcasting; {0}, {1}, ... in the C are the inputs.

        The expression must have a value that the type can hold: a truth value is 0 or 1, a float is converted by `converted`.
        Constants of one element are written into the expression.
        """
        arguments: list[Value] = []
        names: list[str] = []
        for value in inputs:
            known = single(value)
            names.append(f"{{{len(arguments)}}}" if known is None else literal(known, value.dtype))
            if known is None:
                arguments.append(value)
        if shape is None:
            shape = torch.broadcast_shapes(*(value.shape for value in inputs))
        expression = expression.format(*names)
        if dtype == "float32" and (pixels := pixel_by_pixel(arguments, tuple(shape))):
            return self.add(MapLanes(*pixels, expression))
        output = self.empty(shape, dtype)
        return self.add(Map(output, tuple(broadcast(self.plain(value), output.shape) for value in arguments), expression))


def single(value: Value) -> Any:
    """The one element of a constant that has one, else None."""
    data = value.data if isinstance(value, Array) and value.size == 1 else None
    return None if data is None else data.reshape(-1)[0].item()


def broadcast(value: Array, shape: Sequence[int]) -> Array:
    """The array seen with a larger shape, as PyTorch broadcasts: what repeats has stride 0."""
    lead = len(shape) - len(value.shape)
    strides = tuple(0 if d < lead or value.shape[d - lead] != n else value.strides[d - lead] for d, n in enumerate(shape))
    return Array(value.buffer, tuple(shape), strides, value.offset)


def literal(value: Any, dtype: str) -> str:
    """A Python or NumPy number as C of the type: exact, in brackets where a sign could join its neighbour.

    >>> literal(0.1, "float32"), literal(-3, "int64"), literal(float("-inf"), "float32")
    ('0.1f', '(-3)', '(-INFINITY)')
    """
    if dtype == "bool":
        return str(int(bool(value)))
    if dtype.startswith("float"):
        if math.isnan(value):
            return "NAN"
        text = repr(float(value)) if dtype == "float64" else str(np.float32(value))
        if "inf" in text:
            text = text.replace("inf", "INFINITY")
        else:
            text = (text if "." in text or "e" in text else text + ".0") + ("f" if dtype == "float32" else "")
    else:
        text = str(int(value))
        if abs(int(value)) > 2**31 - 1:
            text = "INT64_MIN" if int(value) == -(2**63) else f"{text}LL"
    return f"({text})" if text.startswith("-") else text


def converted(expression: str, source: str, target: str) -> str:
    """C that converts an expression from one type to another as PyTorch does, without undefined behaviour.

    >>> converted("{0}", "float32", "bool")
    '({0}) != 0'
    """
    if source == target:
        return expression
    if target == "bool":
        return f"({expression}) != 0"
    if source.startswith("float") and not target.startswith("float"):
        return f"attar_int64({expression})" if target == "int64" else f"({C_TYPES[target]})attar_int32({expression})"
    return f"({C_TYPES[target]})({expression})"


def dtype_name(dtype: torch.dtype) -> str:
    """NumPy's name of a type.

    >>> dtype_name(torch.float32)
    'float32'
    """
    return str(dtype).removeprefix("torch.")


def _row_major(value: Array) -> bool:
    """Whether it lies in one piece in row-major order, wherever in its buffer."""
    expected, step = [], 1
    for n in reversed(value.shape):
        expected.append(step)
        step *= n
    return value.size == 0 or all(n == 1 or a == b for n, a, b in zip(value.shape, value.strides, reversed(expected), strict=True))
