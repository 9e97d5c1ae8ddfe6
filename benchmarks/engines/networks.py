"""Networks to time: the zoo's, and single convolutions of ResNet-50, with random zeros in every weight that may have them.

Only times are taken of them, so which weights are zero is drawn at random, which is the hardest for an engine: nothing is
left of the order that magnitudes have. The first convolution and depthwise ones stay dense, as is usual.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attar.names import members

__all__ = ["LAYERS", "LESS", "NETWORKS", "PATTERNS", "build", "layer", "settle", "sparsify", "sparsity_of"]

NETWORKS = [
    "resnet50",
    "efficientnet_lite0",
    "mobilenet_v1",
    "mobilenet_v2",
    "vgg16",
    "resnet56",
    "lenet5",
    "transformer_encoder",
]

# output channels x input channels that are zero or not together
PATTERNS = {"unstructured": (1, 1), "4x1": (4, 1), "1x4": (1, 4)}

# input channels, output channels, kernel, stride, size of the input map, convolutions in a chain
LAYERS: dict[str, tuple[int, int, int, int, int, int]] = {
    "1x1 256<->64@56": (256, 64, 1, 1, 56, 16),
    "1x1 512<->128@28": (512, 128, 1, 1, 28, 16),
    "1x1 1024<->256@14": (1024, 256, 1, 1, 14, 16),
    "1x1 2048<->512@7": (2048, 512, 1, 1, 7, 16),
    "3x3 64@56": (64, 64, 3, 1, 56, 16),
    "3x3 128@28": (128, 128, 3, 1, 28, 16),
    "3x3 256@14": (256, 256, 3, 1, 14, 16),
    "3x3 512@7": (512, 512, 3, 1, 7, 16),
    "3x3s2 128@56": (128, 128, 3, 2, 56, 1),
}

LESS = 4  # convolutions in the shorter chain, whose time is taken off that of the longer


def build(name: str, *, sparsity: float = 0.0, pattern: str = "unstructured", seed: int = 0) -> Any:
    """A network of the zoo in eval mode, its weights random, with that share of zeros."""
    torch.manual_seed(seed)
    model = members("zoo")[name]()
    sparsify(model, sparsity, pattern=pattern, seed=seed)
    settle(model, seed=seed)
    return model.eval()


def layer(
    name: str, *, sparsity: float = 0.0, pattern: str = "unstructured", seed: int = 0, length: int | None = None
) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A chain of one kind of ResNet-50's convolutions with ReLUs between, every one with that share of zeros; and one input's shape.

    As many as `LAYERS` says, or `length`; a 1x1 pair narrows and widens in turn.
    """
    torch.manual_seed(seed)
    inside, outside, kernel, stride, size, usual = LAYERS[name]
    shape = (inside, size, size)
    chain: list[nn.Module] = []
    for _ in range(length or usual):
        chain += [nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2), nn.ReLU()]
        nn.init.kaiming_normal_(chain[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
        inside, outside = outside, inside
    model = nn.Sequential(*chain)
    sparsify(model, sparsity, pattern=pattern, seed=seed, spare_first=False)
    return model.eval(), shape


@torch.no_grad()
def sparsify(
    model: nn.Module,
    sparsity: float,
    *,
    pattern: str = "unstructured",
    seed: int = 0,
    spare_first: bool = True,
    only: Callable[[nn.Module], bool] | None = None,
) -> None:
    """Zero each block of `pattern` with probability `sparsity`, and scale the others so that sums keep their variance.

    In convolutions and linear layers, but not in depthwise ones, nor in the network's first convolution (`spare_first`),
    nor where `only`, if given, says no.
    """
    generator = torch.Generator().manual_seed(seed)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for module in model.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or (spare_first and convolutions and module is convolutions[0]):
            continue
        if (isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1) or (only and not only(module)):
            continue
        kept = _mask(module.weight.shape, sparsity, PATTERNS[pattern], generator)
        module.weight.mul_(kept).div_((1 - sparsity) ** 0.5)


def _mask(shape: torch.Size, sparsity: float, block: tuple[int, int], generator: torch.Generator) -> Tensor:
    """True where a weight stays; the last block of a dimension that does not divide is smaller."""
    outside, inside = (-(-size // side) for size, side in zip(shape, block, strict=False))
    kept = torch.rand(outside, inside, *shape[2:], generator=generator) >= sparsity
    return kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]


@torch.no_grad()
def settle(model: Any, *, seed: int = 0) -> None:
    """Give batch norms the statistics of four noise inputs, and scales and shifts that differ by channel."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches: here of one
        norm.weight.uniform_(0.8, 1.2, generator=generator)
        norm.bias.uniform_(-0.2, 0.2, generator=generator)
    model.train()
    model(torch.randn(4, *model.example_shape, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def sparsity_of(model: nn.Module) -> float:
    """The share of zeros in the weights of convolutions and linear layers."""
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
