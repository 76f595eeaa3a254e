"""The revise stage: all prompts through critique and revision, then the exports."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from charter.config import ReviseConfig
from charter.errors import PromptError
from charter.journal import Records
from charter.pipeline.roles import Roles, open_roles
from charter.pipeline.workspace import Workspace
from charter.prompts import PromptCounts, Quarantined, count_prompts, read_prompts
from charter.records import Prompt, Record, Revision, content_hash
from charter.run import Tally, write_atomically, write_jsonl
from charter.schedule import run_records, stored
from charter.screening import DEFAULT_THRESHOLD, Threshold, fit_threshold
from charter.supervised.demonstrations import (
    Origin,
    Selection,
    demonstrations_of,
    without_near_duplicates,
)
from charter.supervised.revise import Reviser, revise

log = logging.getLogger(__name__)


class ReviseSummary(Record):
    """What the stage found out besides its tally: `metrics/revise.json`."""

    prompts: PromptCounts
    selection: str
    threshold: Threshold | None
    rounds: dict[str, int]
    """Rounds by outcome: revised, no_fault, screened."""
    gates: dict[str, int]
    """Revisions that each gate stopped."""
    demonstrations: int
    pairs: int


async def revise_stage(workspace: Workspace) -> Tally:
    """Makes the demonstrations; what an earlier session finished is taken from the journal.

    Raises:
        PromptError: No prompt is usable.
        FailureLimitError: Too many records failed.
    """
    counts = _counted_prompts(workspace)
    config = workspace.config
    async with open_roles(config.models, journal=workspace.journal, stage="revise") as roles:
        reviser, threshold = await fitted_reviser(workspace, roles=roles)
        making = Making(workspace, roles, reviser)
        tally = await making.revise_all(total=counts.valid)
        if reviser.section.selection == "screen" and not making.found_anything():
            log.warning(
                "screening found no principle broken in any reply, so it is of no use here; "
                "going on with principles drawn at random (revise.selection=random)"
            )
            making = Making(workspace, roles, _at_random(reviser))
            tally = await making.revise_all(total=counts.valid)
        return _export(making, threshold=threshold, counts=counts, tally=tally)


async def fitted_reviser(workspace: Workspace, *, roles: Roles) -> tuple[Reviser, Threshold | None]:
    """How this run criticises and revises, and the screening threshold that was fitted for it.

    Screening that cannot tell the principles' own tests apart is replaced by random draws.
    """
    section = workspace.config.revise
    threshold: Threshold | None = None
    if section.selection == "screen" and section.threshold == "fit":
        threshold = await fit_threshold(workspace.constitution, judge=roles.critic)
    reviser = Reviser(
        constitution=workspace.constitution,
        critic=roles.critic,
        reviser=roles.reviser,
        section=section,
        threshold=_value(section, threshold),
    )
    if threshold is not None and threshold.sees_nothing:
        log.warning(
            "screening sees only %.0f %% of the replies that break a principle in the principles' "
            "own tests; going on with principles drawn at random (revise.selection=random)",
            100 * (threshold.recall or 0.0),
        )
        reviser = _at_random(reviser)
    return reviser, threshold


def _value(section: ReviseConfig, threshold: Threshold | None) -> float:
    if threshold is not None:
        return threshold.value
    return DEFAULT_THRESHOLD if section.threshold == "fit" else section.threshold


def _at_random(reviser: Reviser) -> Reviser:
    return replace(reviser, section=reviser.section.model_copy(update={"selection": "random"}))


def _counted_prompts(workspace: Workspace) -> PromptCounts:
    """Counts the training prompts and writes down the rows that are none."""
    bad: list[Quarantined] = []
    try:
        return count_prompts(workspace.config.prompts.train, on_bad=bad.append)
    finally:
        if bad:
            written = workspace.directory.data / "quarantined.jsonl"
            write_jsonl(written, bad)
            log.warning("%d rows of the training prompts are unusable: see %s", len(bad), written)


def _key(prompt: Prompt) -> str:
    """Names a record by its prompt's id and content: an edited prompt is another record."""
    return f"{prompt.id}/{content_hash(prompt.model_dump(mode='json'))}"


@dataclass(frozen=True)
class Making:
    """Revisions in the making: the same prompts, models and settings, done or not."""

    workspace: Workspace
    roles: Roles
    reviser: Reviser

    async def revise_all(self, *, total: int) -> Tally:
        """Finishes every record that is not finished."""
        config = self.workspace.config
        return await run_records(
            read_prompts(config.prompts.train),
            stage="revise",
            work=partial(revise, policy=self.roles.policy, reviser=self.reviser, seed=config.seed),
            key=_key,
            dump=Revision.model_dump_json,
            store=self._store(),
            width=self.roles.width,
            max_failed=config.revise.max_failed,
            progress=self.workspace.progress,
            total=total,
        )

    def finished(self) -> Iterator[Revision]:
        """The finished records in the order of the prompts, one at a time."""
        prompts = read_prompts(self.workspace.config.prompts.train)
        load = Revision.model_validate_json
        return (found for _, found in stored(prompts, key=_key, store=self._store(), load=load))

    def found_anything(self) -> bool:
        """Whether any round looked closer at any reply."""
        return any(step.outcome != "screened" for found in self.finished() for step in found.rounds)

    def selections(self) -> Iterator[Selection]:
        """What each finished record yields for training, in the same order."""
        section = self.reviser.section
        origin = Origin(
            seed=self.workspace.config.seed,
            policy=self.roles.policy.fingerprint,
            reviser=self.roles.reviser.fingerprint,
            constitution=self.workspace.constitution.hash,
        )
        found = (
            demonstrations_of(item, section=section, origin=origin) for item in self.finished()
        )
        threshold = section.gates.near_duplicate
        if threshold is None:
            return found
        # Only this gate compares records with each other, and so has to hold them all.
        return iter(without_near_duplicates([*found], threshold=threshold))

    def _store(self) -> Records:
        section = self.reviser.section.model_dump(
            mode="json", exclude={"gates", "train_on", "max_failed"}
        )
        models = (self.roles.policy, self.roles.critic, self.roles.reviser)
        shaping = {
            "section": section,
            "threshold": self.reviser.threshold,
            "constitution": self.workspace.constitution.hash,
            "models": [model.fingerprint for model in models],
            "seed": self.workspace.config.seed,
        }
        return self.workspace.journal.records("revise", context=content_hash(shaping))


def _export(
    making: Making, *, threshold: Threshold | None, counts: PromptCounts, tally: Tally
) -> Tally:
    """Writes revisions, demonstrations and pairs; returns the tally with what was filtered.

    Raises:
        PromptError: Not one demonstration came out.
    """
    data = making.workspace.directory.data
    rounds = Counter(step.outcome for found in making.finished() for step in found.rounds)
    stopped: Counter[str] = Counter()
    filtered: Counter[str] = Counter()
    for selection in making.selections():
        stopped.update(selection.stopped)
        filtered.update([selection.filtered] if selection.filtered else [])
    write_jsonl(data / "revisions.jsonl", making.finished())
    summary = ReviseSummary(
        prompts=counts,
        selection=making.reviser.section.selection,
        threshold=threshold,
        rounds=dict(sorted(rounds.items())),
        gates=dict(sorted(stopped.items())),
        demonstrations=write_jsonl(
            data / "demonstrations.jsonl",
            (row for item in making.selections() for row in item.demonstrations),
        ),
        pairs=write_jsonl(
            data / "revision_pairs.jsonl",
            (row for item in making.selections() for row in item.pairs),
        ),
    )
    path = making.workspace.directory.metrics / "revise.json"
    write_atomically(path, summary.model_dump_json(indent=2) + "\n")
    if not summary.demonstrations:
        raise PromptError(
            f"no demonstration came out of {tally.done} records; the gates stopped "
            f"{dict(stopped)}. Read {data / 'revisions.jsonl'}, then change the gates or the model."
        )
    return tally.filtering(filtered)
