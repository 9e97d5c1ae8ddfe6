"""Torch-Pruning's side of `structured_speed.py`, for an environment of its own (which needs no Attar), and the networks of both sides.

run: PYTHON-WITH-TORCH-PRUNING benchmarks/structured_torch_pruning.py --layers 50 [--repeats 3]
Prints JSON: the seconds of each repeat, the first one cold. The dependency graph is built, then half of the filters go by L1 norm.
"""

import argparse
import importlib.metadata
import json
import time

import torch
from torch import Tensor, nn

__all__ = ["Residual"]


class Residual(nn.Module):
    """A stem and `layers / 2` basic blocks of two 3x3 convolutions, all 16 channels wide, for pictures of 32x32."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(Basic() for _ in range(layers // 2)))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


class Basic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


def timed(layers: int) -> dict[str, float]:
    """Seconds of one network's dependency graph and of its pruning, and what is left of it."""
    import torch_pruning as tp  # the other side imports this file for its networks, and has no Torch-Pruning

    torch.manual_seed(0)
    model, example = Residual(layers).eval(), torch.zeros(1, 3, 32, 32)
    before = sum(p.numel() for p in model.parameters())
    begun, spent = time.perf_counter(), time.process_time()
    pruner = tp.pruner.BasePruner(
        model, example, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=[model.head]
    )
    built = time.perf_counter()
    pruner.step()
    ended = time.perf_counter()
    kept = sum(p.numel() for p in model.parameters()) / before
    return {"graph": built - begun, "prune": ended - built, "total": ended - begun, "cpu": time.process_time() - spent, "kept": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = [timed(given.layers) for _ in range(1 + given.repeats)]
    print(json.dumps({"version": importlib.metadata.version("torch-pruning"), "torch": torch.__version__, "runs": runs}))


if __name__ == "__main__":
    main()
