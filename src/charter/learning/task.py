"""What a training is to get right: items by name, and the loss of any of them.

The loop in `train.py` knows nothing of tokens, comparisons or rollouts. It plans with names, and
asks the task for the loss of those whose turn it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

Loss = Callable[[nn.Module, Sequence[str]], Tensor]
"""The *summed* loss of named items under a model, a scalar in nats on the model's device."""


@dataclass(frozen=True)
class Task:
    """Items to learn from, or to measure on."""

    stage: str
    """The section of the configuration that rules it; for messages."""
    lengths: Mapping[str, int]
    """Tokens that the model reads for each item, by the item's name."""
    units: Mapping[str, int]
    """How much each item counts: its response tokens, or one for a comparison. The loss of a step
    is a mean over the units of *all* its items, however many batches they came in."""
    digest: str
    """Identifies what the items hold."""
    loss: Loss
    stand_in: Loss | None = None
    """What a process computes that gets none of a batch's items, for the sake of those that do:
    the loss of another's item, unseen. None: `loss` will do."""
    unit: str = "token"
    """What the units are, for people."""
    held: int | None = None
    """Examples that all items hold together; None: each is one."""

    @property
    def examples(self) -> int:
        """How many there are to learn from, for people."""
        return len(self.lengths) if self.held is None else self.held

    def units_of(self, names: Sequence[str]) -> int:
        """What the summed loss of these items is divided by."""
        return sum(self.units[name] for name in names)
