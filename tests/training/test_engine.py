"""The door to Accelerate, in one process; `two_processes.py` is for two."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from attar.errors import AttarError
from attar.training.engine import end_training, start


def optimizer(parameters):
    return torch.optim.SGD(parameters, 0.1)


def test_one_process_trains_the_network_itself_again_and_again():
    engine, model = start(), nn.Linear(2, 2)
    assert (engine.rank, engine.world, engine.is_main) == (0, 1, True)
    for _ in range(2):
        called, held, made = engine.prepare(model, optimizer)
        assert called is held is model
        engine.backward(called(torch.ones(1, 2)).sum())
        before = model.weight.detach().clone()
        made.step()
        assert torch.equal(model.weight, before - 0.1 * model.weight.grad)
        model.zero_grad()
    assert vars(model).keys() == vars(nn.Linear(2, 2)).keys()


def test_what_the_first_process_does_comes_back_or_raises():
    engine = start()
    assert engine.from_main(lambda: 7) == 7
    assert engine.mean(torch.tensor(2.5)).item() == 2.5

    def refuse():
        raise AttarError("no")

    with pytest.raises(AttarError, match="no"):
        engine.from_main(refuse)


def test_frozen_parameters_are_not_the_optimizers():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    *_, made = start().prepare(model, optimizer)
    assert made.param_groups[0]["params"] == [model.weight]


def test_the_threads_stay_and_ending_twice_is_harmless():
    threads = torch.get_num_threads()
    start()
    assert torch.get_num_threads() == threads
    end_training()
    end_training()
    start().barrier()


def test_importing_training_does_not_import_accelerate():
    code = "import sys, attar.training; sys.exit('accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
