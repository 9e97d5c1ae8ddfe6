"""What is asked of baked code, and what it is: strides, epilogue, functions, and the layer in the words that go into the stream."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attar.compiler.baked.instructions import Kind, Program

__all__ = ["LANES", "PROTOTYPE", "Baked", "Epilogue", "Function", "Layer", "Strides", "prepare"]

LANES = 16  # pixels (or images) of a tile: the 32-bit lanes of a register

# How a function is called. On Windows the attribute makes the caller keep to this convention, too.
PROTOTYPE = (
    "void {name}(const void *x, const void *stream, void *out, int64_t tiles, const uint16_t *mask, const void *residual, void *scratch)"
    " __attribute__((sysv_abi));"
)


@dataclass(frozen=True)
class Strides:
    """Distances in bytes: from one tile to the next in `x`, `out` and the residual, and between two channels of the last two.

    In a map of bytes, a channel's distance goes from four channels to the next four. The residual's are those of `out` where
    they are None.
    """

    x_tile: int
    out_tile: int
    out_channel: int
    residual_tile: int | None = None
    residual_channel: int | None = None

    @property
    def residual(self) -> tuple[int, int]:
        """The residual's: from a tile to the next, from a channel to the next."""
        tile, channel = self.residual_tile, self.residual_channel
        return self.out_tile if tile is None else tile, self.out_channel if channel is None else channel


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What becomes of the sums before they are stored.

    float32 weights: out = clamp(sum + bias + residual, low, high), with a float32 residual.
    int8 weights, by `output`, with int32 sums s that include the bias:
      - `int32`: out = s;
      - `float32`: out = clamp(s * scale + (residual - residual_zero) * residual_scale, low, high);
      - `uint8`: out = clamp(round(s * scale + (residual - residual_zero) * residual_scale) + zero, low, high) in 0..255, rounded to
        the nearest, ties to even.
    Each product is rounded to float32, and so is their sum. The residual is of `residual_type`, uint8 or float32 (then without a
    zero), or of the output's where that is None.

    `masked`: the lanes whose bit in the mask is 0 become zero (`zero` where the output is uint8, which is how 0 is written there).
    `scale`: one for each output channel.
    """

    output: Literal["float32", "int32", "uint8"] = "float32"
    low: float | None = None
    high: float | None = None
    masked: bool = False
    residual: bool = False
    scale: NDArray[np.float32] | None = None
    zero: int = 0
    residual_scale: float = 1.0
    residual_zero: int = 0
    residual_type: Literal["float32", "uint8"] | None = None

    @property
    def adds_bytes(self) -> bool:
        """Whether there is a residual of bytes."""
        return self.residual and (self.residual_type or self.output) == "uint8"


@dataclass(frozen=True)
class Function:
    """One chunk of one row block: `program[start:stop]`, whose words begin at `stream[word]`."""

    start: int
    stop: int
    row: int
    rows: int
    chunk: int
    word: int


@dataclass(frozen=True, eq=False)
class Baked:
    """A layer as code.

    Call every function in turn with the same arguments, `f(x, stream, out, tiles, mask, residual, scratch)`, as `PROTOTYPE` says:

    - `x`: the first tile, `strides.x_tile` bytes before the next; `offset` was counted from here. It may not overlap what is written;
    - `stream`: the array `stream`; aligned to 64 bytes where it should be fast;
    - `out`: channel 0 of the first tile. Every function writes its own rows;
    - `tiles`: at least 1;
    - `mask`: 16 bits a tile, bit i for lane i; read only where the epilogue is masked;
    - `residual`: channel 0 of its first tile; read only where there is one. It may be `out` itself, where it is laid out alike;
    - `scratch`: `scratch` bytes a tile, for this call alone; not used where `scratch` is 0.

    The chunks of a row block go in their order; the blocks are independent, so threads with a scratch each may share them out.
    `program` holds the instructions of all functions, `columns` the column of weights that each load of x is for.
    """

    program: Program
    stream: NDArray[np.uint32]
    functions: tuple[Function, ...]
    columns: NDArray[np.int64]
    strides: Strides
    epilogue: Epilogue
    scratch: int


@dataclass(frozen=True, eq=False)
class Layer:
    """A checked layer: row i, column k multiplies, by `words[i, k]`, the 64 bytes at `offset[k]` (in bytes).

    `bias` and `scale` are bit patterns. `overflows` says that scaled sums may leave the range of int32. Rows from `outputs` on
    only fill the last word.
    """

    words: NDArray[np.uint32]
    offset: NDArray[np.int64]
    bias: NDArray[np.int32]
    scale: NDArray[np.int32]
    multiply: Kind
    strides: Strides
    epilogue: Epilogue
    overflows: bool
    outputs: int

    @property
    def sums_fit_out(self) -> bool:
        """Whether sums can wait in `out` from one chunk to the next: it has their size, and no residual that is still to be read."""
        return self.multiply is Kind.FMA or self.epilogue.output == "int32"


def prepare(weight: NDArray[Any], offset: NDArray[Any], bias: NDArray[Any], strides: Strides, epilogue: Epilogue) -> Layer:
    """The layer, with rows added up to a multiple of four where four channels share a word of the output."""
    _check_weight(weight, offset, bias)
    _check_epilogue(weight, epilogue)
    bytes_out = epilogue.output == "uint8"
    rows = len(weight)
    if bytes_out:
        more = -rows % 4
        weight = np.concatenate([weight, np.zeros((more, *weight.shape[1:]), weight.dtype)])
        bias = np.concatenate([bias, np.zeros(more, bias.dtype)])
    offset = offset.astype(np.int64) * 4
    _check_reach("offset", offset)
    _check_reach("out_channel (or residual_channel) times the channels", np.array([strides.out_channel, strides.residual[1]]) * len(weight))
    _check_reach("a stride", np.array([strides.x_tile, strides.out_tile, strides.residual[0]]))
    scale = np.zeros(len(weight), np.float32)
    if epilogue.scale is not None:
        scale[:rows] = epilogue.scale
    floats = weight.dtype == np.float32
    # `+ 0.0` makes -0.0 the zero that every test by bits takes it for.
    words = (
        (np.ascontiguousarray(weight) + np.float32(0) if floats else np.ascontiguousarray(weight)).view(np.uint32).reshape(len(weight), -1)
    )
    return Layer(
        words,
        offset,
        np.ascontiguousarray(bias).view(np.int32),
        scale.view(np.int32),
        Kind.FMA if floats else Kind.DOT,
        strides,
        epilogue,
        bytes_out and _largest(weight, bias, scale, epilogue) >= 2**30,
        rows,
    )


def _largest(weight: NDArray[np.int8], bias: NDArray[np.int32], scale: NDArray[np.float32], epilogue: Epilogue) -> float:
    """An upper bound of the numbers that are rounded to uint8."""
    sums = 255.0 * np.abs(weight.astype(np.int16)).sum((1, 2)) + np.abs(bias.astype(np.float64))
    if epilogue.residual and not epilogue.adds_bytes:
        return np.inf
    return float((sums * np.abs(scale)).max()) + 255 * abs(epilogue.residual_scale) * epilogue.residual


def _check_reach(what: str, values: NDArray[np.int64]) -> None:
    if values.size and not (values.min() >= -(2**31) and values.max() < 2**31):
        raise ValueError(f"{what} must stay within 2 GiB, got {values.min()} to {values.max()} bytes: a displacement has 32 bits")


def _check_weight(weight: NDArray[Any], offset: NDArray[Any], bias: NDArray[Any]) -> None:
    kinds = {("float32", 2): "float32", ("int8", 3): "int32"}
    wanted = kinds.get((str(weight.dtype), weight.ndim))
    if wanted is None or (weight.ndim == 3 and weight.shape[2] != 4) or not len(weight):
        raise ValueError(f"weight must be float32 (Co, K) or int8 (Co, K, 4), Co at least 1, got {weight.dtype} {weight.shape}")
    if offset.shape != weight.shape[1:2] or offset.dtype.kind not in "iu":
        raise ValueError(f"offset must be {weight.shape[1]} whole numbers, one a column, got {offset.dtype} {offset.shape}")
    if bias.shape != weight.shape[:1] or str(bias.dtype) != wanted:
        raise ValueError(f"bias must be {wanted} ({len(weight)},), one an output channel, got {bias.dtype} {bias.shape}")


def _check_epilogue(weight: NDArray[Any], epilogue: Epilogue) -> None:
    output, low, high, scale = epilogue.output, epilogue.low, epilogue.high, epilogue.scale
    scaled = weight.dtype == np.int8 and output != "int32"
    if output not in (("float32",) if weight.dtype == np.float32 else ("float32", "int32", "uint8")):
        raise ValueError(f"output must be 'float32', or for int8 weights also 'int32' or 'uint8', got {output!r}")
    if scaled != (scale is not None) or (scale is not None and (scale.shape != weight.shape[:1] or not np.isfinite(scale).all())):
        raise ValueError(
            f"scale must be {len(weight)} finite numbers for int8 weights stored as {output}: {'needed' if scaled else 'not used'}"
        )
    if output == "int32" and (epilogue.residual or low is not None or high is not None):
        raise ValueError("an int32 output must have no residual, low or high: it is the sums as they are")
    if weight.dtype == np.float32 and (epilogue.adds_bytes or epilogue.residual_scale != 1):
        raise ValueError("the residual of float32 weights must be float32 and have no scale: sums begin with it")
    if epilogue.residual_type not in (None, "float32", "uint8"):
        raise ValueError(f"residual_type must be 'float32', 'uint8' or None, got {epilogue.residual_type!r}")
    if epilogue.residual and epilogue.residual_zero and not epilogue.adds_bytes:
        raise ValueError(f"residual_zero must be 0 where the residual is float32, got {epilogue.residual_zero}")
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"low must not be above high, got {low} and {high}")
    if output == "uint8":
        whole = [epilogue.zero, epilogue.residual_zero, *(bound for bound in (low, high) if bound is not None)]
        if any(number != int(number) or not 0 <= number <= 255 for number in whole):
            raise ValueError(f"zero, residual_zero, low and high of a uint8 output must be whole numbers in 0..255, got {whole}")
        if epilogue.masked and not (low or 0) <= epilogue.zero <= (255 if high is None else high):
            raise ValueError(f"zero must be within low and high where lanes are masked, got {epilogue.zero}: it is what they become")
