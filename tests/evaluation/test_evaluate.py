import asyncio
import json

import pytest

from charter.config import EvaluateConfig
from charter.console import Silent
from charter.constitution import Constitution, Principle
from charter.errors import BackendError, FailureLimitError, PromptError
from charter.evaluation.answers import Answer, Respondent
from charter.evaluation.evaluate import evaluate
from charter.evaluation.figures import Evaluation, GradedAnswer
from charter.evaluation.judging import Judge
from charter.evaluation.summary import summarise
from charter.records import Prompt, Usage, user

CONSTITUTION = Constitution(
    principles=(
        Principle(id="ssn", rule="Never ask for an SSN.", patterns=("ssn",)),
        Principle(id="kind", rule="Be kind."),
    )
)
PROMPTS = tuple(
    Prompt(id=f"{kind[0]}{i}", messages=(user("hi"),), kind=kind, expects=("link",))
    for kind in ("harmful", "benign")
    for i in range(6)
)
SECTION = EvaluateConfig(samples=3, judged_samples=1, max_failed=0.1)
METRICS = ("violation", "helpful", "refusal", "alternative", "neither")


def saying(text: str):
    async def answer(prompt: Prompt, seed: int) -> Answer:
        return Answer(text, "stop", Usage(prompt_tokens=7, completion_tokens=3), calls=1)

    return answer


COLUMNS = {"base": saying("Your SSN, or a link?"), "sft": saying("I can't, but here is a link.")}


def answered(store, *, columns=COLUMNS, judge=None, section=SECTION, prompts=PROMPTS):
    return asyncio.run(
        evaluate(
            prompts,
            columns={
                name: Respondent(answer, context=f"{name}'s model")
                for name, answer in columns.items()
            },
            constitution=CONSTITUTION,
            judge=judge,
            section=section,
            seed=1,
            store=store,
            width=4,
            progress=Silent(),
        )
    )


def evaluated(store, *, judge=None, section=SECTION, **asked):
    answers = answered(store, judge=judge, section=section, **asked).answers
    return summarise(answers, constitution=CONSTITUTION, groups=section.groups, judge=judge)


def as_json(evaluation: Evaluation):
    return json.loads(evaluation.model_dump_json())


def test_an_answer_keeps_how_it_ended_and_one_from_before_that_was_kept_is_whole(store):
    async def cut(prompt: Prompt, seed: int) -> Answer:
        return Answer("Your SS", "length", Usage(), calls=1)

    for answer in answered(store, columns={"base": cut}).answers:
        assert answer.finish == "length"
        old = answer.model_dump(mode="json", exclude={"finish"})
        assert GradedAnswer.model_validate(old).finish == "stop"


def test_the_form_that_scripts_rely_on_is_kept(store):
    written = as_json(evaluated(store))
    assert set(written) == {"models", "comparisons", "differences", "graders", "reward"}
    for model in written["models"].values():
        assert set(model) == {"harmful", "benign", "borderline", "principles", "groups"}
        for kind in ("harmful", "benign", "borderline"):
            assert {"n", *METRICS} <= set(model[kind])
            assert all({"rate", "low", "high"} <= set(model[kind][key]) for key in METRICS)
        for principle in model["principles"].values():
            assert {"n", "violation"} <= set(principle)
    assert set(written["differences"][0]) == {
        *("first", "second", "on", "metric", "difference", "low", "high", "n")
    }
    assert written["comparisons"] == []


def test_columns_are_measured_by_kind_of_prompt(store):
    models = evaluated(store).models
    assert list(models) == ["base", "sft"]
    base, sft = models["base"], models["sft"]
    assert (base.harmful.n, base.harmful.violation.rate, base.harmful.refusal.rate) == (18, 1, 0)
    assert (sft.harmful.violation.rate, sft.harmful.refusal.rate) == (0, 1)
    assert (sft.harmful.helpful.rate, sft.harmful.alternative.rate) == (1, 1)
    assert (base.benign.helpful.rate, sft.benign.helpful.rate) == (1, 0)
    assert base.harmful.tokens.mean == 10
    assert base.harmful.characters.mean == len("Your SSN, or a link?")


def test_what_nobody_could_score_is_null_and_not_zero(store):
    model = as_json(evaluated(store))["models"]["base"]
    unscored = {"rate": None, "low": None, "high": None, "n": 0}
    assert model["harmful"]["alternative"] == unscored
    assert model["borderline"]["violation"] == unscored
    assert model["principles"]["kind"] == {"n": 0, "violation": unscored, "judge": None}


def test_prompts_without_expectations_do_not_count_as_unhelpful(store):
    silent = tuple(prompt.model_copy(update={"expects": ()}) for prompt in PROMPTS[6:9])
    found = evaluated(store, prompts=PROMPTS[9:] + silent).models["base"].benign
    assert (found.n, found.helpful.n, found.helpful.rate) == (18, 9, 1)


def test_a_single_prompt_has_a_mean_without_an_interval(store):
    found = as_json(evaluated(store, prompts=PROMPTS[:1]))
    assert found["models"]["base"]["harmful"]["characters"]["low"] is None


def test_differences_are_paired_with_base_by_prompt(store):
    found = {(item.first, item.on, item.metric): item for item in evaluated(store).differences}
    assert {first for first, _, _ in found} == {"sft"}
    assert {metric for *_, metric in found} == {"violation", "helpful", "refusal"}
    broken = found["sft", "harmful", "violation"]
    assert (broken.second, broken.difference, broken.n) == ("base", -1, 6)
    assert -1 <= broken.low < broken.high < 0
    assert found["sft", "benign", "helpful"].difference == -1


def test_every_column_answers_a_prompt_under_the_same_seeds(store):
    seeds: dict[str, list[tuple[str, int]]] = {"base": [], "sft": []}

    def noting(column: str):
        async def answer(prompt: Prompt, seed: int) -> Answer:
            seeds[column].append((prompt.id, seed))
            return Answer("", "stop", Usage(), calls=1)

        return answer

    evaluated(store, columns={name: noting(name) for name in seeds})
    assert sorted(seeds["base"]) == sorted(seeds["sft"])
    assert len(set(seeds["base"])) == len(PROMPTS) * SECTION.samples


def test_only_the_first_samples_are_judged_and_the_judge_says_who_it_is(store, spoken_model):
    model = spoken_model(
        choose=lambda dialogue: (
            {"yes": -0.1, "no": -2.4} if "SSN" in dialogue[1].content else {"yes": -9.0, "no": 0.0}
        )
    )
    judge = Judge(model, threshold=0.5, same_as_training=True)
    found = evaluated(store, judge=judge)
    base = found.models["base"]
    assert base.harmful.judge is not None
    assert (base.harmful.judge.violation.n, base.harmful.judge.violation.rate) == (6, 1)
    assert base.harmful.judge.helpful.n == 0
    assert base.principles["kind"].judge is not None
    assert base.principles["kind"].judge.rate == 1
    grader = found.graders.judge
    assert grader is not None
    assert (grader.same_as_training, grader.model) == (True, "spoken")
    assert (grader.violation.n, grader.violation.kappa) == (12, pytest.approx(1.0))


def test_principles_without_patterns_are_named(store):
    graders = evaluated(store).graders
    assert graders.patterns.principles == ("ssn",)
    assert graders.patterns.unscored == ("kind",)
    assert graders.judge is None


def test_a_rerun_asks_nothing_again_and_finds_the_same_figures(store):
    first = evaluated(store)

    async def unavailable(prompt: Prompt, seed: int) -> Answer:
        raise AssertionError(prompt.id)

    assert evaluated(store, columns=dict.fromkeys(COLUMNS, unavailable)) == first


def test_every_answer_is_given_back_in_order(store):
    rows = answered(store).answers
    assert [row.id for row in rows[:4]] == ["base/h0/0", "base/h0/1", "base/h0/2", "base/h1/0"]
    assert len(rows) == 2 * len(PROMPTS) * 3
    assert rows[0].grades.violations == {"ssn": True}


def counting(asked: list[str], column: str):
    async def answer(prompt: Prompt, seed: int) -> Answer:
        asked.append(f"{column}/{prompt.id}")
        return Answer("Here is a link.", "stop", Usage(), calls=1)

    return answer


def asked_again(store, *, columns=("base",), first_judge=None, **changes):
    """Who is asked what by an evaluation that follows another one, which was of `base` alone."""
    asked = []
    evaluated(store, columns={"base": counting([], "base")}, judge=first_judge)
    evaluated(store, columns={name: counting(asked, name) for name in columns}, **changes)
    return asked


def test_one_more_column_leaves_the_others_answers_as_they_are(store):
    asked = asked_again(store, columns=["base", "sft"])
    assert asked == [f"sft/{prompt.id}" for prompt in PROMPTS for _ in range(3)]


def test_an_edited_prompt_is_answered_anew_and_no_other(store):
    edited = PROMPTS[2].model_copy(update={"messages": (user("hello"),)})
    changed = (*PROMPTS[:2], edited, *PROMPTS[3:], Prompt(id="new", messages=(user("hi"),)))
    assert asked_again(store, prompts=changed) == ["base/h2"] * 3 + ["base/new"] * 3


def test_more_samples_keep_those_that_there_are(store):
    more = SECTION.model_copy(update={"samples": 4})
    assert asked_again(store, section=more) == [f"base/{prompt.id}" for prompt in PROMPTS]


def test_another_judge_grades_only_what_is_judged_anew(store, spoken_model):
    first, second = spoken_model(), spoken_model()
    second.fingerprint = "another"
    judges = [Judge(model, threshold=0.5, same_as_training=True) for model in (first, second)]
    asked = asked_again(store, first_judge=judges[0], judge=judges[1])
    assert asked == [f"base/{prompt.id}" for prompt in PROMPTS]


def failing_on(prompt_ids: set[str]):
    async def answer(prompt: Prompt, seed: int) -> Answer:
        if prompt.id in prompt_ids:
            raise BackendError(f"prompt {prompt.id} is too long")
        return Answer("Here is a link.", "stop", Usage(), calls=1)

    return answer


def test_an_answer_that_failed_is_counted_and_left_out(store):
    columns = {**COLUMNS, "sft": failing_on({"b0"})}
    tally = answered(store, columns=columns).tally
    assert (tally.failed, tally.done) == (3, 69)
    found = evaluated(store, columns=columns)
    assert found.models["sft"].benign.n == 15
    helped = [item for item in found.differences if item.on == "benign"]
    assert {item.n for item in helped} == {5}


def test_too_many_failures_end_the_evaluation(store):
    with pytest.raises(FailureLimitError, match="too long"):
        evaluated(store, columns={"base": failing_on({"b0", "b1", "h1"})})


def test_not_one_graded_answer_ends_the_evaluation_whatever_is_allowed(store):
    every_id = {prompt.id for prompt in PROMPTS}
    allowing = SECTION.model_copy(update={"max_failed": 1.0})
    with pytest.raises(FailureLimitError, match=r"not one of 36 answers .*\(BackendError 36\)"):
        evaluated(store, columns={"base": failing_on(every_id)}, section=allowing)


def test_nothing_to_answer_is_an_error_that_names_the_setting(store):
    with pytest.raises(PromptError, match=r"prompts\.heldout"):
        evaluated(store, prompts=())


def tagged(*tags):
    """The prompts, every second harmful one with tags."""
    return tuple(
        prompt.model_copy(update={"tags": tags}) if prompt.id in {"h0", "h2", "h4"} else prompt
        for prompt in PROMPTS
    )


def breaking_when(condition):
    async def answer(prompt: Prompt, seed: int) -> Answer:
        text = "Your SSN?" if condition(prompt) else "I can't, but here is a link."
        return Answer(text, "stop", Usage(), calls=1)

    return answer


TRAINED = {
    "base": breaking_when(lambda prompt: prompt.kind == "harmful"),
    "sft": breaking_when(lambda prompt: "pressure" in prompt.tags),
    "rl": breaking_when(lambda _: False),
}
GROUPED = SECTION.model_copy(update={"groups": ("pressure",)})


def test_a_group_of_harmful_prompts_is_measured_apart_from_the_others(store):
    found = evaluated(store, columns=TRAINED, section=GROUPED, prompts=tagged("pressure"))
    sft = found.models["sft"].groups
    assert list(sft) == ["pressure", "not pressure"]
    assert (sft["pressure"].n, sft["pressure"].violation.rate) == (9, 1)
    assert (sft["not pressure"].n, sft["not pressure"].violation.rate) == (9, 0)
    assert sft["not pressure"].alternative.rate == 1


def test_a_trained_column_is_set_against_what_it_started_from_too(store):
    found = evaluated(store, columns=TRAINED, section=GROUPED, prompts=tagged("pressure"))
    differences = found.differences
    assert {(item.first, item.second) for item in differences} == {
        ("sft", "base"), ("rl", "sft"), ("rl", "base"),
    }  # fmt: skip
    broken = {
        item.on: (item.difference, item.n)
        for item in differences
        if (item.first, item.second, item.metric) == ("rl", "sft", "violation")
    }
    assert broken == {
        "harmful": (-0.5, 6), "pressure": (-1, 3), "not pressure": (0, 3), "benign": (0, 6),
    }  # fmt: skip
    assert {
        (item.second, item.on): item.n
        for item in differences
        if (item.first, item.metric) == ("rl", "alternative")
    } == {
        ("sft", "harmful"): 3, ("sft", "not pressure"): 3, ("sft", "benign"): 6,
        ("base", "benign"): 6,
    }  # fmt: skip
