"""The residual networks for ImageNet: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015."""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["resnet34", "resnet50"]


def resnet34() -> nn.Module:
    """ResNet-34, 21,797,672 parameters, with torchvision's names.

    >>> sum(p.numel() for p in resnet34().parameters())
    21797672
    """
    return ResNet(Basic, (3, 4, 6, 3))


def resnet50() -> nn.Module:
    """ResNet-50, 25,557,032 parameters, with torchvision's names and its stride in the 3x3 convolution ("v1.5").

    >>> sum(p.numel() for p in resnet50().parameters())
    25557032
    """
    return ResNet(Bottleneck, (3, 4, 6, 3))


class ResNet(nn.Module):
    """Four stages of blocks, as many in each as `depths` says."""

    example_shape = (3, 224, 224)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, block: "type[Basic] | type[Bottleneck]", depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, 64, depths[0])
        self.layer2 = _stage(block, 64 * block.expansion, 128, depths[1])
        self.layer3 = _stage(block, 128 * block.expansion, 256, depths[2])
        self.layer4 = _stage(block, 256 * block.expansion, 512, depths[3])
        self.fc = nn.Linear(512 * block.expansion, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _stage(block: "type[Basic] | type[Bottleneck]", inside: int, width: int, depth: int) -> nn.Sequential:
    """Blocks of which the first halves the size, but in the network's first stage."""
    first = block(inside, width, 1 if width == 64 else 2)
    return nn.Sequential(first, *(block(block.expansion * width, width, 1) for _ in range(depth - 1)))


def _shortcut(inside: int, outside: int, stride: int) -> nn.Module:
    """A projection where the shape changes."""
    if inside == outside:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside))


class Basic(nn.Module):
    """Two 3x3 convolutions to `width` channels, beside a shortcut."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inside, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution to 4 x `width` channels, beside a shortcut."""

    expansion = 4

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = self.expansion * width
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.downsample = _shortcut(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))
