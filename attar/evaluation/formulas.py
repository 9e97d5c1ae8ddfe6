"""What one call of an op costs: one literal table, op -> formula. `counters.py` adds the calls up.

Units. A *multiplication* is a product, a quotient, or one special function (exp, log, tanh, erf, a root, a power that
is not a square). An *addition* is a sum, a difference, a comparison, a rounding or a change of sign. A *MAC* is a
multiplication with the addition that takes its product, inside a product of tensors (convolution, linear, matmul,
attention, recurrence): for such an op with dense weights MULT = MAC. FLOPs = multiplications + additions, so a
convolution's FLOPs are 2 x MAC. A sum starts from its bias (or from zero), so a bias costs nothing; padding is
multiplied like any other input; a causal mask saves nothing.

A weight's form decides what applying it costs (`form.work(positions)`): zeros of a sparse weight cost nothing.
Moving data (views, copies, look-ups, casts, creation) costs no arithmetic, and is listed as such; an op that is in
neither table is unknown and is reported by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attar.evaluation.einsum import contractions
from attar.forms import Form

__all__ = ["FORMULAS", "MOVES", "VIEWS", "Call", "Cost", "Operand"]


@dataclass(frozen=True)
class Cost:
    """Multiplications, additions, and the pairs of both (MACs) that products of tensors consist of.

    >>> Cost(6, 6, 6) + Cost(0, 2)
    Cost(multiplications=6, additions=8, macs=6)
    """

    multiplications: int = 0
    additions: int = 0
    macs: int = 0

    @property
    def flops(self) -> int:
        """Multiplications + additions."""
        return self.multiplications + self.additions

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.multiplications + other.multiplications, self.additions + other.additions, self.macs + other.macs)


@dataclass(frozen=True)
class Operand:
    """A tensor that an op reads or writes: its shape, the held tensor it is (or is a view of), and that one's form."""

    shape: tuple[int, ...]
    name: str | None = None
    form: Form | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Call:
    """One call of an op: its arguments by the names of its schema, tensors as operands; its results that are tensors."""

    arguments: Mapping[str, Any]
    results: tuple[Operand, ...]

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def first(self) -> Operand:
        """The first argument that is a tensor."""
        return next(self.operands())

    @property
    def out(self) -> int:
        """Elements of the first result."""
        return self.results[0].numel

    def operands(self) -> Iterator[Operand]:
        """Every tensor argument, in order; lists are looked into."""
        for value in self.arguments.values():
            yield from (v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, Operand))


Formula = Callable[[Call], Cost]


# products of tensors ------------------------------------------------------------------------------------------------


def products(total: int, *operands: Operand) -> Cost:
    """`total` multiply-accumulates, less where an operand is a weight whose form costs less.

    A weight used in parts (the packed projection of an attention) is charged by its share of the elements.
    """
    for operand in operands:
        if operand.form is not None and operand.numel:
            work = operand.form.work(total // operand.numel)
            whole = math.prod(operand.form.shape)
            multiplications, additions = (n * operand.numel // whole for n in (work.multiplications, work.additions))
            return Cost(multiplications, additions, min(multiplications, additions))
    return Cost(total, total, total)


def _convolution(call: Call) -> Cost:
    """Each filter at each output position; transposed, each kernel at each input position."""
    weight, transposed = call["weight"], bool(call["transposed"])
    shape = call["input"].shape if transposed else call.results[0].shape
    spatial = len(weight.shape) - 2
    positions = math.prod(shape[len(shape) - spatial :]) * math.prod(shape[: len(shape) - spatial - 1])
    return products(weight.numel * positions, weight)


def _transposed_convolution(call: Call) -> Cost:
    return _convolution(Call({**call.arguments, "transposed": True}, call.results))


def _linear(call: Call) -> Cost:
    weight = call["weight"]
    return products(call["input"].numel // weight.shape[-1] * weight.numel, weight)


def _inner(left: str, right: str) -> Formula:
    """A sum over the last dimension of `left` for each output element."""

    def formula(call: Call) -> Cost:
        a, b = call[left], call[right]
        return products(call.out * a.shape[-1], a, b)

    return formula


def _grouped(rows: str, matrices: str) -> Formula:
    """Each row times the matrix of its run; of a weight with a form, that of an average one, since runs depend on data."""

    def formula(call: Call) -> Cost:
        weight = call[matrices]
        count, groups = call[rows].shape[0], weight.shape[0]
        every = products(count * weight.numel, weight)
        return Cost(every.multiplications // groups, every.additions // groups, every.macs // groups)

    return formula


def _summed_batches(call: Call) -> Cost:
    a, b = call["batch1"], call["batch2"]
    return products(a.numel * b.shape[-1], a, b)


def _scaled(product: Formula) -> Formula:
    """`beta * self + alpha * product`: the sum starts from self; factors other than 1 cost their multiplications."""

    def formula(call: Call) -> Cost:
        factors = sum(call[name] not in (1, None) for name in ("beta", "alpha"))
        return product(call) + Cost(factors * call.out)

    return formula


def _bilinear(call: Call) -> Cost:
    samples, weight = call["input1"].numel // call["input1"].shape[-1], call["weight"]
    return products(samples * weight.numel, weight) + products(samples * weight.shape[0] * weight.shape[2])


def _trilinear(call: Call) -> Cost:
    """What PyTorch makes of `bilinear`, its only caller, when it runs."""
    return _bilinear(Call({"input1": call["i1"], "weight": call["i2"]}, call.results))


def _einsum(call: Call) -> Cost:
    steps = contractions(call["equation"], [t.shape for t in call["tensors"]], call["path"])
    operands = call["tensors"]
    cost = Cost()
    for step in steps:
        used = [operands[i] for i in step.operands]
        cost += products(step.products, *used) if step.summed else Cost(step.products)
        cost += Cost(0, step.additions)
    return cost


def _attention(call: Call) -> Cost:
    """Scores of all pairs, scaled, masked, softmax, and the weighted sum of the values."""
    query, key, value = call["query"], call["key"], call["value"]
    scores = call.out // value.shape[-1] * key.shape[-2]
    mask = scores if call["attn_mask"] is not None else 0
    matrices = products(scores * query.shape[-1]) + products(scores * value.shape[-1])
    return matrices + Cost(scores, mask) + Cost(2 * scores, 3 * scores)


# recurrent layers: both products of every gate, then what a hidden unit does in one step ---------------------------

_LSTM = Cost(11, 8)  # 4 gate sums; 3 sigmoids (2, 1), 2 tanh (1, 0); c = f c + i g (2, 1); h = o tanh(c) (1, 0)
_GRU = Cost(7, 7)  # 3 gate sums, one after r m (1, 0); 2 sigmoids, 1 tanh; h = n + z (h - n) (1, 2)
_RNN_TANH, _RNN_RELU = Cost(1, 1), Cost(0, 2)


def _times(cost: Cost, n: int) -> Cost:
    return Cost(cost.multiplications * n, cost.additions * n, cost.macs * n)


def _recurrent(gates: int, unit: Cost) -> Formula:
    """All layers and directions of an nn.LSTM, nn.GRU or nn.RNN over a sequence (padded or packed)."""

    def formula(call: Call) -> Cost:
        inputs = call["input"] or call["data"]
        steps = inputs.numel // inputs.shape[-1]
        cost = Cost()
        for weight in (w for w in call["params"] if len(w.shape) == 2):
            cost += products(weight.numel * steps, weight)
        per_layer = len(call["params"]) // (call["num_layers"] * (2 if call["bidirectional"] else 1))
        hidden = sum(w.shape[0] for w in call["params"][::per_layer]) // gates
        return cost + _times(unit, hidden * steps)

    return formula


def _cell(gates: int, unit: Cost) -> Formula:
    """One step of one layer."""

    def formula(call: Call) -> Cost:
        weight, steps = call["w_ih"], call["input"].numel // call["input"].shape[-1]
        matrices = [products(w.numel * steps, w) for w in (weight, call["w_hh"])]
        return sum(matrices, _times(unit, steps * weight.shape[0] // gates))

    return formula


def _one_recurrent_layer(call: Call) -> Cost:
    """What PyTorch calls for each layer and direction of an LSTM on the CPU when it runs."""
    inputs = call["input"]
    steps = inputs.numel // inputs.shape[-1]
    matrices = [products(w.numel * steps, w) for w in (call["weight0"], call["weight1"])]
    return sum(matrices, _times(_LSTM, call["hidden_size"] * steps))


# norms: statistics, scale and shift of each element; root and reciprocal of each group ------------------------------


def _batch_norm(call: Call) -> Cost:
    """One product and one sum for each element: at inference scale and shift are constants. Otherwise statistics too."""
    elements, shape = call["input"].numel, call["input"].shape
    if call["use_input_stats"]:  # instance norm
        return _statistics(elements, shape[0] * shape[1], affine=call["weight"] is not None)
    if call["training"]:
        return _statistics(elements, shape[1], affine=call["weight"] is not None)
    return Cost(elements, elements)


def _statistics(elements: int, groups: int, *, affine: bool) -> Cost:
    """Mean, variance and normalisation; a group divides twice, adds epsilon, and takes one reciprocal root."""
    scale = Cost(elements, elements) if affine else Cost()
    return Cost(2 * elements + 3 * groups, 3 * elements + groups) + scale


def _layer_norm(call: Call) -> Cost:
    elements = call["input"].numel
    return _statistics(elements, elements // math.prod(call["normalized_shape"]), affine=call["weight"] is not None)


def _group_norm(call: Call) -> Cost:
    groups = call["input"].shape[0] * (call["num_groups"] or call["group"])
    return _statistics(call["input"].numel, groups, affine=call["weight"] is not None)


def _rms_norm(call: Call) -> Cost:
    elements = call["input"].numel
    groups = elements // math.prod(call["normalized_shape"])
    return Cost((2 + (call["weight"] is not None)) * elements + 2 * groups, elements + groups)


# element by element, windows, reductions ----------------------------------------------------------------------------


def _each(multiplications: int, additions: int) -> Formula:
    """So much for each output element."""
    return lambda call: Cost(multiplications * call.out, additions * call.out)


def _sum(call: Call) -> Cost:
    """A sum or difference; `alpha` other than 1 costs a product."""
    return Cost(call.out if call["alpha"] not in (1, None) else 0, call.out)


def _clamp(call: Call) -> Cost:
    return Cost(0, call.out * sum(call[name] is not None for name in ("min", "max")))


def _gelu(call: Call) -> Cost:
    return Cost(7 * call.out, 2 * call.out) if call["approximate"] == "tanh" else Cost(4 * call.out, call.out)


def _softmax(call: Call) -> Cost:
    """For each element: compare, subtract the largest, exp, sum, divide."""
    return Cost(2 * call.out, 3 * call.out)


def _log_softmax(call: Call) -> Cost:
    """As softmax, but the logarithm of the sum, one for each row, is subtracted."""
    rows = call.out // max(call.first.shape[call["dim"]] if call.first.shape else 1, 1)
    return Cost(call.out + rows, 4 * call.out)


def _pool(dimensions: int, *, average: bool) -> Formula:
    """Windows of a fixed size: one operation fewer than elements; an average divides."""

    def formula(call: Call) -> Cost:
        kernel = call["kernel_size"]
        window = math.prod(kernel) if len(kernel) == dimensions else kernel[0] ** dimensions
        return Cost(call.out if average else 0, call.out * (window - 1))

    return formula


def _adaptive_pool(*, average: bool) -> Formula:
    """Windows from floor(i n / m) to ceil((i + 1) n / m), which may overlap."""

    def formula(call: Call) -> Cost:
        spatial = len(call["output_size"])
        before, after = call.first.shape[-spatial:], call.results[0].shape[-spatial:]
        windows = [sum(-(-(i + 1) * n // m) - i * n // m for i in range(m)) for n, m in zip(before, after, strict=True)]
        elements = math.prod(call.results[0].shape[:-spatial]) * math.prod(windows)
        return Cost(call.out if average else 0, elements - call.out)

    return formula


def _reduce(*, multiplications: int = 0, additions: int = 1, final: Cost = Cost()) -> Formula:
    """n - 1 operations to reduce n elements to one, and a final step for each result; two operands: element by element."""

    def formula(call: Call) -> Cost:
        if isinstance(call["other"], Operand):
            return Cost(0, call.out)
        steps = call.first.numel - call.out
        return Cost(multiplications * steps, additions * steps) + _times(final, call.out)

    return formula


def _variance(*, root: bool) -> Formula:
    """The mean, then the sum of squared differences, divided."""

    def formula(call: Call) -> Cost:
        elements, steps = call.first.numel, call.first.numel - call.out
        return Cost(elements + (2 + root) * call.out, elements + 2 * steps)

    return formula


def _norm(call: Call) -> Cost:
    """Powers, their sum, and a root of each sum."""
    return Cost(call.first.numel + call.out, call.first.numel - call.out)


def _weight_norm(call: Call) -> Cost:
    """v g / ||v||: squares and their sums, a root and a quotient for each g, a product for each element."""
    elements, groups = call["v"].numel, call["g"].numel
    return Cost(2 * elements + 2 * groups, elements - groups)


def _log_sum_exp(call: Call) -> Cost:
    elements = call.first.numel
    return Cost(elements + call.out, 2 * (elements - call.out) + elements + call.out)


def _cosine_similarity(call: Call) -> Cost:
    """The inner product and both norms along one dimension; for each result the roots are clamped and divided by."""
    elements = math.prod(_broadcast(call["x1"].shape, call["x2"].shape))
    return Cost(3 * elements + 4 * call.out, 3 * (elements - call.out) + 2 * call.out)


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(len(a), len(b))
    padded = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    return tuple(m if n == 1 else n for m, n in padded)


def _sort(call: Call) -> Cost:
    """The comparisons of a merge sort: n ceil(log2 n) for n numbers."""
    dim = -1 if call["dim"] is None else call["dim"]
    length = call.first.shape[dim] if call.first.shape else 1
    return Cost(0, call.first.numel * max(length - 1, 0).bit_length())


def _top(call: Call) -> Cost:
    """Each number through a heap of the k largest: floor(log2 k) + 1 comparisons."""
    return Cost(0, call.first.numel * call["k"].bit_length())


def _fourier(*, real: bool) -> Formula:
    """n/2 log2 n butterflies for n points (of all dimensions), each of 4 multiplications and 6 additions; half where one side is real."""

    def formula(call: Call) -> Cost:
        shapes = call.first.shape, call.results[0].shape
        dims = call["dim"]
        if dims is None:
            dims = range(-len(call["s"] or shapes[0]), 0)
        points = math.prod(max(shape[d] for shape in shapes) for d in ([dims] if isinstance(dims, int) else dims))
        steps = max(map(math.prod, shapes)) * max(points - 1, 0).bit_length() // (2 if real else 1)
        return Cost(2 * steps, 3 * steps)

    return formula


def _embedding_bag(call: Call) -> Cost:
    """Rows are looked up, then added."""
    rows = call["indices"].numel
    width, bags = call["weight"].shape[-1], call.out // call["weight"].shape[-1]
    weighted = rows * width if call["per_sample_weights"] is not None else 0
    return Cost(weighted + (call.out if call["mode"] == 1 else 0), max(rows - bags, 0) * width)


# several names, separated by spaces, may share a formula
_TABLE: dict[str, Formula] = {
    # products of tensors
    "conv1d conv2d conv3d convolution _convolution": _convolution,
    "conv_transpose1d conv_transpose2d conv_transpose3d": _transposed_convolution,
    "linear": _linear,
    "bilinear": _bilinear,
    "_trilinear": _trilinear,
    "mm bmm": _inner("self", "mat2"),
    "matmul vdot inner": _inner("self", "other"),
    "mv": _inner("self", "vec"),
    "dot": _inner("self", "tensor"),
    "addmm": _scaled(_inner("mat1", "mat2")),
    "addmv": _scaled(_inner("mat", "vec")),
    "baddbmm": _scaled(_inner("batch1", "batch2")),
    "addbmm": _scaled(_summed_batches),
    "_grouped_mm": _grouped("self", "mat2"),
    "attar.grouped_mm transformers.grouped_mm_fallback": _grouped("input", "weight"),
    "outer ger kron": _each(1, 0),
    "einsum": _einsum,
    "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu": _attention,
    # recurrent layers
    "lstm": _recurrent(4, _LSTM),
    "gru": _recurrent(3, _GRU),
    "rnn_tanh": _recurrent(1, _RNN_TANH),
    "rnn_relu": _recurrent(1, _RNN_RELU),
    "lstm_cell": _cell(4, _LSTM),
    "gru_cell": _cell(3, _GRU),
    "rnn_tanh_cell": _cell(1, _RNN_TANH),
    "rnn_relu_cell": _cell(1, _RNN_RELU),
    "mkldnn_rnn_layer": _one_recurrent_layer,
    # norms
    "batch_norm native_batch_norm _native_batch_norm_legit_no_training instance_norm": _batch_norm,
    "layer_norm native_layer_norm": _layer_norm,
    "group_norm native_group_norm": _group_norm,
    "rms_norm _fused_rms_norm": _rms_norm,
    "_weight_norm _weight_norm_interface": _weight_norm,
    # activations
    "relu threshold": _each(0, 1),
    "relu6 hardtanh": _each(0, 2),
    "leaky_relu prelu _prelu_kernel": _each(1, 1),
    "elu": _each(2, 2),
    "celu selu": _each(3, 2),
    "sigmoid log_sigmoid softplus": _each(2, 1),
    "tanh": _each(1, 0),
    "silu glu": _each(3, 1),
    "mish": _each(4, 1),
    "gelu": _gelu,
    "hardsigmoid": _each(1, 3),
    "hardswish": _each(2, 3),
    "softmax _softmax _safe_softmax": _softmax,
    "log_softmax _log_softmax": _log_softmax,
    # element by element
    "add sub rsub": _sum,
    "mul div true_divide reciprocal square pow sqrt exp exp2 log log2 log10 sin cos tan asin acos atan sinh cosh asinh": _each(1, 0),
    "acosh atanh erf erfc": _each(1, 0),
    "floor_divide remainder expm1 log1p": _each(1, 1),
    "addcmul addcdiv": _each(2, 1),
    "lerp": _each(1, 2),
    "rsqrt atan2": _each(2, 0),
    "neg abs sign round floor ceil trunc clamp_min clamp_max maximum minimum eq ne lt le gt ge isnan isinf": _each(0, 1),
    "clamp": _clamp,
    # pooling
    "max_pool1d max_pool1d_with_indices": _pool(1, average=False),
    "max_pool2d max_pool2d_with_indices": _pool(2, average=False),
    "max_pool3d max_pool3d_with_indices": _pool(3, average=False),
    "avg_pool1d": _pool(1, average=True),
    "avg_pool2d": _pool(2, average=True),
    "avg_pool3d": _pool(3, average=True),
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d": _adaptive_pool(average=False),
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d": _adaptive_pool(average=True),
    # reductions
    "sum max min amax amin argmax argmin": _reduce(),
    "mean": _reduce(final=Cost(1, 0)),
    "prod": _reduce(multiplications=1, additions=0),
    "cumsum diff": _each(0, 1),
    "cumprod": _each(1, 0),
    "logsumexp": _log_sum_exp,
    "var var_mean": _variance(root=False),
    "std std_mean": _variance(root=True),
    "norm linalg_vector_norm": _norm,
    "embedding_bag _embedding_bag _embedding_bag_forward_only": _embedding_bag,
    "cosine_similarity": _cosine_similarity,
    # order, and counts of numbers by range (for each: to its bin, within both edges, one more)
    "sort argsort": _sort,
    "topk": _top,
    "histc": lambda call: Cost(call.first.numel, 4 * call.first.numel),
    # Fourier transforms
    "_fft_c2c fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn": _fourier(real=False),
    "_fft_r2c _fft_c2r fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn": _fourier(real=True),
    # interpolation: each output is a weighted sum of its neighbours
    "upsample_linear1d": _each(2, 1),
    "upsample_bilinear2d _upsample_bilinear2d_aa": _each(4, 3),
    "upsample_trilinear3d": _each(8, 7),
    "upsample_bicubic2d": _each(16, 15),
}

FORMULAS = {name: formula for names, formula in _TABLE.items() for name in names.split()}

# fmt: off
# the same elements under another shape, type or name: no arithmetic, and what was a weight still is one
VIEWS = frozenset({
    "_reshape_alias", "_to_copy", "_unsafe_view", "alias", "alpha_dropout", "as_strided", "broadcast_to", "chunk", "clone", "contiguous",
    "detach", "diagonal", "dropout", "expand", "expand_as", "feature_alpha_dropout", "feature_dropout", "fft_fftshift", "fft_ifftshift",
    "flatten", "flip", "getitem", "hsplit", "imag", "lift_fresh", "lift_fresh_copy", "mH", "mT", "moveaxis", "movedim", "narrow",
    "numpy_T", "permute", "real", "reshape", "reshape_as", "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes",
    "swapdims", "t", "tensor_split", "to", "transpose", "type_as", "unbind", "unflatten", "unfold", "unsafe_chunk", "unsafe_split",
    "unsqueeze", "view", "view_as", "view_as_complex", "view_as_real", "vsplit",
})

# other moves of data: look-ups, joins, padding, creation, choices by a mask, and logic on bits
MOVES = frozenset({
    "__and__", "__or__", "__xor__", "_assert_async", "_pack_padded_sequence", "_pad_packed_sequence", "_unsafe_index",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "all", "any", "arange", "bitwise_and",
    "bitwise_not", "bitwise_or", "bitwise_xor", "block_diag", "cat", "channel_shuffle", "col2im", "complex", "concat", "concatenate",
    "constant_pad_nd", "copy", "copy_", "diag_embed", "embedding", "empty", "empty_like", "empty_strided", "eye", "fill", "full",
    "full_like", "gather", "hstack", "im2col", "index", "index_copy", "index_fill", "index_put", "index_select", "isfinite",
    "logical_and", "logical_not", "logical_or", "logical_xor", "masked_fill", "masked_scatter", "masked_select", "meshgrid",
    "native_channel_shuffle", "native_dropout", "new_empty", "new_full", "new_ones", "new_zeros", "one_hot", "ones", "ones_like", "pad",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "repeat", "repeat_interleave",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "rot90", "scalar_tensor", "scatter", "select_scatter",
    "slice_scatter", "stack", "take", "take_along_dim", "tile", "tril", "triu", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "vstack", "where", "zero", "zeros", "zeros_like",
})
# fmt: on
