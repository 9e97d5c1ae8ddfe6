"""This machine: its processor, and the folder where Attar keeps what can be made again."""

import functools
import os
import platform
from pathlib import Path

__all__ = ["cache_folder", "features", "processor", "read_processor"]


def cache_folder() -> Path:
    """The user's cache folder for Attar: `$XDG_CACHE_HOME/attar`, or `~/.cache/attar`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attar"


def processor() -> str:
    """The processor's name, from /proc/cpuinfo on Linux."""
    return _here()[0] or platform.processor() or platform.machine()


def features() -> tuple[str, ...]:
    """The names of the processor's instruction sets, as Linux spells them."""
    return _here()[1]


@functools.cache
def _here() -> tuple[str, tuple[str, ...]]:
    path = Path("/proc/cpuinfo")
    return read_processor(path.read_text() if path.exists() else "")


def read_processor(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and instruction sets of the first processor of a /proc/cpuinfo; an ARM core has parts of a name, or none."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", ""), tuple(fields.get("flags", fields.get("Features", "")).split())
