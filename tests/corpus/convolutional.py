"""Networks of pictures (and of volumes) as their papers draw them: branches, concatenations, sums over many resolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpus.examples import Table, noise

__all__ = ["CONVOLUTIONAL", "conv_norm"]


def conv_norm(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the picture's size, a batch norm and a ReLU."""
    padding = dilation * (size - 1) // 2
    conv = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class VGG(nn.Module):
    """The first linear layer reads channels that were flattened with their places."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (16, 16, "M", 32, 32, "M", 64, "M"):
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, int(width), 3, padding=1), nn.BatchNorm2d(int(width)), nn.ReLU(inplace=True)]
                channels = int(width)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(64 * 2 * 2, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    """Every layer reads all before it in its block; transitions halve channels and size."""

    def __init__(self, growth: int = 8) -> None:
        super().__init__()
        self.stem, channels = nn.Conv2d(3, 16, 3, padding=1, bias=False), 16
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for _ in range(2):
            self.blocks.append(nn.ModuleList(DenseLayer(channels + i * growth, growth) for i in range(4)))
            channels += 4 * growth
            self.transitions.append(
                nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2))
            )
            channels //= 2
        self.norm, self.head = nn.BatchNorm2d(channels), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            features = [x]
            for layer in block:
                features.append(layer(features))
            x = transition(torch.cat(features, 1))
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class InceptionBlock(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = conv_norm(inputs, 16, 1)
        self.three = nn.Sequential(conv_norm(inputs, 16, 1), conv_norm(16, 24))
        self.five = nn.Sequential(conv_norm(inputs, 8, 1), conv_norm(8, 16), conv_norm(16, 16))
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv_norm(inputs, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


class Inception(nn.Module):
    """Branches of unequal widths, one of them a bare pooling, concatenated; an auxiliary head on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = conv_norm(3, 16), InceptionBlock(16), InceptionBlock(64)
        self.auxiliary = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(64, 16, 1), nn.Flatten(), nn.Linear(64, 10))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(F.max_pool2d(self.stem(x), 3, 2, 1))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(self.second(x), (1, 1)), 1)), self.auxiliary(x)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, *, groups: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_norm(inputs, width, 1), conv_norm(width, width, 3, stride=stride, groups=groups)
        self.conv3 = nn.Sequential(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + identity)


class ResNeXt(nn.Module):
    """Grouped convolutions inside residual bottlenecks; each stage's blocks share their output channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16)
        self.stage1 = nn.Sequential(Bottleneck(16, 32, 32, groups=8), Bottleneck(32, 32, 32, groups=8))
        self.stage2 = nn.Sequential(Bottleneck(32, 64, 64, groups=8, stride=2), Bottleneck(64, 64, 64, groups=8))
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stage2(self.stage1(self.stem(x))))
        return self.fc(x.reshape(x.shape[0], -1))


class DualPathBlock(nn.Module):
    def __init__(self, inputs: int, residual: int, dense: int) -> None:
        super().__init__()
        self.residual = residual
        self.body = nn.Sequential(conv_norm(inputs, 32, 1), conv_norm(32, 32, groups=4), nn.Conv2d(32, residual + dense, 1, bias=False))

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        added, grown = pair
        out = self.body(torch.cat([added, grown], 1))
        return added + out[:, : self.residual], torch.cat([grown, out[:, self.residual :]], 1)


class DualPath(nn.Module):
    """One output cut by a slice: the first channels are added to the residual path, the rest joins a dense path."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 32)
        self.blocks = nn.ModuleList(DualPathBlock(32 + 8 * i, 24, 8) for i in range(3))
        self.head = nn.Sequential(nn.BatchNorm2d(56), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(56, 10))

    def forward(self, x: Tensor) -> Tensor:
        added, grown = torch.split(self.stem(x), [24, 8], dim=1)
        for block in self.blocks:
            added, grown = block((added, grown))
        return self.head(torch.cat((added, grown), dim=1))


class RepVGGBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.point = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.dense(x) + self.point(x)
        if self.identity is not None:
            out = out + self.identity(x)
        return F.relu(out)


class RepVGG(nn.Module):
    """Three branches summed, one of them only a batch norm: a whole stage shares its channels."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((3, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2))
        self.stages = nn.Sequential(*(RepVGGBlock(*width) for width in widths))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.stages(x), 1).flatten(1))


class OctaveConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.high_high, self.high_low = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.low_high, self.low_low = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm_high, self.norm_low = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        high, low = pair
        new_high = self.high_high(high) + F.interpolate(self.low_high(low), scale_factor=2, mode="nearest")
        new_low = self.low_low(low) + self.high_low(F.avg_pool2d(high, 2))
        return F.relu(self.norm_high(new_high)), F.relu(self.norm_low(new_low))


class Octave(nn.Module):
    """Two frequencies that exchange by sums at every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first_high, self.first_low = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(OctaveConv(16, 16), OctaveConv(16, 24))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.body((self.first_high(x), self.first_low(F.avg_pool2d(x, 2))))
        return self.head(torch.cat([high.mean((2, 3)), low.mean((2, 3))], -1))


class DeepUNet(nn.Module):
    """Transposed convolutions up, and each level's own features concatenated again."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        self.down, self.up, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels = 1
        for width in widths:
            self.down.append(nn.Sequential(conv_norm(channels, width), conv_norm(width, width)))
            channels = width
        self.bottom = conv_norm(channels, 2 * channels)
        for width in reversed(widths):
            self.up.append(nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2))
            self.merge.append(nn.Sequential(conv_norm(2 * width, width), conv_norm(width, width)))
        self.out = nn.Conv2d(widths[0], 2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, merge, skip in zip(self.up, self.merge, skips[::-1], strict=True):
            x = merge(torch.cat((skip, up(x)), dim=1))
        return self.out(x)


class Detector(nn.Module):
    """A feature pyramid with one head for all levels, its output cut into anchors as YOLO cuts it."""

    def __init__(self, anchors: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.anchors, self.outputs = anchors, classes + 5
        self.c1, self.c2, self.c3 = conv_norm(3, 16, stride=2), conv_norm(16, 32, stride=2), conv_norm(32, 64, stride=2)
        self.lateral = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in (16, 32, 64))
        self.smooth = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.head = nn.Sequential(conv_norm(32, 32), nn.Conv2d(32, anchors * (classes + 5), 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        c1 = self.c1(x)
        c2 = self.c2(c1)
        c3 = self.c3(c2)
        p3 = self.lateral[2](c3)
        p2 = self.lateral[1](c2) + F.interpolate(p3, size=c2.shape[-2:], mode="nearest")
        p1 = self.lateral[0](c1) + F.interpolate(p2, size=c1.shape[-2:], mode="nearest")
        found = []
        for smooth, level in zip(self.smooth, (p1, p2, p3), strict=True):
            y = self.head(smooth(level))
            n, _, h, w = y.shape
            y = y.view(n, self.anchors, self.outputs, h, w).permute(0, 1, 3, 4, 2).contiguous()
            found.append(torch.cat([y[..., :4].sigmoid() * 2, y[..., 4:].sigmoid()], -1).view(n, -1, self.outputs))
        return found


class HighResolution(nn.Module):
    """Three resolutions kept side by side, each fused from all: strided convolutions down, 1x1 and interpolation up."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        self.stem = conv_norm(3, widths[0])
        self.begin = nn.ModuleList([conv_norm(widths[0], widths[0]), conv_norm(widths[0], widths[1], stride=2)])
        self.begin.append(nn.Sequential(conv_norm(widths[0], widths[1], stride=2), conv_norm(widths[1], widths[2], stride=2)))
        self.branches = nn.ModuleList(nn.Sequential(conv_norm(w, w), conv_norm(w, w)) for w in widths)
        self.fuse = nn.ModuleList(nn.ModuleList(self._path(widths, i, j) for j in range(3)) for i in range(3))
        self.head = nn.Conv2d(sum(widths), 4, 1)

    @staticmethod
    def _path(widths: tuple[int, ...], to: int, start: int) -> nn.Module:
        if to == start:
            return nn.Identity()
        if to < start:
            up = nn.Upsample(scale_factor=2 ** (start - to), mode="nearest")
            return nn.Sequential(nn.Conv2d(widths[start], widths[to], 1, bias=False), nn.BatchNorm2d(widths[to]), up)
        steps: list[nn.Module] = [conv_norm(widths[start], widths[start], stride=2) for _ in range(to - start - 1)]
        last = nn.Conv2d(widths[start], widths[to], 3, 2, 1, bias=False)
        return nn.Sequential(*steps, last, nn.BatchNorm2d(widths[to]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        levels = [branch(begin(x)) for begin, branch in zip(self.begin, self.branches, strict=True)]
        fused = []
        for paths in self.fuse:
            y = paths[0](levels[0])
            for path, level in zip(list(paths)[1:], levels[1:], strict=True):
                y = y + path(level)
            fused.append(F.relu(y))
        size = fused[0].shape[2:]
        wide = [fused[0], *(F.interpolate(y, size=size, mode="bilinear", align_corners=True) for y in fused[1:])]
        return self.head(torch.cat(wide, 1))


class ASPP(nn.Module):
    """Dilated branches and a pooled one, stretched over the picture, as DeepLab concatenates them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_norm(3, 16, stride=2), conv_norm(16, 32, stride=2))
        self.branches = nn.ModuleList([conv_norm(32, 16, 1), *(conv_norm(32, 16, dilation=d) for d in (2, 4))])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 16, 1, bias=False), nn.ReLU())
        self.project, self.classifier = conv_norm(64, 32, 1), nn.Conv2d(32, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = x.shape[-2:]
        x = self.backbone(x)
        branches = [branch(x) for branch in self.branches]
        branches.append(self.pooled(x).expand(-1, -1, x.shape[2], x.shape[3]))
        x = self.classifier(self.project(torch.cat(branches, 1)))
        return {"out": F.interpolate(x, size=size, mode="bilinear", align_corners=False)}


class SuperResolution(nn.Module):
    """Residual blocks, a long skip and a pixel shuffle in the middle, as EDSR has."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(True), nn.Conv2d(32, 16, 3, padding=1)) for _ in range(3)
        )
        self.up = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.head(x)
        for block in self.blocks:
            y = y + block(y) * 0.1
        return self.tail(self.up(y + first)) + F.interpolate(x, scale_factor=2, mode="bicubic")


class EfficientSubPixel(nn.Module):
    """ESPCN: the pixel shuffle is the output, so the last layer cannot be cut."""

    def __init__(self, upscale: int = 2) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 32, 5, 1, 2), nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 16, 3, 1, 1)
        self.conv4, self.shuffle = nn.Conv2d(16, upscale**2, 3, 1, 1), nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.conv2(x))
        return self.shuffle(self.conv4(torch.tanh(self.conv3(x))))


class Generator(nn.Module):
    """Noise to pictures: a linear layer seen as channels, then transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 32 * 4 * 4)
        self.net = nn.Sequential(
            nn.BatchNorm2d(32),
            nn.ReLU(True),
            nn.ConvTranspose2d(32, 24, 4, 2, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(24, 16, 4, 2, 1, bias=False),
            nn.InstanceNorm2d(16, affine=True),
            nn.SELU(),
            nn.Conv2d(16, 3, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.net(self.project(z).view(-1, 32, 4, 4))


class Style(nn.Module):
    """Group and instance norms with reflection padding, and features kept as maps to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect"), nn.InstanceNorm2d(16, affine=True)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(8, 32)
        self.conv3, self.norm3 = nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(8, 32)
        self.conv4, self.norm4 = nn.Conv2d(32, 16, 3, padding=1), nn.GroupNorm(1, 16)
        self.pad, self.out = nn.ReflectionPad2d(1), nn.Conv2d(16, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.silu(x + self.norm3(self.conv3(x)))
        return self.out(self.pad(F.mish(self.norm4(self.conv4(F.interpolate(x, scale_factor=2))))))


class PReLUNet(nn.Module):
    """One slope for each channel, max-out of two halves, and a face-embedding head normalised by length."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(3, 32, 3, padding=1), nn.PReLU(32)
        self.conv2, self.act2 = nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(32)
        self.conv3, self.act3 = nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.PReLU()
        self.conv4, self.embed = nn.Conv2d(32, 32, 4), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.conv1(x))
        x = x + self.act2(self.conv2(x))
        a, b = torch.chunk(self.act3(self.conv3(F.max_pool2d(x, 2))), 2, dim=1)
        x = self.conv4(torch.max(a, b))
        return F.normalize(self.embed(x.squeeze(-1).squeeze(-1)), p=2, dim=1)


class Video(nn.Module):
    """Residual 3-D convolutions factorised into space and time, as R(2+1)D has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 16, (1, 3, 3), padding=(0, 1, 1), bias=False), nn.BatchNorm3d(16), nn.ReLU())
        self.space, self.time = nn.Conv3d(16, 24, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(24, 16, (3, 1, 1), padding=(1, 0, 0))
        self.middle, self.norm = nn.BatchNorm3d(24), nn.BatchNorm3d(16)
        self.deep, self.fc = nn.Conv3d(16, 32, 3, stride=2, padding=1), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.norm(self.time(F.relu(self.middle(self.space(x))))))
        x = F.adaptive_avg_pool3d(F.relu(self.deep(F.max_pool3d(x, (1, 2, 2)))), 1)
        return self.fc(x.flatten(start_dim=1))


CONVOLUTIONAL: Table = {
    "vgg": (VGG, (noise(2, 3, 16, 16),)),
    "densenet": (DenseNet, (noise(2, 3, 16, 16),)),
    "inception": (Inception, (noise(2, 3, 16, 16),)),
    "resnext": (ResNeXt, (noise(2, 3, 16, 16),)),
    "dual_path": (DualPath, (noise(2, 3, 16, 16),)),
    "repvgg": (RepVGG, (noise(2, 3, 16, 16),)),
    "octave": (Octave, (noise(2, 3, 16, 16),)),
    "deep_unet": (DeepUNet, (noise(2, 1, 16, 16),)),
    "detector": (Detector, (noise(2, 3, 32, 32),)),
    "high_resolution": (HighResolution, (noise(2, 3, 16, 16),)),
    "aspp": (ASPP, (noise(2, 3, 32, 32),)),
    "super_resolution": (SuperResolution, (noise(2, 3, 12, 12),)),
    "espcn": (EfficientSubPixel, (noise(2, 1, 12, 12),)),
    "generator": (Generator, (noise(2, 16),)),
    "style": (Style, (noise(2, 3, 16, 16),)),
    "prelu": (PReLUNet, (noise(2, 3, 16, 16),)),
    "video": (Video, (noise(2, 3, 4, 12, 12),)),
}
