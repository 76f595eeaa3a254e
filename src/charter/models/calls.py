"""What the engine works off: completions to write and endings to weigh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from charter.records import Sampling

T = TypeVar("T")


@dataclass(eq=False)
class Writing:
    """A completion that is being written."""

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    limit: int
    """The most ids to write."""
    eos_ids: frozenset[int]
    ends: Callable[[Sequence[int]], bool] | None = None
    """Whether the ids so far hold a stop string; None: there are none."""
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    near_draws: int = 0
    """How many draws fell so close to a boundary that another machine may draw otherwise."""
    reused: int = 0
    """How many of its tokens were not read anew, because their keys and values were at hand."""
    number: int = -1
    """Calls are numbered in order of arrival."""
    result: Future[None] = field(default_factory=lambda: Future[None]())

    @property
    def ids(self) -> list[int]:
        """All that precedes the id that is drawn next."""
        return [*self.prompt, *self.token_ids]

    @property
    def keep(self) -> int:
        """At how many of the last positions logits are wanted."""
        return 1

    @property
    def stopped(self) -> bool:
        """Whether it ended by itself."""
        return bool(self.token_ids) and (
            self.token_ids[-1] in self.eos_ids
            or (self.ends is not None and self.ends(self.token_ids))
        )

    @property
    def finished(self) -> bool:
        """Whether nothing is left to write."""
        return len(self.token_ids) >= self.limit or self.stopped

    def take(self, id_: int, logprob: float, *, near: bool) -> None:
        """Write one more id."""
        self.token_ids.append(id_)
        self.logprobs.append(logprob)
        self.near_draws += near


@dataclass(eq=False)
class Weighing:
    """Endings that are weighed behind the same ids."""

    ids: Sequence[int]
    """All that precedes the endings, and all of an ending's ids but the last."""
    endings: Sequence[Sequence[int]]
    """Equal but for their last ids."""
    reused: int = 0
    number: int = -1
    result: Future[list[float]] = field(default_factory=lambda: Future[list[float]]())
    """Natural log-probability of each ending."""

    @property
    def keep(self) -> int:
        """At how many of the last positions logits are wanted."""
        return len(self.endings[0])

    def weigh(self, logits: Tensor) -> list[float]:
        """The endings' log-probabilities, from logits of `keep` positions x vocabulary."""
        logprobs = logits.double().log_softmax(-1)
        return [
            sum(float(logprobs[position, id_]) for position, id_ in enumerate(ending))
            for ending in self.endings
        ]


Call = Writing | Weighing


def settle(result: Future[T], value: T) -> None:
    """Answer whoever waits, unless nobody does any more."""
    if result.set_running_or_notify_cancel():
        result.set_result(value)
