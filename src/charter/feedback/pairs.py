"""Preferences for training and for validation: split by prompt, and as ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from charter.config import DpoConfig, RewardConfig
from charter.errors import PromptError
from charter.feedback.ordering import Scored
from charter.feedback.preferences import apart_from
from charter.learning.grids import Group
from charter.learning.measured import Values
from charter.learning.pairs import Pair
from charter.learning.pupil import Encoded, Pupil, encoded
from charter.records import PreferencePair, Prompt, Record, content_hash
from charter.splitting import dialogue_text, validation_prompts


class PairSplit(Record):
    """The preferences by use, each in the order they came in."""

    train: tuple[PreferencePair, ...]
    validation: tuple[PreferencePair, ...]
    dropped: Mapping[str, int]
    """How many are in neither: `heldout`, nearly a held-out prompt."""


def split_pairs(
    pairs: Sequence[PreferencePair],
    *,
    section: RewardConfig | DpoConfig,
    stage: str,
    heldout: Sequence[Prompt],
    seed: int,
) -> PairSplit:
    """The preferences, less those near a held-out prompt, for training and for validation.

    Near-identical prompts, and chains of them, stay on one side.

    Args:
        pairs: All preferences.
        section: States the share that validates, and what counts as near-identical.
        stage: Its name, for messages.
        heldout: The prompts that evaluation asks.
        seed: Of the run.

    Raises:
        PromptError: There are not two different prompts left to put on two sides.
    """
    kept = apart_from(heldout, rows=pairs, near_duplicate=section.near_duplicate)
    chosen = validation_prompts(
        ((_asked(pair), dialogue_text(pair.prompt)) for pair in kept),
        share=section.validation_share,
        near_duplicate=section.near_duplicate,
        seed=seed,
    )
    if chosen is None:
        prompts = {_asked(pair) for pair in kept}
        raise PromptError(
            f"{len(kept)} preferences on {min(1, len(prompts))} different prompts are left; the "
            f"stage {stage} needs two, one of them for validation. Add prompts, or raise "
            f"{stage}.near_duplicate if different ones were taken for the same."
        )
    dropped = {"heldout": len(pairs) - len(kept)}
    return PairSplit(
        train=tuple(pair for pair in kept if _asked(pair) not in chosen),
        validation=tuple(pair for pair in kept if _asked(pair) in chosen),
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _asked(pair: PreferencePair) -> str:
    """Names a prompt by what was said: ids of files that were mixed may be those of each other."""
    return content_hash(dialogue_text(pair.prompt))


def encoded_pairs(
    pairs: Sequence[PreferencePair],
    *,
    section: RewardConfig | DpoConfig,
    pupil: Pupil,
    stage: str,
) -> Encoded[Pair]:
    """The preferences as ids, by their names; those of which a response is too long apart.

    Raises:
        RunError: Two preferences share an id.
    """

    def encode(pair: PreferencePair) -> Pair:
        (chosen,), (rejected,) = pair.chosen, pair.rejected
        is_cut, other_is_cut = pair.provenance.cut_off
        first = pupil.encoder.example(pair.prompt, chosen.content, ends=not is_cut)
        second = pupil.encoder.example(pair.prompt, rejected.content, ends=not other_is_cut)
        at = first.prompt_length
        group = Group(first.ids[:at], (first.ids[at:], second.ids[at:]))
        return Pair(group, pair.p_chosen)

    return encoded(
        pairs,
        what="preferences",
        encode=encode,
        length=lambda pair: pair.longest,
        pupil=pupil,
        section=section,
        stage=stage,
    )


def scored(
    preferences: Sequence[PreferencePair], pairs: Mapping[str, Pair], rewards: Values
) -> list[Scored]:
    """The preferences that have rewards, with them."""
    found: list[Scored] = []
    for preference in preferences:
        if preference.id in rewards:
            chosen, rejected = rewards[preference.id]
            chosen_ids, rejected_ids = pairs[preference.id].group.completions
            found.append(Scored(preference, chosen, rejected, len(chosen_ids), len(rejected_ids)))
    return found
