"""One training, fully determined before it begins: what each step reads, how far it moves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from charter.learning.batches import Step, plan_epoch, plan_steps
from charter.learning.metrics import Row, ValidationRow, has_turned, turning_point
from charter.learning.recipe import Recipe, lr_at
from charter.learning.task import Task
from charter.records import content_hash


@dataclass(frozen=True)
class Course:
    """One training, fully determined."""

    task: Task
    validation: Task | None
    recipe: Recipe
    seed: int
    identity: str
    """Names model, data, recipe and seed: all that may not change between two starts."""
    steps_per_epoch: int
    planned_steps: int
    validate_every: int

    def steps_after(self, taken: int) -> Iterator[Step]:
        """The items of each step that is still to take."""
        return plan_steps(
            self.task.lengths,
            tokens_per_batch=self.recipe.tokens_per_batch,
            accumulate=self.recipe.accumulate,
            seed=self.seed,
            start=taken,
            stop=self.planned_steps,
        )

    def lr_of(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        return lr_at(
            step - 1,
            peak=self.recipe.lr,
            steps=self.planned_steps,
            warmup_share=self.recipe.warmup_share,
        )

    def validates_after(self, step: int) -> bool:
        """Whether validation follows this step: at intervals, and at the end."""
        due = step % self.validate_every == 0 or step == self.planned_steps
        return due and self.validation is not None

    def has_turned(self, rows: Sequence[Row]) -> bool:
        """Whether validation loss has turned up for good."""
        return has_turned(rows, patience=self.recipe.patience, min_delta=self.recipe.min_delta)

    def best(self, rows: Sequence[Row]) -> ValidationRow | None:
        """The validation whose weights are to be kept."""
        return turning_point(rows, min_delta=self.recipe.min_delta)


def plan_course(
    task: Task, *, validation: Task | None, recipe: Recipe, seed: int, model: str
) -> Course:
    """The course of training a model, which `model` names, on a task."""
    steps_per_epoch = len(
        plan_epoch(
            task.lengths,
            tokens_per_batch=recipe.tokens_per_batch,
            accumulate=recipe.accumulate,
            seed=seed,
            epoch=0,
        )
    )
    data = [task.digest, validation and validation.digest]
    return Course(
        task=task,
        validation=validation,
        recipe=recipe,
        seed=seed,
        identity=content_hash([model, asdict(recipe), seed, data]),
        steps_per_epoch=steps_per_epoch,
        planned_steps=math.ceil(recipe.epochs * steps_per_epoch),
        validate_every=recipe.validate_every or max(1, steps_per_epoch // 4),
    )
