"""The revise stage: all prompts through critique and revision, then the exports."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from charter.errors import PromptError
from charter.journal import Records
from charter.pipeline.fitting import at_random, settled_reviser, write_down
from charter.pipeline.roles import Roles, open_roles, trained_source
from charter.pipeline.workspace import Workspace
from charter.prompts import (
    PromptCounts,
    Quarantined,
    count_prompts,
    read_prompts,
    read_rows,
)
from charter.records import Prompt, Record, Revision, content_hash
from charter.run import Tally, jsonl_writer, write_atomically, write_jsonl
from charter.schedule import run_records, stored
from charter.supervised.demonstrations import (
    Origin,
    Selection,
    demonstrations_of,
    without_near_duplicates,
)
from charter.supervised.revise import Reviser, revise

log = logging.getLogger(__name__)

_ENOUGH = 100
"""Demonstrations from which their most common completion says something."""
_BOILERPLATE_SHARE = 0.05


class ReviseSummary(Record):
    """What the stage found out besides its tally: `metrics/revise.json`."""

    prompts: dict[str, PromptCounts]
    """By use: train and heldout."""
    rounds: dict[str, int]
    """Rounds by outcome."""
    gates: dict[str, int]
    """Revisions that each gate stopped."""
    demonstrations: int
    pairs: int
    distinct_completions: int
    most_common_completion: int
    """How many demonstrations share the completion that most of them share."""


async def revise_stage(workspace: Workspace) -> Tally:
    """Makes the demonstrations; what an earlier session finished is taken from the journal.

    Raises:
        PromptError: No prompt is usable, or no demonstration came out.
        FailureLimitError: Too many records failed.
    """
    began = time.monotonic()
    counts = _counted_prompts(workspace)
    config = workspace.config
    async with open_roles(config.models, journal=workspace.journal, stage="revise") as roles:
        reviser, screening = await settled_reviser(workspace, roles=roles)
        making = Making(workspace, roles, reviser)
        tally = await making.revise_all(total=counts["train"].valid)
        if reviser.section.selection == "screen" and not making.found_anything():
            log.warning(
                "screening found no principle broken in any reply, so it is of no use here; "
                "going on with principles drawn at random (revise.selection=random)"
            )
            reviser, screening = at_random(reviser, screening)
            making = Making(workspace, roles, reviser)
            tally = await making.revise_all(total=counts["train"].valid)
        write_down(workspace, screening)
        tally = _export(making, counts=counts, tally=tally)
    return tally.model_copy(update={"seconds": round(time.monotonic() - began, 3)})


def _counted_prompts(workspace: Workspace) -> dict[str, PromptCounts]:
    """Counts the prompts, after writing down the rows that are none."""
    prompts = workspace.config.prompts
    rows = chain(
        read_rows(prompts.train, system=prompts.system),
        read_rows(prompts.heldout, system=prompts.system),
    )
    path = workspace.directory.data / "quarantined.jsonl"
    if bad := write_jsonl(path, (row for row in rows if isinstance(row, Quarantined))):
        log.warning("%d rows of the prompts are unusable: see %s", bad, path)
    else:
        path.unlink()

    def written_down(_: Quarantined) -> None:
        """There is nothing more to do about it."""

    return {
        "train": count_prompts(prompts.train, on_bad=written_down, system=prompts.system),
        "heldout": count_prompts(prompts.heldout, on_bad=written_down, system=prompts.system),
    }


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
            self._prompts(),
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
        found = stored(
            self._prompts(), key=_key, store=self._store(), load=Revision.model_validate_json
        )
        return (revision for _, revision in found)

    def found_anything(self) -> bool:
        """Whether any round looked closer at any reply."""
        return any(
            step.outcome in ("revised", "no_fault")
            for found in self.finished()
            for step in found.rounds
        )

    def yields(self) -> Iterator[tuple[Revision, Selection]]:
        """Each finished record with what it yields for training, in the same order."""
        origin = Origin(
            seed=self.workspace.config.seed,
            policy=self.roles.policy.fingerprint,
            reviser=self.roles.reviser.fingerprint,
            constitution=self.workspace.constitution.hash,
        )
        select = partial(
            demonstrations_of,
            section=self.reviser.section,
            origin=origin,
            control_tokens=self._control_tokens(),
        )
        threshold = self.reviser.section.gates.near_duplicate
        if threshold is None:
            return ((revision, select(revision)) for revision in self.finished())
        # Only this gate compares records with each other, and so has to hold what they yield.
        held = [select(revision) for revision in self.finished()]
        return zip(self.finished(), without_near_duplicates(held, threshold=threshold), strict=True)

    def _prompts(self) -> Iterator[Prompt]:
        prompts = self.workspace.config.prompts
        return read_prompts(prompts.train, system=prompts.system)

    def _control_tokens(self) -> frozenset[str]:
        """Those of the model to be trained: none of them may be learnt as text."""
        from charter.models.loading import control_tokens  # with torch, which a script needs not

        return control_tokens(trained_source(self.workspace.config.models))

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


def _export(making: Making, *, counts: dict[str, PromptCounts], tally: Tally) -> Tally:
    """Writes revisions, demonstrations and pairs; returns the tally with what was filtered.

    Raises:
        PromptError: Not one demonstration came out.
    """
    data = making.workspace.directory.data
    rounds, stopped, filtered, written, said = (Counter[str]() for _ in range(5))
    with (
        jsonl_writer(data / "revisions.jsonl") as write_revision,
        jsonl_writer(data / "demonstrations.jsonl") as write_demonstration,
        jsonl_writer(data / "revision_pairs.jsonl") as write_pair,
    ):
        for revision, selection in making.yields():
            write_revision(revision)
            for demonstration in selection.demonstrations:
                write_demonstration(demonstration)
                said[content_hash(demonstration.completion[0].content)] += 1
            for pair in selection.pairs:
                write_pair(pair)
            rounds.update(step.outcome for step in revision.rounds)
            stopped.update(selection.stopped)
            filtered.update([selection.filtered] if selection.filtered else [])
            written["demonstrations"] += len(selection.demonstrations)
            written["pairs"] += len(selection.pairs)
    summary = ReviseSummary(
        prompts=counts,
        rounds=dict(sorted(rounds.items())),
        gates=dict(sorted(stopped.items())),
        demonstrations=written["demonstrations"],
        pairs=written["pairs"],
        distinct_completions=len(said),
        most_common_completion=max(said.values(), default=0),
    )
    path = making.workspace.directory.metrics / "revise.json"
    write_atomically(path, summary.model_dump_json(indent=2) + "\n")
    if not summary.demonstrations:
        raise PromptError(
            f"no demonstration came out of {tally.done} records; the gates stopped "
            f"{dict(stopped)}. Read {data / 'revisions.jsonl'}, then change the gates or the model."
        )
    _warn_of_boilerplate(summary)
    return tally.filtering(filtered)


def _warn_of_boilerplate(summary: ReviseSummary) -> None:
    share = summary.most_common_completion / summary.demonstrations
    if summary.demonstrations >= _ENOUGH and share > _BOILERPLATE_SHARE:
        log.warning(
            "one and the same completion stands in %d of %d demonstrations: a model learns such "
            "boilerplate first. Are the prompts of a kind that the reviser understands?",
            summary.most_common_completion,
            summary.demonstrations,
        )
