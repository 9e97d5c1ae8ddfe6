"""One program made: lowered, laid out, its kernels chosen, built, found again in the cache, and opened as an engine."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from attar.compiler.batch import front_first, steps_before
from attar.compiler.build import build, c_compiler, compiler_version, entry
from attar.compiler.chain import chained
from attar.compiler.choose import Choice, choose
from attar.compiler.compare import is_free, shown
from attar.compiler.emit import emit
from attar.compiler.emit import listing as listing_of
from attar.compiler.fuse import fuse, in_place
from attar.compiler.ir import Program, check
from attar.compiler.kernels.segment import Torch
from attar.compiler.lower import leaves, lower
from attar.compiler.phased import phased
from attar.compiler.plan import Memory, lay_out, place
from attar.compiler.quantize import Ranges, observe, quantize
from attar.compiler.run import Engine, Signature, Tail, segments
from attar.compiler.target import Target, flags
from attar.errors import AttarError
from attar.graph import Network
from attar.graph.fold import fold_network

__all__ = ["Call", "Made", "Report", "Wanted", "compiled", "engine_of", "keep", "trial"]


@dataclass(frozen=True)
class Report:
    """How a network was compiled: what was measured for each op, what PyTorch runs, how far the outputs differ from PyTorch's."""

    target: str
    choices: tuple[Choice, ...]
    segments: tuple[str, ...]
    notes: tuple[str, ...]
    error: float
    seconds: float
    cached: bool
    arena: int
    constants: int
    source: Path | None


class Call:
    """How the network is called and what it returns: arguments to tensors, arrays to the result's tree."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.names = [one.name for one in network.inputs if one.shape is not None]
        self.free = [is_free(one) for one in network.inputs]
        output = next(node for node in network.graph.nodes if node.op == "output")
        self.leaves, self.structure = pytree.tree_flatten(output.args[0])

    def tensors(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The tensors among the network's inputs, in order."""
        unknown = set(kwargs) - set(self.network.call)
        if unknown:
            raise AttarError(f"the network takes no {', '.join(sorted(unknown))}: its arguments are {', '.join(self.network.call)}")
        given = dict(zip(self.network.call, args, strict=False)) | kwargs if kwargs else tuple(args)
        values = leaves(self.network, given)
        return [value for value, one in zip(values, self.network.inputs, strict=True) if one.shape is not None]

    def result(self, values: list[Any]) -> Any:
        """The network's result, of its output tensors."""
        rest = iter(values)
        filled = [next(rest) if isinstance(leaf, fx.Node) and isinstance(leaf.meta.get("val"), Tensor) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(filled, self.structure)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is compiled: the network for `group` samples where they are apart, its last outputs being what `crosses` a cut.

    `samples` are the calibration's, for int8.
    """

    network: Network
    call: Call
    values: list[Any]
    batched: bool
    target: Target
    samples: list[Any] | None
    group: int = 1
    crosses: int = 0

    @property
    def given(self) -> list[Any]:
        """The inputs of one call of the program."""
        return [value[: self.group] if self.batched and free else value for value, free in zip(self.values, self.call.free, strict=True)]

    def shown(self, count: int = 2) -> list[Any]:
        """What it is compared with PyTorch on, of that many samples."""
        return shown(self.network, self.values, self.samples, batched=self.batched, count=count)


Made = tuple[Program, Memory, tuple[Choice, ...]]
Ending = Callable[[int, tuple[Signature, ...]], Tail]  # of the steps before it and of what crosses


def engine_of(wanted: Wanted, threads: int, *, tail: Ending | None = None, made: Made | None = None, listing: Any = None) -> Engine:
    """Built, or found in the cache, where a program without PyTorch's parts is kept whole; `made` is what would be built."""

    def make(folder: Path) -> None:
        nonlocal made
        made = made or compiled(wanted)
        build(emit(made[0], f"a network of {len(made[0].ops)} steps"), wanted.target, folder)
        np.save(folder / "constants.npy", made[1].constants)
        (folder / "program.json").write_text(json.dumps(_described(wanted, made)))

    folder = entry(_key(wanted), make)
    about = json.loads((folder / "program.json").read_text())
    program = None
    if about["segments"] or listing:  # programs are not kept: lower again, as the kept choices say
        program = made[0] if made else compiled(wanted, about["choices"])[0]
        if listing:
            Path(listing).write_text(listing_of(program) or f"# this network has no machine code but that of {folder / 'net.c'}\n")
    constants = np.load(folder / "constants.npy", mmap_mode="r")
    engine = _opened(wanted, folder / "net.so", constants, about, threads, program=program, tail=tail)
    choices = tuple(Choice(c["op"], c["kernel"], c["seconds"]) for c in about["choices"])
    checked = folder / "error"
    engine.report = Report(
        wanted.target.name,
        choices,
        tuple(about["segments"]),
        tuple(about["notes"]),
        float(checked.read_text()) if checked.exists() else float("nan"),
        0.0,
        checked.exists(),
        about["arena"],
        about["constants"],
        folder / "net.c",
    )
    return engine


def _opened(
    wanted: Wanted,
    library: Path,
    constants: np.ndarray,
    about: Mapping[str, Any],
    threads: int,
    *,
    program: Program | None,
    tail: Ending | None = None,
) -> Engine:
    """What was built, ready to be called; `program` is needed for the parts that PyTorch runs."""
    inputs, outputs = (
        tuple(Signature(one["name"], tuple(one["shape"]), one["dtype"]) for one in about[kind]) for kind in ("inputs", "outputs")
    )
    own = len(outputs) - (wanted.crosses if tail else 0)
    return Engine(
        library,
        constants,
        about["arena"],
        inputs=inputs,
        outputs=outputs[:own],
        steps=about["steps"],
        batched=wanted.batched,
        samples=wanted.group,
        threads=threads,
        tail=tail and tail(about["before"], outputs[own:]),
        segments=tuple(segments(program)) if program else (),
        arguments=wanted.call.tensors,
        result=wanted.call.result,
    )


def trial(wanted: Wanted, made: Made, folder: str, threads: int = 1, tail: Ending | None = None) -> Engine:
    """The program built in a folder that will be gone."""
    library = build(emit(made[0], "a network on trial"), wanted.target, Path(folder))
    return _opened(wanted, library, made[1].constants, _described(wanted, made), threads, program=made[0], tail=tail)


def compiled(wanted: Wanted, known: list[dict] | None = None) -> Made:
    """The program with its kernels and places; in bytes where there are samples; `known` are the choices of an earlier run."""
    target = wanted.target
    program = fuse(front_first(lower(fold_network(wanted.network).model, wanted.given), wanted.crosses))
    if wanted.samples is not None:
        lay_out(program, target)
        check(program)
        program = quantize(program, _ranges(wanted, program), target)
    program = in_place(program)
    lay_out(program, target)
    check(program)
    program, choices = choose(program, target, known)
    program = phased(program)
    program, more = chained(program, target, known)
    return program, place(program), (*choices, *more)


def _ranges(wanted: Wanted, program: Program) -> Ranges:
    """The range of each map of a float32 program on the calibration samples."""
    with tempfile.TemporaryDirectory(prefix="attar-") as folder, trial(wanted, (program, place(program), ()), folder) as engine:
        return observe(program, engine, wanted.samples or ())


def _key(wanted: Wanted) -> tuple[bytes | memoryview, ...]:
    """All that the program depends on: the graph, the weights, the sizes, the processor, the C compiler, the compiler's own text."""
    network, target = wanted.network, wanted.target
    shapes = [(tuple(v.shape), str(v.dtype)) if isinstance(v, Tensor) else repr(v) for v in wanted.given]
    text = "\n".join(
        f"{node.format_node()} {node.args} {node.kwargs} {_described_value(node.meta.get('val'))}" for node in network.graph.nodes
    )
    own = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        own.update(path.read_bytes())
    parts = [
        text,
        repr(shapes),
        repr((wanted.batched, wanted.group, wanted.crosses)),
        target.name,
        repr(flags(target)),
        " ".join(c_compiler()),
        compiler_version(),
    ]
    tensors = [*network.tensors.values(), *(torch.as_tensor(value) for value in wanted.samples or ())]
    weights = (t.detach().cpu().reshape(-1).view(torch.uint8).numpy().data for t in tensors)
    described = [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in network.tensors.items()]
    return (*(part.encode() for part in (*parts, *described)), own.digest(), *weights)


def _described_value(value: Any) -> str:
    return f"{value.dtype} {[str(n) if isinstance(n, int) else '?' for n in value.shape]}" if isinstance(value, Tensor) else ""


def _described(wanted: Wanted, made: Made) -> dict[str, Any]:
    """What an engine must know of its program, for the cache."""
    program, memory, choices = made
    inputs = [{"name": name, "shape": a.shape, "dtype": a.dtype} for name, a in zip(wanted.call.names, program.inputs, strict=True)]
    outputs = [{"name": f"output {n}", "shape": a.shape, "dtype": a.dtype} for n, a in enumerate(program.outputs)]
    return {
        "inputs": inputs,
        "outputs": outputs,
        "steps": len(program.ops),
        "before": steps_before(program, wanted.crosses),
        "arena": memory.arena,
        "constants": int(memory.constants.size),
        "segments": [op.name for op in program.ops if isinstance(op, Torch)],
        "notes": list(program.notes),
        "choices": [{"op": c.op, "kernel": c.kernel, "seconds": c.seconds} for c in choices],
    }


def keep(path: Path, text: str) -> None:
    """Write beside the program what was found of it (that it was compared with PyTorch, say), so that it is believed the next time."""
    try:
        path.write_text(text)
    except OSError:
        return  # a cache that fills up costs another comparison, no more
