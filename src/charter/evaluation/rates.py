"""Graded answers -> rates and paired differences, clustered by prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from charter.evaluation.figures import Difference, GradedAnswer, Rate
from charter.intervals import Cluster, difference_interval, rate_interval
from charter.records import Kind

Verdict = Callable[[GradedAnswer], bool | None]
"""Reads one grade of an answer; None is unscored."""


def of_kind(answers: Iterable[GradedAnswer], kind: Kind) -> list[GradedAnswer]:
    """The answers to prompts of one kind."""
    return [answer for answer in answers if answer.kind == kind]


def about(answers: Sequence[GradedAnswer], principle_id: str) -> Sequence[GradedAnswer]:
    """The answers to prompts that are tagged with a principle's id; all where none is."""
    return [answer for answer in answers if principle_id in answer.tags] or answers


def broken(principle_id: str) -> Verdict:
    """Whether an answer breaks one principle, by its patterns."""
    return lambda answer: answer.grades.violations.get(principle_id)


def clusters(answers: Iterable[GradedAnswer], verdict: Verdict) -> dict[str, Cluster]:
    """Successes and scored answers by prompt; prompts without a scored answer are absent."""
    found: dict[str, Cluster] = {}
    for answer in answers:
        if (success := verdict(answer)) is not None:
            successes, size = found.get(answer.prompt_id, (0, 0))
            found[answer.prompt_id] = (successes + success, size + 1)
    return found


def rate(answers: Iterable[GradedAnswer], verdict: Verdict) -> Rate:
    """The share of successes among the scored answers."""
    found = list(clusters(answers, verdict).values())
    estimate = rate_interval(found)
    if estimate is None:
        return Rate(rate=None, low=None, high=None, n=0)
    n = sum(size for _, size in found)
    return Rate(rate=estimate.value, low=estimate.low, high=estimate.high, n=n)


def difference(
    first: tuple[str, Iterable[GradedAnswer]],
    second: tuple[str, Iterable[GradedAnswer]],
    verdict: Verdict,
    *,
    on: Kind,
    metric: str,
) -> Difference | None:
    """The rate of one side minus the other's, on the prompts that both have scored answers to.

    Args:
        first: Name and answers of one side.
        second: The same of the other.
        verdict: What counts as a success.
        on: Kind of the prompts answered; goes into the result, as does `metric`.
        metric: What `verdict` is called.

    Returns:
        None where there is no such prompt.
    """
    ours, theirs = clusters(first[1], verdict), clusters(second[1], verdict)
    pairs = [(cluster, theirs[key]) for key, cluster in ours.items() if key in theirs]
    found = difference_interval(pairs)
    if found is None:
        return None
    return Difference(
        first=first[0],
        second=second[0],
        on=on,
        metric=metric,
        difference=found.value,
        low=found.low,
        high=found.high,
        n=len(pairs),
    )
