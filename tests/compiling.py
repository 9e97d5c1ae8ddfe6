"""Programs of the compiler, run step by step without its engine.

Each buffer is memory of its own, of its exact size, but for maps that lie where maps lay that are done with.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emulating import Emulator, emulator
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from attar.compiler.build import c_compiler
from attar.compiler.ir import C_TYPES, Buffer, Program, check
from attar.compiler.kernels.prelude import PRELUDE
from attar.compiler.kernels.segment import Torch
from attar.compiler.lower import lower
from attar.compiler.plan import homes
from attar.compiler.target import Target, flags, host
from attar.graph import Input, Network
from attar.machine import cache_folder

__all__ = ["agree", "agree_all", "execute", "lowered"]

# set by tests/slow/test_sanitizers.py, which runs the tests again on kernels that stop at the first wrong access
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"] if os.environ.get("ATTAR_SANITIZE") else []


def lowered(function: Callable[..., Any], *inputs: Tensor) -> Program:
    """The program of a function on these inputs; its ops are as they come, which takes a hundredth of an export's time."""
    with torch.no_grad():
        module = make_fx(function, pre_dispatch=True)(*inputs)
    given = tuple(Input(f"x{i}", tuple(x.shape), x.dtype) for i, x in enumerate(inputs))
    held = {str(node.target): getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"}
    program = lower(Network(module.graph, given, held, {}, {}), inputs)
    check(program)
    return program


@cache
def _library(source: str, target: Target) -> ctypes.CDLL:
    folder = cache_folder() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    command = [*c_compiler(), *("-O1" if flag == "-O3" else flag for flag in flags(target)), *SANITIZERS, "-Werror=implicit", "-shared"]
    path = folder / f"{hashlib.sha256(' '.join([*command, source]).encode()).hexdigest()[:32]}.so"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", suffix=".c", dir=folder) as text:
            text.write(source)
            text.flush()
            made = f"{text.name}.so"
            subprocess.run([*command, "-o", made, text.name, "-lm"], check=True)
            Path(made).replace(path)
    return ctypes.CDLL(str(path))


def execute(
    program: Program,
    inputs: Sequence[Tensor],
    parts: int = 1,
    target: Target | None = None,
    *,
    baked: Emulator | None = None,
    over: bool = True,
) -> list[Tensor]:
    """What the program, its lanes laid out, gives; `parts` threads' shares are run one after the other. Baked code is emulated."""
    baked = baked or emulator(program)
    buffers: dict[int, tuple[int, np.ndarray]] = {}
    home = homes(program) if over else {}

    def memory(buffer: Buffer) -> np.ndarray:
        buffer = home.get(buffer, buffer)
        if id(buffer) not in buffers:
            fill = np.full(buffer.size, 77, buffer.dtype) if buffer.data is None else np.ascontiguousarray(buffer.data).reshape(-1)
            buffers[id(buffer)] = (len(buffers), fill)
        return buffers[id(buffer)][1]

    def at(buffer: Buffer) -> str:
        memory(buffer)
        return f"(({C_TYPES[buffer.dtype]} *)arguments[{buffers[id(home.get(buffer, buffer))][0]}])"

    for array, tensor in zip(program.inputs, inputs, strict=True):
        memory(array.buffer)[:] = tensor.detach().contiguous().numpy().reshape(-1)
    functions, steps = {}, []
    for number, op in enumerate(program.ops):
        functions |= op.functions()
        steps.append(f"void step_{number}(void *const *arguments, long part, long parts) {{\n{op.source(at)}}}\n")
    library = _library("\n".join([PRELUDE, *functions.values(), baked.text, *steps]), target or host())
    for op in program.ops:
        memory(op.output.buffer)
    pointers = (ctypes.c_void_p * max(1, len(buffers)))(*(m.ctypes.data for _, m in buffers.values()))

    def run() -> None:
        for number, op in enumerate(program.ops):
            if isinstance(op, Torch):
                result = op.function(*(_view(a, memory(a.buffer)) for a in op.inputs))
                memory(op.output.buffer)[:] = result.contiguous().numpy().reshape(-1)
                continue
            for part in range(parts):
                getattr(library, f"step_{number}")(pointers, ctypes.c_long(part), ctypes.c_long(parts))

    baked.run(library, [m for _, m in buffers.values()], run)
    return [_view(a, memory(a.buffer)) for a in program.outputs]


def _view(array: Any, memory: np.ndarray) -> Tensor:
    flat = memory[array.offset :]
    strides = [s * flat.itemsize for s in array.strides]
    return (
        torch.from_numpy(np.lib.stride_tricks.as_strided(flat, array.shape, strides).copy())
        if array.size
        else torch.empty(array.shape, dtype=getattr(torch, array.dtype))
    )


def agree(
    function: Callable[..., Any], *inputs: Tensor, parts: int = 1, rtol: float = 1e-5, atol: float = 1e-6, torch_ops: Sequence[str] = ()
) -> Program:
    """Assert that the compiled function equals PyTorch's, values, sizes and types, and that only `torch_ops` are left to PyTorch."""
    with torch.no_grad():
        wanted = [leaf for leaf in pytree.tree_leaves(function(*inputs)) if isinstance(leaf, Tensor)]
    program = lowered(function, *inputs)
    assert program.notes == list(torch_ops)
    given = execute(program, inputs, parts)
    assert len(given) == len(wanted)
    for got, want in zip(given, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol, equal_nan=True)
    return program


def agree_all(cases: Mapping[str, Callable[..., Any]], *inputs: Tensor, parts: int = 1, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Each case is one function of the same inputs; all are compiled together, none is left to PyTorch, and each equals PyTorch's."""

    def whole(*given: Tensor) -> dict[str, Any]:
        return {name: function(*given) for name, function in cases.items()}

    with torch.no_grad():
        wanted = whole(*inputs)
    program = lowered(whole, *inputs)
    assert program.notes == []
    given = iter(execute(program, inputs, parts))
    for name, results in wanted.items():
        for want in pytree.tree_leaves(results):
            torch.testing.assert_close(
                next(given), want, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
            )
