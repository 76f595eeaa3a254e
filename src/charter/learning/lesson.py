"""One training, from a section of the configuration to a directory that loads anywhere.

What all trainings on known examples share. What they are about is a `Task`; what is left of one
is the model, `training.json` beside its weights, a card, the metrics, and a picture of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from charter.config import TrainingConfig
from charter.console import Progress
from charter.encoding import Encoder
from charter.errors import RunError
from charter.launch import from_main
from charter.learning.card import CardFacts, model_card
from charter.learning.checkpoints import whole_directory
from charter.learning.curve import loss_curve
from charter.learning.memory import memory_for
from charter.learning.metrics import TrainRow, ValidationRow
from charter.learning.pretrained import made_trainable, save_trained
from charter.learning.processes import join_processes
from charter.learning.pupil import Pupil
from charter.learning.recipe import recipe_of
from charter.learning.task import Task
from charter.learning.train import Keeping, Outcome, train
from charter.records import Record
from charter.run import write_atomically

RESULT = "training.json"
"""What a finished training came to, beside its weights."""


@dataclass(frozen=True)
class Places:
    """Where a training writes."""

    out: Path
    """The model. That it is there means that it is complete."""
    checkpoints: Path
    """Removed when the model is there."""
    metrics: Path
    """JSONL; the picture of both losses lies beside it, as SVG."""


class TrainingResult(Record):
    """What a training came to; losses are in nats per unit of its task."""

    examples: int
    validation_examples: int
    too_long: tuple[str, ...]
    """Ids of examples that were left out for their length."""
    parameters: int
    trained_parameters: int
    lr: float
    planned_steps: int
    steps: int
    """Steps taken; fewer than planned where validation loss turned up."""
    tokens: int
    """Read in all steps, prompts included."""
    best_step: int
    """The step whose weights were kept."""
    train_loss: float
    """Of the last step."""
    validation_before: float | None
    """None, as the next: nothing was held out."""
    validation_loss: float | None
    """At `best_step`."""


class Save(Protocol):
    """Fills a directory with a model and what belongs to it."""

    def __call__(
        self,
        model: PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase,
        encoder: Encoder,
        directory: Path,
        dtype: torch.dtype,
    ) -> None:
        """See `pretrained.save_trained`."""
        ...


Result = TypeVar("Result", bound=Record)


def finished(places: Places, kind: type[Result]) -> Result | None:
    """What a finished training came to; None: it is not finished.

    Raises:
        RunError: Its result cannot be read.
    """
    return from_main(lambda: _read_result(places, kind))


def _read_result(places: Places, kind: type[Result]) -> Result | None:
    if not places.out.exists():
        return None
    path = places.out / RESULT
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(
            f"{path}: the result of a finished training cannot be read. Delete {places.out} to "
            "train again, or restore the file."
        ) from error


@dataclass(frozen=True)
class Lesson:
    """What is taught, and how."""

    stage: str
    """The section of the configuration that rules it; for messages."""
    section: TrainingConfig
    seed: int
    """Of the run."""
    title: str
    """Of the picture of its losses."""
    too_long: tuple[str, ...]
    """Ids of examples that were left out for their length."""
    dropout: bool = True
    """See `made_trainable`."""


class Tasks(NamedTuple):
    """What a model is to learn, and the same of held-out items; None: nothing is held out."""

    training: Task
    validation: Task | None


@dataclass(frozen=True, eq=False)
class Trained:
    """A model to be saved."""

    model: PreTrainedModel
    dtype: torch.dtype
    """That it was loaded in, and is saved in."""


@dataclass(frozen=True, eq=False)
class Taught(Trained):
    """A model that has learnt, and has the weights of its best validation."""

    result: TrainingResult


def teach(
    pupil: Pupil,
    *,
    lesson: Lesson,
    tasks: Callable[[PreTrainedModel], Tasks],
    places: Places,
    progress: Progress,
) -> Taught:
    """Trains the pupil, and draws the curve of it; `keep` makes a directory of what it became.

    Args:
        pupil: What is trained.
        lesson: How it is trained.
        tasks: Gives what is learnt, for the model as it will be trained.
        places: Where checkpoints and metrics go.
        progress: Hears each step.

    Raises:
        GuardError: Training would be useless or has gone wrong.
        RunError: The checkpoints belong to another training, or memory ran out.
    """
    section, dtype = lesson.section, pupil.model.dtype
    recipe = recipe_of(section, parameters=pupil.model.num_parameters())
    with memory_for("the start of training", stage=lesson.stage):
        model = made_trainable(
            pupil.model,
            lora=section.lora,
            seed=lesson.seed,
            stage=lesson.stage,
            gradient_checkpointing=section.gradient_checkpointing,
            dropout=lesson.dropout,
        )
        training, validation = tasks(model)
    outcome = train(
        model,
        task=training,
        validation=validation,
        recipe=recipe,
        seed=lesson.seed,
        identity=pupil.identity(section.lora),
        keeping=Keeping(places.checkpoints, places.metrics, section.checkpoint_every_s),
        progress=progress,
        shard=section.shard,
    )
    picture = loss_curve(outcome.rows, best=outcome.best, title=lesson.title, unit=training.unit)
    from_main(lambda: write_atomically(places.metrics.with_suffix(".svg"), picture))
    result = _result(outcome, Tasks(training, validation), lesson=lesson, model=model, lr=recipe.lr)
    return Taught(model, dtype, result)


def keep(
    trained: Trained,
    *,
    pupil: Pupil,
    result: Record,
    card: CardFacts,
    places: Places,
    save: Save = save_trained,
) -> None:
    """Saves what the pupil has become, with its papers; the checkpoints have served.

    Every process must come here; one of them writes, and all go on when the model is there.

    Args:
        trained: What to save.
        pupil: Whose tokenizer and template go with it.
        result: For a rerun, which reads it and trains no more.
        card: For people.
        places: Where it goes.
        save: How such a model is saved.

    Raises:
        RunError: The disk is full, or may not be written to.
    """

    def write() -> None:
        with whole_directory(places.out) as partial:
            save(
                trained.model,
                tokenizer=pupil.tokenizer,
                encoder=pupil.encoder,
                directory=partial,
                dtype=trained.dtype,
            )
            (partial / "README.md").write_text(model_card(card), encoding="utf-8")
            text = result.model_dump_json(indent=2) + "\n"
            (partial / RESULT).write_text(text, encoding="utf-8")
        shutil.rmtree(places.checkpoints, ignore_errors=True)

    join_processes().wait_for_everyone()  # another may still read the checkpoints
    from_main(write)


def training_facts(result: TrainingResult, *, section: TrainingConfig, loss: str) -> dict[str, str]:
    """How a model was trained, for its card; `loss` says what was made small."""
    lora = section.lora
    return {
        "Weights changed": f"{result.trained_parameters:,} of {result.parameters:,}"
        + (f" (LoRA, rank {lora.rank}, alpha {lora.alpha:g})" if lora else ""),
        "Loss": loss,
        "Highest learning rate": f"{result.lr:.3g}, warm-up {section.warmup_share:.0%}, cosine",
        "Tokens per optimizer step": f"up to {section.tokens_per_batch:,} x {section.accumulate}",
        "Optimizer": f"AdamW, weight decay {section.weight_decay:g}, gradient norm clipped at "
        f"{section.max_grad_norm:g}",
        "Steps": f"{result.steps:,} of {result.planned_steps:,} ({section.epochs:g} epochs)",
        "Tokens read": f"{result.tokens:,}",
    }


def loss_facts(result: TrainingResult, *, unit: str) -> dict[str, str]:
    """What training came to, for the card."""

    def nats(loss: float | None) -> str:
        return "not measured" if loss is None else f"{loss:.4f} nats per {unit}"

    return {
        "Training loss, last step": nats(result.train_loss),
        "Validation loss before": nats(result.validation_before),
        "Validation loss of this model": nats(result.validation_loss),
        "Turning point": f"step {result.best_step:,}",
    }


def _result(
    outcome: Outcome, tasks: Tasks, *, lesson: Lesson, model: PreTrainedModel, lr: float
) -> TrainingResult:
    last = [row for row in outcome.rows if isinstance(row, TrainRow)][-1]
    before = next((row for row in outcome.rows if isinstance(row, ValidationRow)), None)
    best = outcome.best
    counts = [(value.numel(), value.requires_grad) for value in model.parameters()]
    return TrainingResult(
        examples=tasks.training.examples,
        validation_examples=tasks.validation.examples if tasks.validation else 0,
        too_long=lesson.too_long,
        parameters=sum(count for count, _ in counts),
        trained_parameters=sum(count for count, is_trained in counts if is_trained),
        lr=lr,
        planned_steps=outcome.planned_steps,
        steps=outcome.steps,
        tokens=last.tokens,
        best_step=best.step if best else outcome.steps,
        train_loss=last.loss,
        validation_before=before.loss if before else None,
        validation_loss=best.loss if best else None,
    )
