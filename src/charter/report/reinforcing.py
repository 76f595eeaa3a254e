"""Reinforcement learning: whether the model got better or learnt to please the reward model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from charter.learning.curve import Point
from charter.learning.metrics import LookRow, StepRow
from charter.report.blocks import Block, Chart, Panel, Section, Words
from charter.report.charts import Mark, Series, Unit, line_chart
from charter.report.metrics import Reinforced
from charter.report.reading import Found

_Row = TypeVar("_Row", StepRow, LookRow)


def reinforcing_section(found: Found) -> Section | None:
    """The course of RL; None before its first step."""
    if not found.course:
        return None
    steps = [row for row in found.course if isinstance(row, StepRow)]
    looks = [row for row in found.course if isinstance(row, LookRow)]
    return Section(
        anchor="reinforcement",
        title="Reinforcement learning",
        lead="The reward is what the model is trained to raise. The judge's score on held-out "
        "prompts says whether the answers really get better: where it falls while the reward "
        "rises, the model games the reward, and training stops.",
        blocks=tuple(_blocks(steps, looks, result=found.reinforced)),
    )


def _blocks(
    steps: Sequence[StepRow], looks: Sequence[LookRow], *, result: Reinforced | None
) -> Iterator[Block]:
    if result is not None:
        yield Words(_said(result))
        if result.stopped:
            yield Words(f"Stopped early: {result.stopped}", tone="warning")
    marks = tuple(_marks(result)) if result else ()
    charts = [
        chart
        for title, series, y_label, unit in _pictures(steps, looks)
        for chart in _chart(title, series, y_label=y_label, unit=unit, marks=marks)
    ]
    yield Panel(charts=tuple(charts))


def _pictures(
    steps: Sequence[StepRow], looks: Sequence[LookRow]
) -> Iterator[tuple[str, list[Series], str, Unit]]:
    """Title, lines, name of the vertical axis and unit of every chart."""
    reward = [
        Series("held-out", _points(looks, lambda row: row.reward), has_dots=True),
        Series("rollouts", _points(steps, lambda row: row.reward)),
    ]
    yield "Reward", reward, "mean reward", "number"
    judge = [Series("held-out", _points(looks, lambda row: row.judge), has_dots=True)]
    yield "The judge's score", judge, "preferred to the SFT model", "percent"
    kl = [Series("rollouts", _points(steps, lambda row: row.kl_nats_per_response))]
    yield "Distance from the SFT model", kl, "KL, nats per response", "number"
    entropy = [Series("rollouts", _points(steps, lambda row: row.entropy_nats))]
    yield "Entropy", entropy, "nats per token", "number"
    length = [
        Series("held-out", _points(looks, lambda row: row.length_tokens), has_dots=True),
        Series("rollouts", _points(steps, lambda row: row.length_tokens)),
    ]
    yield "Length of answers", length, "tokens", "number"
    habits = [
        Series("refusals", _points(looks, lambda row: row.refusal_share), has_dots=True),
        Series("boilerplate", _points(looks, lambda row: row.boilerplate_share), has_dots=True),
    ]
    yield "Habits", habits, "share of held-out answers", "percent"


def _chart(
    title: str, series: Sequence[Series], *, y_label: str, unit: Unit, marks: Sequence[Mark]
) -> Iterator[Chart]:
    """The chart, or none where nothing of it was measured."""
    if any(line.points for line in series):
        told = "".join(f", {mark.text}" for mark in marks)
        picture = line_chart(
            series,
            label=f"{title}: {y_label} over steps{told}",
            x_label="step",
            y_label=y_label,
            marks=marks,
            unit=unit,
            from_zero=len(series) > 1 and unit == "percent",
        )
        yield Chart(title, picture)


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
