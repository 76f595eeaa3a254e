"""Preferences -> reward model: a scalar head that orders responses as the labels do.

The loss is the cross-entropy of the Bradley-Terry model against *soft* labels, so a judge's doubt
is learnt too. A prompt is read once, and so is each of its responses, however many comparisons they
are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedModel

from charter.config import RewardConfig
from charter.console import Progress
from charter.constitution import Constitution
from charter.errors import GuardError, RunError
from charter.feedback.ordering import Ordering, accuracy_text, ordering
from charter.feedback.pairs import encoded_pairs, scored
from charter.learning.card import CardFacts
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
from charter.learning.measured import place, rewards_of
from charter.learning.memory import memory_for
from charter.learning.pairs import (
    Pair,
    by_comparison,
    layout_together,
    pair_layout,
    reward_task,
    together,
)
from charter.learning.pupil import Encoded, Pupil
from charter.learning.scalar import padding_id, save_scalar_model, scalar_model
from charter.records import PreferencePair

STAGE = "reward"


class RewardResult(TrainingResult):
    """What training a reward model came to."""

    ordering: Ordering
    """Of the held-out pairs, which chose the step whose weights were kept, too."""


def reward(
    preferences: Sequence[PreferencePair],
    *,
    validation: Sequence[PreferencePair],
    section: RewardConfig,
    pupil: Pupil,
    constitution: Constitution,
    seed: int,
    places: Places,
    progress: Progress,
) -> RewardResult:
    """Trains a reward model and saves it; a finished result is only read again.

    Args:
        preferences: What it learns from.
        validation: Preferences on other prompts: for the turning point, and to be ordered.
        section: How it is trained.
        pupil: The causal language model whose backbone carries the head; its weights are given up.
        constitution: What the preferences were made under; for the model card.
        seed: Of the run.
        places: Where model, checkpoints and metrics go.
        progress: Hears each step.

    Raises:
        GuardError: Training would be useless or has gone wrong.
        ConfigError: This kind of model takes no scalar head.
        RunError: The checkpoints belong to another training, two preferences share an id, or
            memory ran out.
    """
    if (result := finished(places, RewardResult)) is not None:
        return result
    examples = encoded_pairs(preferences, section=section, pupil=pupil, stage=STAGE)
    held_out = encoded_pairs(validation, section=section, pupil=pupil, stage=STAGE)
    with memory_for("the start of training", stage=STAGE):
        scorer = _with_head(pupil, seed=seed)

    def tasks(model: PreTrainedModel) -> Tasks:
        layout = pair_layout(model, examples.kept, section=section, stage=STAGE)
        read = partial(together, layout=layout, tokens_per_batch=section.tokens_per_batch)
        task = partial(
            reward_task, layout=layout, margin=section.margin, centre=section.centre, stage=STAGE
        )
        return Tasks(
            task(read(examples.kept)), task(read(held_out.kept)) if held_out.kept else None
        )

    lesson = Lesson(
        stage=STAGE,
        section=section,
        seed=seed,
        title=f"Reward model on {pupil.source}",
        too_long=(*examples.too_long, *held_out.too_long),
        dropout=False,
    )
    taught = teach(scorer, lesson=lesson, tasks=tasks, places=places, progress=progress)
    ordered = _ordering(taught, validation, held_out, section=section)
    result = RewardResult(**dict(taught.result), ordering=ordered)
    card = _card(result, section=section, pupil=pupil, constitution=constitution)
    keep(taught, pupil=scorer, result=result, card=card, places=places, save=save_scalar_model)
    return result


def _with_head(pupil: Pupil, *, seed: int) -> Pupil:
    """The pupil with a scalar head; what it was gives up its weights.

    They have been copied: beside those that learn they would take as much memory again.
    """
    pad_id = padding_id(pupil.tokenizer, pupil.encoder)
    scorer = replace(pupil, model=scalar_model(pupil.model, pad_id=pad_id, seed=seed))
    cast("nn.Module", pupil.model).to("meta")
    return scorer


def require_accuracy(ordered: Ordering, *, section: RewardConfig, run: Path) -> None:
    """Stops reinforcement by a reward model that cannot tell responses apart.

    What counts is the pairs that the judge compared: by-products and negatives are easier. Where
    there are none, all count.

    Args:
        ordered: How well it orders held-out pairs.
        section: Says how well it has to.
        run: Whose reward model it is; settings can only be changed in another one.

    Raises:
        GuardError: It orders fewer held-out pairs as their labels say than `min_accuracy`, or there
            are none to tell by.
    """
    judged, least = ordered.judged, section.min_accuracy
    accuracy = judged if judged is not None and judged.n else ordered.accuracy
    if least == 0.0 or (accuracy.rate is not None and accuracy.rate >= least):
        return
    if accuracy.rate is None:
        raise GuardError(
            "there are no held-out pairs to judge the reward model by, or none whose label prefers "
            f"a response; RL needs some, for reward.min_accuracy = {least:.0%}. All that was made "
            f"is kept. Go on in another run (--run NEW --reuse {run}): hold out more "
            "(reward.validation_share), make more preferences (compare.responses, more prompts), "
            "or go on unmeasured (reward.min_accuracy=0)"
        )
    raise GuardError(
        f"the reward model orders {accuracy_text(accuracy)} as their labels say; RL needs "
        f"reward.min_accuracy = {least:.0%}, or it would learn noise. All that was made is "
        f"kept, and `charter report {run}` shows it. Go on in another run (--run NEW --reuse {run})"
        ": make more preferences (compare.responses, more prompts), train longer (reward.epochs), "
        "name a better judge (models.judge), reward by the judge itself (reinforce.reward=judge), "
        "evaluate without RL (learn=[sft]), or lower reward.min_accuracy if you know why"
    )


def read_ordering(path: Path) -> Ordering:
    """What a run wrote down of its reward model.

    Raises:
        RunError: It is not there, or cannot be read.
    """
    try:
        return Ordering.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"{path}: cannot be read. Run `charter reward` first.") from error


def _ordering(
    taught: Taught,
    validation: Sequence[PreferencePair],
    held_out: Encoded[Pair],
    *,
    section: RewardConfig,
) -> Ordering:
    if not held_out.kept:
        return ordering(())
    place(taught.model)
    budget = section.tokens_per_batch
    layout = layout_together(taught.model, held_out.kept, tokens_per_batch=budget)
    compared = together(held_out.kept, layout=layout, tokens_per_batch=budget)
    groups = {name: one.group for name, one in compared.items()}
    rewards = rewards_of(taught.model, groups, layout=layout, tokens_per_batch=budget)
    return ordering(scored(validation, held_out.kept, by_comparison(compared, rewards)))


def _card(
    result: RewardResult, *, section: RewardConfig, pupil: Pupil, constitution: Constitution
) -> CardFacts:
    ordered = result.ordering
    return CardFacts(
        title=f"Reward model on {pupil.source}, by the constitution {constitution.name}",
        base_model=pupil.source,
        method=(
            "Trained by charter on soft preferences between responses to one prompt (Bai et al. "
            "2022, arXiv 2212.08073, section 4.1). Its one label is a reward in nats: the "
            "difference of two is the log-odds that the first response is better."
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
            result,
            section=section,
            loss="cross-entropy against soft labels"
            + (f", margin {section.margin:g} nats" if section.margin else "")
            + (f", centring weight {section.centre:g}" if section.centre else ""),
        ),
        results={
            **loss_facts(result, unit="comparison"),
            "Held-out pairs ordered as labelled": accuracy_text(ordered.accuracy),
            "AUC": _figure(ordered.auc),
            "Expected calibration error": _figure(ordered.ece),
        },
        limits=(
            "It says which of two responses to one prompt the labels would prefer. Rewards of "
            "different prompts do not compare.",
            "It is right as often as the table says, on responses like those it was trained on. A "
            "policy trained against it will find where it is wrong.",
        ),
        task="text-classification",
    )


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
