from dataclasses import replace

import pytest

from charter.config import ReinforceConfig
from charter.feedback.monitors import (
    Seen,
    best_look,
    boilerplate_share,
    has_fallen,
    look,
    too_far,
)
from charter.learning.metrics import LookRow

SECTION = ReinforceConfig(patience=2)


def row(step, *, reward=0.0, judge=0.5, **more):
    usual = {"judge_error": 0.05, "length_tokens": 10.0}
    usual |= {"refusal_share": 0.0, "boilerplate_share": 0.0}
    return LookRow(step=step, reward=reward, judge=judge, **usual | more)


def test_a_reward_that_rises_while_the_judge_falls_is_goodhart_after_some_patience():
    looks = [row(0), row(10, reward=1.0, judge=0.7), row(20, reward=2.0, judge=0.4)]
    assert too_far(looks, section=SECTION) is None
    looks.append(row(30, reward=3.0, judge=0.3))
    assert "goodhart" in too_far(looks, section=SECTION)


def test_a_judge_that_falls_within_its_error_has_not_fallen():
    assert not has_fallen(row(9, judge=0.68), best=row(3, judge=0.7))
    assert has_fallen(row(9, judge=0.5), best=row(3, judge=0.7))


def test_a_reward_that_falls_with_the_judge_is_no_goodhart():
    looks = [row(0, reward=5.0, judge=0.5)]
    looks += [row(step, reward=4.0 - step, judge=0.2) for step in (1, 2, 3, 4)]
    assert too_far(looks, section=SECTION) is None


def test_where_the_judge_is_the_reward_its_fall_alone_is_goodhart():
    section = SECTION.model_copy(update={"reward": "judge"})
    looks = [row(0), row(10, judge=0.7), row(20, judge=0.4)]
    assert too_far(looks, section=section) is None
    looks.append(row(30, judge=0.3))
    assert "fell from 0.70 to 0.30, though its verdicts are the reward" in too_far(
        looks, section=section
    )


def test_one_answer_is_no_evidence():
    one = Seen(text="Hi. A.", reference="Hi. B.", tokens=3, reward=0.0, win=0.9)
    before, after = look(0, [one]), look(5, [replace(one, win=0.1, text="Hi. C.")])
    assert after.boilerplate_share == 0.0
    assert not has_fallen(row(5, judge=0.5, judge_error=after.judge_error), best=before)


def test_both_rising_goes_on():
    looks = [row(step, reward=step, judge=0.5 + step / 100) for step in range(9)]
    assert too_far(looks, section=SECTION) is None
    assert best_look(looks, section=SECTION).step == 8


def test_replies_that_grow_long_stop_training():
    assert "length" in too_far([row(0), row(5, length_tokens=31.0)], section=SECTION)


def test_weights_beyond_a_limit_are_not_the_best_however_the_judge_likes_them():
    looks = [row(0), row(5, judge=0.6), row(10, judge=0.9, length_tokens=31.0)]
    looks.append(row(15, judge=0.95, boilerplate_share=0.6))
    assert best_look(looks, section=SECTION).step == 5
    assert best_look(looks[:1], section=SECTION).step == 0


def test_replies_that_all_close_alike_stop_training():
    assert "boilerplate" in too_far([row(0), row(5, boilerplate_share=0.6)], section=SECTION)


@pytest.mark.parametrize(
    ("texts", "reference", "share"),
    [
        (["It is here. Stay safe!", "Yes. Stay safe!"], ["It is here.", "Yes."], 1.0),
        (["It is here. Stay safe!", "Yes. Stay safe!"], ["So. Stay safe!", "Yes."], 0.5),
        (["Stay safe!", "Stay safe!"], ["No.", "No."], 0.0),
        (["One. Two.", "Three. Four."], ["Five.", "Six."], 0.0),
    ],
)
def test_boilerplate_is_a_closing_sentence_that_the_reference_does_not_have(
    texts, reference, share
):
    assert boilerplate_share(texts, reference=reference) == share


def test_a_look_counts_refusals_and_lengths():
    seen = [
        Seen("I can't help with that.", "Sure.", tokens=6, reward=1.0, win=1.0),
        Seen("Sure.", "Sure.", tokens=2, reward=0.0, win=0.5),
    ]
    found = look(7, seen)
    assert (found.step, found.refusal_share, found.length_tokens) == (7, 0.5, 4.0)
    assert (found.reward, found.judge) == (0.5, 0.75)
    assert found.judge_error == pytest.approx(0.25)
