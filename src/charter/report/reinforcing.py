"""Reinforcement learning: whether the model got better or learnt to please the reward model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from charter.config.feedback import ConstraintConfig
from charter.learning.curve import Point
from charter.learning.metrics import LookRow, StepRow
from charter.report.blocks import Block, Chart, Panel, Section, Words
from charter.report.charts import Mark, Series, Unit, line_chart
from charter.report.metrics import Reinforced
from charter.report.reading import Found

_Row = TypeVar("_Row", StepRow, LookRow)


class _Picture(NamedTuple):
    """What a chart shows."""

    title: str
    series: Sequence[Series]
    y_label: str
    unit: Unit = "number"
    from_zero: bool = False
    level: float | None = None
    caption: str = ""


def reinforcing_section(found: Found) -> Section | None:
    """The course of RL; None before its first step."""
    if not found.course:
        return None
    steps = [row for row in found.course if isinstance(row, StepRow)]
    looks = [row for row in found.course if isinstance(row, LookRow)]
    bound = found.config.reinforce.constraint if found.config else None
    pictures = (*_pictures(steps, looks), *_bounded(steps, bound))
    return Section(
        anchor="reinforcement",
        title="Reinforcement learning",
        lead="The reward is what the model is trained to raise. The judge's score on held-out "
        "prompts says whether the answers really get better: where it falls while the reward "
        "rises, the model games the reward, and training stops.",
        blocks=tuple(_blocks(pictures, result=found.reinforced)),
    )


def _blocks(pictures: Sequence[_Picture], *, result: Reinforced | None) -> Iterator[Block]:
    if result is not None:
        yield Words(_said(result))
        if result.stopped:
            yield Words(f"Stopped early: {result.stopped}", tone="warning")
    marks = tuple(_marks(result)) if result else ()
    charts = [chart for picture in pictures for chart in _chart(picture, marks=marks)]
    yield Panel(charts=tuple(charts))


def _pictures(steps: Sequence[StepRow], looks: Sequence[LookRow]) -> Iterator[_Picture]:
    """What every RL training measures."""
    reward = [
        Series("held-out", _points(looks, lambda row: row.reward), has_dots=True),
        Series("rollouts", _points(steps, lambda row: row.reward)),
    ]
    yield _Picture("Reward", reward, "mean reward")
    judge = [Series("held-out", _points(looks, lambda row: row.judge), has_dots=True)]
    yield _Picture("The judge's score", judge, "preferred to the SFT model", "percent")
    kl = [Series("rollouts", _points(steps, lambda row: row.kl_nats_per_response))]
    yield _Picture("Distance from the SFT model", kl, "KL, nats per response")
    entropy = [Series("rollouts", _points(steps, lambda row: row.entropy_nats))]
    yield _Picture("Entropy", entropy, "nats per token")
    length = [
        Series("held-out", _points(looks, lambda row: row.length_tokens), has_dots=True),
        Series("rollouts", _points(steps, lambda row: row.length_tokens)),
    ]
    yield _Picture("Length of answers", length, "tokens")
    habits = [
        Series("refusals", _points(looks, lambda row: row.refusal_share), has_dots=True),
        Series("boilerplate", _points(looks, lambda row: row.boilerplate_share), has_dots=True),
    ]
    yield _Picture("Habits", habits, "share of held-out answers", "percent", from_zero=True)


def _bounded(steps: Sequence[StepRow], bound: ConstraintConfig | None) -> Iterator[_Picture]:
    """The second reward, which is held above a level, and what it takes; none: no constraint."""
    values = [(float(row.step), row.constraint) for row in steps if row.constraint is not None]
    if not values:
        return
    yield _Picture(
        "The constraint",
        [Series("rollouts", values)],
        "mean of the second reward",
        level=bound.level if bound else None,
        caption=f"The second reward, {bound.reward}, is to stay above {bound.level:g}: the dashed "
        "line."
        if bound
        else "",
    )
    yield _Picture(
        "The constraint's weight",
        # Each step sets it for the next one; the first is taken without it.
        [Series("multiplier", [(0.0, 0.0), *_points(steps, lambda row: row.multiplier)])],
        "multiplier, for the next step",
        from_zero=True,
        caption="Beside the reward's, which is 1. It grows while the constraint is not met.",
    )


def _chart(picture: _Picture, *, marks: Sequence[Mark]) -> Iterator[Chart]:
    """The chart, or none where nothing of it was measured."""
    if any(line.points for line in picture.series):
        level = "" if picture.level is None else f", level {picture.level:g}"
        told = "".join(f", {mark.text}" for mark in marks)
        drawn = line_chart(
            picture.series,
            label=f"{picture.title}: {picture.y_label} over steps{level}{told}",
            x_label="step",
            y_label=picture.y_label,
            marks=marks,
            level=picture.level,
            unit=picture.unit,
            from_zero=picture.from_zero,
        )
        yield Chart(picture.title, drawn, picture.caption)


def _points(rows: Sequence[_Row], read: Callable[[_Row], float]) -> list[Point]:
    """What was measured, by step."""
    return [(float(row.step), read(row)) for row in rows]


def _said(result: Reinforced) -> str:
    """How far training went, and which weights it gave."""
    return (
        f"{result.steps:,} of {result.planned_steps:,} planned steps were taken. "
        f"The weights of step {result.kept_step:,} were kept."
    )


def _marks(result: Reinforced) -> Iterator[Mark]:
    yield Mark(result.kept_step, f"kept at {result.kept_step:,}")
    if result.stopped and result.steps != result.kept_step:
        yield Mark(result.steps, f"stopped at {result.steps:,}")
