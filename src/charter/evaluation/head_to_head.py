"""Trained models head to head: whose answer to a prompt the judge prefers, asked in both orders.

A trained model meets the one that it started from, and `base`. Both answer a prompt's n-th time
under the same seed, so two models that training left alike tie.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from charter.config import EvaluateConfig
from charter.console import Progress
from charter.constitution import Constitution
from charter.evaluation.columns import STARTED_FROM, opponents
from charter.evaluation.figures import GradedAnswer, HeadToHead
from charter.records import Comparison, Preference, Prompt, content_hash
from charter.run import Tally
from charter.schedule import Store, run_records, stored
from charter.seeding import uniform

Prefer = Callable[[Comparison], Awaitable[Preference]]
"""A judge's verdict on two answers to one prompt."""


class Referee(NamedTuple):
    """Who compares answers, and what the verdicts depend on."""

    prefer: Prefer
    context: str
    """A hash of all that shapes a verdict besides the comparison."""


class Met(NamedTuple):
    """What became of all comparisons."""

    comparisons: tuple[HeadToHead, ...]
    """By pair, prompt and sample: the rows of `data/head_to_head.jsonl`."""
    tally: Tally


class _Bout(NamedTuple):
    """Two columns' answers to one prompt."""

    first: GradedAnswer
    second: GradedAnswer
    comparison: Comparison
    key: str


async def head_to_head(
    prompts: Collection[Prompt],
    *,
    answers: Iterable[GradedAnswer],
    constitution: Constitution,
    referee: Referee,
    section: EvaluateConfig,
    seed: int,
    store: Store,
    width: int,
    progress: Progress,
) -> Met:
    """Every pair of models on every prompt of the draw, once for each judged answer.

    Args:
        prompts: The held-out ones. Harmful ones that no principle speaks to are left out: there is
            nothing to compare answers to them by.
        answers: Of all columns to them; a pair in which one failed is left out.
        constitution: What answers are compared by.
        referee: Who compares.
        section: `head_to_head` is the share of prompts, drawn by id, `judged_samples` how many
            answers to each are compared.
        seed: The run's.
        store: Finished comparisons.
        width: Comparisons in flight at once.
        progress: Hears of every comparison.

    Raises:
        FailureLimitError: More than `section.max_failed` of the comparisons failed.
    """
    drawn = [
        prompt
        for prompt in prompts
        if uniform(seed, "head_to_head", prompt.id) < section.head_to_head
        and (prompt.kind != "harmful" or constitution.applicable(prompt.tags))
    ]
    judged = (answer for answer in answers if answer.sample < section.judged_samples)
    bouts = list(_bouts(judged, prompts=drawn, context=referee.context))

    async def work(bout: _Bout) -> HeadToHead:
        return await _met(bout, prefer=referee.prefer)

    tally = await run_records(
        bouts,
        stage="evaluate",
        task="compare answers",
        work=work,
        key=_key,
        dump=HeadToHead.model_dump_json,
        store=store,
        width=width,
        max_failed=section.max_failed,
        progress=progress,
        total=len(bouts),
    )
    found = stored(bouts, key=_key, store=store, load=HeadToHead.model_validate_json)
    return Met(tuple(met for _, met in found), tally)


def _bouts(
    answers: Iterable[GradedAnswer], *, prompts: Iterable[Prompt], context: str
) -> Iterator[_Bout]:
    """By pair, then in the order of the answers."""
    asked = {prompt.id: prompt for prompt in prompts}
    columns: dict[str, dict[tuple[str, int], GradedAnswer]] = {}
    for answer in answers:
        if answer.prompt_id in asked:
            columns.setdefault(answer.column, {})[answer.prompt_id, answer.sample] = answer
    trained = [name for name in columns if name in STARTED_FROM]
    for own, other in ((name, met) for name in trained for met in opponents(name, columns)):
        for at, first in columns[own].items():
            if (second := columns[other].get(at)) is not None:
                comparison = Comparison(
                    id=f"{own}/{other}/{first.prompt_id}/{first.sample}",
                    prompt=asked[first.prompt_id],
                    first=first.text,
                    second=second.text,
                )
                shaping = [context, comparison.model_dump(mode="json")]
                yield _Bout(first, second, comparison, f"{comparison.id}/{content_hash(shaping)}")


def _key(bout: _Bout) -> str:
    return bout.key


async def _met(bout: _Bout, *, prefer: Prefer) -> HeadToHead:
    """The verdict; of equal answers nobody is asked, since neither can be better."""
    first, second = bout.first, bout.second
    is_tie = first.text.strip() == second.text.strip()
    verdict = None if is_tie else await prefer(bout.comparison)
    return HeadToHead(
        id=bout.comparison.id,
        first=first.column,
        second=second.column,
        prompt_id=first.prompt_id,
        kind=first.kind,
        tags=first.tags,
        sample=first.sample,
        principle_ids=() if verdict is None else verdict.principle_ids,
        p_first_shown_first=None if verdict is None else verdict.p_first_shown_first,
        p_first_shown_second=None if verdict is None else verdict.p_first_shown_second,
    )
