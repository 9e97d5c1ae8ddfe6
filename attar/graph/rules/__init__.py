"""How each op couples the dimensions of its tensors: one literal table from the op's name to its rule.

A rule gets the `Propagation` and the `Call`, unites and fixes identities, and returns the labels of the results. An op
that is not here keeps all that enters it, and is named in the report. To support an op, add a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attar.graph.labels import Propagation, Rule
from attar.graph.rules.contraction import (
    addmm,
    attention,
    bilinear,
    convolution,
    einsum,
    embedding,
    embedding_bag,
    grouped,
    linear,
    matmul,
    outer,
)
from attar.graph.rules.elementwise import binary, clamp, created, dropout, identity, like, power, prelu, unary
from attar.graph.rules.movement import (
    as_complex,
    as_real,
    broadcast,
    concatenate,
    expand,
    flip,
    gather,
    index,
    pad,
    permute,
    pixel_shuffle,
    pixel_unshuffle,
    repeat,
    repeat_each,
    roll,
    select,
    slice_,
    split,
    squeeze,
    stack,
    swap,
    triangle,
    unbind,
    unfold,
    unsqueeze,
    view,
)
from attar.graph.rules.recurrent import cell, recurrent
from attar.graph.rules.reduction import (
    along,
    batch_norm,
    cosine_similarity,
    glu,
    group_norm,
    instance_norm,
    layer_norm,
    pool,
    reduce,
    softmax,
    vector_norm,
    weight_norm,
)

__all__ = ["RULES"]


def _first(known: Sequence[bool]) -> bool:
    return known[0]


def _second_and_third(known: Sequence[bool]) -> bool:
    return all(known[1:])


def _first_and_third(known: Sequence[bool]) -> bool:
    return known[0] and known[2]


def _never(known: Sequence[bool]) -> bool:
    return False


# several names, separated by spaces, may share a rule
_TABLE: dict[str, Rule] = {
    # element by element
    "relu relu6 gelu silu tanh hardswish leaky_relu elu neg sin abs sqrt sign erf atan expm1 log1p softshrink hardshrink": unary(True),
    "mish celu selu asin sinh asinh trunc floor ceil round square positive negative nan_to_num tan erfinv rrelu softsign": unary(True),
    "sigmoid hardsigmoid exp log rsqrt cos reciprocal logical_not bitwise_not softplus isnan isinf isfinite log2 log10": unary(False),
    "exp2 logit erfc log_sigmoid cosh acos threshold lgamma digamma sgn frac bernoulli special_expit": unary(False),
    "clone alias detach contiguous to _to_copy type_as lift_fresh_copy lift_fresh float double half": identity,
    "dropout native_dropout feature_dropout alpha_dropout feature_alpha_dropout": dropout,
    "zeros_like ones_like full_like empty_like rand_like randn_like fill": like,
    "zeros new_zeros": created(True),
    "full ones empty new_ones new_full new_empty scalar_tensor": created(False),
    "clamp clamp_min clamp_max clip hardtanh": clamp,
    "add sub rsub maximum minimum logical_or logical_xor bitwise_or __or__ __xor__": binary(all),
    "mul logical_and bitwise_and __and__": binary(any),
    "div floor_divide fmod remainder true_divide ldexp": binary(_first),
    "pow": power,
    "where": binary(_second_and_third),
    "masked_fill": binary(_first_and_third),
    "eq ne lt le gt ge atan2 addcdiv addcmul lerp xlogy isclose max.other min.other copysign hypot": binary(_never),
    "prelu _prelu_kernel": prelu,
    # sums of products
    "conv1d conv2d conv3d convolution": convolution(transposed=False),
    "conv_transpose1d conv_transpose2d conv_transpose3d": convolution(transposed=True),
    "linear": linear,
    "matmul mm bmm mv dot vdot": matmul,
    "addmm baddbmm addmv": addmm,
    "outer ger": outer,
    "bilinear": bilinear,
    "einsum": einsum,
    "_grouped_mm grouped_mm": grouped,
    "embedding": embedding,
    "embedding_bag": embedding_bag,
    "scaled_dot_product_attention": attention,
    "lstm": recurrent(4),
    "gru": recurrent(3),
    "lstm_cell": cell(4),
    "gru_cell": cell(3),
    "rnn_tanh_cell rnn_relu_cell": cell(1),
    "rnn_tanh rnn_relu": recurrent(1),
    # norms, reductions, pooling
    "batch_norm _native_batch_norm_legit_no_training": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm rms_norm": layer_norm,
    "_weight_norm": weight_norm,
    "mean": reduce("mean"),
    "sum": reduce("sum"),
    "max min amax amin": reduce("max"),
    "all any prod var std logsumexp argmax argmin var_mean std_mean median count_nonzero aminmax": reduce("other"),
    "norm linalg_vector_norm": vector_norm,
    "cosine_similarity": cosine_similarity,
    "softmax log_softmax _softmax _log_softmax": softmax,
    "cumsum cumprod sort topk argsort logcumsumexp diff": along,
    "glu": glu,
    "avg_pool1d max_pool1d max_pool1d_with_indices adaptive_avg_pool1d adaptive_max_pool1d upsample_linear1d upsample_nearest1d": pool(1),
    "lp_pool1d reflection_pad1d replication_pad1d": pool(1),
    "avg_pool2d max_pool2d max_pool2d_with_indices adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d": pool(2),
    "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa reflection_pad2d replication_pad2d": pool(2),
    "avg_pool3d max_pool3d max_pool3d_with_indices adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d": pool(3),
    "upsample_trilinear3d reflection_pad3d replication_pad3d": pool(3),
    # movement
    "permute t numpy_T movedim moveaxis": permute,
    "transpose swapaxes swapdims mT adjoint": swap,
    "unsqueeze": unsqueeze,
    "view_as_complex": as_complex,
    "view_as_real": as_real,
    "squeeze": squeeze,
    "expand expand_as broadcast_to": expand,
    "broadcast_tensors": broadcast,
    "view _unsafe_view reshape view_as reshape_as flatten unflatten ravel": view,
    "view.dtype": Propagation.unknown,  # the bits are read as another type
    "cat concat concatenate hstack vstack": concatenate,
    "stack": stack,
    "slice narrow": slice_,
    "select": select,
    "unbind": unbind,
    "split split_with_sizes chunk unsafe_split unsafe_chunk tensor_split unsafe_split_with_sizes": split,
    "flip": flip,
    "roll": roll,
    "index index_select": index,
    "gather": gather,
    "repeat tile": repeat,
    "repeat_interleave": repeat_each,
    "pad constant_pad_nd": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "unfold im2col": unfold,
    "triu tril": triangle,
}


def _lines() -> Iterator[tuple[str, Rule]]:
    for names, rule in _TABLE.items():
        for name in names.split():
            yield name, rule


RULES: dict[str, Rule] = dict(_lines())
