"""VGG-16 for CIFAR-10: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, fitted to 32x32."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["vgg16_cifar"]


def vgg16_cifar() -> nn.Module:
    """VGG-16 for CIFAR-10, 14,991,946 parameters: 13 convolutions and one hidden layer of 512, each with batch norm and ReLU; no dropout.

    As in H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets", 2017, after S.
    Zagoruyko, "92.45 % on CIFAR-10 in Torch", 2015.

    >>> sum(p.numel() for p in vgg16_cifar().parameters())
    14991946
    """
    return CifarVgg((64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0))


class CifarVgg(nn.Module):
    """3x3 convolutions of the given `widths`, a 2x2 max-pool where one is 0, and two linear layers."""

    example_shape = (3, 32, 32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training pictures

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inside, conv = 3, 0
        for width in widths:
            if width == 0:
                layers[f"pool{conv}"] = nn.MaxPool2d(2)
                continue
            conv += 1
            layers[f"conv{conv}"] = nn.Conv2d(inside, width, 3, padding=1)
            layers[f"bn{conv}"] = nn.BatchNorm2d(width)
            layers[f"relu{conv}"] = nn.ReLU()
            inside = width
        self.features = nn.Sequential(layers)
        self.fc1 = nn.Linear(inside, 512)
        self.bn = nn.BatchNorm1d(512)
        self.fc2 = nn.Linear(512, 10)
        for name, parameter in self.features.named_parameters():
            if name.startswith("conv") and name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)
        return self.fc2(functional.relu(self.bn(self.fc1(x))))
