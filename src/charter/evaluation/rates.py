"""Graded answers -> rates, paired differences and win rates, clustered by prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, get_args

from charter.evaluation.figures import Difference, GradedAnswer, HeadToHead, Rate, WinRate
from charter.intervals import (
    Cluster,
    difference_interval,
    rate_interval,
    win_interval,
)
from charter.records import Kind

Verdict = Callable[[GradedAnswer], bool | None]
"""Reads one grade of an answer; None is unscored."""


Row = TypeVar("Row", GradedAnswer, HeadToHead)


def of_kind(answers: Iterable[Row], kind: Kind) -> list[Row]:
    """The answers to prompts of one kind."""
    return [answer for answer in answers if answer.kind == kind]


def by_kind(answers: Sequence[Row]) -> dict[str, list[Row]]:
    """The answers to prompts of each kind."""
    return {kind: of_kind(answers, kind) for kind in get_args(Kind)}


def by_group(answers: Iterable[Row], tags: Iterable[str]) -> dict[str, list[Row]]:
    """The answers to harmful prompts, for each tag those with it and those without it."""
    harmful = of_kind(answers, "harmful")
    groups: dict[str, list[Row]] = {}
    for tag in tags:
        groups[tag] = [answer for answer in harmful if tag in answer.tags]
        groups[f"not {tag}"] = [answer for answer in harmful if tag not in answer.tags]
    return groups


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
    return rate_of(clusters(answers, verdict).values())


def rate_of(clustered: Iterable[Cluster]) -> Rate:
    """The share of successes in all clusters."""
    found = list(clustered)
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
    on: str,
    metric: str,
) -> Difference | None:
    """The rate of one side minus the other's, on the prompts that both have scored answers to.

    Args:
        first: Name and answers of one side.
        second: The same of the other.
        verdict: What counts as a success.
        on: The kind or group of the prompts answered; goes into the result, as does `metric`.
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


def win_rate(met: Sequence[HeadToHead], *, on: str) -> WinRate | None:
    """How often the first column's answer was preferred; None for no comparisons.

    Args:
        met: Comparisons of one pair of columns.
        on: The kind or group of the prompts answered; goes into the result.
    """
    by_prompt: dict[str, tuple[int, int, int]] = {}
    for each in met:
        wins, losses, n = by_prompt.get(each.prompt_id, (0, 0, 0))
        won, lost = each.p_first > 0.5, each.p_first < 0.5
        by_prompt[each.prompt_id] = (wins + won, losses + lost, n + 1)
    found = win_interval(list(by_prompt.values()))
    if found is None:
        return None
    return WinRate(
        first=met[0].first,
        second=met[0].second,
        on=on,
        win_rate=found.value,
        low=found.low,
        high=found.high,
        n=len(met),
        ties=sum(each.p_first == 0.5 for each in met),
        p_first=math.fsum(each.p_first for each in met) / len(met),
        position_bias=_position_bias(met),
    )


def _position_bias(met: Iterable[HeadToHead]) -> float | None:
    same_place = [
        (each.p_first_shown_first - 0.5) * (each.p_first_shown_second - 0.5) < 0.0
        for each in met
        if each.p_first_shown_first is not None and each.p_first_shown_second is not None
    ]
    return sum(same_place) / len(same_place) if same_place else None
