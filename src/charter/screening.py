"""P(principle is broken), for every principle that applies to a reply.

A critique under a principle that the reply does not break is wasted, and with eight specific rules
a random draw misses the broken one seven times in eight. So a reply is first asked about: yes or
no, one short question a principle.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from charter.constitution import Constitution, Principle
from charter.errors import JudgementError
from charter.model import Model
from charter.records import Dialogue, Record, assistant, user
from charter.wording import YES_NO, broken_question

log = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.5
_LEAST_DOUBT = 1e-4
"""Probabilities nearer to 1 are as good as each other."""
_LEAST_USEFUL_RATES = 1.1
"""Recall + specificity; a judge that says the same of every reply, or tosses a coin, has 1."""


def probability_of(choice: str, logprobs: Mapping[str, float]) -> float:
    """The probability of one choice among those given, renormalised over them.

    Raises:
        JudgementError: The model gave none of them any probability.
    """
    highest = max(logprobs.values())
    if math.isnan(highest) or highest == -math.inf:
        raise JudgementError(
            f"the model gave no probability to any of {', '.join(logprobs)}; got "
            f"{dict(logprobs)!r}. It may not understand the question: try another judge."
        )
    weights = {name: math.exp(value - highest) for name, value in logprobs.items()}
    return weights[choice] / math.fsum(weights.values())


def odds(p: float) -> float:
    """How many times as likely as not: what a draw goes by that prefers what is certain.

    A probability of 0.75 is nearly as much as one of 0.9999; its odds are 3 against 10,000.
    """
    return p / max(1.0 - p, _LEAST_DOUBT)


async def p_yes(judge: Model, dialogue: Dialogue, *, question: str) -> float:
    """The probability that the judge answers a question about the last reply with yes."""
    logprobs = await judge.choose((*dialogue, user(question)), choices=YES_NO)
    return probability_of("yes", logprobs)


async def screen(
    dialogue: Dialogue, *, response: str, principles: Sequence[Principle], judge: Model
) -> dict[str, float]:
    """P(broken) by principle id, for a response to a dialogue.

    Raises:
        JudgementError: An answer could not be read.
        BackendError: The judge could not answer.
    """
    answered = (*dialogue, assistant(response))
    probabilities = await asyncio.gather(
        *(p_yes(judge, answered, question=broken_question(item)) for item in principles)
    )
    return {item.id: p for item, p in zip(principles, probabilities, strict=True)}


class Threshold(Record):
    """From which P(broken) a principle counts as broken, and how well that tells tests apart."""

    value: float
    recall: float | None = None
    """Share of replies that break a principle that are seen to; None: there were no tests."""
    specificity: float | None = None
    """Share of replies that keep a principle that are let through."""
    tests: int = 0

    @property
    def tells_nothing(self) -> bool:
        """Whether the tests show screening to be hardly better than a toss of a coin."""
        if self.recall is None or self.specificity is None:
            return False
        return self.recall + self.specificity < _LEAST_USEFUL_RATES


async def fit_threshold(constitution: Constitution, *, judge: Model) -> Threshold:
    """The threshold that best separates the principles' own tests.

    Best is the highest balanced accuracy; between equals, the one nearest to 0.5.
    """
    items = [(item, test) for item in constitution.principles for test in item.tests]
    if not items:
        log.warning(
            "no principle has tests, so screening uses P(broken) >= %.1f unfitted; "
            "add `tests` (prompt, breaks, keeps) to the principles",
            DEFAULT_THRESHOLD,
        )
        return Threshold(value=DEFAULT_THRESHOLD)

    async def p_broken(principle: Principle, prompt: str, reply: str) -> float:
        screened = await screen(
            (user(prompt),), response=reply, principles=(principle,), judge=judge
        )
        return screened[principle.id]

    broken = await asyncio.gather(
        *(p_broken(item, test.prompt, test.breaks) for item, test in items)
    )
    kept = await asyncio.gather(*(p_broken(item, test.prompt, test.keeps) for item, test in items))
    return best_threshold(broken, kept)


def best_threshold(broken: Sequence[float], kept: Sequence[float]) -> Threshold:
    """The threshold with the highest balanced accuracy between two samples of P(broken).

    Args:
        broken: P(broken) of replies that break their principle; not empty.
        kept: The same of replies that keep it; not empty.
    """
    scores = sorted({0.0, *broken, *kept, 1.0})
    candidates = [(low + high) / 2 for low, high in pairwise(scores)]
    candidates.append(DEFAULT_THRESHOLD)

    def rates(value: float) -> tuple[float, float]:
        recall = sum(p >= value for p in broken) / len(broken)
        return recall, sum(p < value for p in kept) / len(kept)

    value = max(candidates, key=lambda item: (sum(rates(item)), -abs(item - DEFAULT_THRESHOLD)))
    recall, specificity = rates(value)
    return Threshold(value=value, recall=recall, specificity=specificity, tests=len(broken))
