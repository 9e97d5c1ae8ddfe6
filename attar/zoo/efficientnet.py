"""EfficientNet-Lite0, an ImageNet classifier for phones: EfficientNet (Tan, Le, 2019) without squeeze-and-excitation, with ReLU6."""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["efficientnet_lite0"]

# expansion, kernel, stride of the first, output channels, repetitions
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0, 4,652,008 parameters, with the names and the TensorFlow padding of its published weights.

    >>> sum(p.numel() for p in efficientnet_lite0().parameters())
    4652008
    """
    return EfficientNetLite0()


class EfficientNetLite0(nn.Module):
    example_shape = (3, 224, 224)
    mean, std = (0.498,) * 3, (0.502,) * 3

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, 32, 3, stride=2)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        inside = 32
        for expansion, kernel, stride, outside, repetitions in STAGES:
            for i in range(repetitions):
                self._blocks.append(Block(inside, outside, expansion=expansion, kernel=kernel, stride=stride if i == 0 else 1))
                inside = outside
        self._conv_head = _conv(inside, 1280, 1)
        self._bn1 = _norm(1280)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(_pad(x, self._conv_stem))))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(self._dropout(functional.adaptive_avg_pool2d(x, 1).flatten(1)))


class Block(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; a residual where the shape stays."""

    def __init__(self, inside: int, outside: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = inside * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and inside == outside
        if self.expands:
            self._expand_conv = _conv(inside, width, 1)
            self._bn0 = _norm(width)
        self._depthwise_conv = _conv(width, width, kernel, stride=stride, groups=width)
        self._bn1 = _norm(width)
        self._project_conv = _conv(width, outside, 1)
        self._bn2 = _norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(_pad(y, self._depthwise_conv))))
        y = self._bn2(self._project_conv(y))
        return y + x if self.residual else y


def _conv(inside: int, outside: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """At stride 1 it pads itself; at stride 2 TensorFlow pads by the input's size, which `_pad` does."""
    return nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _pad(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """TensorFlow's "same": total max(k - s, 0) where s divides the size, else max(k - size mod s, 0); the odd one right and below."""
    (kernel, _), (stride, _) = conv.kernel_size, conv.stride
    if stride == 1:
        return x
    down, right = (max(kernel - (size % stride or stride), 0) for size in x.shape[2:])
    return functional.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
