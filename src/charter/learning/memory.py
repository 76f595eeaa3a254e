"""Running out of memory, told as what it is: torch spells it as an error of the program."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from charter.errors import RunError

_SPELLINGS = ("can't allocate memory", "ALLOC_FAILED")
"""How the CPU's allocator and CUDA's libraries say it in a plain `RuntimeError`."""


@contextmanager
def memory_for(work: str, *, stage: str) -> Generator[None]:
    """Work that may need more memory than there is.

    Args:
        work: Stands in the message behind "out of memory at".
        stage: The section of the configuration whose settings would help.

    Raises:
        RunError: There was not enough; says which settings need less.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise RunError(
            f"out of memory at {work}. {_remedy(stage)}. Changed settings need a run directory of "
            "their own: `--reuse` takes over what this one has answered"
        ) from error


def _remedy(stage: str) -> str:
    """The settings of a stage that need less memory."""
    if stage == "reinforce":  # its batches are parts of a step already
        return (
            "Lower `reinforce.tokens_per_batch`, which learns the same; a lower "
            "`reinforce.max_new_tokens` and `reinforce.lora` help too"
        )
    return (
        f"Lower `{stage}.tokens_per_batch` and raise `{stage}.accumulate` as much, which learns "
        f"the same; a lower `{stage}.max_length`, `{stage}.gradient_checkpointing`, "
        f"`{stage}.lora` and, with several processes, `{stage}.shard` help too"
    )


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(spelling in str(error) for spelling in _SPELLINGS)
