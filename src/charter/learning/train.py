"""The loop in which weights change: steps, validations, checkpoints, and the guards that stop it.

What one step reads and draws is a function of (seed, step) alone. So an interrupted training goes
on bit for bit where its last checkpoint stands, on a CPU, and no random state has to be kept.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from charter.console import Progress, Silent, under_way
from charter.errors import GuardError, RunError
from charter.learning.batches import Step
from charter.learning.checkpoints import (
    Cadence,
    Checkpoint,
    TrainingState,
    discard_after,
    load_best,
    load_step,
    save_best,
    save_step,
)
from charter.learning.course import Course, plan_course
from charter.learning.learner import (
    Learner,
    apply_gradients,
    finish,
    gradients,
    mean_loss,
    moments,
    prepare,
    set_moments,
    set_weights,
    weights,
)
from charter.learning.memory import memory_for
from charter.learning.metrics import TrainingRow, TrainRow, ValidationRow, append_row
from charter.learning.processes import seed_draws
from charter.learning.recipe import Recipe
from charter.learning.shards import is_spread
from charter.learning.task import Task
from charter.run import write_jsonl
from charter.seeding import derive

_FEW_EXAMPLES = 100
_NAMED = 5
"""Items a message names at most."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeping:
    """Where a training leaves its traces."""

    checkpoints: Path
    """A directory; a training whose checkpoints it holds is gone on with."""
    metrics: Path
    """A JSONL file of rows."""
    checkpoint_every_s: float


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    rows: tuple[TrainingRow, ...]
    planned_steps: int
    steps: int
    """Steps taken: fewer than planned where validation loss turned up."""
    best: ValidationRow | None
    """Whose weights the model has; None: nothing was held out, they are the last step's."""


def train(
    model: PreTrainedModel,
    *,
    task: Task,
    validation: Task | None,
    recipe: Recipe,
    seed: int,
    identity: str,
    keeping: Keeping,
    progress: Progress,
    shard: bool = False,
) -> Outcome:
    """Trains the model in place, and leaves it with the weights of its best validation.

    Args:
        model: What learns: those of its parameters that require a gradient, kept in float32.
        task: What it learns.
        validation: The same of other items, which its progress is measured on; None: nothing is
            held out.
        recipe: The numbers of the training.
        seed: Of the run.
        identity: Names the model; with task, recipe and seed it names the training.
        keeping: Where checkpoints and metrics go.
        progress: Hears each step.
        shard: Whether the model is spread over the processes while it learns; it is left on the
            CPU, since not every use of it needs a device.

    Raises:
        GuardError: The loss is no number any more.
        RunError: The checkpoints belong to another training, or memory ran out.
    """
    _warn_of_little(task, validation)
    with memory_for("the start of training", stage=task.stage):
        longest = max(task.lengths.values(), default=0)
        learner = prepare(model, weight_decay=recipe.weight_decay, longest=longest, shard=shard)
        course = plan_course(task, validation=validation, recipe=recipe, seed=seed, model=identity)
        rows = _start(learner, course, keeping)
    # Processes agree on every number here; one of them writes it down.
    told = progress if learner.processes.is_main_process else Silent()
    with under_way(told, "training", total=course.planned_steps):
        _learn(learner, course, rows, keeping, told)
        outcome = _end(learner, model, course, rows, keeping)
        told.finish(_summary(outcome))
    if is_spread(learner.model):
        del learner
        gc.collect()  # shares and moments lie in circles: they would stay where the model goes next
    return outcome


def _learn(
    learner: Learner, course: Course, rows: list[TrainingRow], keeping: Keeping, told: Progress
) -> None:
    """Takes the steps that are left, and adds their rows."""
    taken = max((row.step for row in rows), default=0)
    told.advance(taken)
    cadence = Cadence(keeping.checkpoint_every_s)
    turned = course.has_turned(rows)
    for step, names in enumerate(course.steps_after(taken), start=taken + 1):
        if turned:
            break
        with memory_for(f"step {step} of training", stage=course.task.stage):
            new = _take_step(learner, course, step, names, rows)
        rows.extend(new)
        turned = course.has_turned(rows) if len(new) > 1 else False
        _keep_rows(learner, course, rows, new, keeping)
        cadence.save_if_due(lambda step=step: _save(learner, course, step, rows, keeping))
        told.advance(note=", ".join(f"{row.kind} {row.loss:.3f}" for row in new))


def _warn_of_little(task: Task, validation: Task | None) -> None:
    if task.examples < _FEW_EXAMPLES:
        _log.warning(
            "only %d examples to train on: so few may change nothing (in a public study 42 pairs "
            "did not); a few hundred are a start",
            task.examples,
        )
    if validation is None:
        _log.warning(
            "no examples to validate on: the turning point cannot be found, all epochs are run"
        )


def _start(learner: Learner, course: Course, keeping: Keeping) -> list[TrainingRow]:
    """The rows so far, with weights and moments to match: from a checkpoint, or from the start."""
    found = load_step(keeping.checkpoints)
    if found is not None and found.state.identity != course.identity:
        raise RunError(
            f"{keeping.checkpoints} holds checkpoints of another training (other examples, "
            "settings or model). Use another run directory, or remove that one to start anew"
        )
    rows: list[TrainingRow] = []
    if found is not None:
        _log.info("going on from step %d", found.state.step)
        set_weights(learner, found.weights)
        set_moments(learner, found.moments)
        rows.extend(row for row in found.state.rows if isinstance(row, TrainingRow))
    elif course.validation is not None:
        rows.append(ValidationRow(step=0, loss=_validation_loss(learner, course)))
    learner.processes.wait_for_everyone()
    if learner.processes.is_main_process:
        discard_after(keeping.checkpoints, step=found.state.step if found else 0)
        write_jsonl(keeping.metrics, rows)
    return rows


def _take_step(
    learner: Learner, course: Course, step: int, names: Step, rows: Sequence[TrainingRow]
) -> list[TrainingRow]:
    """One optimizer step: its row, and that of the validation that may follow it."""
    began = time.monotonic()
    # Dropout draws from the seed of the step, so nothing has to be remembered between steps.
    seed_draws(derive(course.seed, "step", step, learner.processes.process_index))
    lr = course.lr_of(step)
    loss = gradients(learner, course.task, names)
    _require_finite(loss, "loss", course=course, step=step, names=names)
    grad_norm = apply_gradients(learner, lr=lr, max_grad_norm=course.recipe.max_grad_norm)
    _require_finite(grad_norm, "gradient norm", course=course, step=step, names=names)
    read = sum(course.task.lengths[name] for batch in names for name in batch)
    row = TrainRow(
        step=step,
        epoch=step / course.steps_per_epoch,
        tokens=read + next((row.tokens for row in reversed(rows) if row.kind == "train"), 0),
        loss=loss,
        lr=lr,
        grad_norm=grad_norm,
        tokens_per_s=read / (time.monotonic() - began),
    )
    if not course.validates_after(step):
        return [row]
    return [row, ValidationRow(step=step, loss=_validation_loss(learner, course))]


def _validation_loss(learner: Learner, course: Course) -> float:
    assert course.validation is not None
    loss = mean_loss(learner, course.validation, tokens_per_batch=course.recipe.tokens_per_batch)
    if not math.isfinite(loss):
        raise GuardError(
            f"validation loss is {loss}: the model gives some response no probability at all. "
            f"Lower `{course.task.stage}.lr`, or load the model in float32"
        )
    return loss


def _require_finite(value: float, what: str, *, course: Course, step: int, names: Step) -> None:
    if math.isfinite(value):
        return
    flat = [name for batch in names for name in batch]
    rest = f" and {len(flat) - _NAMED} more" if len(flat) > _NAMED else ""
    raise GuardError(
        f"{what} is {value} at step {step} (learning rate {course.lr_of(step):.2g}, "
        f"examples {', '.join(flat[:_NAMED])}{rest}). Training stopped before the weights were "
        f"changed by it. Lower `{course.task.stage}.lr`, or load the model in float32"
    )


def _keep_rows(
    learner: Learner,
    course: Course,
    rows: Sequence[TrainingRow],
    new: Sequence[TrainingRow],
    keeping: Keeping,
) -> None:
    is_main = learner.processes.is_main_process
    if is_main:
        for row in new:
            append_row(keeping.metrics, row)
    last = new[-1]
    if last.kind == "validation" and last == course.best(rows):
        best = weights(learner)
        if is_main:
            save_best(keeping.checkpoints, last.step, weights=best)


def _save(
    learner: Learner, course: Course, step: int, rows: Sequence[TrainingRow], keeping: Keeping
) -> None:
    """Has the main process save a checkpoint, to which all contribute."""
    best = course.best(rows)
    state = TrainingState(
        identity=course.identity,
        step=step,
        rows=tuple(rows),
        best_step=best.step if best else None,
    )
    checkpoint = Checkpoint(state, weights=weights(learner), moments=moments(learner))
    if learner.processes.is_main_process:
        save_step(keeping.checkpoints, checkpoint)


def _end(
    learner: Learner,
    model: PreTrainedModel,
    course: Course,
    rows: Sequence[TrainingRow],
    keeping: Keeping,
) -> Outcome:
    """What came of it, with the best weights in the model."""
    learner.processes.wait_for_everyone()
    best = course.best(rows)
    finish(learner, model, kept=load_best(keeping.checkpoints, best.step) if best else None)
    before = next((row for row in rows if row.kind == "validation"), None)
    if best is not None and before is not None and best.loss >= before.loss:
        _log.warning(
            "training did not lower validation loss: %.4f before, %.4f at best",
            before.loss,
            best.loss,
        )
    steps = max(row.step for row in rows)
    return Outcome(tuple(rows), planned_steps=course.planned_steps, steps=steps, best=best)


def _summary(outcome: Outcome) -> str:
    best = outcome.best
    if best is None:
        return f"{outcome.steps} steps"
    return f"best: step {best.step}, validation {best.loss:.3f}"
