"""What comparing found out besides the preferences themselves: `metrics/compare.json`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from charter.feedback.compare import Compared
from charter.feedback.quality import Audit, Consistency, Tilt
from charter.prompts import PromptCounts
from charter.records import Preference, Record
from charter.screening import Threshold


class KindSummary(Record):
    """What became of the comparisons on prompts of one kind."""

    comparisons: int
    identical: int
    inapplicable: int
    tie_broken: int
    consistency: Consistency
    confidence: float | None
    """The mean probability of whichever response was preferred; None of no labels."""


class LabelSummary(Record):
    """What the labels are like."""

    consistency: Consistency
    by_kind: Mapping[str, KindSummary]
    """`benign negatives` and the like are counted by themselves."""
    by_principle: Mapping[str, int]
    """How many labels each principle had a part in."""
    responses_cut_off: int
    """Ended by `max_new_tokens`."""
    by_source: Mapping[str, int] = {}
    """How many labels are of two responses to the prompt (`judge`), and of a negative."""
    unusable_votes: Mapping[str, int]
    """Sampled votes that could not be counted, by cause."""


class CompareSummary(Record):
    """Everything that says how far the preferences can be trusted."""

    prompts: PromptCounts
    labels: LabelSummary
    failed: Mapping[str, int]
    """Comparisons without a verdict, by cause; `JudgementError`: the judge would not say."""
    policy: str
    """Fingerprint of the model that wrote the responses."""
    judge: str
    """Fingerprint of the model that chose."""
    judge_is_policy: bool
    screening: Threshold
    """How the judge tells one by one which replies break a principle, on the principles' tests."""
    audit: Audit
    """On the principles' own tests."""
    preferences: Mapping[str, int]
    """Rows of `data/preferences.jsonl` by source: judge, negative, revision, misplaced, human."""
    left_out: Mapping[str, Mapping[str, int]]
    """Of the other sources, by reason: `heldout`, `duplicate`, `quarantined`, `share`."""


@dataclass
class _KindCounts:
    counts: Counter[str] = field(default_factory=Counter[str])
    tilt: Tilt = field(default_factory=Tilt)
    confidence: float = 0.0

    def add(self, preference: Preference) -> None:
        self.tilt.add(preference)
        self.confidence += max(preference.p_first, 1.0 - preference.p_first)

    @property
    def summary(self) -> KindSummary:
        n = self.tilt.n
        return KindSummary(
            comparisons=self.counts["comparisons"],
            identical=self.counts["identical"],
            inapplicable=self.counts["inapplicable"],
            tie_broken=self.counts["tie_broken"],
            consistency=self.tilt.consistency,
            confidence=self.confidence / n if n else None,
        )


def label_summary(compared: Iterable[Compared]) -> LabelSummary:
    """What finished comparisons come to, read one at a time."""
    kinds = defaultdict[str, _KindCounts](_KindCounts)
    every, principles, votes = Tilt(), Counter[str](), Counter[str]()
    cut_off = negatives = 0
    for each in compared:
        kind = kinds[each.comparison.prompt.kind + (" negatives" if each.negative else "")]
        kind.counts.update(["comparisons", *([each.filtered] if each.filtered else [])])
        cut_off += sum(each.comparison.cut_off)
        if (verdict := each.verdict) is None:
            continue
        every.add(verdict.preference)
        negatives += each.negative
        kind.add(verdict.preference)
        kind.counts["tie_broken"] += verdict.tie_broken
        principles.update(verdict.preference.principle_ids)
        votes.update(verdict.unusable)
    return LabelSummary(
        consistency=every.consistency,
        by_kind={name: counts.summary for name, counts in sorted(kinds.items())},
        by_principle=dict(sorted(principles.items())),
        responses_cut_off=cut_off,
        by_source={"judge": every.n - negatives} | ({"negative": negatives} if negatives else {}),
        unusable_votes=dict(sorted(votes.items())),
    )
