"""What charter asks of a language model: write an answer, or weigh given ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from charter.records import Completion, Dialogue, Sampling


class Model(Protocol):
    """A language model in some role: policy, critic, reviser or judge.

    Implementations own what they need (threads, connections) and may be called concurrently from
    one event loop, which they never block.
    """

    @property
    def fingerprint(self) -> str:
        """Identifies everything that shapes an answer: weights, tokenizer, template, dtype."""
        ...

    @property
    def capacity(self) -> int:
        """How many calls the model answers at once; more than that only wait."""
        ...

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:
        """The next assistant turn.

        The same arguments give the same completion, whatever else is being answered.

        Raises:
            BackendError: The model cannot answer (dialogue too long, server gone).
        """
        ...

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:
        """Natural log-probability of each choice as the beginning of the next assistant turn.

        Raises:
            BackendError: The model cannot answer.
            JudgementError: A choice got no probability that can be read.
        """
        ...

    async def aclose(self) -> None:
        """Release threads, connections and memory; the model answers no more calls."""
        ...
