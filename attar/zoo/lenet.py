"""The two LeNets that compression papers measure on MNIST."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["lenet5", "lenet_300_100"]


def lenet_300_100() -> nn.Module:
    """LeNet-300-100: 784-300-100-10 with ReLU, 266,610 parameters; it flattens its pictures itself.

    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.

    >>> sum(p.numel() for p in lenet_300_100().parameters())
    266610
    """
    return LeNet300100()


def lenet5() -> nn.Module:
    """Caffe's LeNet-5, 431,080 parameters: conv 20, pool, conv 50, pool, 500, ReLU, 10. Not LeCun's network of 60,000.

    Inputs are x / 256. Jia et al., "Caffe: Convolutional Architecture for Fast Feature Embedding", 2014.

    >>> sum(p.numel() for p in lenet5().parameters())
    431080
    """
    return LeNet5()


class LeNet300100(nn.Module):
    example_shape = (1, 28, 28)
    mean, std = (0.0,), (1.0,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.fc1(x.flatten(1)))
        return self.fc3(functional.relu(self.fc2(x)))


class LeNet5(nn.Module):
    example_shape = (1, 28, 28)
    mean, std = (0.0,), (256 / 255,)
    renamed: ClassVar = {"ip1": "fc1", "ip2": "fc2"}  # Caffe's "inner product"

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv1(x), 2)
        x = functional.max_pool2d(self.conv2(x), 2)
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))
