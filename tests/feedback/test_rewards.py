import asyncio
import sys
from types import ModuleType

import pytest

from charter.config import ReinforceConfig
from charter.errors import ConfigError, GuardError
from charter.feedback.rewards import by_function, by_judge, by_scores, with_penalties
from charter.feedback.rollouts import Rollouts, prompts_of_step
from charter.records import Completion, Prompt, user

PROMPTS = [Prompt(id=f"p{n}", messages=(user(f"ask {n}"),)) for n in range(7)]


def rollouts(*texts, finish="stop"):
    answers = [Completion(text=text, token_ids=(1,) * len(text), finish=finish) for text in texts]
    return Rollouts(PROMPTS[0], tuple(answers))


@pytest.fixture
def given(monkeypatch):
    """Makes `python:rewarding:NAME` out of a function."""

    def make(function):
        module = ModuleType("rewarding")
        module.function = function
        monkeypatch.setitem(sys.modules, "rewarding", module)
        return by_function("python:rewarding:function")

    return make


def test_a_function_sees_each_response_beside_its_prompt(given):
    def lengths(prompts, responses):
        return [len(p.id) + len(r) for p, r in zip(prompts, responses, strict=True)]

    reward = given(lengths)
    assert asyncio.run(reward([rollouts("a", "bcd")])) == [[3.0, 5.0]]


@pytest.mark.parametrize("numbers", [[1.0], [1.0, float("nan")]])
def test_a_function_that_does_not_give_a_number_each_is_stopped(given, numbers):
    reward = given(lambda *_: numbers)
    with pytest.raises(GuardError, match="one finite number for each"):
        asyncio.run(reward([rollouts("a", "b")]))


def test_a_function_may_be_async(given):
    async def ones(_, responses):
        return [1.0 for _ in responses]

    assert asyncio.run(given(ones)([rollouts("a", "b")])) == [[1.0, 1.0]]


@pytest.mark.parametrize("answer", [lambda: 1 / 0, lambda: [1.0, None], lambda: None])
def test_a_function_that_fails_is_named_with_what_it_said(given, answer):
    reward = given(lambda *_: answer())
    with pytest.raises(GuardError, match=r"python:rewarding:function failed: \w+Error: .* again"):
        asyncio.run(reward([rollouts("a", "b")]))


@pytest.mark.parametrize("source", ["python:nowhere:f", "python:math:nothing", "python:math"])
def test_a_function_that_is_not_there_says_how_to_name_one(source):
    with pytest.raises(ConfigError, match="python:MODULE:FUNCTION"):
        by_function(source)


def test_a_judge_as_reward_ranks_a_group_by_its_neighbours():
    asked = []

    async def longer(comparison):
        asked.append(comparison.id)
        return 1.0 if len(comparison.first) > len(comparison.second) else 0.0

    (rewards,) = asyncio.run(by_judge(longer)([rollouts("a", "bb", "ccc", "dddd")]))
    assert rewards == [0.0, 0.5, 0.5, 1.0]
    assert len(asked) == 4


def test_equal_responses_are_worth_the_same_and_nobody_is_asked():
    async def never(_):
        raise AssertionError

    assert asyncio.run(by_judge(never)([rollouts("a", "a ", "a")])) == [[0.5, 0.5, 0.5]]


def test_a_scorer_is_told_which_responses_were_cut_off():
    def score(answered):
        return [
            [float(response.finish == "length") for response in responses]
            for dialogue, responses in answered
            if dialogue == PROMPTS[0].messages
        ]

    asked = [rollouts("a", "b"), rollouts("a", finish="length")]
    assert asyncio.run(by_scores(score)(asked)) == [[0.0, 0.0], [1.0]]


def test_penalties_come_off_the_reward():
    section = ReinforceConfig(length_penalty=0.5, no_eos_penalty=2.0)

    async def one(given):
        return [[1.0 for _ in each.responses] for each in given]

    rewarded = with_penalties(one, section=section)
    assert asyncio.run(rewarded([rollouts("ab", "abcd")])) == [[0.0, -1.0]]
    assert asyncio.run(rewarded([rollouts("ab", finish="length")])) == [[-2.0]]


def test_every_prompt_comes_once_in_a_pass_and_passes_differ():
    def ids(step):
        return [one.id for one in prompts_of_step(PROMPTS, step=step, count=3, seed=1)]

    first = [name for step in range(1, 8) for name in ids(step)]
    assert len(first) == 21
    assert sorted(first[:7]) == sorted(first[7:14]) == sorted(one.id for one in PROMPTS)
    assert first[:7] != first[7:14]


def test_more_prompts_a_step_than_there_are_is_all_of_them():
    assert len(prompts_of_step(PROMPTS, step=3, count=100, seed=1)) == 7
