"""VGG-16 for ImageNet: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, column D."""

from torch import Tensor, nn

__all__ = ["vgg16"]

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: a 2x2 max-pool


def vgg16() -> nn.Module:
    """VGG-16, 138,357,544 parameters (553 MB), with torchvision's names: 13 convolutions and three linear layers, without batch norm.

    >>> sum(p.numel() for p in vgg16().parameters())
    138357544
    """
    return Vgg16()


class Vgg16(nn.Module):
    """3x3 convolutions of the widths of column D, and the classifier of 4,096, 4,096 and 1,000."""

    example_shape = (3, 224, 224)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for width in WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU()]
            inside = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(inside * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
