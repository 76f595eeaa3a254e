"""Demonstrations -> SFT model: a Hugging Face directory that loads anywhere.

The loss is on response tokens only, the terminator included. Validation, split by prompt, says
where training turns from learning to memorising; the model is the one of that point.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from charter.config import FinetuneConfig
from charter.console import Progress
from charter.constitution import Constitution
from charter.encoding import Example
from charter.learning.card import SPEAKS, CardFacts
from charter.learning.lesson import (
    Lesson,
    Places,
    Tasks,
    TrainingResult,
    finished,
    keep,
    loss_facts,
    teach,
    training_facts,
)
from charter.learning.pupil import Encoded, Pupil, encoded
from charter.learning.tokens import token_task
from charter.records import Demonstration, with_system_turn

_STAGE = "finetune"


def finetune(
    demonstrations: Sequence[Demonstration],
    *,
    validation: Sequence[Demonstration],
    section: FinetuneConfig,
    pupil: Pupil,
    constitution: Constitution,
    seed: int,
    places: Places,
    progress: Progress,
) -> TrainingResult:
    """Trains the pupil on demonstrations and saves it; a finished result is only read again.

    Args:
        demonstrations: What it learns to say.
        validation: Demonstrations of other prompts, to find the turning point on.
        section: How it is trained.
        pupil: What is trained.
        constitution: What the demonstrations were made under; for the model card.
        seed: Of the run.
        places: Where model, checkpoints and metrics go.
        progress: Hears each step.

    Raises:
        GuardError: Training would be useless or has gone wrong.
        RunError: The checkpoints belong to another training, two demonstrations share an id, or
            memory ran out.
    """
    if (result := finished(places, TrainingResult)) is not None:
        return result
    examples = _encoded(demonstrations, section=section, pupil=pupil)
    held_out = _encoded(validation, section=section, pupil=pupil)

    def tasks(model: PreTrainedModel) -> Tasks:
        return Tasks(
            token_task(model, examples.kept, stage=_STAGE),
            token_task(model, held_out.kept, stage=_STAGE) if held_out.kept else None,
        )

    lesson = Lesson(
        stage=_STAGE,
        section=section,
        seed=seed,
        title=f"Fine-tuning {pupil.source}",
        too_long=(*examples.too_long, *held_out.too_long),
    )
    taught = teach(pupil, lesson=lesson, tasks=tasks, places=places, progress=progress)
    card = _card(taught.result, section=section, pupil=pupil, constitution=constitution)
    keep(taught, pupil=pupil, result=taught.result, card=card, places=places)
    return taught.result


def _encoded(
    demonstrations: Sequence[Demonstration], *, section: FinetuneConfig, pupil: Pupil
) -> Encoded[Example]:
    def encode(item: Demonstration) -> Example:
        (answer,) = item.completion
        prompt = with_system_turn(item.prompt, section.system)
        return pupil.encoder.example(prompt, answer.content)

    return encoded(
        demonstrations,
        what="demonstrations",
        encode=encode,
        length=lambda example: len(example.ids),
        pupil=pupil,
        section=section,
        stage=_STAGE,
    )


def _card(
    result: TrainingResult, *, section: FinetuneConfig, pupil: Pupil, constitution: Constitution
) -> CardFacts:
    return CardFacts(
        title=f"{pupil.source}, taught by the constitution {constitution.name}",
        base_model=pupil.source,
        method=(
            "Fine-tuned by charter on the base model's own responses, criticised and revised "
            "under a constitution (Bai et al. 2022, arXiv 2212.08073, supervised stage)."
        ),
        constitution=constitution,
        data={
            "Demonstrations": f"{result.examples:,}",
            "Validation demonstrations, of other prompts": f"{result.validation_examples:,}",
            f"Left out as longer than {pupil.longest(section):,} tokens": (
                f"{len(result.too_long):,}"
            ),
        },
        training=training_facts(
            result,
            section=section,
            loss="cross-entropy of the response tokens, terminator included",
        ),
        results=loss_facts(result, unit="token"),
        limits=(
            SPEAKS,
            "A lower loss says that it imitates its demonstrations better, not that it is safer.",
        ),
    )
