"""What a response is worth in RL: a reward model's word, the judge's, or a function's.

A reward is an async function of rollouts, so that one that asks a model and one that computes look
alike. Penalties for length and for answers that were cut off come on top of any of them.
"""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from typing import Any

from charter.config import ReinforceConfig
from charter.errors import ConfigError, GuardError
from charter.feedback.rollouts import Rollouts
from charter.records import Comparison, Completion, Dialogue, Prompt, content_hash

Reward = Callable[[Sequence[Rollouts]], Awaitable[list[list[float]]]]
"""A number for every response, by prompt; higher is better."""

Versus = Callable[[Comparison], Awaitable[float]]
"""A judge's probability that a comparison's first response is the better one."""

PYTHON = "python:"


def by_function(source: str) -> Reward:
    """The reward that a Python function gives, named as `python:MODULE:FUNCTION`.

    The function, async or not, gets a sequence of prompts (`charter.records.Prompt`) and one of
    responses, as many of each, and gives back a number for every response.

    Raises:
        ConfigError: There is no such function.
    """
    function = named_function(source)

    async def reward(rollouts: Sequence[Rollouts]) -> list[list[float]]:
        prompts = [one.prompt for one in rollouts for _ in one.responses]
        texts = [text for one in rollouts for text in one.texts]
        try:
            given = function(prompts, texts)
            given = [float(each) for each in (await given if isawaitable(given) else given)]
        except Exception as error:  # whatever somebody else's code may raise
            raise GuardError(
                f"reward {source} failed: {type(error).__name__}: {error}. It must give one finite "
                "number for each response. Mend it and run again: training goes on from its last "
                "checkpoint."
            ) from error
        return _by_prompt(given, rollouts, source=source)

    return reward


def named_function(source: str) -> Callable[..., Any]:
    """What `python:MODULE:FUNCTION` names; its module is imported.

    Raises:
        ConfigError: There is no such function.
    """
    module, _, name = source.removeprefix(PYTHON).partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever somebody else's module may raise
        raise ConfigError(
            f"reward {source}: {type(error).__name__}: {error}. Write `python:MODULE:FUNCTION`, "
            "and run where the module can be imported (PYTHONPATH)."
        ) from error
    if not callable(function):
        raise ConfigError(
            f"reward {source}: `{name}` is no function but {type(function).__name__}. Name one "
            "that can be called."
        )
    return function


def by_scores(
    score: Callable[[Sequence[tuple[Dialogue, Sequence[Completion]]]], list[list[float]]],
) -> Reward:
    """The reward of a scorer of dialogues with responses, such as a reward model.

    See `RewardScorer.rewards_of_all`, which reads responses as its model was shown them.
    """

    async def reward(rollouts: Sequence[Rollouts]) -> list[list[float]]:
        return score([(one.prompt.messages, one.responses) for one in rollouts])

    return reward


def by_judge(versus: Versus) -> Reward:
    """The reward of beating one's neighbours: no reward model between the judge and the policy.

    The responses of a group stand in a ring, and each is compared with the next, in both orders.
    A response's reward is the mean probability of the two comparisons that it is in. So a group of
    n costs n comparisons where all pairs would cost n (n - 1) / 2.

    Source: RLAIF (Lee et al. 2023, arXiv 2309.00267) asks the labeller for each response directly;
    the ring is ours, since what the update needs is the order within a group.
    """

    async def of_group(one: Rollouts) -> list[float]:
        texts = one.texts
        following = [texts[(at + 1) % len(texts)] for at in range(len(texts))]
        wins = await asyncio.gather(
            *(
                _p_first(one.prompt, first, second, versus=versus)
                for first, second in zip(texts, following, strict=True)
            )
        )
        return [(wins[at] + 1.0 - wins[at - 1]) / 2 for at in range(len(texts))]

    async def reward(rollouts: Sequence[Rollouts]) -> list[list[float]]:
        return list(await asyncio.gather(*(of_group(one) for one in rollouts)))

    return reward


async def _p_first(prompt: Prompt, first: str, second: str, *, versus: Versus) -> float:
    """How likely the first response is the better one; equal ones need no judge."""
    if first.strip() == second.strip():
        return 0.5
    name = content_hash([prompt.id, first, second])
    return await versus(Comparison(id=name, prompt=prompt, first=first, second=second))


async def wins_over(responses: Sequence[tuple[Prompt, str, str]], *, versus: Versus) -> list[float]:
    """How likely each response beats the one beside it, by prompt, response and the other."""
    return list(
        await asyncio.gather(
            *(_p_first(prompt, ours, theirs, versus=versus) for prompt, ours, theirs in responses)
        )
    )


def with_penalties(reward: Reward, *, section: ReinforceConfig) -> Reward:
    """A reward less what length and missing ends cost."""

    async def penalised(rollouts: Sequence[Rollouts]) -> list[list[float]]:
        given = await reward(rollouts)
        return [
            [
                value
                - section.length_penalty * len(response.token_ids)
                - section.no_eos_penalty * (response.finish == "length")
                for value, response in zip(values, one.responses, strict=True)
            ]
            for values, one in zip(given, rollouts, strict=True)
        ]

    return penalised


def _by_prompt(
    given: Sequence[float], rollouts: Sequence[Rollouts], *, source: str
) -> list[list[float]]:
    wanted = sum(len(one.responses) for one in rollouts)
    if len(given) != wanted or not all(map(math.isfinite, given)):
        raise GuardError(
            f"reward {source} gave {len(given)} numbers for {wanted} responses, or one that is not "
            "finite. It must give one finite number for each."
        )
    values = iter(given)
    return [[next(values) for _ in one.responses] for one in rollouts]
