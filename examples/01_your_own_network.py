"""Compress a network and data of your own: any nn.Module, any map-style data set of (input, target).

python examples/01_your_own_network.py [OUT]
"""

import sys
import tempfile

import torch
from torch import nn

import attar


class Net(nn.Module):
    """A residual network with a gate: nothing that Attar has seen before."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 64)
        self.second = nn.Linear(64, 64)
        self.gate = nn.Linear(64, 64)
        self.last = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + torch.relu(self.second(x)) * torch.sigmoid(self.gate(x))
        return self.last(x)


def data(count: int, seed: int) -> list[tuple[torch.Tensor, int]]:
    """Points in 20 dimensions, of three classes by the distance from the origin in the first four."""
    points = torch.randn(count, 20, generator=torch.Generator().manual_seed(seed))
    radius = points[:, :4].norm(dim=1)
    return list(zip(points, ((radius > 1.5).long() + (radius > 2.2).long()).tolist(), strict=True))


def main() -> None:
    out = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/out"
    task = attar.Task(train=data(2000, 1), validation=data(500, 2), test=data(1000, 3), name="rings")
    recipe = [
        {"train": {"epochs": 20, "lr": 0.1}},
        {"prune": {"keep": 0.15, "epochs": 10, "lr": 0.1}},
        {"finetune": {"epochs": 5, "lr": 0.03}},
        {"quantize": {"bits": 4}},
        {"finetune": {"epochs": 2, "lr": 0.001}},
    ]
    torch.manual_seed(0)
    result = attar.compress(Net(), task, recipe, out=out)
    print(result.verdict)

    again = attar.load(result.path)  # without the class Net
    points = torch.stack([point for point, _ in task.test[:5]])
    print("classes of five points, from the file alone:", again(points).argmax(1).tolist())


if __name__ == "__main__":
    main()
