"""The compare stage: responses of the SFT model in pairs, judged, into data/preferences.jsonl."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain

from charter.errors import PromptError, RunError
from charter.feedback.compare import Chosen, Compared, Slot, compare, slots
from charter.feedback.judge import Judge
from charter.feedback.preferences import Makers, in_shares, judged_row
from charter.feedback.quality import audit, known_pairs
from charter.feedback.summary import CompareSummary, LabelSummary, label_summary
from charter.journal import Records
from charter.model import Model
from charter.pipeline.gathering import gathered
from charter.pipeline.judging import open_judge
from charter.pipeline.roles import open_frozen, trained_source
from charter.pipeline.workspace import Workspace
from charter.records import PreferencePair, PreferenceSource, content_hash
from charter.run import Tally, write_atomically, write_jsonl
from charter.schedule import run_records, stored

log = logging.getLogger(__name__)

_ENOUGH = 100
"""Preferences below which training on them is not known to change anything."""
_LEAST_ACCURACY = 0.8
"""On the principles' tests: a judge that is surely below this is warned of."""


async def compare_stage(workspace: Workspace) -> Tally:
    """Makes the preferences; what an earlier session finished is taken from the journal.

    Raises:
        RunError: There is no SFT model yet, or what `revise` wrote cannot be read.
        PromptError: No prompt is usable, or no preference came out.
        FailureLimitError: Too many comparisons failed.
    """
    began = time.monotonic()
    config = workspace.config
    at = workspace.directory.models / "sft"
    if not at.exists():
        raise RunError(f"{at}: no model yet. Run `charter finetune` first.")
    material = gathered(workspace)
    judging = config.models.judge or config.models.policy
    open_for_this = partial(open_frozen, journal=workspace.journal, stage="compare")
    async with (
        open_for_this(trained_source(config.models, at=at)) as policy,
        open_for_this(judging) as model,
    ):
        judge, threshold = await open_judge(workspace, model, constitution=workspace.constitution)
        making = Making(workspace, material.chosen, policy, judge)
        tally = await making.compare_all()
        audited = await audit(known_pairs(workspace.constitution), judge=judge)
    labels = label_summary(making.finished())
    extra = in_shares(
        labels.consistency.n, material.extra, section=config.compare, seed=config.seed
    )
    written = making.write(extra)
    summary = CompareSummary(
        prompts=material.prompts,
        labels=labels,
        failed={reason: n for reason, n in tally.reasons.items() if reason != "overlong"},
        policy=policy.fingerprint,
        judge=model.fingerprint,
        judge_is_policy=policy.fingerprint == model.fingerprint,
        screening=threshold,
        audit=audited,
        preferences={**labels.by_source, **{name: len(extra[name]) for name in extra}},
        left_out=material.left_out(extra),
    )
    path = workspace.directory.metrics / "compare.json"
    write_atomically(path, summary.model_dump_json(indent=2) + "\n")
    if not written:
        raise PromptError(
            f"no preference came out of {tally.entered} comparisons; {path} says why. Identical "
            "responses need a higher compare.temperature."
        )
    _warn(summary, workspace=workspace)
    whole = _accounted(tally, labels=labels, chosen=material.chosen, making=making)
    return whole.model_copy(update={"seconds": round(time.monotonic() - began, 3)})


@dataclass(frozen=True)
class Making:
    """Preferences in the making: the same prompts, models and settings, done or not."""

    workspace: Workspace
    chosen: Chosen
    policy: Model
    judge: Judge

    @property
    def pairs_per_prompt(self) -> int:
        """How many comparisons a prompt gives."""
        responses = self.judge.section.responses
        return responses * (responses - 1) // 2

    async def compare_all(self) -> Tally:
        """Finishes every comparison that is not finished."""
        section, seed = self.judge.section, self.judge.seed
        return await run_records(
            self._slots(),
            stage="compare",
            work=partial(compare, policy=self.policy, judge=self.judge, section=section, seed=seed),
            key=_key,
            dump=Compared.model_dump_json,
            store=self._store(),
            # One model writes while the other judges: enough records for both.
            width=self.policy.capacity + self.judge.model.capacity,
            max_failed=section.max_failed,
            progress=self.workspace.progress,
            total=sum(1 for _ in self._slots()),
        )

    def finished(self) -> Iterator[Compared]:
        """The finished comparisons in the order of the prompts, one at a time."""
        found = stored(
            self._slots(), key=_key, store=self._store(), load=Compared.model_validate_json
        )
        return (compared for _, compared in found)

    def write(self, extra: Mapping[PreferenceSource, list[PreferencePair]]) -> int:
        """Writes the judge's preferences and then the others; gives back how many."""
        makers = Makers(
            seed=self.judge.seed,
            policy=self.policy.fingerprint,
            judge=self.judge.model.fingerprint,
            constitution=self.workspace.constitution.hash,
        )
        judged = (
            judged_row(compared.verdict.preference, makers=makers, negative=compared.negative)
            for compared in self.finished()
            if compared.verdict is not None
        )
        path = self.workspace.directory.data / "preferences.jsonl"
        return write_jsonl(path, chain(judged, *extra.values()))

    def _slots(self) -> Iterator[Slot]:
        return slots(self.chosen.prompts, section=self.judge.section, seed=self.judge.seed)

    def _store(self) -> Records:
        section = self.judge.section.model_dump(
            mode="json",
            include={
                "temperature", "max_new_tokens", "principles", "chain_of_thought", "clamp",
                "votes", "tie_margin",
            },
        )  # fmt: skip
        shaping = {
            "section": section,
            "constitution": self.workspace.constitution.hash,
            "models": [self.policy.fingerprint, self.judge.model.fingerprint],
            "threshold": self.judge.threshold,
            "seed": self.judge.seed,
        }
        return self.workspace.journal.records("compare", context=content_hash(shaping))


def _key(slot: Slot) -> str:
    """Names a record by what was asked, too: an edited prompt is another record."""
    asked = [slot.prompt] if slot.negative is None else [slot.prompt, slot.negative]
    said = content_hash([prompt.model_dump(mode="json") for prompt in asked])
    return f"{slot.id}/{said}"


def _accounted(tally: Tally, *, labels: LabelSummary, chosen: Chosen, making: Making) -> Tally:
    """The tally with what was filtered: comparisons without a preference, prompts left out."""
    kinds = labels.by_kind.values()
    filtered = {
        "identical": sum(kind.identical for kind in kinds),
        "inapplicable": sum(kind.inapplicable for kind in kinds),
    }
    unasked = {reason: n * making.pairs_per_prompt for reason, n in chosen.dropped.items()}
    counted = tally.filtering({reason: n for reason, n in filtered.items() if n})
    return Tally.model_validate(
        {
            **counted.model_dump(by_alias=False),
            "entered": counted.entered + sum(unasked.values()),
            "filtered": counted.filtered + sum(unasked.values()),
            "reasons": dict(sorted({**counted.reasons, **unasked}.items())),
        }
    )


def _warn(summary: CompareSummary, *, workspace: Workspace) -> None:
    """Says what a person should know before training on the preferences."""
    total = sum(summary.preferences.values())
    if total < _ENOUGH:
        log.warning(
            "only %d preferences: so few hardly change a model. Add prompts, or raise "
            "compare.responses",
            total,
        )
    if summary.judge_is_policy:
        log.warning(
            "the judge is the very model whose responses it compares; name another: models.judge"
        )
    bias, limit = summary.labels.consistency.firm_position_bias, workspace.config.compare
    if bias is not None and bias > limit.max_position_bias:
        log.warning(
            "%.0f %% of the labels that are no toss-ups follow the position of a response and not "
            "the response, more than compare.max_position_bias = %g: name a stronger judge "
            "(models.judge)%s",
            100 * bias,
            limit.max_position_bias,
            "" if limit.chain_of_thought else ", or try compare.chain_of_thought",
        )
    accuracy = summary.audit.accuracy
    if accuracy.high is not None and accuracy.high < _LEAST_ACCURACY:
        log.warning(
            "the judge finds the better reply in %.0f %% of the principles' own tests; its labels "
            "say little. Name a stronger judge: models.judge",
            100 * (accuracy.rate or 0.0),
        )
