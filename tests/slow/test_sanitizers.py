"""The compiler's own tests again, on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer: no access outside a buffer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1] / "compiler"
FILES = [
    "test_convolution.py",
    "test_chain.py",
    "test_phased.py",
    "test_plan.py",
    *(str(p.relative_to(TESTS)) for d in ("ops", "kernels") for p in sorted((TESTS / d).glob("test_*.py"))),
]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_no_wrong_access(file):
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "ATTAR_SANITIZE": "1",
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--show-capture=no", str(TESTS / file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parents[1])
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert " passed" in done.stdout


def test_the_sanitizers_see_a_wrong_access(tmp_path):
    """Else the test above could not fail."""
    source = tmp_path / "wrong.c"
    source.write_text("#include <stdlib.h>\nint main(int n, char **v) { (void)v; float *p = malloc(40); return p[9 + n] > 0; }\n")
    binary = tmp_path / "wrong"
    subprocess.run(["gcc", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", binary, source], check=True)
    done = subprocess.run([binary], capture_output=True, text=True)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
