"""How well rewards order held-out pairs of responses, and how far they can be believed.

A label has no side: which response stands first is convention. So AUC and calibration are those of
every pair read in both orders, the mirror image included; a pair without a better response (p =
0.5) has a part in calibration and loss alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from charter.feedback.quality import Share
from charter.intervals import rate_interval
from charter.records import PreferencePair, Record

_BINS = 5
"""Between 0.5 and 1; below lie as many, their mirror images."""


@dataclass(frozen=True)
class Scored:
    """A held-out preference, with the rewards of both responses."""

    pair: PreferencePair
    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int

    @property
    def gap(self) -> float:
        """How much more the better response is worth, in nats."""
        return self.chosen - self.rejected

    @property
    def is_right(self) -> bool:
        """Whether the better response has the higher reward; equal ones tell nothing apart."""
        return self.gap > 0.0


class CalibrationBin(Record):
    """Pairs of about one predicted probability, and the labels that they have."""

    low: float
    high: float
    n: int
    predicted: float
    """The mean of sigmoid(reward gap)."""
    observed: float
    """The mean label."""


class Ordered(Record):
    """The share of pairs that are ordered as their labels say; None of no pairs."""

    accuracy: float | None
    n: int


class LengthFigures(Record):
    """Whether length is taken for quality."""

    chosen_longer: Ordered
    chosen_shorter: Ordered
    correlation: float | None
    """Of reward with tokens, over all responses; None where one of the two does not vary."""


class Ordering(Record):
    """How well rewards order held-out pairs: `metrics/reward.json`, `metrics/dpo.json`."""

    accuracy: Share
    """Of pairs ordered as their labels say; the interval is clustered by prompt."""
    judged: Share | None = None
    """The same of those in which a judge compared two responses to the prompt."""
    auc: float | None
    """Probability that a pair read with its better response first has a larger reward gap than
    one read with it second."""
    ece: float | None
    """Expected calibration error of sigmoid(reward gap) against the soft labels."""
    calibration: tuple[CalibrationBin, ...]
    loss: float | None
    """Cross-entropy against the soft labels, in nats per pair."""
    by_principle: Mapping[str, Ordered]
    by_source: Mapping[str, Ordered]
    by_kind: Mapping[str, Ordered]
    by_length: LengthFigures


def ordering(scored: Sequence[Scored]) -> Ordering:
    """How well these rewards order these pairs."""
    decided = [item for item in scored if item.pair.p_chosen > 0.5]
    bins = _calibration(scored)
    return Ordering(
        accuracy=_accuracy(decided),
        judged=_accuracy([item for item in decided if item.pair.provenance.source == "judge"]),
        auc=_auc([item.gap for item in decided]),
        ece=_ece(bins),
        calibration=bins,
        loss=sum(map(_loss, scored)) / len(scored) if scored else None,
        by_principle=_by(decided, lambda item: item.pair.provenance.principle_ids),
        by_source=_by(decided, lambda item: (item.pair.provenance.source,)),
        by_kind=_by(decided, lambda item: (item.pair.provenance.kind,)),
        by_length=LengthFigures(
            chosen_longer=_ordered(
                item for item in decided if item.chosen_tokens > item.rejected_tokens
            ),
            chosen_shorter=_ordered(
                item for item in decided if item.chosen_tokens < item.rejected_tokens
            ),
            correlation=_correlation(scored),
        ),
    )


def accuracy_text(accuracy: Share) -> str:
    """An accuracy with its interval, in words."""
    if accuracy.rate is None:
        return "no held-out pair"
    return (
        f"{accuracy.rate:.1%} of {accuracy.n:,} held-out pairs "
        f"(95 % interval {accuracy.low:.1%} to {accuracy.high:.1%})"
    )


def _accuracy(decided: Sequence[Scored]) -> Share:
    clusters: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for item in decided:
        right, n = clusters[item.pair.provenance.prompt_id]
        clusters[item.pair.provenance.prompt_id] = (right + item.is_right, n + 1)
    estimate = rate_interval(list(clusters.values()))
    if estimate is None:
        return Share(rate=None, low=None, high=None, n=0)
    return Share(rate=estimate.value, low=estimate.low, high=estimate.high, n=len(decided))


def _ordered(items: Iterable[Scored]) -> Ordered:
    right = [item.is_right for item in items]
    return Ordered(accuracy=sum(right) / len(right) if right else None, n=len(right))


def _by(
    decided: Sequence[Scored], groups_of: Callable[[Scored], Iterable[str]]
) -> dict[str, Ordered]:
    members: defaultdict[str, list[Scored]] = defaultdict(list)
    for item in decided:
        for group in groups_of(item):
            members[group].append(item)
    return {name: _ordered(items) for name, items in sorted(members.items())}


def _auc(gaps: Sequence[float]) -> float | None:
    """P(gap_i > -gap_j) over all i and j, ties counting half."""
    if not gaps:
        return None
    ours = np.asarray(gaps)
    theirs = np.sort(-ours)
    below = np.searchsorted(theirs, ours, side="left")
    up_to = np.searchsorted(theirs, ours, side="right")
    return float((below + up_to).sum() / 2 / len(ours) ** 2)


def _calibration(scored: Sequence[Scored]) -> tuple[CalibrationBin, ...]:
    """Each pair in the order in which the first response is predicted to be the better one."""
    members: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for item in scored:
        predicted, label = _sigmoid(item.gap), item.pair.p_chosen
        if predicted < 0.5:
            predicted, label = 1.0 - predicted, 1.0 - label
        number = min(int((predicted - 0.5) * 2 * _BINS), _BINS - 1)
        members[number].append((predicted, label))
    return tuple(
        CalibrationBin(
            low=0.5 + 0.5 * number / _BINS,
            high=0.5 + 0.5 * (number + 1) / _BINS,
            n=len(rows),
            predicted=sum(predicted for predicted, _ in rows) / len(rows),
            observed=sum(label for _, label in rows) / len(rows),
        )
        for number, rows in sorted(members.items())
    )


def _ece(bins: Sequence[CalibrationBin]) -> float | None:
    """Source: Guo et al. 2017, On Calibration of Modern Neural Networks, sec. 2."""
    n = sum(each.n for each in bins)
    if not n:
        return None
    return sum(each.n * abs(each.predicted - each.observed) for each in bins) / n


def _loss(item: Scored) -> float:
    """-p log sigmoid(gap) - (1 - p) log sigmoid(-gap), where neither overflows."""
    return float(np.logaddexp(0.0, -item.gap)) + (1.0 - item.pair.p_chosen) * item.gap


def _sigmoid(gap: float) -> float:
    return 1.0 / (1.0 + math.exp(-gap)) if gap >= 0.0 else 1.0 - _sigmoid(-gap)


def _correlation(scored: Sequence[Scored]) -> float | None:
    rewards = np.array([value for item in scored for value in (item.chosen, item.rejected)])
    tokens = np.array(
        [value for item in scored for value in (item.chosen_tokens, item.rejected_tokens)]
    )
    if not len(scored) or rewards.std() == 0.0 or tokens.std() == 0.0:
        return None
    return float(np.corrcoef(rewards, tokens)[0, 1])
