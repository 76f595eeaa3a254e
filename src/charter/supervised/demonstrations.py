"""Revisions -> D_CAI: which texts are demonstrated, and which pairs come with them.

A text may be demonstrated when no later round found fault with it. So the last version is the
only candidate under `train_on: last`: where a gate stops it, the record is filtered, and never
falls back to a version that is known to be faulty. `train_on: all` takes every revision, as the
paper does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from charter.config import GatesConfig, ReviseConfig
from charter.records import (
    Demonstration,
    Provenance,
    Record,
    Revision,
    RevisionPair,
    assistant,
)
from charter.run import read_jsonl
from charter.similarity import similar_to_earlier
from charter.splitting import dialogue_text
from charter.supervised.gates import Candidate, same_text, stopped_by


@dataclass(frozen=True)
class Origin:
    """What all demonstrations of a run have in common: who wrote them, and under which rules."""

    seed: int
    policy: str
    """Fingerprint of the model that wrote the first responses."""
    reviser: str
    """Fingerprint of the model that wrote the revisions."""
    constitution: str
    """Hash of the constitution."""


class Selection(Record):
    """What a revision yields for training: demonstrations, or the reason why none."""

    prompt_id: str
    demonstrations: tuple[Demonstration, ...] = ()
    pairs: tuple[RevisionPair, ...] = ()
    """The last revision over the first response, where a revision was made and demonstrated."""
    stopped: Mapping[str, int] = {}
    """How many candidates each gate stopped."""
    filtered: str | None = None
    """Why there is no demonstration: the gate that stopped the last candidate."""


def demonstrations_of(
    revision: Revision,
    *,
    section: ReviseConfig,
    origin: Origin,
    control_tokens: Collection[str] = (),
) -> Selection:
    """The candidates of a revision that pass the gates, as training examples.

    Completions lose the white space around them: a model would learn to write it.

    Args:
        revision: A finished record.
        section: Says which rounds are trained on, and the gates.
        origin: Goes into every example's provenance.
        control_tokens: Those of the model to be trained, for the gate of that name.

    Source: Bai et al. 2022, sec. 3.1 (`all`); `last`, the kept responses and the gates are ours.
    """
    candidates = _candidates(revision, control_tokens=control_tokens)
    last = max(candidates)
    eligible = candidates if section.train_on == "all" else {last: candidates[last]}
    passed, stopped = _through_gates(eligible, gates=section.gates)
    examples = {
        number: _demonstration(revision, number=number, text=text, origin=origin)
        for number, text in passed.items()
    }
    is_revised = last > 0 and last in examples
    return Selection(
        prompt_id=revision.prompt.id,
        demonstrations=tuple(examples.values()),
        pairs=(_pair(revision, demonstration=examples[last]),) if is_revised else (),
        stopped=Counter(stopped),
        filtered=None if passed else stopped[-1],
    )


def without_near_duplicates(
    selections: Sequence[Selection], *, threshold: float | None
) -> list[Selection]:
    """The selections less every demonstration that is similar to an earlier one.

    Earlier means in the order given, which should be that of the prompts. The reason is counted
    as `near_duplicate`; None as threshold lets all through.
    """
    if threshold is None:
        return list(selections)
    texts = [
        dialogue_text((*item.prompt, *item.completion))
        for selection in selections
        for item in selection.demonstrations
    ]
    answers = iter(similar_to_earlier(texts, threshold=threshold))
    return [
        _less_stopped(item, stopped=[next(answers) for _ in item.demonstrations])
        for item in selections
    ]


def read_demonstrations(path: Path) -> Iterator[Demonstration]:
    """The demonstrations in a JSONL file, as a run writes them: one record's JSON a line.

    Raises:
        RunError: The file cannot be read, or a line is no demonstration.
    """
    return read_jsonl(path, Demonstration, what="demonstration", made_by="revise")


def _candidates(revision: Revision, *, control_tokens: Collection[str]) -> dict[int, Candidate]:
    """The candidates by round, in order; 0 is the first response, if it was kept to the end."""
    versions = [revision.response.text]
    candidates: dict[int, Candidate] = {}
    for step in revision.rounds:
        if step.outcome == "revised":
            candidates[step.number] = Candidate(
                text=step.revision,
                finish=step.finish,
                mends=tuple(versions),
                control_tokens=control_tokens,
                kind=revision.prompt.kind,
            )
            versions.append(step.revision)
    kept = Candidate(
        text=revision.response.text,
        finish=revision.response.finish,
        control_tokens=control_tokens,
        kind=revision.prompt.kind,
    )
    return candidates or {0: kept}


def _through_gates(
    candidates: Mapping[int, Candidate], *, gates: GatesConfig
) -> tuple[dict[int, str], list[str]]:
    """The texts that pass, by round, and the reasons for those that do not, in order."""
    passed: dict[int, str] = {}
    stopped: list[str] = []
    for number, candidate in candidates.items():
        reason = stopped_by(candidate, gates=gates)
        if reason is None and any(same_text(candidate.text, text) for text in passed.values()):
            reason = "repeated"
        if reason is None:
            passed[number] = candidate.text.strip()
        else:
            stopped.append(reason)
    return passed, stopped


def _demonstration(revision: Revision, *, number: int, text: str, origin: Origin) -> Demonstration:
    return Demonstration(
        id=f"{revision.prompt.id}:{number}",
        prompt=revision.prompt.messages,
        completion=(assistant(text),),
        provenance=_provenance(revision, number=number, origin=origin),
    )


def _pair(revision: Revision, *, demonstration: Demonstration) -> RevisionPair:
    return RevisionPair(
        id=demonstration.id,
        prompt=demonstration.prompt,
        chosen=demonstration.completion,
        rejected=(assistant(revision.response.text.strip()),),
        provenance=demonstration.provenance,
    )


def _provenance(revision: Revision, *, number: int, origin: Origin) -> Provenance:
    """Names every principle that shaped the text, not only its last round's."""
    shaping = (
        principle_id
        for step in revision.rounds
        if step.outcome == "revised" and step.number <= number
        for principle_id in step.principle_ids
    )
    return Provenance(
        prompt_id=revision.prompt.id,
        kind=revision.prompt.kind,
        round=number,
        principle_ids=tuple(dict.fromkeys(shaping)),
        seed=origin.seed,
        model=origin.reviser if number else origin.policy,
        constitution=origin.constitution,
    )


def _less_stopped(selection: Selection, *, stopped: Sequence[bool]) -> Selection:
    if not any(stopped):
        return selection
    demonstrations = tuple(
        item for item, stops in zip(selection.demonstrations, stopped, strict=True) if not stops
    )
    ids = {item.id for item in demonstrations}
    return selection.model_copy(
        update={
            "demonstrations": demonstrations,
            "pairs": tuple(pair for pair in selection.pairs if pair.id in ids),
            "stopped": {**selection.stopped, "near_duplicate": sum(stopped)},
            "filtered": None if demonstrations else "near_duplicate",
        }
    )
