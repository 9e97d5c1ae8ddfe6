"""The residual networks for CIFAR-10: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, section 4.2."""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]


def resnet20() -> nn.Module:
    """ResNet-20 for CIFAR-10, 269,722 parameters.

    >>> sum(p.numel() for p in resnet20().parameters())
    269722
    """
    return CifarResNet(3)


def resnet32() -> nn.Module:
    """ResNet-32 for CIFAR-10, 464,154 parameters."""
    return CifarResNet(5)


def resnet44() -> nn.Module:
    """ResNet-44 for CIFAR-10, 658,586 parameters."""
    return CifarResNet(7)


def resnet56() -> nn.Module:
    """ResNet-56 for CIFAR-10, 853,018 parameters."""
    return CifarResNet(9)


def resnet110() -> nn.Module:
    """ResNet-110 for CIFAR-10, 1,727,962 parameters."""
    return CifarResNet(18)


class CifarResNet(nn.Module):
    """Three stages of `blocks` basic blocks, 16, 32 and 64 channels wide; 6 x blocks + 2 layers."""

    example_shape = (3, 32, 32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which the pretrained files were trained with

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32), *(Block(32, 32) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64), *(Block(64, 64) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (the paper's option A); it halves the size where it widens."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=1 if inside == outside else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.added = outside - inside

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return functional.relu(y + x)
