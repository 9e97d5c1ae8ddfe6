"""The ops that a file may name: a white list, readable from top to bottom.

All are functional (none writes to its arguments), deterministic in eval mode, and give results whose shapes follow from
the arguments' shapes. Left out on purpose: whatever reads memory that nobody wrote (`empty`, `new_empty`, `_grouped_mm`),
makes a view by raw offsets (`as_strided`, `set_`), draws random numbers, opens files, or has a size that depends on data
(`nonzero`). Shapes and numbers that PyTorch does not check itself are checked by `graph.propagate`, which every loaded graph
passes; what depends on where an argument comes from or where a result goes is checked by `check_graph`.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from attar.errors import FormatError
from attar.graph import op_name
from attar.graph.grouped import grouped_mm

__all__ = ["ATEN", "OWN", "SIZES", "check_arguments", "check_graph", "resolve", "short_name"]

# Without the namespace, and without the overload where it is `default`.
ATEN = frozenset(
    """
    linear bilinear matmul mm bmm mv dot addmm baddbmm addbmm addmv addr outer einsum tensordot linalg_multi_dot chain_matmul
    conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding convolution
    conv_transpose1d conv_transpose2d.input conv_transpose3d.input
    lstm.input gru.input rnn_tanh.input rnn_relu.input lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    scaled_dot_product_attention embedding embedding_bag.padding_idx

    batch_norm instance_norm group_norm layer_norm native_layer_norm native_group_norm rms_norm
    norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype linalg_vector_norm linalg_norm linalg_matrix_norm frobenius_norm.dim
    renorm _weight_norm cosine_similarity pairwise_distance cdist

    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec _upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec
    upsample_linear1d.vec upsample_bilinear2d.vec upsample_bicubic2d.vec upsample_trilinear3d.vec
    _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec
    pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im grid_sampler affine_grid_generator

    relu relu6 leaky_relu prelu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid hardshrink softshrink threshold
    sigmoid log_sigmoid tanh softplus glu rrelu logit
    softmax.int _softmax log_softmax.int _log_softmax special_softmax
    dropout feature_dropout alpha_dropout feature_alpha_dropout

    add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar mul.Tensor mul.Scalar div.Tensor div.Scalar
    div.Tensor_mode div.Scalar_mode true_divide.Tensor true_divide.Scalar floor_divide floor_divide.Scalar
    remainder.Tensor remainder.Scalar fmod.Tensor fmod.Scalar
    pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar float_power.Tensor_Scalar float_power.Tensor_Tensor square
    addcmul addcdiv lerp.Scalar lerp.Tensor
    neg positive abs sign sgn signbit reciprocal sqrt rsqrt exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 xlogy.Tensor
    sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh deg2rad rad2deg sinc hypot
    erf erfc erfinv lgamma digamma special_expit special_erf special_log1p special_expm1 special_entr
    floor ceil round round.decimals trunc frac nan_to_num
    maximum minimum fmax fmin max.other min.other clamp clamp.Tensor clamp_min clamp_min.Tensor clamp_max clamp_max.Tensor clip

    eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor ge.Scalar
    logical_and logical_or logical_xor logical_not isnan isinf isfinite isclose
    bitwise_and.Tensor bitwise_and.Scalar bitwise_or.Tensor bitwise_or.Scalar bitwise_xor.Tensor bitwise_xor.Scalar bitwise_not
    __and__.Tensor __and__.Scalar __or__.Tensor __or__.Scalar __xor__.Tensor __xor__.Scalar
    where.self where.ScalarSelf where.ScalarOther where.Scalar masked_fill.Scalar masked_fill.Tensor masked_scatter

    sum sum.dim_IntList mean mean.dim prod prod.dim_int var var.dim var.correction std std.dim std.correction
    var_mean.correction std_mean.correction logsumexp nansum
    amax amin aminmax max max.dim min min.dim argmax argmin median median.dim all all.dim all.dims any any.dim any.dims
    cumsum cumprod cummax cummin logcumsumexp diff sort sort.stable argsort argsort.stable topk kthvalue
    count_nonzero count_nonzero.dim_IntList trace searchsorted.Tensor bucketize.Tensor histc

    view reshape view_as reshape_as expand expand_as flatten.using_ints unflatten.int squeeze squeeze.dim squeeze.dims unsqueeze
    _unsafe_view broadcast_to broadcast_tensors ravel
    transpose.int permute t mT movedim.int movedim.intlist swapaxes swapdims adjoint numpy_T atleast_1d atleast_2d
    slice.Tensor select.int narrow index.Tensor index_select gather take take_along_dim diagonal diag diag_embed tril triu
    tril_indices triu_indices unfold
    split.Tensor split_with_sizes split.sizes chunk tensor_split.sections tensor_split.indices unbind.int
    hsplit.int vsplit.int unsafe_split.Tensor unsafe_chunk split_with_sizes_copy split_copy.Tensor unbind_copy.int
    cat concat concatenate stack hstack vstack dstack repeat tile repeat_interleave.self_int roll flip fliplr flipud rot90
    pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    scatter.src scatter.value scatter_add scatter_reduce.two index_put index_add index_copy index_fill.int_Scalar
    slice_scatter select_scatter diagonal_scatter meshgrid meshgrid.indexing cartesian_prod
    view_copy expand_copy permute_copy transpose_copy.int slice_copy.Tensor select_copy.int squeeze_copy.dim unsqueeze_copy t_copy
    detach_copy alias_copy

    to.dtype to.dtype_layout to.device to.other _to_copy type_as contiguous clone detach alias lift_fresh_copy copy view.dtype
    arange arange.start arange.start_step linspace full full_like zeros zeros_like ones ones_like eye eye.m scalar_tensor
    fill.Scalar fill.Tensor new_full new_zeros new_ones one_hot sym_size.int sym_numel

    complex real imag view_as_real view_as_complex conj conj_physical _conj resolve_conj resolve_neg angle polar
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn
    fft_fftshift fft_ifftshift
    kron cross linalg_cross linalg_inv inverse linalg_solve linalg_cholesky cholesky linalg_det det linalg_matrix_power matrix_power
    matrix_exp fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
    """.split()  # noqa: SIM905 (as a list it would be 400 lines, without the groups)
)

# Attar's own ops; their names carry a leading "+".
OWN: dict[str, torch._ops.OpOverload] = {"+grouped_mm": grouped_mm._opoverload}

# Arithmetic of sizes, by Python itself; their names carry a leading "=".
SIZES: dict[str, Callable] = {
    f"={function.__name__}": function
    for function in (
        operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.truediv,
        operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
        torch.sym_max, torch.sym_min, torch.sym_not, torch.sym_int, torch.sym_float, torch.sym_ite,
    )
}  # fmt: skip


def short_name(node: fx.Node) -> str:
    """The name that a file has for the node's op; FormatError, naming it, where it is not on the list."""
    name = op_name(node)
    if name.startswith("aten."):
        short = name.removeprefix("aten.").removesuffix(".default")
        if short in ATEN:
            return short
    elif SIZES.get(f"={name}") is node.target:
        return f"={name}"
    elif (short := f"+{name.removeprefix('attar.').removesuffix('.default')}") in OWN:
        return short
    raise FormatError(f"op {name or node.format_node()} is not on the list of ops that a file may hold (coding/ops.py)")


def resolve(name: str) -> Callable:
    """The op that a file's name means; FormatError where it is not on the list."""
    if name in SIZES or name in OWN:
        return SIZES.get(name) or OWN[name]
    if name not in ATEN:
        raise FormatError(f"op {name[:60]!r} is not on the list of allowed ops: the file is hostile or from a newer version")
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def check_arguments(name: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that the op's schema does not have: a keyword's name becomes source text when the graph is compiled."""
    if name in SIZES:
        if kwargs or len(args) > 3:
            raise FormatError(f"op {name} takes plain arguments only")
        if name == "=pow" and not (len(args) == 2 and type(args[1]) is int and 0 <= args[1] <= 8):
            raise FormatError("op =pow must have an exponent from 0 to 8: a size cannot be larger")
        return
    arguments = resolve(name)._schema.arguments  # type: ignore[attr-defined]
    unknown = set(kwargs) - {argument.name for argument in arguments[len(args) :]}
    if len(args) > len(arguments) or unknown:
        raise FormatError(f"op {name} has no argument {sorted(unknown)[:1] or len(args)}")
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | dict(kwargs)
    for argument in arguments:
        value, kind = given.get(argument.name), _kind(str(argument.real_type))
        # PyTorch takes a whole number for a memory format, unchecked, and follows it out of a table
        fits = isinstance(value, kind) if kind else not isinstance(value, _NAMED)
        if value is not None and not fits:
            raise FormatError(f"op {name} cannot have {str(value)[:40]!r} as {argument.name!r}")


def check_graph(graph: fx.Graph) -> None:
    """Refuse an `embedding_bag` that PyTorch would follow out of its memory, or of whose results more than the first is used.

    It checks the first and the last of its offsets only, so they must be an `arange`, which ascends; its other results may be
    memory that nobody wrote.
    """
    for node in graph.nodes:
        if op_name(node) == "aten.embedding_bag.padding_idx":
            offsets = node.args[2] if len(node.args) > 2 else node.kwargs.get("offsets")
            if not _ascends(offsets):
                raise FormatError("op embedding_bag.padding_idx must have an arange by a known step as its offsets: no other ascends")
            if not all(op_name(user) == "getitem" and user.args == (node, 0) for user in node.users):
                raise FormatError("op embedding_bag.padding_idx gives the first of its results only")


def _ascends(offsets: Any) -> bool:
    """Whether a value is an arange by a known step, in numbers that do not wrap around."""
    if not isinstance(offsets, fx.Node) or offsets.kwargs.get("dtype") not in (None, torch.int64):
        return False
    step = 1
    if op_name(offsets) == "aten.arange.start_step":
        step = offsets.args[2] if len(offsets.args) > 2 else 1  # type: ignore[assignment]
    return op_name(offsets).startswith("aten.arange.") and type(step) is int and step > 0 and "step" not in offsets.kwargs


_KINDS = {"ScalarType": torch.dtype, "Layout": torch.layout, "MemoryFormat": torch.memory_format, "Device": torch.device}
_NAMED = tuple(_KINDS.values())


def _kind(schema_type: str) -> type | None:
    """The Python type of an argument whose values have names, None for numbers and tensors."""
    return _KINDS.get(schema_type.removeprefix("Optional[").removesuffix("]"))
