"""The contract of anything that acts while a network trains: gradual pruning, incremental quantization, ...

The training loop knows only this. A step must decide alike on every rank, from what all ranks share (weights,
step number), because nothing it decides is communicated.
"""

from torch import nn

__all__ = ["Step"]


class Step:
    """Something that acts while a network trains; the defaults do nothing.

    `step` counts optimizer updates from 0, `total` is their number in this stage; `model` is the unwrapped network.
    Shapes of parameters must not change (an optimizer lives): a form is attached between stages, in `finish`.
    """

    def start(self, model: nn.Module) -> None:
        """Called once before the first update, when no optimizer lives yet: here forms may be baked."""

    def before_forward(self, model: nn.Module, step: int, total: int) -> None:
        """Called before the forward pass of every update."""

    def after_backward(self, model: nn.Module, step: int, total: int) -> None:
        """Called when gradients are there (averaged over ranks) and the optimizer has not moved yet."""

    def after_update(self, model: nn.Module, step: int, total: int) -> None:
        """Called when the optimizer has moved."""

    def finish(self, model: nn.Module) -> None:
        """Called once after the last update, when no optimizer lives: here forms may be attached."""

    def state_dict(self) -> dict:
        """What a resumed run needs: tensors and JSON values by name."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` gave."""
