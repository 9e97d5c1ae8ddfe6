"""A small convolutional network for the embedded 8x8 digits."""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["digits_net"]


def digits_net() -> nn.Module:
    """conv 16, conv 32, pool, 64, 10 with ReLU, 38,282 parameters; about 98 % on the digits after seconds of training.

    >>> sum(p.numel() for p in digits_net().parameters())
    38282
    """
    return DigitsNet()


class DigitsNet(nn.Module):
    example_shape = (1, 8, 8)
    mean, std = (0.0,), (1.0,)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(512, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))
