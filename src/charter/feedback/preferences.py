"""Preferences in TRL's form with their soft labels: the judge's, by-products, and people's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from charter.config import CompareConfig
from charter.feedback.mixing import drawn, within_shares
from charter.prompts import AnswerPair
from charter.records import (
    Origin,
    Preference,
    PreferencePair,
    PreferenceSource,
    Prompt,
    RevisionPair,
    assistant,
    content_hash,
    with_system_turn,
)
from charter.run import read_jsonl
from charter.similarity import similar_to_any
from charter.splitting import dialogue_text


@dataclass(frozen=True)
class Makers:
    """Who made a run's judged preferences, and by which rules."""

    seed: int
    policy: str
    """Fingerprint of the model that wrote the responses."""
    judge: str
    """Fingerprint of the model that chose."""
    constitution: str
    """Hash of the constitution."""


def judged_row(preference: Preference, *, makers: Makers, negative: bool) -> PreferencePair:
    """A judge's preference as a row: `chosen` is whichever response it holds better.

    Args:
        preference: What the judge said.
        makers: Of the run.
        negative: Whether one response was to another prompt.
    """
    turned = preference if preference.p_first >= 0.5 else preference.swapped()
    comparison = turned.comparison
    prompt = comparison.prompt
    return PreferencePair(
        id=f"judge/{comparison.id}",
        prompt=prompt.messages,
        chosen=(assistant(comparison.first),),
        rejected=(assistant(comparison.second),),
        p_chosen=max(0.5, turned.p_first),  # 1 - 0.49... may round to less than a half
        provenance=Origin(
            prompt_id=prompt.id,
            kind=prompt.kind,
            tags=prompt.tags,
            source="negative" if negative else preference.source,
            principle_ids=preference.principle_ids,
            p_chosen_shown_first=turned.p_first_shown_first,
            p_chosen_shown_second=turned.p_first_shown_second,
            cut_off=comparison.cut_off,
            seed=makers.seed,
            policy=makers.policy,
            judge=makers.judge,
            constitution=makers.constitution,
        ),
    )


def revised_row(
    pair: RevisionPair, *, p_chosen: float, tags: Sequence[str], system: str | None
) -> PreferencePair:
    """A revision over the response that it mended, as a row: nobody compared the two.

    Args:
        pair: As the run's revise stage wrote it.
        p_chosen: How sure it is that the revision is better.
        tags: Of the prompt.
        system: A system turn for a prompt without one.
    """
    origin = pair.provenance
    return PreferencePair(
        id=f"revision/{pair.id}",
        prompt=with_system_turn(pair.prompt, system),
        chosen=pair.chosen,
        rejected=pair.rejected,
        p_chosen=p_chosen,
        provenance=Origin(
            prompt_id=origin.prompt_id,
            kind=origin.kind,
            tags=tuple(tags),
            source="revision",
            principle_ids=origin.principle_ids,
            seed=origin.seed,
            policy=origin.model,
            judge="",
            constitution=origin.constitution,
        ),
    )


def human_row(
    pair: AnswerPair, *, p_chosen: float, seed: int, system: str | None
) -> PreferencePair:
    """People's preference as a row; its id is made of what it says."""
    said = content_hash([pair.chosen, pair.rejected])
    return PreferencePair(
        id=f"human/{pair.prompt.id}/{said}",
        prompt=with_system_turn(pair.prompt.messages, system),
        chosen=(assistant(pair.chosen),),
        rejected=(assistant(pair.rejected),),
        p_chosen=p_chosen,
        provenance=Origin(
            prompt_id=pair.prompt.id,
            kind=pair.prompt.kind,
            tags=pair.prompt.tags,
            source="human",
            seed=seed,
            policy="",
            judge="",
            constitution="",
        ),
    )


def apart_from(
    heldout: Sequence[Prompt], *, rows: Sequence[PreferencePair], near_duplicate: float
) -> list[PreferencePair]:
    """The rows whose prompts are near no held-out one."""
    near = similar_to_any(
        [dialogue_text(row.prompt) for row in rows],
        [dialogue_text(prompt.messages) for prompt in heldout],
        threshold=near_duplicate,
    )
    return [row for row, is_near in zip(rows, near, strict=True) if not is_near]


def each_once(rows: Iterable[PreferencePair]) -> list[PreferencePair]:
    """The rows, each id once."""
    return list({row.id: row for row in rows}.values())


def in_shares(
    judged: int,
    extra: Mapping[PreferenceSource, Sequence[PreferencePair]],
    *,
    section: CompareConfig,
    seed: int,
) -> dict[PreferenceSource, list[PreferencePair]]:
    """What of the other sources goes beside the judged rows: none has more than its share of all.

    Rows are drawn by their ids, and stay in their order.

    Args:
        judged: How many rows the judge gave; all of them are taken.
        extra: The rows of other sources, without repetitions.
        section: States the shares.
        seed: The run's.
    """
    shares: dict[PreferenceSource, float] = {
        "revision": section.revised_share,
        "misplaced": section.misplaced_share,
    }
    if section.human is not None:
        shares["human"] = section.human.share
    there: dict[PreferenceSource, int] = {name: len(rows) for name, rows in extra.items()}
    there["judge"] = judged
    counts = within_shares(there, shares)
    taken = {
        name: drawn([row.id for row in rows], counts[name], seed=seed, purpose=f"{name} share")
        for name, rows in extra.items()
    }
    return {name: [row for row in rows if row.id in taken[name]] for name, rows in extra.items()}


def read_preferences(path: Path) -> Iterator[PreferencePair]:
    """The preferences in a JSONL file, as a run writes them: one record's JSON a line.

    Raises:
        RunError: The file cannot be read, or a line is no preference.
    """
    return read_jsonl(path, PreferencePair, what="preference", made_by="compare")
