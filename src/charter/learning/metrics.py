"""What training measures: a row a step and a row a validation, and where validation turns up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from charter.records import Record


class TrainRow(Record):
    """One optimizer step."""

    kind: Literal["train"] = "train"
    step: int
    """Counts from 1."""
    epoch: float
    """Passes over the training examples, this step included."""
    tokens: int
    """Read so far, prompts included, padding not."""
    loss: float
    """Mean over the step's response tokens, in nats, before the step."""
    lr: float
    grad_norm: float
    """Before clipping."""
    tokens_per_s: float


class ValidationRow(Record):
    """Validation after so many optimizer steps; step 0 is before training."""

    kind: Literal["validation"] = "validation"
    step: int
    loss: float
    """Mean over all validation response tokens, in nats."""


class StepRow(Record):
    """One step of RL: a round of rollouts and what was learnt from it."""

    kind: Literal["step"] = "step"
    step: int
    """Counts from 1."""
    loss: float
    """Mean over the step's response tokens, before its last update."""
    lr: float
    grad_norm: float
    """Before clipping."""
    reward: float
    """Mean over the rollouts, penalties included."""
    reward_spread: float
    """Standard deviation within groups, averaged over them."""
    idle_share: float
    """Groups whose responses all got one reward: they teach nothing."""
    kl_nats: float
    """KL(policy || reference) per response token (k3 estimate)."""
    kl_nats_per_response: float
    entropy_nats: float
    """Of the policy per response token, estimated from what it sampled."""
    length_tokens: float
    truncated_share: float
    """Responses that were cut off."""
    clipped_share: float
    """Response tokens whose probability moved further than `clip` allows."""
    sampler_gap_nats: float
    """Mean distance between a token's log-probability when sampled and when trained on."""
    kl_weight: float
    """For the next step: it may adapt."""
    multiplier: float = 0.0
    """Of the constraint, for the next step."""
    constraint: float | None = None
    """Mean of the second reward."""
    rehearsed: float | None = None
    """Loss per token of the demonstrations that were rehearsed, in nats."""
    seconds: float


class LookRow(Record):
    """A look at responses to prompts that RL does not train on; step 0 is the reference's own."""

    kind: Literal["look"] = "look"
    step: int
    reward: float
    """Mean of what is maximised."""
    judge: float
    """The judge's mean probability that the policy's response beats the reference's."""
    judge_error: float
    """Standard error of that mean."""
    length_tokens: float
    refusal_share: float
    boilerplate_share: float
    """Responses that close with their most overused sentence, beyond the reference's use of it."""


TrainingRow = TrainRow | ValidationRow
"""What `train.py` writes; RL writes steps and looks."""

Row = Annotated[TrainingRow | StepRow | LookRow, Field(discriminator="kind")]


def turning_point(rows: Sequence[Row], *, min_delta: float) -> ValidationRow | None:
    """The last validation of the trained model that fell by `min_delta` below all before it.

    None before the first. Where training goes on too long, validation loss turns up from here.
    """
    best: ValidationRow | None = None
    for row in _validations(rows):
        if best is None or row.loss <= best.loss - min_delta:
            best = row
    return best


def has_turned(rows: Sequence[Row], *, patience: int, min_delta: float) -> bool:
    """Whether `patience` validations have passed since the turning point."""
    best = turning_point(rows, min_delta=min_delta)
    if best is None:
        return False
    return sum(row.step > best.step for row in _validations(rows)) >= patience


def _validations(rows: Sequence[Row]) -> list[ValidationRow]:
    return [row for row in rows if isinstance(row, ValidationRow) and row.step > 0]


def append_row(path: Path, row: Row) -> None:
    """Adds one row, in one write, so that a reader meets whole lines only."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, row.model_dump_json().encode() + b"\n")
    finally:
        os.close(file)
