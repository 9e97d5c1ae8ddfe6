import torch

from attar.pruning.saliency.magnitude import magnitude


def test_it_ignores_the_sign_and_keeps_the_dtype():
    weight = torch.tensor([-2.0, 2.0, 0.0], dtype=torch.bfloat16)
    assert magnitude(weight).tolist() == [2.0, 2.0, 0.0]
    assert magnitude(weight).dtype == torch.bfloat16
