"""A training on known examples: both losses over the steps, and where validation turned up."""

from __future__ import annotations

from collections.abc import Iterator

from charter.report.blocks import Chart, Fact, Facts, Panel
from charter.report.charts import Mark, Series, line_chart
from charter.report.metrics import TrainingResult
from charter.report.reading import Training


def training_panel(training: Training, *, examples: str, unit: str) -> Panel:
    """The course of a training.

    Args:
        training: It, finished or not.
        examples: What it learnt from, in a word.
        unit: What the loss is a mean over.
    """
    result = training.result
    facts = tuple(_facts(result, examples=examples, unit=unit)) if result else ()
    return Panel(
        charts=(_curve(training, unit=unit),), facts=(Facts("Training", facts),) if facts else ()
    )


def _curve(training: Training, *, unit: str) -> Chart:
    rows = training.rows
    validation = [(float(row.step), row.loss) for row in rows if row.kind == "validation"]
    steps = [(float(row.step), row.loss) for row in rows if row.kind == "train"]
    best = training.result and training.result.best_step
    turn = "" if best is None else f", the best at step {best:,}"
    picture = line_chart(
        [Series("validation", validation, has_dots=True), Series("training", steps)],
        label=f"Training and validation loss over optimizer steps{turn}",
        x_label="optimizer step",
        y_label=f"loss, nats per {unit}",
        marks=() if best is None else (Mark(best, f"kept: step {best:,}"),),
    )
    return Chart("Loss", picture)


def _facts(result: TrainingResult, *, examples: str, unit: str) -> Iterator[Fact]:
    yield Fact("steps", f"{result.steps:,} of {result.planned_steps:,} planned")
    yield Fact("kept", f"step {result.best_step:,}")
    if result.validation_before is not None and result.validation_loss is not None:
        yield Fact(
            "validation loss",
            f"{result.validation_before:.3f} \u2192 {result.validation_loss:.3f} nats per {unit}",
        )
    yield Fact(examples, f"{result.examples:,}")
    yield Fact("held out for validation", f"{result.validation_examples:,}")
    yield Fact("weights changed", f"{result.trained_parameters:,} of {result.parameters:,}")
    yield Fact("highest learning rate", f"{result.lr:.3g}")
