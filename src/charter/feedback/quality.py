"""How far a judge can be trusted: whether it follows the reply or its position, and is right.

Consistency needs no truth, so it is measured on the labels themselves. Accuracy and calibration
are measured on the principles' own tests, judged as all comparisons are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charter.constitution import Constitution
from charter.errors import CharterError
from charter.feedback.judge import Judge, judge_comparison
from charter.intervals import rate_interval
from charter.records import Comparison, Preference, Prompt, Record, user
from charter.schedule import RECORD_ERRORS

_BINS = 5
_TOSS_UP = 0.1 - 1e-9
"""Distance from a half below which a probability decides nothing. After a chain of thought all are
clamped to a tenth by default, and those are the firmest: rounding must not make them toss-ups."""


class Consistency(Record):
    """What becomes of labels when the two responses change places; None of no labels."""

    n: int
    position_bias: float | None
    """Share of labels where the same position wins in both orders."""
    toss_ups: float | None
    """Share of labels where no response gets 0.6 in either order."""
    firm_position_bias: float | None
    """Position bias among the other labels; where nearly equal responses make for toss-ups, a
    position that wins by a hair says little. None where all are toss-ups."""
    same_verdict: float | None
    """Share of labels where the same response wins in both orders."""
    self_agreement: float | None
    """1 - the mean distance between a response's probabilities in both orders."""


class Share(Record):
    """A share with its 95 % interval; None of nothing."""

    rate: float | None
    low: float | None
    high: float | None
    n: int


class CalibrationBin(Record):
    """Labels of about one confidence: how sure the judge was, and how often right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class Audit(Record):
    """How a judge did on pairs of which the better reply is known."""

    accuracy: Share
    calibration_error: float | None
    """Expected calibration error: the mean distance between confidence and accuracy."""
    calibration: tuple[CalibrationBin, ...]
    consistency: Consistency
    by_principle: Mapping[str, Share]
    unusable: Mapping[str, int]
    """Pairs without a verdict, by cause."""


class KnownPair(NamedTuple):
    """A comparison whose first response is the better one."""

    principle_id: str
    comparison: Comparison


@dataclass
class Tilt:
    """Counts how labels follow position and reply, one label at a time."""

    n: int = 0
    same_position: int = 0
    same_response: int = 0
    firm: int = 0
    firm_same_position: int = 0
    distance: float = 0.0

    def add(self, preference: Preference) -> None:
        """One more label; a toss-up in either order follows neither."""
        first, second = preference.p_first_shown_first, preference.p_first_shown_second
        self.n += 1
        follows_position = (first - 0.5) * (second - 0.5) < 0
        is_firm = max(abs(first - 0.5), abs(second - 0.5)) >= _TOSS_UP
        self.same_response += (first - 0.5) * (second - 0.5) > 0
        self.same_position += follows_position
        self.firm += is_firm
        self.firm_same_position += is_firm and follows_position
        self.distance += abs(first - second)

    @property
    def consistency(self) -> Consistency:
        """What the labels so far come to."""
        if not self.n:
            return Consistency(
                n=0,
                position_bias=None,
                toss_ups=None,
                firm_position_bias=None,
                same_verdict=None,
                self_agreement=None,
            )
        return Consistency(
            n=self.n,
            position_bias=self.same_position / self.n,
            toss_ups=1.0 - self.firm / self.n,
            firm_position_bias=self.firm_same_position / self.firm if self.firm else None,
            same_verdict=self.same_response / self.n,
            self_agreement=1.0 - self.distance / self.n,
        )


def consistency(preferences: Iterable[Preference]) -> Consistency:
    """What becomes of these labels when the responses change places.

    Source: Lee et al. 2023 (RLAIF), sec. 4.4 (position bias).
    """
    tilt = Tilt()
    for preference in preferences:
        tilt.add(preference)
    return tilt.consistency


def known_pairs(constitution: Constitution) -> list[KnownPair]:
    """The principles' tests as comparisons: the reply that keeps a principle over its breach."""
    return [
        KnownPair(
            principle.id,
            Comparison(
                id=f"test:{principle.id}:{number}",
                prompt=Prompt(
                    id=f"test:{principle.id}:{number}",
                    messages=(user(test.prompt),),
                    tags=principle.applies_when,
                ),
                first=test.keeps,
                second=test.breaks,
            ),
        )
        for principle in constitution.principles
        for number, test in enumerate(principle.tests)
    ]


async def audit(pairs: Sequence[KnownPair], *, judge: Judge) -> Audit:
    """How often, and how surely, the judge finds the better of two replies."""

    async def seen(pair: KnownPair) -> Preference | CharterError:
        try:
            verdict = await judge_comparison(pair.comparison, judge=judge)
        except RECORD_ERRORS as error:
            return error
        assert verdict is not None, pair  # its own principle applies
        return verdict.preference

    found = await asyncio.gather(*(seen(pair) for pair in pairs))
    labelled = [
        (pair.principle_id, label)
        for pair, label in zip(pairs, found, strict=True)
        if isinstance(label, Preference)
    ]
    labels = [label for _, label in labelled]
    causes = Counter(type(each).__name__ for each in found if not isinstance(each, Preference))
    bins = calibration([label.p_first for label in labels])
    return Audit(
        accuracy=_share([label.p_first > 0.5 for label in labels]),
        calibration_error=calibration_error(bins),
        calibration=bins,
        consistency=consistency(labels),
        by_principle={
            name: _share([label.p_first > 0.5 for about, label in labelled if about == name])
            for name in dict(labelled)
        },
        unusable=dict(sorted(causes.items())),
    )


def calibration(p_better: Sequence[float]) -> tuple[CalibrationBin, ...]:
    """How often a judge is right, by how sure it is; bins without labels are left out.

    Args:
        p_better: The probability that it gave to the better response of each pair.
    """
    bins: list[CalibrationBin] = []
    for number in range(_BINS):
        low, high = (0.5 + 0.5 * edge / _BINS for edge in (number, number + 1))
        inside = [p for p in p_better if _bin(p) == number]
        if inside:
            bins.append(
                CalibrationBin(
                    low=low,
                    high=high,
                    n=len(inside),
                    confidence=sum(max(p, 1.0 - p) for p in inside) / len(inside),
                    accuracy=sum(p > 0.5 for p in inside) / len(inside),
                )
            )
    return tuple(bins)


def calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """The mean distance between confidence and accuracy, bins weighing what they hold.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, sec. 2.
    """
    n = sum(each.n for each in bins)
    if not n:
        return None
    return sum(each.n * abs(each.confidence - each.accuracy) for each in bins) / n


def _bin(p: float) -> int:
    """The bin of a label by its confidence, which lies in [0.5, 1]."""
    return min(int((max(p, 1.0 - p) - 0.5) * 2 * _BINS), _BINS - 1)


def _share(hits: Sequence[bool]) -> Share:
    estimate = rate_interval([(int(hit), 1) for hit in hits])
    if estimate is None:
        return Share(rate=None, low=None, high=None, n=0)
    return Share(rate=estimate.value, low=estimate.low, high=estimate.high, n=len(hits))
