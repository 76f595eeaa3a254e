"""A comparison and the principles -> the probability that the first response is better.

Harmful prompts are judged by how well each response keeps the principles, benign ones by how far it
helps, borderline ones by both. Every question is asked in both orders, and the label is soft: the
probability of a choice, not the choice.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charter.config import CompareConfig
from charter.constitution import Constitution
from charter.errors import JudgementError
from charter.model import Model
from charter.records import (
    Comparison,
    Completion,
    Dialogue,
    Preference,
    Record,
    Sampling,
    assistant,
    content_hash,
    user,
)
from charter.screening import DEFAULT_THRESHOLD, Threshold, odds, probability_of, screen
from charter.seeding import derive, draw_several
from charter.wording import (
    CHOICES,
    HELPFULNESS_COMPARISON,
    VERDICT_REQUEST,
    comparison_request,
    harmlessness_question,
    reasoning_request,
    verdict_in,
)

log = logging.getLogger(__name__)

_LEAST_RELEVANCE = 0.02
"""P(broken) that counts for a principle which neither response seems to break: without it, two
harmless responses would have no principle to be judged by."""
_VOTE_TOKENS = 32


@dataclass(frozen=True)
class Judge:
    """Who compares, by what, and how."""

    model: Model
    constitution: Constitution
    section: CompareConfig
    seed: int
    threshold: float | None = DEFAULT_THRESHOLD
    """P(broken) from which a principle counts as broken. None: the model cannot tell; principles
    are then drawn by weight alone, and nothing breaks a tie."""


def settled_judge(
    model: Model,
    *,
    constitution: Constitution,
    section: CompareConfig,
    seed: int,
    threshold: Threshold,
) -> Judge:
    """A judge that screens as far as the principles' own tests show that it can."""
    if threshold.tells_nothing:
        log.warning(
            "the judge cannot tell the principles' own tests apart one reply at a time; it "
            "compares under principles drawn by weight alone, and evasive replies lose no tie"
        )
        return Judge(model, constitution, section, seed, threshold=None)
    return Judge(model, constitution, section, seed, threshold=threshold.value)


class Verdict(Record):
    """A preference, and what it took to get it."""

    preference: Preference
    tie_broken: bool = False
    """Whether two harmless responses lay so near to each other that the helpful one won."""
    unusable: Mapping[str, int] = {}
    """Sampled votes that could not be counted, by cause."""


async def judge_comparison(comparison: Comparison, *, judge: Judge) -> Verdict | None:
    """The judge's verdict; None where no principle speaks to a harmful prompt.

    Swapping the responses gives the complementary probability, and the order of the principles
    does not matter.

    Raises:
        JudgementError: An answer could not be read as a verdict.
        BackendError: The judge could not answer.

    Source: Bai et al. 2022, sec. 4.1; both orders after Lee et al. 2023 (RLAIF), sec. 2. Several
    principles, drawn by relevance, and the tie-break against evasive replies are charter's.
    """
    match comparison.prompt.kind:
        case "benign":
            return _verdict(comparison, [await _helpfulness(comparison, judge=judge)])
        case "borderline":
            both = await asyncio.gather(
                _harmlessness(comparison, judge=judge), _helpfulness(comparison, judge=judge)
            )
            return _verdict(comparison, [opinion for opinion in both if opinion is not None])
        case "harmful":
            harmless = await _harmlessness(comparison, judge=judge)
            if harmless is None or not harmless.is_tie(margin=judge.section.tie_margin):
                return None if harmless is None else _verdict(comparison, [harmless])
            helpful = await _helpfulness(comparison, judge=judge)
            return _verdict(comparison, [harmless, helpful], tie_broken=True)


def p_first(logprobs: Mapping[str, float]) -> float:
    """The probability of the first choice, renormalised over both.

    Raises:
        JudgementError: A choice has no probability.
    """
    missing = [name for name in CHOICES if math.isnan(logprobs.get(name, math.nan))]
    if missing:
        raise JudgementError(
            f"the judge gave no probability to choice {', '.join(missing)}; got "
            f"{dict(logprobs)!r}. Ask for more top log-probs, sample votes (compare.votes), or use "
            "a local judge."
        )
    return probability_of(CHOICES[0], {name: logprobs[name] for name in CHOICES})


class _Orders(NamedTuple):
    """The probability that the first response is better, by where it stood."""

    shown_first: float
    shown_second: float


@dataclass(frozen=True)
class _Opinion:
    """What one kind of question came to."""

    orders: _Orders
    unusable: Counter[str]
    principle_ids: tuple[str, ...] = ()
    harmless: bool = False
    """Whether neither response seems to break any principle."""

    def is_tie(self, *, margin: float) -> bool:
        """Whether what helps more should decide: of two harmful responses it must not."""
        distance = abs(0.5 * (self.orders.shown_first + self.orders.shown_second) - 0.5)
        return self.harmless and distance <= margin


def _verdict(
    comparison: Comparison, opinions: Sequence[_Opinion], *, tie_broken: bool = False
) -> Verdict:
    """Opinions of equal weight as one preference."""
    orders = _mean([opinion.orders for opinion in opinions], weights=[1.0] * len(opinions))
    unusable = sum((opinion.unusable for opinion in opinions), Counter[str]())
    return Verdict(
        preference=Preference(
            comparison=comparison,
            source="judge",
            principle_ids=tuple(name for opinion in opinions for name in opinion.principle_ids),
            p_first_shown_first=orders.shown_first,
            p_first_shown_second=orders.shown_second,
        ),
        tie_broken=tie_broken,
        unusable=dict(sorted(unusable.items())),
    )


def _mean(several: Sequence[_Orders], *, weights: Sequence[float]) -> _Orders:
    """The weighted mean, the same to the bit in whatever order its parts come."""
    total = math.fsum(weights)

    def over(values: Sequence[float]) -> float:
        summed = math.fsum(weight * value for weight, value in zip(weights, values, strict=True))
        return min(1.0, summed / total)

    return _Orders(
        over([orders.shown_first for orders in several]),
        over([orders.shown_second for orders in several]),
    )


async def _helpfulness(comparison: Comparison, *, judge: Judge) -> _Opinion:
    (orders,), unusable = await _weigh(comparison, [HELPFULNESS_COMPARISON], judge=judge)
    return _Opinion(orders, unusable)


async def _harmlessness(comparison: Comparison, *, judge: Judge) -> _Opinion | None:
    """How well each response keeps the drawn principles; None if none applies.

    A principle counts in proportion to its weight and to the odds that one of the responses breaks
    it, both when it is drawn and in the mean: a principle that neither breaks says next to nothing.
    """
    prompt = comparison.prompt
    principles = {item.id: item for item in judge.constitution.applicable(prompt.tags)}
    if not principles:
        return None
    p_broken = await _most_broken(comparison, judge=judge)
    relevance = {
        name: item.weight * odds(max(p_broken.get(name, 1.0), _LEAST_RELEVANCE))
        for name, item in principles.items()
    }
    drawn = sorted(
        draw_several(
            relevance, judge.section.principles, judge.seed, comparison.id, "comparison principles"
        )
    )
    questions = [harmlessness_question(principles[name]) for name in drawn]
    several, unusable = await _weigh(comparison, questions, judge=judge)
    orders = _mean(several, weights=[relevance[name] for name in drawn])
    harmless = judge.threshold is not None and max(p_broken.values()) < judge.threshold
    if harmless:
        # Asked which reply keeps a principle better that neither breaks, a judge still picks one:
        # often the reply that says least.
        orders = _nearer_to_a_tie(orders, by=max(p_broken[name] for name in drawn))
    return _Opinion(orders, unusable, principle_ids=tuple(drawn), harmless=harmless)


def _nearer_to_a_tie(orders: _Orders, *, by: float) -> _Orders:
    """The probabilities at `by` times their distance from a half."""
    return _Orders(*(0.5 + by * (p - 0.5) for p in orders))


async def _most_broken(comparison: Comparison, *, judge: Judge) -> dict[str, float]:
    """P(broken) of whichever response breaks it more, by principle id; empty without screening."""
    if judge.threshold is None:
        return {}
    first, second = await asyncio.gather(
        *(
            screen(
                comparison.prompt.messages,
                response=response,
                principles=judge.constitution.applicable(comparison.prompt.tags),
                judge=judge.model,
            )
            for response in (comparison.first, comparison.second)
        )
    )
    return {name: max(first[name], second[name]) for name in first}


async def _weigh(
    comparison: Comparison, questions: Sequence[str], *, judge: Judge
) -> tuple[list[_Orders], Counter[str]]:
    """The answers to questions about a comparison, and the votes that could not be counted."""
    # One order after the other: questions about the same text share all but their last tokens.
    asked = await asyncio.gather(
        *(
            _p_first_shown(order, question, judge=judge)
            for order in (comparison, comparison.swapped())
            for question in questions
        )
    )
    as_is, swapped = asked[: len(questions)], asked[len(questions) :]
    several = [
        _Orders(first.p, 1.0 - second.p) for first, second in zip(as_is, swapped, strict=True)
    ]
    return several, sum((answer.unusable for answer in asked), Counter[str]())


class _Answer(NamedTuple):
    """The probability of the response that was shown first."""

    p: float
    unusable: Counter[str]


async def _p_first_shown(comparison: Comparison, question: str, *, judge: Judge) -> _Answer:
    """One question about a comparison in the order in which it stands."""
    section = judge.section
    ask = _by_votes if section.votes else _by_probability
    answer = await ask(comparison, question, judge=judge)
    if not section.chain_of_thought:
        return answer
    low, high = section.clamp
    return answer._replace(p=min(max(answer.p, low), high))


async def _by_probability(comparison: Comparison, question: str, *, judge: Judge) -> _Answer:
    dialogue = await _asked(comparison, question, judge=judge, temperature=0.0, seed=judge.seed)
    return _Answer(p_first(await judge.model.choose(dialogue, choices=CHOICES)), Counter())


async def _by_votes(comparison: Comparison, question: str, *, judge: Judge) -> _Answer:
    """The share of votes, for judges whose probabilities are not to be had."""
    # Named by what is shown: the two orders must not draw alike, whichever of them comes first.
    shown = content_hash([comparison.first, comparison.second, question])

    async def vote(number: int) -> Completion:
        seed = derive(judge.seed, comparison.id, shown, "vote", number)
        dialogue = await _asked(comparison, question, judge=judge, temperature=1.0, seed=seed)
        sampling = Sampling(temperature=1.0, max_new_tokens=_VOTE_TOKENS)
        return await judge.model.generate(dialogue, sampling=sampling, seed=seed)

    answers = await asyncio.gather(*(vote(number) for number in range(judge.section.votes)))
    votes = [verdict_in(answer.text) for answer in answers]
    counted = [choice for choice in votes if choice is not None]
    if not counted:
        raise JudgementError(
            f"not one of {len(votes)} votes on comparison {comparison.id} is a verdict; the first "
            f"is {answers[0].text!r}. Use another judge, or read its probabilities: "
            "compare.votes=0."
        )
    causes = (
        _cause(answer) for answer, choice in zip(answers, votes, strict=True) if choice is None
    )
    return _Answer(counted.count(CHOICES[0]) / len(counted), Counter(causes))


def _cause(answer: Completion) -> str:
    """Why a vote is no verdict."""
    if all(choice in answer.text for choice in CHOICES):
        return "vote_for_both"
    return "vote_cut_off" if answer.finish == "length" else "no_vote"


async def _asked(
    comparison: Comparison, question: str, *, judge: Judge, temperature: float, seed: int
) -> Dialogue:
    """The conversation whose next turn is the verdict, the judge's reasons in it if so asked."""
    shown = comparison.prompt.messages, comparison.first, comparison.second, question
    if not judge.section.chain_of_thought:
        return (user(comparison_request(*shown)),)
    request = user(reasoning_request(*shown))
    sampling = Sampling(temperature=temperature, max_new_tokens=judge.section.max_new_tokens)
    reasons = await judge.model.generate((request,), sampling=sampling, seed=derive(seed, "why"))
    return (request, assistant(reasons.text), user(VERDICT_REQUEST))
