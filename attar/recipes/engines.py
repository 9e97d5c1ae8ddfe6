"""Engines that run one network on a CPU, behind one signature: `ENGINES[name](model, example, threads) -> Engine`.

All of them take and give NumPy arrays. ONNX Runtime and OpenVINO read one and the same ONNX file, of fixed shapes, from
`torch.onnx`; their int8 rows one and the same QDQ file, which `onnxruntime.quantization` makes from a calibration batch:
unsigned 8-bit activations, signed 8-bit weights, a scale for each output channel.
"""

import copy
import logging
import shutil
import subprocess
import tempfile
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attar.compiler import compile as compile_model
from attar.errors import AttarError
from attar.evaluation import machine

__all__ = [
    "ENGINES",
    "FROM_FILE",
    "Engine",
    "attar_engine",
    "attar_int8_engine",
    "onnx_file",
    "onnxruntime_engine",
    "onnxruntime_int8_engine",
    "openvino_engine",
    "openvino_int8_engine",
    "torch_engine",
    "versions",
]

logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is absent, which nothing here needs

Array = np.ndarray
CALIBRATION = 8  # samples of noise, where the caller gives no calibration batch


@dataclass(frozen=True)
class Engine:
    """A network ready to run; the array that `run` gives may be overwritten by the next call. `details` is what it says of itself."""

    name: str
    run: Callable[[Array], Array]
    build_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def needs(package: str) -> Any:
    """An optional package, imported when an engine that needs it is made; raises AttarError saying how to install it."""
    try:
        return import_module(package)
    except ImportError:
        raise AttarError(f"{package.partition('.')[0]} is not installed: pip install 'attar[bench]'") from None


def versions() -> dict[str, str]:
    """The version of every engine but Attar, and of the C compiler that Attar calls."""
    compiler = shutil.which("cc")
    line = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.partition("\n")[0] if compiler else "none"
    return {name: version(name) for name in ("torch", "onnxruntime", "openvino")} | {"cc": line}


def attar_engine(model: nn.Module, example: Array, threads: int) -> Engine:
    """The network as Attar compiles it."""
    return _attar(model, example, threads, "attar")


def attar_int8_engine(model: nn.Module, example: Array, threads: int, *, calibration: Array | None = None) -> Engine:
    """The network as Attar compiles it in bytes, by the ranges on the calibration batch."""
    batch = torch.from_numpy(_noise(example) if calibration is None else calibration)
    return _attar(model, example, threads, "attar-int8", precision="int8", calibration=(batch,))


def _attar(model: nn.Module, example: Array, threads: int, name: str, **options: Any) -> Engine:
    start = time.perf_counter()
    compiled = compile_model(model, (torch.from_numpy(example),), threads=threads, batch=len(example), **options)
    seconds, report = time.perf_counter() - start, compiled.report
    if report is None:
        raise AttarError("there is no C compiler, so Attar would run the network in PyTorch: install cc, or time other engines")
    details = {
        "target": report.target,
        "kernels": dict(Counter(choice.kernel for choice in report.choices)),  # of the layers that had a choice
        "run by PyTorch": list(report.segments),
        "notes": list(report.notes),
        "arena": report.arena,
        "constants": report.constants,
        "cached": report.cached,
    }
    return Engine(name, compiled, seconds, details)


def torch_engine(model: nn.Module, example: Array, threads: int) -> Engine:
    """PyTorch as it is, in inference mode; pictures and the weights of convolutions in channels-last order, where oneDNN is fastest.

    PyTorch has one number of threads for the whole process, which `attar.evaluation.measure` sets while it times.
    """
    start = time.perf_counter()
    torch.set_num_threads(threads)
    order = torch.channels_last if example.ndim == 4 else torch.contiguous_format
    ready = copy.deepcopy(model).eval().to(memory_format=order)  # type: ignore[call-overload]

    def run(x: Array) -> Array:
        with torch.inference_mode():
            return ready(torch.from_numpy(x).contiguous(memory_format=order)).numpy()

    return Engine("torch", run, time.perf_counter() - start)


def onnxruntime_engine(model: nn.Module, example: Array, threads: int) -> Engine:
    """ONNX Runtime, fp32, every graph optimization."""
    return _onnxruntime(onnx_file(model, example), threads, "onnxruntime")


def openvino_engine(model: nn.Module, example: Array, threads: int) -> Engine:
    """OpenVINO, fp32 throughout (it would take bf16 where the processor has it), tuned for latency."""
    return _openvino(onnx_file(model, example), threads, "openvino")


def onnxruntime_int8_engine(model: nn.Module, example: Array, threads: int, *, calibration: Array | None = None) -> Engine:
    """ONNX Runtime, int8: the QDQ file of `onnx_file(..., int8=True)`."""
    return _onnxruntime(onnx_file(model, example, int8=True, calibration=calibration), threads, "onnxruntime-int8")


def openvino_int8_engine(model: nn.Module, example: Array, threads: int, *, calibration: Array | None = None) -> Engine:
    """OpenVINO, int8: the same QDQ file as ONNX Runtime's."""
    return _openvino(onnx_file(model, example, int8=True, calibration=calibration), threads, "openvino-int8")


def _onnxruntime(path: Path, threads: int, name: str) -> Engine:
    onnxruntime = needs("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    # its threads may spin during a run, but not on into the run of the engine that is timed next
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - start
    (given,) = session.get_inputs()
    return Engine(name, lambda x: session.run(None, {given.name: x})[0], seconds)


def _openvino(path: Path, threads: int, name: str) -> Engine:
    openvino = needs("openvino")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # of what is not int8
        "ENABLE_CPU_PINNING": False,  # pinned threads meet the unpinned ones of the other engines on one core
    }
    start = time.perf_counter()
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    seconds = time.perf_counter() - start
    return Engine(name, lambda x: request.infer([x], share_inputs=True, share_outputs=True)[0], seconds)


ENGINES: dict[str, Callable[..., Engine]] = {
    "attar": attar_engine,
    "attar-int8": attar_int8_engine,
    "torch": torch_engine,
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
    "onnxruntime-int8": onnxruntime_int8_engine,
    "openvino-int8": openvino_int8_engine,
}

FROM_FILE: dict[str, Callable[[Path, int], Engine]] = {
    name: partial(_onnxruntime if name.startswith("onnxruntime") else _openvino, name=name)
    for name in ENGINES
    if name.startswith(("onnxruntime", "openvino"))
}
"""The engines that need an ONNX file and no PyTorch, by name."""

_folders: "weakref.WeakKeyDictionary[nn.Module, tempfile.TemporaryDirectory]" = weakref.WeakKeyDictionary()


def onnx_file(model: nn.Module, example: Array, *, int8: bool = False, calibration: Array | None = None) -> Path:
    """The network as an ONNX file, written once for each shape of the example; it is gone with the model.

    The model must not change between two calls. `calibration` is a batch of inputs, whole multiples of the example's batch;
    noise where None.
    """
    folder = Path(_folders.setdefault(model, tempfile.TemporaryDirectory()).name)
    shape = "x".join(map(str, example.shape))
    path = folder / f"{shape}.onnx"
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the exporter says of its own internals
            needs("onnxscript")
            torch.onnx.export(model.eval(), (torch.from_numpy(example),), path, dynamo=True, verbose=False)
    if not int8:
        return path
    quantized = folder / f"{shape}-int8.onnx"
    if not quantized.exists():
        _quantize(path, quantized, _noise(example) if calibration is None else calibration, len(example))
    return quantized


def _noise(example: Array) -> Array:
    batches = -(-CALIBRATION // len(example))
    return np.random.default_rng(1).standard_normal((batches * len(example), *example.shape[1:]), np.float32)


def _quantize(path: Path, out: Path, calibration: Array, batch: int) -> None:
    """Quantize statically; batch norms are folded first.

    Without VNNI both engines add pairs of products in 16 bits, which saturate for 8-bit weights: there they get 7 bits, as
    ONNX Runtime's manual advises. The kernels, and so the times, are the same.
    """
    quantization, shapes = needs("onnxruntime.quantization"), needs("onnxruntime.quantization.shape_inference")
    folded = out.with_name(f"{out.stem}-folded.onnx")
    shapes.quant_pre_process(path, folded, skip_symbolic_shape=True)
    (given,) = needs("onnxruntime").InferenceSession(folded, providers=["CPUExecutionProvider"]).get_inputs()
    options: dict[str, Any] = {
        "quant_format": quantization.QuantFormat.QDQ,
        "activation_type": quantization.QuantType.QUInt8,
        "weight_type": quantization.QuantType.QInt8,
        "per_channel": True,
        "reduce_range": "avx512_vnni" not in machine().features,
    }
    parts = iter({given.name: part} for part in np.split(calibration, len(calibration) // batch))

    class Batches(quantization.CalibrationDataReader):  # type: ignore[name-defined]  # its base class is known once the package is there
        def get_next(self) -> dict[str, Array] | None:
            return next(parts, None)

    quantization.quantize_static(folded, out, Batches(), **options)
