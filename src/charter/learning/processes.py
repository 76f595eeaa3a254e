"""The processes that train one model together: one on a laptop, many under a launcher."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol, cast

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from accelerate.utils import (  # pyright: ignore[reportMissingTypeStubs]
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    KwargsHandler,
)
from torch import Tensor, nn

from charter.launch import PATIENCE, is_launched


class Processes(Protocol):
    """What charter uses of accelerate, with the types that accelerate leaves out."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        ...

    @property
    def num_processes(self) -> int:
        """How many share each batch."""
        ...

    @property
    def process_index(self) -> int:
        """Which of them this is, from 0."""
        ...

    @property
    def is_main_process(self) -> bool:
        """Whether this one writes files and talks to the user."""
        ...

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model on the device, wrapped for precision and for averaging gradients."""
        ...

    def unwrap_model(self, model: nn.Module, keep_fp32_wrapper: bool) -> nn.Module:
        """What `prepare` was given; without the wrapper for precision, if so asked."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradient to the parameters."""
        ...

    def autocast(self) -> AbstractContextManager[None]:
        """Inside, a forward pass runs in the precision of training, `prepare`d or not."""
        ...

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, gradients gather in each process and are not averaged yet."""
        ...

    def clip_grad_norm_(self, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        """Shortens the gradient to `max_norm`; gives its length before."""
        ...

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        """The tensor, summed over the processes."""
        ...

    def wait_for_everyone(self) -> None:
        """Returns when all processes have come here."""
        ...


def join_processes() -> Processes:
    """This process among those a launcher has started; alone without one.

    On a GPU the forward pass runs in bfloat16 (weights and moments stay as they are), on a CPU in
    the weights' own precision.
    """
    mixed_precision = "bf16" if torch.cuda.is_available() else "no"
    # Buffers are constants here. Sent at every forward, they would have processes wait for each
    # other forever where one reads its share of a batch in one pass and another in two.
    # (torch would have it said in a new way, which accelerate does not pass on yet.)
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
    handlers: list[KwargsHandler] = [parallel]
    if is_launched():
        handlers.append(InitProcessGroupKwargs(timeout=PATIENCE))
    # accelerate takes processes without a GPU for strangers unless it is told of the CPU.
    cpu = is_launched() and not torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, kwargs_handlers=handlers)
    return cast("Processes", accelerator)


def seed_draws(seed: int) -> None:
    """Sets what torch draws from next in this process: new weights, dropout."""
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
