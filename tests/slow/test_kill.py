"""`attar compress` killed with -9 at many moments, then resumed: the file is byte-identical to an uninterrupted run's."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WEIGHTS = """
- train: {epochs: 12, lr: 0.05}
- prune: {keep: 0.2, epochs: 12, lr: 0.05}
- finetune: {epochs: 8, lr: 0.02}
- quantize: {bits: 4}
- finetune: {epochs: 6, lr: 0.001}
"""
# What a kill after the first cut meets is a network that its class alone does not describe.
STRUCTURE = """
- train: {epochs: 12, lr: 0.05}
- prune: {granularity: filter, saliency: random, keep: 0.6}
- finetune: {epochs: 8, lr: 0.02}
- prune: {granularity: filter, saliency: l1, allocation: layer, keep: 0.7}
- finetune: {epochs: 8, lr: 0.02}
- prune: {granularity: kernel, saliency: l2, keep: 0.7, layers: conv2}
- quantize: {bits: 4}
- finetune: {epochs: 6, lr: 0.001}
"""
# Runs the command line with a pause at each rename, so that a kill meets files half made, and a checkpoint every few updates.
SLOWED = """
import os, sys, time
import attar.recipes.run as run
from attar.cli.main import main
real, checkpoint = os.replace, run.Checkpoint
def replace(*args):
    time.sleep(0.15)
    real(*args)
os.replace = replace
run.Checkpoint = lambda path, resume: checkpoint(path, resume=resume, updates=20)
sys.exit(main(sys.argv[1:]))
"""


def command(tmp_path: Path, out: Path, *more: str, slowed: bool = False) -> list[str]:
    recipe = tmp_path / "recipe.yaml"
    start = [sys.executable, "-c", SLOWED] if slowed else [sys.executable, "-m", "attar.cli.main"]
    return [*start, "compress", "zoo:digits_net", "--data", "digits", "--recipe", str(recipe), "--out", str(out), *more]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("recipe", [WEIGHTS, STRUCTURE], ids=["weights", "structure"])
def test_killed_at_random_moments(tmp_path, recipe, seed):
    (tmp_path / "recipe.yaml").write_text(recipe)
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    whole = tmp_path / "whole"
    begun = time.monotonic()
    subprocess.run(command(tmp_path, whole), check=True, capture_output=True, env=environment)
    seconds = time.monotonic() - begun
    moments, killed, out = random.Random(seed), 0, tmp_path / "killed"
    for _ in range(12):
        process = subprocess.Popen(
            command(tmp_path, out, "--resume", slowed=True), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        try:
            process.wait(moments.uniform(0.3, 0.75) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        if (out / "report.html").exists():
            break
    subprocess.run(command(tmp_path, out, "--resume"), check=True, capture_output=True, env=environment)
    assert killed >= 2
    assert (out / "model.attar").read_bytes() == (whole / "model.attar").read_bytes()
    assert not [path.name for path in out.rglob("*") if path.suffix in (".part", ".training") or path.name.endswith(".partial")]
