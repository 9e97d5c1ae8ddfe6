"""Two processes end where one does, and stop where they must."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("two_processes.py")
_spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
two_processes = importlib.util.module_from_spec(_spec)
sys.modules["two_processes"] = two_processes  # dataclasses look their module up
_spec.loader.exec_module(two_processes)


def test_two_processes_equal_one_at_the_same_global_batch(tmp_path):
    assert not two_processes.main(tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT), str(tmp_path)]
    done = subprocess.run(launch, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": yes") == len(two_processes.CASES)
    assert "destroy_process_group() was not called" not in done.stderr


def test_the_comparison_sees_a_difference(tmp_path):
    case = two_processes.CASES["plain"]
    other = two_processes.dataclasses.replace(case, settings=two_processes.dataclasses.replace(case.settings, batch_size=31))
    assert two_processes.difference(two_processes.trained(case), two_processes.trained(other)) > case.bound
