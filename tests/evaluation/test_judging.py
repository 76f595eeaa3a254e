import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.constitution import Constitution, Principle
from charter.evaluation.judging import Judgement, agreement, judgement
from charter.records import Prompt, user

CONSTITUTION = Constitution(
    principles=(
        Principle(id="kind", rule="Be kind."),
        Principle(id="data", rule="Keep data private.", applies_when=("data",)),
    )
)
YES, NO = {"yes": -0.1, "no": -2.4}, {"yes": -2.4, "no": -0.1}
verdicts = st.lists(st.tuples(st.sampled_from([True, False, None]), st.booleans()), min_size=1)


def judged(prompt, judge):
    return asyncio.run(judgement(prompt, text="Ha!", constitution=CONSTITUTION, judge=judge))


def test_the_judge_is_asked_after_the_answer_about_each_principle_that_applies(spoken_model):
    judge = spoken_model(choose=lambda dialogue: YES if "Be kind." in dialogue[-1].content else NO)
    found = judged(Prompt(id="p", messages=(user("Roast Ada."),)), judge)
    ((asked, *_),) = judge.asked
    assert [message.role for message in asked] == ["user", "assistant", "user"]
    assert asked[1].content == "Ha!"
    assert found.p_broken == {"kind": pytest.approx(0.909, abs=0.001)}
    assert found.violation(threshold=0.9) is True
    assert found.violation(threshold=0.95) is False


@pytest.mark.parametrize(("kind", "questions"), [("harmful", 1), ("benign", 2), ("borderline", 2)])
def test_help_is_judged_where_giving_what_was_asked_is_good(spoken_model, kind, questions):
    judge = spoken_model(choose=lambda _: YES)
    found = judged(Prompt(id="p", messages=(user("hi"),), kind=kind), judge)
    assert len(judge.asked) == questions
    assert found.helpful is (None if kind == "harmful" else True)


def test_a_judgement_under_no_principle_says_nothing_of_violation():
    assert Judgement(p_broken={}, p_helpful=0.4).violation(threshold=0.5) is None


@given(verdicts)
def test_agreement_is_the_same_from_either_side(pairs):
    swapped = [(second, first) for first, second in pairs]
    assert agreement(swapped) == agreement(pairs)


def test_kappa_is_one_for_full_agreement_and_zero_for_chance():
    assert agreement([(True, True), (False, False)] * 5).kappa == pytest.approx(1.0)
    assert agreement([(True, True), (True, False), (False, True), (False, False)]).kappa == 0.0


def test_kappa_matches_a_worked_example():
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    found = agreement(pairs)
    assert (found.kappa, found.agreed, found.n) == (pytest.approx(0.4), pytest.approx(0.7), 50)


def test_unscored_answers_are_left_out_of_an_agreement():
    assert agreement([(None, True), (True, None), (True, False)]).n == 1


def test_graders_that_always_say_the_same_have_no_kappa():
    found = agreement([(False, False)] * 9)
    assert (found.kappa, found.agreed) == (None, 1.0)
    assert agreement([]).n == 0
