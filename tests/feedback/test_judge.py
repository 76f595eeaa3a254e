import asyncio
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.config import CompareConfig
from charter.errors import BackendError, JudgementError
from charter.feedback.judge import Judge, judge_comparison, p_first, settled_judge
from charter.records import Comparison, Prompt, user
from charter.screening import Threshold
from charter.seeding import uniform
from charter.wording import CHOICES, HELPFULNESS_COMPARISON, VERDICT_REQUEST
from tests.feedback.judges import CONSTITUTION, Weighing, logprobs, shown

A, B = CHOICES
logprob = st.floats(-30.0, 0.0)
probability = st.floats(0.0, 1.0)
texts = st.text("abc", min_size=1, max_size=3)
kinds = st.sampled_from(["harmful", "benign", "borderline"])


def verdict(comparison, judge):
    return asyncio.run(judge_comparison(comparison, judge=judge))


def opinionated(text, choices):
    """Weighs every question its own way, by what is written in it."""
    return logprobs(choices, uniform(3, text))


def by_words(text, choices, *, biased=0.0):
    """Prefers replies that say "link", and then longer ones; sees SSNs."""
    if "Answer yes or no" in text:
        return logprobs(choices, 0.95 if "SSN" in text.split("Does your")[0] else 0.05)
    first, second = shown(text)
    liked = [("SSN" not in reply) + ("link" in reply) * 0.5 for reply in (first, second)]
    if HELPFULNESS_COMPARISON in text:
        liked = [float(len(reply)) for reply in (first, second)]
    p = 0.5 + 0.4 * ((liked[0] > liked[1]) - (liked[0] < liked[1]))
    return logprobs(choices, min(1.0, max(0.0, p + biased)))


@given(a=logprob, b=logprob)
def test_swapping_the_choices_complements_the_probability(a, b):
    assert p_first({A: a, B: b}) == pytest.approx(1.0 - p_first({A: b, B: a}))


@pytest.mark.parametrize("wrong", [{A: -0.1}, {A: -0.1, B: math.nan}, {B: 0.0, A: math.nan}, {}])
def test_a_missing_choice_is_an_error_not_a_coin_flip(wrong):
    with pytest.raises(JudgementError, match=r"no probability to choice \("):
        p_first(wrong)


def test_no_probability_at_all_is_an_error_too():
    with pytest.raises(JudgementError, match="no probability to any"):
        p_first({A: -math.inf, B: -math.inf})


@given(
    first=texts, second=texts, kind=kinds, seed=st.integers(0, 9), cot=st.booleans(),
    votes=st.sampled_from([0, 3]), tie_margin=st.sampled_from([0.0, 0.1, 0.5]),
    clamp=st.sampled_from([(0.4, 0.6), (0.1, 0.7)]),
)  # fmt: skip
def test_swapping_the_responses_complements_the_probability(
    first, second, kind, seed, cot, votes, tie_margin, clamp
):
    prompt = Prompt(id="p", messages=(user("Hi"),), kind=kind, tags=("codes",))
    comparison = Comparison(id="p:0-1", prompt=prompt, first=first, second=second)
    section = CompareConfig(chain_of_thought=cot, votes=votes, tie_margin=tie_margin, clamp=clamp)
    judge = Judge(
        Weighing(opinionated, say=lambda _, draw: CHOICES[draw % 2]),
        CONSTITUTION,
        section,
        seed,
    )
    as_is, swapped = verdict(comparison, judge), verdict(comparison.swapped(), judge)
    assert as_is.preference.p_first == pytest.approx(1.0 - swapped.preference.p_first)
    turned = swapped.preference.swapped()
    assert as_is.preference.principle_ids == turned.principle_ids
    assert as_is.preference.p_first_shown_first == pytest.approx(turned.p_first_shown_first)


@given(order=st.permutations(CONSTITUTION.principles), seed=st.integers(0, 20))
def test_the_order_of_the_principles_does_not_matter(order, seed):
    prompt = Prompt(id="p", messages=(user("Hi"),), tags=("codes",))
    comparison = Comparison(id="p:0-1", prompt=prompt, first="a", second="b")
    found = [
        verdict(comparison, Judge(Weighing(opinionated), constitution, CompareConfig(), seed))
        for constitution in (
            CONSTITUTION,
            CONSTITUTION.model_copy(update={"principles": tuple(order)}),
        )
    ]
    assert found[0] == found[1]


def test_harmlessness_is_asked_under_the_principle_that_a_response_breaks(pair, judging):
    model = Weighing(by_words)
    found = verdict(pair("Your SSN?", "I can email a link."), judging(model, principles=1, seed=1))
    assert found.preference.principle_ids == ("ssn",)
    assert found.preference.p_first == pytest.approx(0.1)
    assert not found.tie_broken
    compared = [text for text in model.chosen if text.startswith("Compare")]
    assert [shown(text)[0] for text in compared] == ["Your SSN?", "I can email a link."]
    assert all("Principle: Never ask for an SSN." in text for text in compared)


def test_a_principle_that_neither_response_breaks_hardly_counts(pair, judging):
    def only_ssn_matters(text, choices):
        if "Answer yes or no" not in text and "Be kind." in text:
            return logprobs(choices, 0.99 if shown(text)[0] == "Your SSN?" else 0.01)
        return by_words(text, choices)

    found = verdict(pair("Your SSN?", "I can email a link."), judging(Weighing(only_ssn_matters)))
    assert set(found.preference.principle_ids) == {"ssn", "kind"}
    assert found.preference.p_first < 0.6


def test_principles_are_drawn_by_relevance_without_repeating_any(pair, judging):
    def broken(text, choices):
        rates = {"Never ask for an SSN.": 0.5, "Be kind.": 0.2, "Never give out codes.": 0.2}
        rule = next(rule for rule in rates if rule in text)
        return logprobs(choices, rates[rule] if "Answer yes or no" in text else 0.5)

    n, comparison = 400, pair(tags=("codes",))
    drawn = [
        verdict(comparison, judging(Weighing(broken), seed=seed, principles=2)) for seed in range(n)
    ]
    ids = [found.preference.principle_ids for found in drawn]
    assert all(len(set(each)) == 2 for each in ids)
    # Odds of 1, 1/4 and 1/4: 1 - P(neither draw is ssn) = 1 - 1/3 * 1/5
    assert sum("ssn" in each for each in ids) / n == pytest.approx(14 / 15, abs=0.04)


def test_a_benign_prompt_is_judged_by_helpfulness_alone(pair, judging):
    model = Weighing(by_words)
    found = verdict(pair("A long answer.", "No.", kind="benign"), judging(model))
    assert found.preference.principle_ids == ()
    assert found.preference.p_first == pytest.approx(0.9)
    assert len(model.chosen) == 2
    assert all(HELPFULNESS_COMPARISON in text for text in model.chosen)


def test_a_borderline_prompt_is_judged_by_both(pair, judging):
    found = verdict(
        pair("Your SSN? And your address.", "A link.", kind="borderline"),
        judging(Weighing(by_words), principles=1, seed=1),
    )
    assert found.preference.p_first == pytest.approx((0.1 + 0.9) / 2)
    assert found.preference.principle_ids == ("ssn",)


def test_of_two_harmless_replies_the_evasive_one_loses(pair, judging):
    found = verdict(pair("No.", "No, but see the app."), judging(Weighing(by_words)))
    assert found.tie_broken
    assert found.preference.p_first == pytest.approx((0.5 + 0.1) / 2)


def test_principles_that_neither_reply_breaks_do_not_choose_the_evasive_one(pair, judging):
    """Judges hold a bare refusal to keep any principle best: so they would teach to refuse."""

    def prefers_silence(text, choices):
        if "Principle:" in text and "Answer yes or no" not in text:
            return logprobs(choices, 0.95 if shown(text)[0] == "No." else 0.05)
        return by_words(text, choices)

    found = verdict(pair("No.", "No, but see the app."), judging(Weighing(prefers_silence)))
    assert found.tie_broken
    assert found.preference.p_first < 0.35


def test_a_judge_that_cannot_screen_compares_under_principles_drawn_by_weight(pair, judging):
    model = Weighing(by_words)
    blind = replace(judging(model), threshold=None)
    found = verdict(pair("No.", "No, but see the app."), blind)
    assert not found.tie_broken
    assert found.preference.p_first == pytest.approx(0.5)
    assert not any("Answer yes or no" in text for text in model.chosen)


@pytest.mark.parametrize(("specificity", "threshold"), [(0.05, None), (0.9, 0.3)])
def test_a_judge_screens_only_where_the_tests_show_that_it_can(specificity, threshold):
    fitted = Threshold(value=0.3, recall=1.0, specificity=specificity, tests=9)
    judge = settled_judge(
        Weighing(by_words),
        constitution=CONSTITUTION,
        section=CompareConfig(),
        seed=0,
        threshold=fitted,
    )
    assert judge.threshold == threshold


def test_of_two_harmful_replies_the_helpful_one_does_not_win(pair, judging):
    found = verdict(pair("SSN!", "Please type your SSN."), judging(Weighing(by_words)))
    assert not found.tie_broken
    assert found.preference.p_first == pytest.approx(0.5)


def test_a_harmful_prompt_that_no_principle_speaks_to_is_not_judged(pair, judging):
    constitution = CONSTITUTION.model_copy(update={"principles": CONSTITUTION.principles[2:]})
    model = Weighing(by_words)
    assert verdict(pair(), judging(model, constitution=constitution)) is None
    assert model.chosen == []
    borderline = verdict(pair(kind="borderline"), judging(model, constitution=constitution))
    assert borderline.preference.principle_ids == ()


def test_the_judge_reasons_before_it_chooses_and_is_clamped(pair, judging):
    model = Weighing(by_words, say=lambda *_: "The first says more.")
    judge = judging(model, chain_of_thought=True)
    found = verdict(pair("A long answer.", "No.", kind="benign"), judge)
    assert found.preference.p_first == pytest.approx(0.6)
    assert [dialogue[0].content[-36:] for dialogue, *_ in model.said] == [
        " Give your reasons in a few sentences."[-36:]
    ] * 2
    assert all(sampling.temperature == 0.0 for _, sampling, _ in model.said)
    assert all(text.endswith(f"The first says more.\n{VERDICT_REQUEST}") for text in model.chosen)


def test_votes_are_counted_and_unusable_ones_by_cause(pair, judging):
    answers = [A, "A good reply is (B).", "A good question!", "(A) or (B)"]
    model = Weighing(by_words, say=lambda _, seed: answers[seed % 4])
    found = verdict(pair(kind="benign"), judging(model, votes=64))
    assert model.chosen == []
    assert len({seed for *_, seed in model.said}) == len(model.said) == 128
    assert set(found.unusable) == {"no_vote", "vote_for_both"}
    for p in (found.preference.p_first_shown_first, 1 - found.preference.p_first_shown_second):
        assert p == pytest.approx(0.5, abs=0.25)


def test_a_cut_off_vote_is_its_own_cause(pair, judging):
    answers = [A, "I think that"]
    model = Weighing(by_words, say=lambda _, seed: answers[seed % 2], finish="length")
    found = verdict(pair(kind="benign"), judging(model, votes=16))
    assert set(found.unusable) == {"vote_cut_off"}


def test_votes_of_which_none_is_a_verdict_are_an_error(pair, judging):
    model = Weighing(by_words, say=lambda *_: "A matter of taste.")
    with pytest.raises(JudgementError, match=r"not one of 3 votes on comparison p:0-1 .* taste"):
        verdict(pair(), judging(model, votes=3))


def test_a_judge_that_hides_a_choice_gives_no_label(pair, judging):
    def half(text, choices):
        return {choices[0]: -0.1}

    with pytest.raises(JudgementError, match=r"choice \(B\)"):
        verdict(pair(kind="benign"), judging(Weighing(half)))


def test_a_judge_that_fails_gives_no_label(pair, judging):
    def gone(text, choices):
        raise BackendError("gone")

    with pytest.raises(BackendError):
        verdict(pair(), judging(Weighing(gone)))


def test_position_shows_in_the_orders_and_cancels_in_the_label(pair, judging):
    model = Weighing(lambda *asked: by_words(*asked, biased=0.1))
    found = verdict(pair("No.", "Yes!", kind="benign"), judging(model)).preference
    assert (found.p_first_shown_first, found.p_first_shown_second) == (
        pytest.approx(0.2), pytest.approx(0.0)
    )  # fmt: skip
