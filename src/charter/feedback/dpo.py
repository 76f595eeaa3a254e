"""Preferences -> policy, by the short path: no reward model, no rollouts.

A policy implies a reward: beta log(policy / reference). DPO trains that reward on the preferences,
soft labels and all. The reference is the SFT model as it stands before training; what it says of
the responses is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from transformers import PreTrainedModel

from charter.config import DpoConfig
from charter.console import Progress
from charter.constitution import Constitution
from charter.feedback.ordering import Ordering, accuracy_text, ordering
from charter.feedback.pairs import encoded_pairs, scored
from charter.learning.card import SPEAKS, CardFacts
from charter.learning.grids import Group
from charter.learning.lesson import (
    Lesson,
    Places,
    Tasks,
    Taught,
    TrainingResult,
    finished,
    keep,
    loss_facts,
    teach,
    training_facts,
)
from charter.learning.measured import Values, kept_logprobs, logprobs_of, place
from charter.learning.pairs import Compared, by_comparison, dpo_task, pair_layout, together
from charter.learning.pupil import Pupil
from charter.learning.tree import fitting_layout
from charter.records import PreferencePair

STAGE = "dpo"


class DpoResult(TrainingResult):
    """What DPO came to."""

    ordering: Ordering
    """Of the held-out pairs, by the reward that the policy implies."""


def dpo(
    preferences: Sequence[PreferencePair],
    *,
    validation: Sequence[PreferencePair],
    section: DpoConfig,
    pupil: Pupil,
    constitution: Constitution,
    seed: int,
    places: Places,
    progress: Progress,
) -> DpoResult:
    """Trains the pupil on preferences and saves it; a finished result is only read again.

    Args:
        preferences: What it learns from.
        validation: Preferences on other prompts, to find the turning point on.
        section: How it is trained.
        pupil: What is trained; as it stands it is the reference.
        constitution: What the preferences were made under; for the model card.
        seed: Of the run.
        places: Where model, checkpoints and metrics go.
        progress: Hears each step.

    Raises:
        GuardError: Training would be useless or has gone wrong.
        RunError: The checkpoints belong to another training, two preferences share an id, or
            memory ran out.
    """
    if (result := finished(places, DpoResult)) is not None:
        return result
    examples = encoded_pairs(preferences, section=section, pupil=pupil, stage=STAGE)
    held_out = encoded_pairs(validation, section=section, pupil=pupil, stage=STAGE)
    reference: Values = {}
    measured: dict[str, Compared] = {}

    def tasks(model: PreTrainedModel) -> Tasks:
        layout = pair_layout(model, examples.kept, section=section, stage=STAGE)
        read = partial(together, layout=layout, tokens_per_batch=section.tokens_per_batch)
        compared = read(examples.kept)
        measured.update(read(held_out.kept))
        # Adapters begin at zero: with them or without, this is the model as it was loaded.
        said = kept_logprobs(
            model,
            _groups({**compared, **measured}),
            layout=layout,
            tokens_per_batch=section.tokens_per_batch,
            at=places.checkpoints / "reference.safetensors",
            identity=pupil.identity(section.lora),
        )
        reference.update(said)
        task = partial(dpo_task, layout=layout, reference=said, beta=section.beta, stage=STAGE)
        return Tasks(task(compared), task(measured) if measured else None)

    too_long = (*examples.too_long, *held_out.too_long)
    lesson = Lesson(
        STAGE, section, seed, title=f"DPO on {pupil.source}", too_long=too_long, dropout=False
    )
    taught = teach(pupil, lesson=lesson, tasks=tasks, places=places, progress=progress)
    rewards = _implied_rewards(taught, measured, reference=reference, section=section)
    ordered = ordering(scored(validation, held_out.kept, by_comparison(measured, rewards)))
    result = DpoResult(**dict(taught.result), ordering=ordered)
    card = _card(result, section=section, pupil=pupil, constitution=constitution)
    keep(taught, pupil=pupil, result=result, card=card, places=places)
    return result


def _groups(compared: Mapping[str, Compared]) -> dict[str, Group]:
    return {name: one.group for name, one in compared.items()}


def _implied_rewards(
    taught: Taught, compared: Mapping[str, Compared], *, reference: Values, section: DpoConfig
) -> Values:
    """The rewards of all responses: beta log(policy / reference)."""
    groups = _groups(compared)
    if not groups:
        return {}
    place(taught.model)
    policy = logprobs_of(
        taught.model,
        groups,
        layout=fitting_layout(taught.model, probe=list(groups.values())),
        tokens_per_batch=section.tokens_per_batch,
    )
    return {
        name: tuple(
            section.beta * (ours - theirs)
            for ours, theirs in zip(policy[name], reference[name], strict=True)
        )
        for name in groups
    }


def _card(
    result: DpoResult, *, section: DpoConfig, pupil: Pupil, constitution: Constitution
) -> CardFacts:
    return CardFacts(
        title=f"{pupil.source}, taught by preferences under the constitution {constitution.name}",
        base_model=pupil.source,
        method=(
            "Trained by charter on soft preferences between responses (Bai et al. 2022, arXiv "
            "2212.08073, section 4) by direct preference optimisation (Rafailov et al. 2023, arXiv "
            "2305.18290)."
        ),
        constitution=constitution,
        data={
            "Preferences": f"{result.examples:,}",
            "Validation preferences, of other prompts": f"{result.validation_examples:,}",
            f"Left out as longer than {pupil.longest(section):,} tokens": (
                f"{len(result.too_long):,}"
            ),
        },
        training=training_facts(
            result, section=section, loss=f"DPO against soft labels, beta {section.beta:g}"
        ),
        results={
            **loss_facts(result, unit="comparison"),
            "Held-out pairs ordered as labelled, by implied reward": accuracy_text(
                result.ordering.accuracy
            ),
        },
        limits=(
            SPEAKS,
            "A lower loss says that it prefers what the labels prefer, not that it is safer.",
        ),
    )
