"""Which of a launcher's processes this is, as torchrun and accelerate tell by the environment."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from charter.errors import ConfigError

if TYPE_CHECKING:
    import torch  # takes seconds

_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_SPEAKING_S = 2.0
"""What the main process has to print a message in, before a launcher may end it."""


def is_launched() -> bool:
    """Whether a launcher has started this process beside others; not whether they have met."""
    return all(name in os.environ for name in _TOLD) and int(os.environ["WORLD_SIZE"]) > 1


def is_follower() -> bool:
    """Whether another process writes the files and talks to the user."""
    return is_launched() and int(os.environ["RANK"]) > 0


def let_main_speak() -> None:
    """Has a follower stay for what all are about to end for, and the main process alone tells.

    A launcher ends all processes as soon as one has failed.
    """
    if is_follower():
        time.sleep(_SPEAKING_S)


def own_device() -> torch.device:
    """The GPU that is this process's own, by name: another thread's default is another's.

    Without a launcher the default one; the CPU where there is none.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    if not is_launched():
        return torch.device("cuda")
    # Modulo, as accelerate has it: some launchers show each process its own device alone.
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def usual_dtype(device: torch.device) -> torch.dtype:
    """What weights are kept in where no setting says: float32 on a CPU, bfloat16 on a GPU."""
    import torch

    return torch.float32 if device.type == "cpu" else torch.bfloat16


def free_memory() -> None:
    """Gives back what a finished stage held: circles of references, and a GPU's reserve."""
    gc.collect()
    torch = sys.modules.get("torch")  # not there: nothing has used a GPU
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def refuse_shards(stages: Collection[str]) -> None:
    """Refuses to train where accelerate is told to spread every model over the processes.

    Args:
        stages: Those that are to train.

    Raises:
        ConfigError: It is.
    """
    if not stages or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return
    raise ConfigError(
        "accelerate is configured for FSDP, which would spread the models of all stages. finetune, "
        "reward and dpo spread theirs by a setting of their own (`finetune.shard: true`); "
        "reinforce cannot, since the weights that learn also speak, whole, between its steps. "
        "Launch by torchrun, or by accelerate with `distributed_type: MULTI_GPU`"
    )
