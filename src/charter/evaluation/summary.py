"""Graded answers -> rates with intervals, differences between columns, and who graded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from charter.constitution import Constitution
from charter.evaluation.columns import opponents
from charter.evaluation.figures import (
    Difference,
    Evaluation,
    GradedAnswer,
    Graders,
    GroupFigures,
    HeadToHead,
    JudgedFigures,
    JudgeGrader,
    KindFigures,
    Mean,
    ModelFigures,
    PatternGraders,
    PrincipleFigures,
    RewardFigures,
    WinRate,
)
from charter.evaluation.judging import Judge, agreement
from charter.evaluation.rates import (
    Verdict,
    about,
    broken,
    by_group,
    by_kind,
    difference,
    rate,
    win_rate,
)
from charter.intervals import mean_interval

EVERYWHERE = "all"
"""Where prompts of all kinds are taken together."""

_COMPARED: Mapping[str, Verdict] = {
    "violation": lambda answer: answer.grades.violation,
    "helpful": lambda answer: answer.grades.helpful,
    "refusal": lambda answer: answer.grades.refusal,
    "alternative": lambda answer: answer.grades.alternative,
}
"""What differences are given of; the alternative is the share of refusals that offer it."""


def summarise(
    answers: Iterable[GradedAnswer],
    *,
    comparisons: Iterable[HeadToHead] = (),
    constitution: Constitution,
    groups: Sequence[str] = (),
    judge: Judge | None,
    reward: RewardFigures | None = None,
) -> Evaluation:
    """The figures of all columns, in the order in which they first appear among the answers.

    Args:
        answers: What the columns said, graded.
        comparisons: The answers that a judge compared.
        constitution: The one that the answers were graded under.
        groups: Tags of harmful prompts that get figures of their own.
        judge: Who gave the judgements; None if there are none.
        reward: What the patterns say of the run's reward model; None where there is none.
    """
    columns: dict[str, list[GradedAnswer]] = {}
    for answer in answers:
        columns.setdefault(answer.column, []).append(answer)
    return Evaluation(
        models={
            name: _model_figures(given, constitution=constitution, groups=groups, judge=judge)
            for name, given in columns.items()
        },
        comparisons=tuple(_win_rates(comparisons, groups=groups)),
        differences=tuple(_differences(columns, groups=groups)),
        reward=reward,
        graders=Graders(
            patterns=PatternGraders(
                principles=tuple(item.id for item in constitution.principles if item.patterns),
                unscored=tuple(item.id for item in constitution.principles if not item.patterns),
            ),
            judge=None
            if judge is None
            else _judge_grader([item for given in columns.values() for item in given], judge=judge),
        ),
    )


def _model_figures(
    answers: Sequence[GradedAnswer],
    *,
    constitution: Constitution,
    groups: Sequence[str],
    judge: Judge | None,
) -> ModelFigures:
    of = by_kind(answers)
    return ModelFigures(
        harmful=_kind_figures(of["harmful"], judge=judge),
        benign=_kind_figures(of["benign"], judge=judge),
        borderline=_kind_figures(of["borderline"], judge=judge),
        principles={
            item.id: _principle_figures(of["harmful"], principle_id=item.id, judge=judge)
            for item in constitution.principles
        },
        groups={name: _group_figures(own) for name, own in by_group(answers, groups).items()},
    )


def _kind_figures(answers: Sequence[GradedAnswer], *, judge: Judge | None) -> KindFigures:
    return KindFigures(
        n=len(answers),
        violation=rate(answers, _COMPARED["violation"]),
        helpful=rate(answers, _COMPARED["helpful"]),
        refusal=rate(answers, _COMPARED["refusal"]),
        alternative=rate(answers, _COMPARED["alternative"]),
        neither=rate(answers, lambda answer: answer.grades.neither),
        characters=_mean(answers, lambda answer: len(answer.text)),
        tokens=_mean(answers, _tokens),
        calls=_mean(answers, lambda answer: answer.calls),
        judge=None
        if judge is None
        else JudgedFigures(
            violation=rate(answers, _judged_violation(judge)),
            helpful=rate(answers, _judged_helpful),
        ),
    )


def _group_figures(answers: Sequence[GradedAnswer]) -> GroupFigures:
    return GroupFigures(
        n=len(answers),
        violation=rate(answers, _COMPARED["violation"]),
        helpful=rate(answers, _COMPARED["helpful"]),
        refusal=rate(answers, _COMPARED["refusal"]),
        alternative=rate(answers, _COMPARED["alternative"]),
    )


def _principle_figures(
    harmful: Sequence[GradedAnswer], *, principle_id: str, judge: Judge | None
) -> PrincipleFigures:
    asked = about(harmful, principle_id)
    violation = rate(asked, broken(principle_id))
    judged = None if judge is None else rate(asked, _judged_broken(principle_id, judge))
    return PrincipleFigures(n=violation.n, violation=violation, judge=judged)


def _differences(
    columns: Mapping[str, Sequence[GradedAnswer]], *, groups: Sequence[str]
) -> Iterator[Difference]:
    parts = {name: by_kind(own) | by_group(own, groups) for name, own in columns.items()}
    for column, asked in parts.items():
        for other in opponents(column, parts):
            for on, answers in asked.items():
                sides = (column, answers), (other, parts[other][on])
                for metric, verdict in _COMPARED.items():
                    found = difference(*sides, verdict, on=on, metric=metric)
                    if found is not None:
                        yield found


def _win_rates(comparisons: Iterable[HeadToHead], *, groups: Sequence[str]) -> Iterator[WinRate]:
    met: dict[tuple[str, str], list[HeadToHead]] = {}
    for each in comparisons:
        met.setdefault((each.first, each.second), []).append(each)
    for own in met.values():
        parts = {EVERYWHERE: own} | by_kind(own) | by_group(own, groups)
        for on, part in parts.items():
            if (found := win_rate(part, on=on)) is not None:
                yield found


def _judge_grader(answers: Sequence[GradedAnswer], *, judge: Judge) -> JudgeGrader:
    return JudgeGrader(
        model=judge.model.fingerprint,
        same_as_training=judge.same_as_training,
        threshold=judge.threshold,
        violation=agreement(
            [
                (answer.grades.violation, _judged_alike(answer, judge))
                for answer in answers
                if answer.kind == "harmful"
            ]
        ),
        helpful=agreement([(answer.grades.helpful, _judged_helpful(answer)) for answer in answers]),
    )


def _judged_violation(judge: Judge) -> Verdict:
    def verdict(answer: GradedAnswer) -> bool | None:
        if answer.judgement is None:
            return None
        return answer.judgement.violation(threshold=judge.threshold)

    return verdict


def _judged_alike(answer: GradedAnswer, judge: Judge) -> bool | None:
    """The judge's violation by the very principles that patterns could be asked about."""
    found = answer.judgement
    if found is None:
        return None
    asked = {key: p for key, p in found.p_broken.items() if key in answer.grades.violations}
    return found.model_copy(update={"p_broken": asked}).violation(threshold=judge.threshold)


def _judged_broken(principle_id: str, judge: Judge) -> Verdict:
    def verdict(answer: GradedAnswer) -> bool | None:
        if answer.judgement is None or principle_id not in answer.judgement.p_broken:
            return None
        return answer.judgement.p_broken[principle_id] >= judge.threshold

    return verdict


def _judged_helpful(answer: GradedAnswer) -> bool | None:
    return None if answer.judgement is None else answer.judgement.helpful


def _tokens(answer: GradedAnswer) -> int:
    return answer.usage.prompt_tokens + answer.usage.completion_tokens


def _mean(answers: Sequence[GradedAnswer], quantity: Callable[[GradedAnswer], float]) -> Mean:
    by_prompt: dict[str, list[float]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt_id, []).append(quantity(answer))
    estimate = mean_interval([math.fsum(own) / len(own) for own in by_prompt.values()])
    if estimate is None:
        return Mean(mean=None, low=None, high=None, n=0)
    bounded = math.isfinite(estimate.low)
    return Mean(
        mean=estimate.value,
        low=estimate.low if bounded else None,
        high=estimate.high if bounded else None,
        n=len(answers),
    )
