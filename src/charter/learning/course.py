"""One training, fully determined before it begins: what each step reads, how far it moves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from charter.learning.batches import Examples, Step, plan_epoch, plan_steps
from charter.learning.metrics import Row, ValidationRow, has_turned, turning_point
from charter.learning.recipe import Recipe, lr_at
from charter.records import content_hash


@dataclass(frozen=True)
class Course:
    """One training, fully determined."""

    examples: Examples
    validation: Examples
    recipe: Recipe
    seed: int
    identity: str
    """Names model, data, recipe and seed: all that may not change between two starts."""
    lengths: Mapping[str, int]
    steps_per_epoch: int
    planned_steps: int
    validate_every: int

    def steps_after(self, taken: int) -> Iterator[Step]:
        """The examples of each step that is still to take."""
        return plan_steps(
            self.lengths,
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
        return due and bool(self.validation)

    def has_turned(self, rows: Sequence[Row]) -> bool:
        """Whether validation loss has turned up for good."""
        return has_turned(rows, patience=self.recipe.patience, min_delta=self.recipe.min_delta)

    def best(self, rows: Sequence[Row]) -> ValidationRow | None:
        """The validation whose weights are to be kept."""
        return turning_point(rows, min_delta=self.recipe.min_delta)


def plan_course(
    examples: Examples, *, validation: Examples, recipe: Recipe, seed: int, model: str
) -> Course:
    """The course of training a model, which `model` names, on these examples."""
    lengths = {name: len(example.ids) for name, example in examples.items()}
    steps_per_epoch = len(
        plan_epoch(
            lengths,
            tokens_per_batch=recipe.tokens_per_batch,
            accumulate=recipe.accumulate,
            seed=seed,
            epoch=0,
        )
    )
    data = [
        {name: [example.ids, example.prompt_length] for name, example in part.items()}
        for part in (examples, validation)
    ]
    return Course(
        examples=examples,
        validation=validation,
        recipe=recipe,
        seed=seed,
        identity=content_hash([model, asdict(recipe), seed, data]),
        lengths=lengths,
        steps_per_epoch=steps_per_epoch,
        planned_steps=math.ceil(recipe.epochs * steps_per_epoch),
        validate_every=recipe.validate_every or max(1, steps_per_epoch // 4),
    )
