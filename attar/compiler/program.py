"""From a network to an engine: the stages in order, cached by content, and compared with PyTorch before it is believed."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from attar.compiler.build import NoCompilerError, c_compiler
from attar.compiler.compare import differs
from attar.compiler.groups import in_groups
from attar.compiler.lower import leaves
from attar.compiler.make import Call, Report, Wanted, engine_of, keep
from attar.compiler.race import faster
from attar.compiler.run import Engine, TorchEngine
from attar.compiler.target import target as target_of
from attar.errors import AttarError
from attar.graph import Network, trace

__all__ = ["TOLERANCE", "Report", "compile"]

TOLERANCE = 1e-3  # of a compiled network's outputs, relative to their largest; a wrong kernel is far outside


def compile(
    model: nn.Module | Network,
    example: tuple | Mapping[str, Any],
    *,
    threads: int = 1,
    batch: int = 1,
    target: str | None = None,
    precision: str = "float32",
    calibration: tuple | Mapping[str, Any] | None = None,
    listing: str | os.PathLike | None = None,
) -> Engine | TorchEngine:
    """The network as a program for this machine; `example` is what it is called with, as for `graph.trace`.

    Each convolution and linear layer takes the kernel that is fastest here, dense or sparse, by timing. What was built is kept
    in the cache folder and found again by content. The first size is free where the network treats samples apart; `threads` then take a
    sample each, or share one. `target` is one of `compiler.target.TARGETS`, this machine's best where it is None. Without a
    C compiler the network runs in PyTorch, with a warning. `engine.report` says what was done. `listing` is a file to write:
    the machine code that no C compiler made, as assembly text.

    With `batch` above 1, calls of as many samples or more take them in groups of so many: up to a cut one by one, from there on
    together, so that weights are read once for a group. The cut is where measurements here say, or nowhere; the report's
    notes tell. It costs memory, as the weights behind the cut are packed twice, and a longer build.

    `precision="int8"` computes in bytes where that gains, by the ranges that values have on `calibration`: arguments as in
    `example`, of some tens of samples, real ones. The report's error is then the quantisation's, and no limit holds it. Where
    float32 is faster as a whole, by timing both here, that is what is returned; the report's notes have both times.

    Raises AttarError where the outputs on noise like the example differ from PyTorch's by more than TOLERANCE, where a size depends on
    data, or for a type that C has not; TraceError where the network has no graph.

    >>> import numpy as np, torch
    >>> engine = compile(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (torch.zeros(1, 3),))
    >>> engine(np.zeros((5, 3), np.float32)).shape
    (5, 2)
    """
    started = time.perf_counter()
    if not isinstance(batch, int) or batch < 1:
        raise AttarError(f"batch must be a whole number, 1 at least, got {batch}: it is how many samples are computed together")
    network = model if isinstance(model, Network) else trace(model, example)
    where = target_of(target)
    call = Call(network)
    try:
        c_compiler()
    except NoCompilerError as reason:
        warnings.warn(f"{reason}; the network runs in PyTorch", stacklevel=2)
        return TorchEngine(network.program(), str(reason))
    values = leaves(network, example)
    if any(free and len(value) == 0 for value, free in zip(values, call.free, strict=True)):
        raise AttarError("the example holds no sample: give one at least")
    tries: tuple[bool, ...] = (True, False) if any(call.free) else (False,)
    samples, limit = None, TOLERANCE
    if precision == "int8":
        samples = _calibration(call, calibration)
        with compile(network, example, target=target) as plain:  # which also finds whether samples are apart
            tries, limit = (isinstance(plain, Engine) and plain.batched,), sys.float_info.max
    elif precision != "float32" or calibration is not None:
        raise AttarError(f"precision must be float32, or int8 with calibration, got {precision}: int8 needs samples, float32 none")
    for free in tries:
        wanted = Wanted(network, call, values, free, where, samples)
        engine = engine_of(wanted, threads, listing=listing)
        if samples is not None:
            engine, wanted = faster(engine, wanted, threads, listing)
        error = engine.report.error if engine.report.cached else differs(engine, network, wanted.shown())
        if error <= limit:
            break
        engine.close()
    else:
        raise AttarError(f"the compiled network differs from PyTorch by {error:.1e} of its largest output: please report this network")
    if not engine.report.cached:
        keep(engine.library.parent / "error", repr(error))
    engine.report = replace(engine.report, error=error)
    if batch > 1:
        engine = in_groups(engine, wanted, batch, limit=limit, listing=listing)
    engine.report = replace(engine.report, seconds=time.perf_counter() - started)
    return engine


def _calibration(call: Call, calibration: tuple | Mapping[str, Any] | None) -> list[Any]:
    if calibration is None:
        raise AttarError(
            'precision="int8" needs calibration: the network\'s arguments for some tens of real samples, which show the ranges'
        )
    given = call.tensors(**calibration) if isinstance(calibration, Mapping) else call.tensors(*calibration)
    if any(len(tensor) == 0 for tensor in given):
        raise AttarError("calibration holds no sample: give some tens of real ones")
    return given
