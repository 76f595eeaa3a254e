"""95 % intervals when several answers belong to one prompt.

Answers to the same prompt resemble each other, so the number of prompts limits what is known, not
the number of answers. Every function takes one entry per prompt. And a rate of 0 or 1 is not
known exactly: made-up prompts, as many of success as of failure, stand in for the variation that
was not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

_UPPER_QUANTILE = 0.975

Cluster = tuple[int, int]
"""Successes among, and number of, the scored answers to one prompt; at least one."""


class Estimate(NamedTuple):
    """A value between the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def rate_interval(clusters: Sequence[Cluster]) -> Estimate | None:
    """The share of successes among all answers; None for no prompts.

    Wilson's interval, which stays inside [0, 1], at an effective number of answers and with
    Student's quantile for the number of prompts. The effective number is what the spread between
    prompts leaves of the answers: at most all of them, at least as if every prompt had been
    answered in one way only.

    Source: Korn and Graubard 1998 (effective sample size for proportions from clustered samples),
    applied to Wilson 1927; the two made-up prompts after Agresti and Coull 1998.
    """
    if not clusters:
        return None
    counts: npt.NDArray[np.float64] = np.array(clusters, dtype=np.float64)
    successes, sizes = counts[:, 0], counts[:, 1]
    rate = float(successes.sum() / sizes.sum())
    if len(counts) == 1:  # one prompt says nothing about others
        return Estimate(rate, 0.0, 1.0)
    n = _effective_size(successes, sizes)
    t2 = _student_quantile(len(counts)) ** 2
    centre = (rate + t2 / (2 * n)) / (1 + t2 / n)
    reach = np.sqrt(t2 * (rate * (1 - rate) / n + t2 / (4 * n * n))) / (1 + t2 / n)
    return _within(Estimate(rate, float(centre - reach), float(centre + reach)), least=0.0)


def difference_interval(pairs: Sequence[tuple[Cluster, Cluster]]) -> Estimate | None:
    """Rate of the first minus rate of the second of each pair; None for no pairs.

    A pair holds what two sides answered to one prompt, and every prompt weighs the same. The
    interval is Student's for the mean of the per-prompt differences, after adding half a prompt
    at +1, half a prompt at -1 and one at 0, so that equal answers everywhere do not give a width
    of zero.

    Source: Agresti and Min 2005 (matched proportions: half a pair to each of the four cells),
    extended from pairs of answers to shares per prompt.
    """
    if not pairs:
        return None
    gaps: npt.NDArray[np.float64] = np.array(
        [first[0] / first[1] - second[0] / second[1] for first, second in pairs],
        dtype=np.float64,
    )
    mean = float(gaps.mean())
    if len(gaps) == 1:  # one prompt says nothing about others
        return Estimate(mean, -1.0, 1.0)
    padded = len(gaps) + 2
    centre = float(gaps.sum() / padded)
    variance = float((np.square(gaps).sum() + 1) / padded) - centre**2
    reach = _student_quantile(len(gaps)) * float(np.sqrt(variance / padded))
    return _within(Estimate(mean, centre - reach, centre + reach), least=-1.0)


def win_interval(outcomes: Sequence[tuple[int, int, int]]) -> Estimate | None:
    """The share of comparisons that are won, a tie counting half; None for no prompts.

    Args:
        outcomes: Wins, losses and number of comparisons on one prompt each. A win rate is half of
            one plus the difference between the shares of wins and of losses, which is a paired
            difference: ties narrow it, as pairs that agree do.
    """
    gap = difference_interval([((wins, n), (losses, n)) for wins, losses, n in outcomes])
    return gap and Estimate(*((1 + end) / 2 for end in gap))


def mean_interval(means: Sequence[float]) -> Estimate | None:
    """The mean of one number per prompt, with Student's interval; None for no prompts.

    For quantities without bounds, such as lengths. A single prompt gives an infinite interval.
    """
    if not means:
        return None
    values: npt.NDArray[np.float64] = np.array(means, dtype=np.float64)
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean, -float("inf"), float("inf"))
    reach = _student_quantile(len(values)) * float(values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - reach, mean + reach)


def _effective_size(successes: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> float:
    """How many independent answers would tell as much as these clustered ones."""
    n, typical = float(sizes.sum()), float(sizes.mean())
    hits = np.append(successes, [typical, 0.0])
    totals = np.append(sizes, [typical, typical])
    rate = hits.sum() / totals.sum()
    residuals = hits - rate * totals
    clustered = np.square(residuals).sum() / totals.sum() ** 2 * len(totals) / (len(totals) - 1)
    independent = rate * (1 - rate) / totals.sum()
    least = n * n / float(np.square(sizes).sum())
    return float(np.clip(n * independent / clustered, least, n))


def _student_quantile(prompts: int) -> float:
    return float(stdtrit(prompts - 1, _UPPER_QUANTILE))


def _within(estimate: Estimate, *, least: float) -> Estimate:
    """The interval cut at `least` and 1, and never past the value itself by rounding."""
    return Estimate(
        estimate.value,
        max(least, min(estimate.value, estimate.low)),
        min(1.0, max(estimate.value, estimate.high)),
    )
