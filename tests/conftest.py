"""What holds for every test.

One thread for each process: pytest-xdist runs one on each core, and threads that wait for one another cost a hundredfold.
No deadlines: a test that depends on the clock fails on a busy machine.
The same examples on every run, so that main stays green: `pytest --hypothesis-profile explore` draws new ones.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("attar", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, derandomize=False, print_blob=True)
hypothesis.settings.load_profile("attar")
