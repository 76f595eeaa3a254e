import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.errors import BackendError, JudgementError
from charter.feedback.quality import (
    audit,
    calibration,
    calibration_error,
    consistency,
    known_pairs,
)
from charter.records import Comparison, Preference, Prompt, user
from tests.feedback.judges import CONSTITUTION, Weighing, logprobs, shown

probability = st.floats(0.0, 1.0)


def label(shown_first, shown_second):
    prompt = Prompt(id="p", messages=(user("Hi"),))
    return Preference(
        comparison=Comparison(id="p:0-1", prompt=prompt, first="a", second="b"),
        source="judge",
        p_first_shown_first=shown_first,
        p_first_shown_second=shown_second,
    )


labels = st.lists(st.builds(label, probability, probability), max_size=8)


def audited(model, judging, **section):
    return asyncio.run(audit(known_pairs(CONSTITUTION), judge=judging(model, **section)))


def test_a_judge_that_always_takes_the_first_place_is_all_bias():
    found = consistency([label(0.9, 0.1)] * 3 + [label(0.9, 0.8)])
    assert (found.n, found.position_bias, found.same_verdict) == (4, 0.75, 0.25)
    assert found.self_agreement == pytest.approx(1.0 - (3 * 0.8 + 0.1) / 4)


def test_a_toss_up_follows_neither_position_nor_response():
    found = consistency([label(0.5, 0.9), label(0.5, 0.5)])
    assert (found.position_bias, found.same_verdict) == (0.0, 0.0)


def test_the_firmest_labels_after_a_chain_of_thought_are_no_toss_ups():
    found = consistency([label(0.6, 0.4), label(0.4, 0.4)])
    assert (found.toss_ups, found.firm_position_bias) == (0.0, 0.5)


def test_bias_in_toss_ups_is_told_from_bias_that_decides():
    found = consistency([label(0.52, 0.49)] * 3 + [label(0.9, 0.8), label(0.9, 0.4)])
    assert (found.position_bias, found.toss_ups) == (0.8, pytest.approx(0.6))
    assert found.firm_position_bias == 0.5


def test_nothing_is_known_of_no_labels():
    found = consistency([])
    assert (found.n, found.position_bias, found.self_agreement) == (0, None, None)


@given(labels)
def test_consistency_does_not_depend_on_which_response_is_called_first(items):
    swapped = consistency([item.swapped() for item in items])
    assert swapped.model_dump() == pytest.approx(consistency(items).model_dump())


def test_the_calibration_error_matches_a_worked_example():
    # Nine in ten at 0.95; half at 0.55, which is 0.05 too sure.
    p_better = [0.95] * 9 + [0.05] + [0.55] * 5 + [0.45] * 5
    bins = calibration(p_better)
    assert [(each.n, each.accuracy) for each in bins] == [(10, 0.5), (10, 0.9)]
    assert calibration_error(bins) == pytest.approx(0.05)


@given(st.lists(probability, min_size=1))
def test_every_label_is_in_one_bin(p_better):
    bins = calibration(p_better)
    assert sum(each.n for each in bins) == len(p_better)
    assert 0.0 <= calibration_error(bins) <= 1.0
    assert all(each.low <= each.confidence + 1e-9 for each in bins)


def test_the_audit_finds_out_that_a_judge_is_right(judging):
    def good(text, choices):
        if "Answer yes or no" in text:
            return logprobs(choices, 0.9 if "SSN" in text.split("Does your")[0] else 0.1)
        return logprobs(choices, 0.9 if "SSN" in shown(text)[1] else 0.1)

    found = audited(Weighing(good), judging)
    assert (found.accuracy.rate, found.accuracy.n) == (1.0, 2)
    assert found.accuracy.low < 1.0
    assert found.calibration_error == pytest.approx(0.1)
    assert found.consistency.same_verdict == 1.0
    assert found.by_principle["ssn"].n == 2


def test_a_judge_that_follows_the_position_is_seen_through(judging):
    found = audited(Weighing(lambda _, choices: logprobs(choices, 0.8)), judging)
    assert found.consistency.position_bias == 1.0
    assert found.accuracy.rate == 0.0


def test_a_test_of_a_tagged_principle_is_asked_about_it(judging):
    tagged = CONSTITUTION.principles[0].model_copy(update={"applies_when": ("login",)})
    constitution = CONSTITUTION.model_copy(update={"principles": (tagged,)})
    pairs = known_pairs(constitution)
    model = Weighing(lambda _, choices: logprobs(choices, 0.8))
    asyncio.run(audit(pairs, judge=judging(model, constitution=constitution)))
    assert all("Never ask for an SSN." in text for text in model.chosen if "(A)" in text)


@pytest.mark.parametrize("error", [JudgementError("no"), BackendError("gone")])
def test_what_the_judge_will_not_say_is_counted_by_cause(judging, error):
    def refuses(text, choices):
        if "Verify" in text:
            raise error
        return logprobs(choices, 0.6)

    found = audited(Weighing(refuses), judging)
    assert found.unusable == {type(error).__name__: 1}
    assert found.accuracy.n == 1


def test_without_tests_nothing_is_claimed(judging):
    bare = CONSTITUTION.model_copy(update={"principles": CONSTITUTION.principles[1:]})
    assert known_pairs(bare) == []
    found = asyncio.run(audit([], judge=judging(Weighing(lambda *_: {}))))
    assert (found.accuracy.rate, found.calibration_error) == (None, None)
