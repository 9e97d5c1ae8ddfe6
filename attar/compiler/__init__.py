"""From a traced network to a program: lowered, fused, planned, chosen by timing, emitted as readable C, built, run."""

from attar.compiler.program import TOLERANCE, Report, compile
from attar.compiler.run import Engine, TorchEngine
from attar.compiler.target import TARGETS, host

__all__ = ["TARGETS", "TOLERANCE", "Engine", "Report", "TorchEngine", "compile", "host"]
