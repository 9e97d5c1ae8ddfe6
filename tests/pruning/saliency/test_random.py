import math

import torch

from attar.pruning import per_layer
from attar.pruning.saliency.random import random


def test_every_weight_stays_as_often_as_every_other():
    """METHODS P7: exact count; over 10,000 draws each marginal probability is the density, within 4 sigma."""
    draws, size, keep = 10_000, 20, 0.3
    weight = torch.arange(size, dtype=torch.float32)
    stayed = torch.zeros(size)
    for seed in range(draws):
        mask = per_layer({"fc": random(weight, seed=seed)}, keep)["fc"]
        assert int(mask.sum()) == 6
        stayed += mask
    assert float((stayed / draws - keep).abs().max()) < 4 * math.sqrt(keep * (1 - keep) / draws)


def test_scores_do_not_depend_on_the_values():
    assert torch.equal(random(torch.randn(4, 3), seed=2), random(torch.zeros(4, 3), seed=2))
    assert not torch.equal(random(torch.zeros(4, 3), seed=2), random(torch.zeros(4, 3), seed=3))
