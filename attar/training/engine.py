"""The one door to Hugging Face Accelerate: processes, devices, and how a network is spread over them.

The same script runs alone, and under `torchrun --nproc-per-node N` on one machine or many, without a changed line.
"""

import atexit
import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from attar.errors import AttarError
from attar.training.state import gathered

__all__ = ["Engine", "end_training", "start"]


@dataclass(frozen=True)
class Engine:
    """What a training run needs to know of the processes it runs in.

    With several processes each holds the whole network (DDP), or with `shard` a part of it (FSDP). Batch norm then sees
    the samples of its own process only, and the statistics it keeps are those of process 0; convert the network with
    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` first where the statistics of the whole batch matter (on GPUs). Parts of
    a network that an update does not use are looked for at each update; PyTorch warns once where it finds none.
    """

    accelerator: Any
    shard: bool

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def prepare(self, model: nn.Module, make: Callable[[Sequence[Tensor]], Optimizer]) -> tuple[nn.Module, nn.Module, Optimizer]:
        """`model` on the device and spread over the processes: (what to call, what holds the parameters, the optimizer over them).

        May be called again for the same network with a new optimizer. The parameters of all processes become those of process 0.

        Raises AttarError where there is nothing to train.
        """
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise AttarError("the network has no parameter that trains: set requires_grad on what should")
        if self.shard and self.world > 1:
            return self._sharded(model, make)
        model.to(self.device)
        called = self.accelerator.prepare_model(model) if self.world > 1 else model
        return called, model, make([p for p in model.parameters() if p.requires_grad])

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, averaged over the processes."""
        self.accelerator.backward(loss)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over the processes, the same on all."""
        return self.accelerator.reduce(value.detach(), "mean") if self.world > 1 else value.detach()

    def from_main(self, function: Callable[[], Any]) -> Any:
        """What `function` returns on process 0, on all; an AttarError there is raised on all, so that none waits for ever."""
        if self.world == 1:
            return function()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = function()
            except AttarError as error:
                answer[1] = error
        torch.distributed.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def collect(self, held: nn.Module, model: nn.Module) -> None:
        """Bring the trained parameters and buffers back into `model`, whole and the same on all processes."""
        if self.world == 1:
            return
        with torch.no_grad():
            for split, parameter in zip(held.parameters(), model.parameters(), strict=True):
                if split is not parameter:
                    parameter.copy_(gathered(split))
            for there, buffer in zip(held.buffers(), model.buffers(), strict=True):
                torch.distributed.broadcast(there, src=0)
                buffer.copy_(there)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.accelerator.wait_for_everyone()

    def _sharded(self, model: nn.Module, make: Callable[[Sequence[Tensor]], Optimizer]) -> tuple[nn.Module, nn.Module, Optimizer]:
        """A split copy, since PyTorch cannot undo a split; PyTorch's own call, since Accelerate splits on GPUs only."""
        from torch.distributed.fsdp import fully_shard  # takes long to import, and few need it

        held = copy.deepcopy(model).to(self.device)
        with torch.no_grad():
            for tensor in [*held.parameters(), *held.buffers()]:
                torch.distributed.broadcast(tensor, src=0)
        fully_shard(held)
        return held, held, make([p for p in held.parameters() if p.requires_grad])


def start(*, shard: bool = False) -> Engine:
    """The engine of this process: on a GPU if there is one, together with the other processes that torchrun started.

    A run of several processes must end in `end_training()`, or it aborts at exit: this is arranged for where Python exits
    by itself, and to be called by hand in processes that `multiprocessing` started, which skip it.
    """
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")  # the threads stay as they were
        from accelerate import Accelerator, DistributedDataParallelKwargs  # takes seconds to import

        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else Accelerate on a machine without one ignores torchrun
            mixed_precision="no",  # autocast is the loop's, so that the network is not changed
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # a network may have idle parts
        )
    torch.set_num_threads(threads)
    if accelerator.num_processes > 1:
        _end_at_exit()
    return Engine(accelerator, shard)


def end_training() -> None:
    """Leave the group of processes; harmless when there is none, or called twice."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@functools.cache
def _end_at_exit() -> None:
    atexit.register(end_training)
