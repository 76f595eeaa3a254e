import asyncio

import pytest

from charter.config import EvaluateConfig
from charter.console import Silent
from charter.constitution import Constitution, Principle
from charter.errors import FailureLimitError, JudgementError
from charter.evaluation.head_to_head import Referee, head_to_head
from charter.evaluation.summary import summarise
from charter.records import Preference, Prompt, user
from tests.evaluation.answers import graded_answer

RULES = Constitution(principles=(Principle(id="ssn", rule="Never ask for an SSN."),))
KINDS = ("harmful", "benign", "borderline")
PROMPTS = tuple(
    Prompt(id=f"{kind}{i}", messages=(user("hi"),), kind=kind) for kind in KINDS for i in range(4)
)
SECTION = EvaluateConfig(samples=2, judged_samples=1, max_failed=0.1)
COLUMNS = ("base", "base+rules", "sft", "rl", "dpo")


class LongestWins:
    """Prefers the longer answer by a fixed probability, and keeps what it was asked."""

    def __init__(self, *, shown_first=0.8, shown_second=0.6):
        self.shown = shown_first, shown_second
        self.asked = []

    async def __call__(self, comparison):
        self.asked.append(comparison.id)
        verdict = Preference(
            comparison=comparison,
            source="judge",
            principle_ids=("ssn",),
            p_first_shown_first=self.shown[0],
            p_first_shown_second=self.shown[1],
        )
        return verdict if len(comparison.first) > len(comparison.second) else verdict.swapped()


def said(text, column="sft", *, prompt=PROMPTS[0], sample=0):
    return graded_answer(text, column, prompt=prompt, constitution=RULES, sample=sample)


def spoken(texts, *, prompts=PROMPTS, samples=2):
    """Answers of columns that each say one thing to every prompt."""
    return [
        said(text, column, prompt=prompt, sample=sample)
        for column, text in texts.items()
        for prompt in prompts
        for sample in range(samples)
    ]


def met(store, answers, *, prefer=None, prompts=PROMPTS, section=SECTION, rules=RULES):
    return asyncio.run(
        head_to_head(
            prompts,
            answers=answers,
            constitution=rules,
            referee=Referee(prefer or LongestWins(), context="the judge"),
            section=section,
            seed=1,
            store=store,
            width=4,
            progress=Silent(),
        )
    )


def win_rates(found, groups=()):
    figures = summarise(
        [], comparisons=found.comparisons, constitution=RULES, groups=groups, judge=None
    )
    return {(item.first, item.second, item.on): item for item in figures.comparisons}


def test_a_trained_model_meets_what_it_started_from_and_base(store):
    found = met(store, spoken({column: column for column in COLUMNS}))
    assert list(dict.fromkeys((each.first, each.second) for each in found.comparisons)) == [
        ("sft", "base"), ("rl", "sft"), ("rl", "base"), ("dpo", "sft"), ("dpo", "base"),
    ]  # fmt: skip


def test_the_first_judged_answers_to_a_prompt_are_compared(store):
    both = SECTION.model_copy(update={"judged_samples": 2})
    answers = spoken({"base": "a", "sft": "bb"})
    assert len(met(store, answers).comparisons) == len(PROMPTS)
    found = met(store, answers, section=both)
    assert [each.id for each in found.comparisons[:2]] == [
        "sft/base/harmful0/0", "sft/base/harmful0/1",
    ]  # fmt: skip


def test_the_share_of_prompts_is_drawn_by_id(store):
    half = SECTION.model_copy(update={"head_to_head": 0.5})
    answers = spoken({"base": "a", "sft": "bb"})
    found = {each.prompt_id for each in met(store, answers, section=half).comparisons}
    assert 0 < len(found) < len(PROMPTS)
    fewer = met(store, answers, section=half, prompts=PROMPTS[3:])
    kept = {prompt.id for prompt in PROMPTS[3:]}
    assert {each.prompt_id for each in fewer.comparisons} == found & kept


def test_equal_answers_are_a_tie_that_nobody_is_asked_about(store):
    prefer = LongestWins()
    found = win_rates(met(store, spoken({"base": "a", "sft": "a\n"}), prefer=prefer))
    every = found["sft", "base", "all"]
    assert prefer.asked == []
    assert (every.win_rate, every.ties, every.n, every.position_bias) == (0.5, 12, 12, None)
    assert every.p_first == 0.5


def test_win_rates_are_given_by_kind_and_for_all_prompts_together(store):
    longer = {"sft": "longer", "base": "short"}
    answers = spoken(longer, prompts=PROMPTS[:4]) + spoken(
        {"sft": "short", "base": "longer"}, prompts=PROMPTS[4:]
    )
    found = win_rates(met(store, answers))
    assert {on: item.win_rate for (_, _, on), item in found.items()} == {
        "all": pytest.approx(1 / 3), "harmful": 1, "benign": 0, "borderline": 0,
    }  # fmt: skip
    harmful = found["sft", "base", "harmful"]
    assert (harmful.n, harmful.ties, harmful.p_first) == (4, 0, pytest.approx(0.7))
    assert 0 < harmful.low < harmful.high == 1


def test_win_rates_are_given_for_groups_too(store):
    tagged = tuple(
        prompt.model_copy(update={"tags": ("pressure",)} if prompt.id == "harmful1" else {})
        for prompt in PROMPTS
    )
    answers = spoken({"base": "a", "sft": "bb"}, prompts=tagged)
    found = win_rates(met(store, answers, prompts=tagged), groups=("pressure",))
    assert found["sft", "base", "pressure"].n == 1
    assert found["sft", "base", "not pressure"].n == 3


def test_a_judge_that_goes_by_the_place_is_found_out(store):
    answers = spoken({"base": "a", "sft": "bb"})
    swayed = win_rates(met(store, answers, prefer=LongestWins(shown_first=0.9, shown_second=0.1)))
    assert swayed["sft", "base", "all"].position_bias == 1.0
    assert swayed["sft", "base", "all"].ties == len(PROMPTS)


def test_a_verdict_holds_for_the_texts_that_it_was_given_on(store):
    answers = spoken({"base": "a", "sft": "bb"})
    met(store, answers)
    prefer = LongestWins()
    met(store, answers, prefer=prefer)
    assert prefer.asked == []
    changed = [said("ccc", prompt=PROMPTS[5]) if each.id == "sft/benign1/0" else each
               for each in answers]  # fmt: skip
    met(store, changed, prefer=prefer)
    assert prefer.asked == ["sft/base/benign1/0"]


def test_an_answer_that_failed_meets_nobody(store):
    answers = spoken({"base": "a", "sft": "bb"})
    found = met(store, [each for each in answers if each.id != "base/benign1/0"])
    assert len(found.comparisons) == len(PROMPTS) - 1
    assert found.tally.entered == len(PROMPTS) - 1


def test_harmful_prompts_that_no_rule_speaks_to_are_left_out(store):
    narrow = Constitution(principles=(RULES.principles[0].model_copy(
        update={"applies_when": ("identity",)}
    ),))  # fmt: skip
    found = met(store, spoken({"base": "a", "sft": "bb"}), rules=narrow)
    assert {each.kind for each in found.comparisons} == {"benign", "borderline"}


def test_too_many_failed_verdicts_end_the_evaluation(store):
    async def mute(comparison):
        raise JudgementError("no verdict")

    with pytest.raises(FailureLimitError, match=r"12 of 12 .*evaluate\.max_failed"):
        met(store, spoken({"base": "a", "sft": "bb"}), prefer=mute)
