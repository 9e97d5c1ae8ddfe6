"""One thread for each test process: pytest-xdist runs one on each core, and threads that wait for one another cost a hundredfold."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import torch

torch.set_num_threads(1)
