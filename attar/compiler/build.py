"""C to a shared library by the machine's own compiler, cached by content."""

import atexit
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from attar.compiler.baked import carrier
from attar.compiler.emit import Source
from attar.compiler.target import Target, flags
from attar.errors import AttarError
from attar.machine import cache_folder

__all__ = ["NoCompilerError", "build", "c_compiler", "entry"]


class NoCompilerError(AttarError):
    """This machine has no C compiler."""


def c_compiler() -> tuple[str, ...]:
    """The command of a C compiler: `$CC`, or the first of cc, gcc, clang on the PATH, or zig's, where Python has it.

    Raises NoCompilerError with what to do where there is none.
    """
    named = os.environ.get("CC", "").split()
    if named and shutil.which(named[0]):
        return tuple(named)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return (name,)
    probe = subprocess.run([sys.executable, "-c", "import ziglang"], capture_output=True, check=False)
    if probe.returncode == 0:
        return (sys.executable, "-m", "ziglang", "cc")
    asked = f"CC={' '.join(named)} is not there, and n" if named else "n"
    raise NoCompilerError(
        f"{asked}o C compiler is on the PATH (cc, gcc, clang): install one (apt install gcc), "
        "or `pip install ziglang`, which brings its own"
    )


def entry(key: Sequence[bytes | memoryview], make: Callable[[Path], None]) -> Path:
    """The folder of the cache for what `key` hashes to; where it is missing, `make` fills a new one, which then appears at once.

    A cache that cannot be written (read-only, a full disk) is no error: the folder is then a temporary one of this process.
    Two processes that make the same entry do so apart, and the first one's stays.
    """
    digest = hashlib.sha256()
    for part in key:
        digest.update(hashlib.sha256(part).digest())
    name = digest.hexdigest()[:32]
    for choose_root in (_kept, _passing):
        try:
            root = choose_root()
            final = root / name
            if (final / "complete").exists():
                return final
            working = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))
        except OSError:
            continue
        try:
            make(working)
            (working / "complete").touch()
            try:
                working.rename(final)
            except OSError:  # another process was first, or left a folder without the mark
                if not (final / "complete").exists():
                    shutil.rmtree(final, ignore_errors=True)
                    working.rename(final)
            return final
        except OSError:
            continue
        finally:
            shutil.rmtree(working, ignore_errors=True)
    raise AttarError(f"the compiled program cannot be written, neither to {cache_folder()} nor to {tempfile.gettempdir()}: is there space?")


def _kept() -> Path:
    root = cache_folder() / "compiled"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    return root


@functools.cache
def _passing() -> Path:
    """A folder of this process alone, of a name that nobody could lay code under before; it goes when the process ends."""
    root = Path(tempfile.mkdtemp(prefix="attar-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def build(source: Source, target: Target, folder: Path) -> Path:
    """`net.so` in `folder`, built from `source`, which is left beside it: `net.c`, and where it has machine code `net.s`, `net.code`."""
    command, library = c_compiler(), folder / "net.so"
    (folder / "net.c").write_text(source.text)
    files = [str(folder / "net.c")]
    if source.starts:
        (folder / "net.code").write_bytes(source.code.tobytes())
        (folder / "net.s").write_text(carrier(source.code, [*source.starts.values()], symbols=[*source.starts], file="net.code"))
        files += [str(folder / "net.s"), "-I", str(folder)]  # where the assembler finds net.code
    done = subprocess.run(
        [*command, *flags(target), "-shared", "-o", str(library), *files, "-lm", "-lpthread"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        if not os.access(folder, os.W_OK) or shutil.disk_usage(folder).free < 1 << 20:
            raise OSError(f"no space left in {folder}")
        said = done.stderr.strip().splitlines() or ["no message"]
        raise AttarError(f"{command[0]} does not build the program: {next((line for line in said if 'error' in line), said[0])}")
    return library


def compiler_version() -> str:
    """The first line that the C compiler says of itself; part of the key of what it built."""
    done = subprocess.run([*c_compiler(), "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or [""])[0]
