"""When RL has gone too far: a policy that is rewarded more and is worth less (Goodhart's law).

Looks at responses to prompts that are not trained on show four things that the reward cannot: what
the frozen judge thinks of them against the reference's; how long they are; how often they refuse;
and whether they all end alike. The judge is no outside witness: a reward model learnt its labels,
and with `reinforce.reward: judge` it is the reward. Only RL itself has not seen the prompts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from charter.config import ReinforceConfig
from charter.learning.metrics import LookRow
from charter.refusal import refuses

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_UNKNOWN_ERROR = 0.5
"""The standard error of one probability: the most that it may be."""
_ERRORS = 1.0
"""By how many standard errors the judge's score must have fallen to count as fallen."""


@dataclass(frozen=True)
class Seen:
    """A held-out prompt's response, and the reference's to the same."""

    text: str
    reference: str
    tokens: int
    reward: float
    win: float
    """The judge's probability that it beats the reference's."""


def look(step: int, seen: Sequence[Seen]) -> LookRow:
    """What a look shows."""
    wins = [one.win for one in seen]
    return LookRow(
        step=step,
        reward=fmean(one.reward for one in seen),
        judge=fmean(wins),
        judge_error=stdev(wins) / math.sqrt(len(wins)) if len(wins) > 1 else _UNKNOWN_ERROR,
        length_tokens=fmean(one.tokens for one in seen),
        refusal_share=fmean(refuses(one.text) for one in seen),
        boilerplate_share=boilerplate_share(
            [one.text for one in seen], reference=[one.reference for one in seen]
        ),
    )


def boilerplate_share(texts: Sequence[str], *, reference: Sequence[str]) -> float:
    """The largest share of texts that close with one sentence, beyond the reference's use of it.

    Only texts of several sentences count: a text that *is* one sentence has no boilerplate. Nor has
    a sentence that one text alone closes with.
    """
    ours, theirs = _closings(texts), _closings(reference)
    excess = [n / len(texts) - theirs[line] / len(reference) for line, n in ours.items() if n > 1]
    return max([0.0, *excess])


def _closings(texts: Sequence[str]) -> Counter[str]:
    split = [_SENTENCE_END.split(text.strip()) for text in texts]
    return Counter(sentences[-1].casefold() for sentences in split if len(sentences) > 1)


def best_look(looks: Sequence[LookRow], *, section: ReinforceConfig) -> LookRow:
    """The look that the judge liked best; of equals the later one.

    Only looks within the limits count, as the first one, at the reference itself, always is.
    """
    within = [row for row in looks if _beyond(row, looks[0], section=section) is None]
    return max(within or looks[:1], key=lambda row: (row.judge, row.step))


def has_fallen(row: LookRow, *, best: LookRow) -> bool:
    """Whether the judge thinks clearly less of the policy than at its best."""
    error = math.hypot(row.judge_error, best.judge_error)
    return row.judge < best.judge - max(_ERRORS * error, 1e-9)


def too_far(looks: Sequence[LookRow], *, section: ReinforceConfig) -> str | None:
    """Why training has gone too far by now, or None; looks in the order they were taken.

    Source: the remedies of Bai et al. 2022, sec. 4.3 are to the data; this watches the training.
    """
    last = looks[-1]
    if (beyond := _beyond(last, looks[0], section=section)) is not None:
        return beyond
    best = best_look(looks, section=section)
    # The judge as the reward compares the responses of a group with each other: their mean says
    # nothing, and cannot rise.
    is_relative = section.reward == "judge"
    gamed = 0
    for row in looks:
        rises = row.step > best.step and (is_relative or row.reward > best.reward)
        gamed = gamed + 1 if rises and has_fallen(row, best=best) else 0
    if gamed < section.patience:
        return None
    fell = f"the judge's score fell from {best.judge:.2f} to {last.judge:.2f}"
    if is_relative:
        return f"goodhart: {fell}, though its verdicts are the reward"
    return f"goodhart: the reward rose from {best.reward:.3f} to {last.reward:.3f} while {fell}"


def _beyond(row: LookRow, first: LookRow, *, section: ReinforceConfig) -> str | None:
    """Which limit the responses are beyond, if any."""
    if row.boilerplate_share > section.max_boilerplate:
        return (
            f"boilerplate: {row.boilerplate_share:.0%} of the responses close with one sentence "
            "that the reference rarely says"
        )
    if row.length_tokens > section.max_length_ratio * first.length_tokens:
        return (
            f"length: responses have {row.length_tokens:.0f} tokens, the reference's had "
            f"{first.length_tokens:.0f}"
        )
    return None
