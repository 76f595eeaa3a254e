"""Preferences -> policy, by the short path: no reward model, no rollouts.

A policy implies a reward: beta log(policy / reference). DPO trains that reward on the preferences,
soft labels and all. The reference is the SFT model as it stands before training; what it says of
the responses is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

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
from charter.learning.pairs import Compared, Pair, by_comparison, dpo_task, pair_layout, together
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
    # Adapters begin at zero: with them or without, the reference is the model as it was loaded.
    heard = _Heard(
        examples.kept,
        held_out.kept,
        section=section,
        identity=pupil.identity(section.lora),
        at=places.checkpoints / "reference.safetensors",
    )
    too_long = (*examples.too_long, *held_out.too_long)
    lesson = Lesson(
        STAGE, section, seed, title=f"DPO on {pupil.source}", too_long=too_long, dropout=False
    )
    taught = teach(pupil, lesson=lesson, tasks=heard.tasks, places=places, progress=progress)
    ordered = ordering(scored(validation, held_out.kept, heard.implied_rewards(taught)))
    result = DpoResult(**dict(taught.result), ordering=ordered)
    card = _card(result, section=section, pupil=pupil, constitution=constitution)
    keep(taught, pupil=pupil, result=result, card=card, places=places)
    return result


@dataclass
class _Heard:
    """Preferences, and what the reference says of their responses."""

    examples: Mapping[str, Pair]
    held_out: Mapping[str, Pair]
    section: DpoConfig
    identity: str
    """Of the reference."""
    at: Path
    """Where its word is kept."""
    compared: dict[str, Compared] = field(default_factory=dict["str", "Compared"])
    """What is held out, as it is read."""
    reference: Values = field(default_factory=dict["str", "tuple[float, ...]"])

    def tasks(self, model: PreTrainedModel) -> Tasks:
        """What the model is to learn; before it does, it is asked as the reference."""
        section = self.section
        layout = pair_layout(model, self.examples, section=section, stage=STAGE)
        read = partial(together, layout=layout, tokens_per_batch=section.tokens_per_batch)
        training = read(self.examples)
        self.compared = read(self.held_out)
        self.reference = kept_logprobs(
            model,
            _groups({**training, **self.compared}),
            layout=layout,
            tokens_per_batch=section.tokens_per_batch,
            at=self.at,
            identity=self.identity,
        )
        task = partial(
            dpo_task, layout=layout, reference=self.reference, beta=section.beta, stage=STAGE
        )
        return Tasks(task(training), task(self.compared) if self.compared else None)

    def implied_rewards(self, taught: Taught) -> Values:
        """The rewards of both responses of what is held out: beta log(policy / reference)."""
        groups = _groups(self.compared)
        if not groups:
            return {}
        place(taught.model)
        policy = logprobs_of(
            taught.model,
            groups,
            layout=fitting_layout(taught.model, probe=list(groups.values())),
            tokens_per_batch=self.section.tokens_per_batch,
        )
        rewards = {
            name: tuple(
                self.section.beta * (ours - theirs)
                for ours, theirs in zip(policy[name], self.reference[name], strict=True)
            )
            for name in groups
        }
        return by_comparison(self.compared, rewards)


def _groups(compared: Mapping[str, Compared]) -> dict[str, Group]:
    return {name: one.group for name, one in compared.items()}


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
