"""A recurrent layer in one direction: all time steps in one loop, in which only the product with the state is left to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attar.compiler.ir import C_TYPES, Array, Buffer, Op
from attar.compiler.kernels.loops import pointer

__all__ = ["GATES", "Recurrent"]

# sums[j] += sum over k of h[k] * w[k][j]; four rows of w at a time, so that the sums are loaded and stored a quarter as often
_PRODUCT = r"""static void recurrent_TYPE(TYPE *restrict sums, const TYPE *restrict h, const TYPE *restrict w, long depth, long width) {
    long k = 0;
    for (; k + 4 <= depth; k += 4, w += 4 * width)
        for (long j = 0; j < width; j++)
            sums[j] += h[k] * w[j] + h[k + 1] * w[width + j] + h[k + 2] * w[2 * width + j] + h[k + 3] * w[3 * width + j];
    for (; k < depth; k++, w += width)
        for (long j = 0; j < width; j++) sums[j] += h[k] * w[j];
}
"""

# the state's new value for each kind, by PyTorch's order of gates: what the state gives is in `s`, what the input gives in `x`
_STEP = {
    "lstm": """\
const TYPE in = SIGMOID(x[j] + s[j]), forget = SIGMOID(x[SIZE + j] + s[SIZE + j]);
const TYPE new = TANH(x[2 * SIZE + j] + s[2 * SIZE + j]), out = SIGMOID(x[3 * SIZE + j] + s[3 * SIZE + j]);
c[j] = forget * c[j] + in * new;
h[j] = out * TANH(c[j]);""",
    "gru": """\
const TYPE reset = SIGMOID(x[j] + s[j]), keep = SIGMOID(x[SIZE + j] + s[SIZE + j]);
const TYPE new = TANH(x[2 * SIZE + j] + reset * s[2 * SIZE + j]);
h[j] = (h[j] - new) * keep + new;""",
    "rnn_tanh": "h[j] = TANH(x[j] + s[j]);",
    "rnn_relu": "const TYPE v = x[j] + s[j];\nh[j] = v < 0 ? 0 : v;",
}
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True, eq=False)
class Recurrent(Op):
    """`output[t, n]` is the state after step t of sample n; steps go from the last to the first where it is `backward`.

    `inputs`: what the input gives to the gates (steps, samples, gates * size), the state's weight (size, gates * size), its bias
    (gates * size), the first state (samples, size) and, of an LSTM, the first cell. An LSTM's last cell is written to `cell`,
    a part of the output's buffer. Threads share the samples.
    """

    kind: str
    backward: bool = False
    cell: Array | None = None

    def functions(self) -> dict[str, str]:
        kind = C_TYPES[self.output.dtype]
        return {f"recurrent_{kind}": _PRODUCT.replace("TYPE", kind)}

    def source(self, at: Callable[[Buffer], str]) -> str:
        steps, samples, size = self.output.shape
        gates, state = self.inputs[0], self.inputs[3]
        kind, width = C_TYPES[self.output.dtype], size * GATES[self.kind]
        names = ["gates", "w", "bias", "first", "cell"]
        lines = [pointer(name, value, at) for name, value in zip(names, self.inputs, strict=False)]
        lines.append(pointer("y", self.output, at, write=True))
        begin, end = [f"h[j] = first[n * {state.strides[0]} + j * {state.strides[1]}];"], ""
        if self.cell is not None:
            start = self.inputs[4]
            begin.append(f"c[j] = cell[n * {start.strides[0]} + j * {start.strides[1]}];")
            lines.append(pointer("last", self.cell, at, write=True))
            end = f"    for (long j = 0; j < {size}; j++) last[n * {self.cell.strides[0]} + j] = c[j];\n"
        step = _STEP[self.kind].replace("SIZE", str(size)).replace("TYPE", kind).replace("SIGMOID", _name("sigmoid", kind))
        step = step.replace("TANH", _name("tanh", kind)).replace("\n", "\n            ")
        cell = f", c[{size}]" if self.cell is not None else ""
        return (
            "\n".join(lines)
            + f"""
{kind} h[{size}], s[{width}]{cell};
SPLIT(lo, hi, {samples})
for (long n = lo; n < hi; n++) {{
    for (long j = 0; j < {size}; j++) {{ {" ".join(begin)} }}
    for (long i = 0; i < {steps}; i++) {{
        const long t = {f"{steps - 1} - i" if self.backward else "i"};
        const {kind} *restrict x = gates + t * {gates.strides[0]} + n * {gates.strides[1]};
        for (long j = 0; j < {width}; j++) s[j] = bias[j];
        recurrent_{kind}(s, h, w, {size}, {width});
        for (long j = 0; j < {size}; j++) {{
            {step}
            y[t * {self.output.strides[0]} + n * {self.output.strides[1]} + j] = h[j];
        }}
    }}
{end}}}
"""
        )


def _name(function: str, kind: str) -> str:
    """The prelude's function for the type."""
    return f"attar_{function}f" if kind == "float" else function if function == "tanh" else f"attar_{function}"
