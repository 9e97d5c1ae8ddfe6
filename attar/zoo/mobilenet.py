"""The MobileNets, ImageNet classifiers for phones: Howard et al., 2017 (version 1), and Sandler et al., 2018 (version 2)."""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["mobilenet_v1", "mobilenet_v2"]

# stride and output channels of each separable convolution
SEPARABLE = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024))

# expansion, output channels, repetitions, stride of the first
INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v1() -> nn.Module:
    """MobileNet, 4,231,976 parameters: a stem, 13 depthwise separable convolutions, each half with batch norm and ReLU, and a classifier.

    Source: A. G. Howard, M. Zhu, B. Chen et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications", 2017, Table 1, whose last stride of 2 before 7x7 maps is a misprint for 1.

    >>> sum(p.numel() for p in mobilenet_v1().parameters())
    4231976
    """
    return MobileNetV1()


def mobilenet_v2() -> nn.Module:
    """MobileNetV2, 3,504,872 parameters, with torchvision's names.

    Source: M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals and Linear
    Bottlenecks", 2018, Table 2.

    >>> sum(p.numel() for p in mobilenet_v2().parameters())
    3504872
    """
    return MobileNetV2()


class MobileNetV1(nn.Module):
    """Depthwise and 1x1 convolutions in turn; the maps shrink from 112 to 7, the channels grow from 32 to 1,024."""

    example_shape = (3, 224, 224)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, stride=2, activation=nn.ReLU)]
        inside = 32
        for stride, outside in SEPARABLE:
            layers.append(_conv(inside, inside, 3, stride=stride, groups=inside, activation=nn.ReLU))
            layers.append(_conv(inside, outside, 1, activation=nn.ReLU))
            inside = outside
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inside, 1000)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class MobileNetV2(nn.Module):
    """A stem, 17 inverted residuals, and a 1x1 convolution to 1,280 channels before the classifier."""

    example_shape = (3, 224, 224)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, stride=2)]
        inside = 32
        for expansion, outside, repetitions, stride in INVERTED:
            for i in range(repetitions):
                layers.append(InvertedResidual(inside, outside, stride=stride if i == 0 else 1, expansion=expansion))
                inside = outside
        layers.append(_conv(inside, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a residual where the shape stays."""

    def __init__(self, inside: int, outside: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        width = inside * expansion
        self.residual = stride == 1 and inside == outside
        self.conv = nn.Sequential(
            *([_conv(inside, width, 1)] if expansion != 1 else []),
            _conv(width, width, 3, stride=stride, groups=width),
            nn.Conv2d(width, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _conv(
    inside: int, outside: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: type[nn.Module] = nn.ReLU6
) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), activation())


def _initialise(model: nn.Module) -> None:
    """Weights as in torchvision's MobileNetV2."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
