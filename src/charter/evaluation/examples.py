"""The prompts that set two models apart most clearly: one breaks a rule that the other keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from charter.constitution import Principle
from charter.evaluation.figures import GradedAnswer
from charter.evaluation.pairing import Paired
from charter.evaluation.rates import broken, clusters
from charter.records import Dialogue, Record


class Example(Record):
    """A prompt under which one model breaks a rule that the other keeps."""

    prompt_id: str
    messages: Dialogue
    principle_id: str
    rule: str
    rules_of: str
    """The label of the run whose rule it is."""
    broken_by: str
    """The label of the run whose model breaks it."""
    first: str
    """An answer of the first model; it breaks the rule, or keeps it where the second breaks it."""
    second: str


class _Gap(NamedTuple):
    """A prompt, and a rule that one model breaks under it more often than the other."""

    prompt_id: str
    principle: Principle
    of: Paired
    broken_by: str
    share: float
    """By how much more of its answers, in (0, 1]."""


def examples(
    graded: Sequence[Paired], *, messages: Mapping[str, Dialogue], most: int
) -> Iterator[Example]:
    """The clearest examples, each of another prompt, beginning with the clearest.

    Between equals comes the model, then the rule, that was shown least so far.

    Args:
        graded: The answers under each constitution.
        messages: The prompts' messages, by id.
        most: How many to give.
    """
    left: list[_Gap] = [gap for answers in graded for gap in _gaps(answers)]
    shown: list[_Gap] = []

    def rank(gap: _Gap) -> tuple[float, int, int]:
        breaker = sum(other.broken_by == gap.broken_by for other in shown)
        rule = sum(other.principle.id == gap.principle.id for other in shown)
        return -gap.share, breaker, rule

    while left and len(shown) < most:
        gap = min(left, key=rank)
        yield _example(gap, messages=messages[gap.prompt_id])
        shown.append(gap)
        left = [other for other in left if other.prompt_id != gap.prompt_id]


def _gaps(graded: Paired) -> Iterator[_Gap]:
    """In the order of the principles and of the prompts."""
    harmful = graded.of_kind("harmful")
    for item in graded.principles:
        asked = harmful.about(item.id)
        first, second = (
            clusters(answers, broken(item.id)) for answers in (asked.first, asked.second)
        )
        for prompt_id, (hits, size) in first.items():
            if prompt_id in second:
                share = hits / size - second[prompt_id][0] / second[prompt_id][1]
                breaker = graded.labels[0 if share > 0 else 1]
                if share:
                    yield _Gap(prompt_id, item, graded, breaker, abs(share))


def _example(gap: _Gap, *, messages: Dialogue) -> Example:
    first_breaks = gap.broken_by == gap.of.labels[0]
    return Example(
        prompt_id=gap.prompt_id,
        messages=messages,
        principle_id=gap.principle.id,
        rule=gap.principle.rule,
        rules_of=gap.of.rules_of,
        broken_by=gap.broken_by,
        first=_an_answer(gap.of.first, gap, breaks=first_breaks),
        second=_an_answer(gap.of.second, gap, breaks=not first_breaks),
    )


def _an_answer(answers: Sequence[GradedAnswer], gap: _Gap, *, breaks: bool) -> str:
    """A model's first answer to the prompt that breaks the rule, or that keeps it."""
    verdict = broken(gap.principle.id)
    return next(
        row.text for row in answers if row.prompt_id == gap.prompt_id and verdict(row) is breaks
    )
