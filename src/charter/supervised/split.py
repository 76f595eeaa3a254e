"""Demonstrations -> training and validation, by prompt, apart from each other and from held-out.

Whatever is drawn is drawn by name, so the order of the demonstrations does not matter and a new
one leaves the others where they are, but for those at the edge of a share.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from charter.config import FinetuneConfig
from charter.errors import ConfigError, PromptError
from charter.records import Demonstration, Prompt, Record
from charter.seeding import shuffled
from charter.similarity import similar_to_any
from charter.splitting import dialogue_text, validation_prompts


class Split(Record):
    """The demonstrations by use, each in the order they came in."""

    train: tuple[Demonstration, ...]
    validation: tuple[Demonstration, ...]
    dropped: Mapping[str, int]
    """How many are in neither: `heldout`, nearly a held-out prompt; `benign_share`, drawn out."""


def split(
    demonstrations: Sequence[Demonstration],
    *,
    section: FinetuneConfig,
    heldout: Sequence[Prompt],
    seed: int,
) -> Split:
    """The demonstrations, less those near a held-out prompt, for training and for validation.

    Near-identical prompts, and chains of them, stay on one side. A chain too long for the
    validation share stays in training, so that prompts made from templates cannot empty it.

    Raises:
        ConfigError: `benign_share` cannot be had from these kinds of prompt.
        PromptError: There are not two different prompts left to put on two sides.
    """
    apart = _apart_from(heldout, demonstrations=demonstrations, threshold=section.near_duplicate)
    kept = _drawn_to_share(apart, share=section.benign_share, seed=seed)
    dropped = {
        "heldout": len(demonstrations) - len(apart),
        "benign_share": len(apart) - len(kept),
    }
    chosen = _validation_prompts(kept, section=section, seed=seed)
    return Split(
        train=tuple(item for item in kept if item.provenance.prompt_id not in chosen),
        validation=tuple(item for item in kept if item.provenance.prompt_id in chosen),
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _apart_from(
    heldout: Sequence[Prompt], *, demonstrations: Sequence[Demonstration], threshold: float
) -> list[Demonstration]:
    near = similar_to_any(
        [dialogue_text(item.prompt) for item in demonstrations],
        [dialogue_text(prompt.messages) for prompt in heldout],
        threshold=threshold,
    )
    return [item for item, is_near in zip(demonstrations, near, strict=True) if not is_near]


def _drawn_to_share(
    demonstrations: Sequence[Demonstration], *, share: float | None, seed: int
) -> list[Demonstration]:
    """As many demonstrations as have the stated share of benign ones; None takes them all."""
    if share is None:
        return list(demonstrations)
    benign = [item.id for item in demonstrations if item.provenance.kind == "benign"]
    others = [item.id for item in demonstrations if item.provenance.kind != "benign"]
    if (share > 0.0 and not benign) or (share < 1.0 and not others):
        raise ConfigError(
            f"finetune.benign_share is {share:g}, but of {len(demonstrations)} demonstrations "
            f"{len(benign)} are benign. Add prompts of the other kind, or leave the share out."
        )
    most_benign = len(others) * share / (1.0 - share) if share < 1.0 else math.inf
    most_others = len(benign) * (1.0 - share) / share if share > 0.0 else math.inf
    drawn = {*_some(benign, most_benign, seed=seed), *_some(others, most_others, seed=seed)}
    return [item for item in demonstrations if item.id in drawn]


def _some(ids: Collection[str], most: float, *, seed: int) -> list[str]:
    return shuffled(ids, seed, "benign_share")[: round(min(most, len(ids)))]


def _validation_prompts(
    demonstrations: Sequence[Demonstration], *, section: FinetuneConfig, seed: int
) -> frozenset[str]:
    """Ids of the prompts whose demonstrations validate."""
    chosen = validation_prompts(
        ((item.provenance.prompt_id, dialogue_text(item.prompt)) for item in demonstrations),
        share=section.validation_share,
        near_duplicate=section.near_duplicate,
        seed=seed,
    )
    if chosen is None:
        prompts = {item.provenance.prompt_id for item in demonstrations}
        raise PromptError(
            f"{len(demonstrations)} demonstrations of {min(1, len(prompts))} different prompts are "
            "left; fine-tuning needs two, one of them for validation. Add prompts, or raise "
            "finetune.near_duplicate if different ones were taken for the same."
        )
    return chosen
