"""Networks of pictures made for small machines: depthwise convolutions, gates on channels, channel shuffles."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpus.convolutional import conv_norm
from corpus.examples import Table, noise

__all__ = ["MOBILE"]


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)


class ShuffleV1Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int, *, stride: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        middle, added = outputs // 4, outputs - inputs if stride == 2 else outputs
        self.expand = conv_norm(inputs, middle, 1, groups=groups)
        self.depthwise = nn.Sequential(nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False), nn.BatchNorm2d(middle))
        self.project = nn.Sequential(nn.Conv2d(middle, added, 1, groups=groups, bias=False), nn.BatchNorm2d(added))

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(channel_shuffle(self.expand(x), self.groups)))
        if self.stride == 2:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, stride=2, padding=1), y], 1))
        return F.relu(x + y)


class ShuffleNetV1(nn.Module):
    """Grouped 1x1 convolutions with a shuffle between; a stage begins by a concatenation and goes on by sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 32)
        self.stage = nn.Sequential(
            ShuffleV1Block(32, 96, 4, stride=2), ShuffleV1Block(96, 96, 4, stride=1), ShuffleV1Block(96, 192, 4, stride=2)
        )
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.stem(x)).mean([2, 3]))


class ShuffleV2Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, outputs // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), conv_norm(inputs, half, 1)
            )
        self.branch2 = nn.Sequential(
            conv_norm(inputs if stride > 1 else half, half, 1),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            conv_norm(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    """Half of the channels passes by, the other is computed; the shuffle mixes them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_norm(3, 16)
        self.stage2 = nn.Sequential(ShuffleV2Block(16, 32, stride=2), ShuffleV2Block(32, 32, stride=1))
        self.stage3 = nn.Sequential(ShuffleV2Block(32, 64, stride=2), ShuffleV2Block(64, 64, stride=1), ShuffleV2Block(64, 64, stride=1))
        self.conv5, self.fc = conv_norm(64, 96, 1), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv5(self.stage3(self.stage2(self.conv1(x)))).mean([2, 3]))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.use_residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks; the first block has no expansion."""

    def __init__(self) -> None:
        super().__init__()
        settings = ((16, 8, 1, 1), (8, 16, 2, 4), (16, 16, 1, 4), (16, 24, 2, 4), (24, 24, 1, 4))
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(*(InvertedResidual(i, o, stride=s, expand=e) for i, o, s, e in settings))
        self.last = nn.Sequential(nn.Conv2d(24, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(96, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class LinearGate(nn.Module):
    """Squeeze and excitation by linear layers and views, as the first code of it has."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(inplace=True), nn.Linear(channels // reduction, channels), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class MobileV3Block(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, *, size: int, stride: int) -> None:
        super().__init__()
        self.shortcut = stride == 1 and inputs == outputs
        self.expand, self.norm1 = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, size, stride, size // 2, groups=hidden, bias=False)
        self.norm2, self.gate = nn.BatchNorm2d(hidden), LinearGate(hidden)
        self.project, self.norm3 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.norm1(self.expand(x)))
        y = self.gate(F.hardswish(self.norm2(self.depthwise(y))))
        y = self.norm3(self.project(y))
        return x + y if self.shortcut else y


class MobileNetV3(nn.Module):
    """Gates between the depthwise convolution and the projection, hard swish, a classifier of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.blocks = nn.Sequential(
            MobileV3Block(16, 32, 16, size=3, stride=1),
            MobileV3Block(16, 64, 24, size=5, stride=2),
            MobileV3Block(24, 96, 24, size=5, stride=1),
        )
        self.conv, self.classifier = nn.Conv2d(24, 64, 1), nn.Sequential(nn.Linear(64, 64), nn.Hardswish(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.conv(self.blocks(self.stem(x))))
        return self.classifier(F.avg_pool2d(x, x.size(3)).view(x.size(0), -1))


class EfficientBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, expand: int, stride: int) -> None:
        super().__init__()
        hidden, squeezed = inputs * expand, max(1, inputs // 4)
        self.residual = inputs == outputs and stride == 1
        self.expand = nn.Sequential(nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.SiLU())
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, groups=hidden, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.reduce, self.restore = nn.Conv2d(hidden, squeezed, 1), nn.Conv2d(squeezed, hidden, 1)
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm(self.depthwise(F.pad(self.expand(x), (1, 1, 1, 1)))))
        gate = self.restore(F.silu(self.reduce(y.mean((2, 3), keepdim=True))))
        y = self.project(torch.sigmoid(gate) * y)
        return y + x if self.residual else y


class EfficientNet(nn.Module):
    """Gates by 1x1 convolutions, and padding apart from the convolution ("same" as TensorFlow has it)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.blocks = nn.ModuleList(
            [
                EfficientBlock(16, 16, expand=2, stride=1),
                EfficientBlock(16, 24, expand=4, stride=2),
                EfficientBlock(24, 24, expand=4, stride=1),
            ]
        )
        self.head = nn.Sequential(nn.Conv2d(24, 64, 1, bias=False), nn.BatchNorm2d(64), nn.SiLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.head(x).flatten(1))


class SENet(nn.Module):
    """A residual net whose sums come after gates by linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 32)
        self.conv1, self.conv2 = conv_norm(32, 32), nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32))
        self.gate1, self.conv3 = LinearGate(32, 8), conv_norm(32, 64, stride=2)
        self.gate2, self.fc = LinearGate(64, 8), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.gate1(self.conv2(self.conv1(x))))
        return self.fc(self.gate2(self.conv3(x)).mean((-2, -1)))


class LayerNormFirst(nn.Module):
    """A layer norm over the channels of maps, by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(1e-1 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Channels last inside the block, channels first outside; layer scale; both kinds of layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), LayerNormFirst(16))
        self.stage1 = nn.Sequential(ConvNeXtBlock(16), ConvNeXtBlock(16))
        self.down = nn.Sequential(LayerNormFirst(16), nn.Conv2d(16, 32, 2, 2))
        self.stage2 = nn.Sequential(ConvNeXtBlock(32), ConvNeXtBlock(32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


class CBAM(nn.Module):
    """A gate on channels by a shared two-layer net of the mean and the max, then a gate on places from the mean and max over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_norm(3, 32), nn.Conv2d(32, 32, 3, padding=1)
        self.mlp = nn.Sequential(nn.Conv2d(32, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 32, 1, bias=False))
        self.spatial, self.conv3, self.fc = nn.Conv2d(2, 1, 7, padding=3, bias=False), conv_norm(32, 64, stride=2), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = self.conv2(x)
        gate = self.mlp(F.adaptive_avg_pool2d(y, 1)) + self.mlp(F.adaptive_max_pool2d(y, 1))
        y = y * gate.sigmoid()
        mean, (largest, _) = torch.mean(y, dim=1, keepdim=True), torch.max(y, dim=1, keepdim=True)
        y = y * torch.sigmoid(self.spatial(torch.cat([mean, largest], dim=1)))
        return self.fc(self.conv3(F.relu(x + y)).mean((2, 3)))


class GhostModule(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs, primary = outputs, outputs // 2
        self.primary, self.cheap = conv_norm(inputs, primary, 1), conv_norm(primary, primary, groups=primary)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary(x)
        return torch.cat([x1, self.cheap(x1)], dim=1)[:, : self.outputs, :, :]


class GhostNet(nn.Module):
    """Half of each layer's channels is made of the other half by a depthwise convolution, and both are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.project = conv_norm(3, 16), GhostModule(16, 64), GhostModule(64, 16)
        self.down, self.head = nn.Sequential(GhostModule(16, 64), conv_norm(64, 64, stride=2, groups=64)), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.expand(x))
        return self.head(self.down(x).mean((2, 3)))


class KeywordSpotter(nn.Module):
    """Depthwise separable convolutions over a spectrogram, which comes without a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, (10, 4), stride=(2, 2), padding=(5, 1), bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.Sequential(*(nn.Sequential(conv_norm(32, 32, groups=32), conv_norm(32, 32, 1)) for _ in range(3)))
        self.fc = nn.Linear(32, 12)

    def forward(self, spectrogram: Tensor) -> Tensor:
        x = self.blocks(self.stem(spectrogram.unsqueeze(1)))
        return F.log_softmax(self.fc(F.avg_pool2d(x, x.shape[2:]).flatten(1)), dim=-1)


MOBILE: Table = {
    "shufflenet_v1": (ShuffleNetV1, (noise(2, 3, 16, 16),)),
    "shufflenet_v2": (ShuffleNetV2, (noise(2, 3, 16, 16),)),
    "mobilenet_v2": (MobileNetV2, (noise(2, 3, 16, 16),)),
    "mobilenet_v3": (MobileNetV3, (noise(2, 3, 16, 16),)),
    "efficientnet": (EfficientNet, (noise(2, 3, 16, 16),)),
    "senet": (SENet, (noise(2, 3, 16, 16),)),
    "convnext": (ConvNeXt, (noise(2, 3, 32, 32),)),
    "cbam": (CBAM, (noise(2, 3, 16, 16),)),
    "ghostnet": (GhostNet, (noise(2, 3, 16, 16),)),
    "keyword_spotter": (KeywordSpotter, (noise(2, 40, 16),)),
}
