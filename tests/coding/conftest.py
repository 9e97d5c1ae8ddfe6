"""Networks for the tests of the file format."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, fx, nn

from attar.forms import Codebook, Form, Sparse, attach
from attar.graph import Network, trace


def _bundle(tensors: Mapping[str, Tensor | Form]) -> Network:
    """A network that takes nothing and gives its tensors: all that the format's array side needs."""
    graph, held, forms = fx.Graph(), {}, {}
    for name, value in tensors.items():
        if isinstance(value, Form):
            forms[name] = value
            held[name] = nn.Parameter(value().detach(), requires_grad=any(p.requires_grad for p in value.parameters()))
        else:
            held[name] = value
    graph.output(tuple(graph.get_attr(name) for name in held))
    return Network(graph, (), held, forms, {})


def _share_weights(layer: nn.Module, keep: float, bits: int) -> None:
    """Prune a layer by magnitude and let the rest share evenly spaced values."""
    weight = layer.weight.detach()
    mask = weight.abs() > weight.abs().flatten().kthvalue(max(1, int(weight.numel() * (1 - keep)))).values
    kept = weight[mask]
    centroids = torch.linspace(float(kept.min()), float(kept.max()), 2**bits - 1)
    attach(layer, "weight", Sparse(mask, Codebook((kept[:, None] - centroids).abs().argmin(1), centroids)))


class _LeNet5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x), 2)
        x = nn.functional.max_pool2d(self.conv2(x), 2)
        return self.fc2(nn.functional.relu(self.fc1(x.flatten(1))))


@pytest.fixture(scope="session")
def bundle():
    return _bundle


@pytest.fixture(scope="session")
def lenet5() -> nn.Module:
    """LeNet-5 with Han's densities and bits; the weights are random."""
    torch.manual_seed(0)
    model = _LeNet5().eval()
    for name, keep, bits in (("conv1", 0.66, 8), ("conv2", 0.12, 8), ("fc1", 0.08, 5), ("fc2", 0.19, 5)):
        _share_weights(getattr(model, name), keep, bits)
    return model


@pytest.fixture(scope="session")
def lenet5_network(lenet5: nn.Module) -> Network:
    return trace(lenet5, (torch.zeros(2, 1, 28, 28),))
