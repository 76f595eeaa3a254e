import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.constitution import Constitution
from charter.errors import JudgementError
from charter.screening import Threshold, best_threshold, fit_threshold, odds, probability_of, screen

probabilities = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20)


@given(yes=st.floats(-50, 0), no=st.floats(-50, 0))
def test_probabilities_are_renormalised_over_the_choices(yes, no):
    logprobs = {"yes": yes, "no": no}
    total = probability_of("yes", logprobs) + probability_of("no", logprobs)
    assert total == pytest.approx(1.0)


def test_no_probability_at_all_is_an_error_not_a_coin_flip():
    with pytest.raises(JudgementError, match="no probability to any of yes, no"):
        probability_of("yes", {"yes": -math.inf, "no": -math.inf})


@given(broken=probabilities, kept=probabilities)
def test_no_other_threshold_tells_the_tests_apart_better(broken, kept):
    best = best_threshold(broken, kept)
    for other in (0.1, 0.3, 0.5, 0.7, 0.9):
        recall = sum(p >= other for p in broken) / len(broken)
        specificity = sum(p < other for p in kept) / len(kept)
        assert best.recall + best.specificity >= recall + specificity - 1e-12


def test_a_threshold_lies_between_the_two_kinds():
    best = best_threshold([0.8, 0.9], [0.1, 0.2])
    assert (best.value, best.recall, best.specificity) == (0.5, 1.0, 1.0)


class Keyword:
    """A judge that says yes where the reply holds the principle's word."""

    fingerprint, capacity = "keyword", 4

    async def choose(self, dialogue, *, choices):
        reply, question = dialogue[-2].content, dialogue[-1].content
        broken = question.rsplit(" ", 1)[-1] in reply
        return dict(zip(choices, (-0.1, -3.0) if broken else (-3.0, -0.1), strict=True))


def constitution(*, tests):
    return Constitution.model_validate(
        {
            "principles": [
                {"id": word, "rule": f"Never say {word}", "tests": tests(word)}
                for word in ("ham", "jam")
            ]
        }
    )


def test_odds_tell_certainties_apart_and_stay_finite():
    assert [odds(p) for p in (0.0, 0.5, 0.75)] == [0.0, 1.0, 3.0]
    assert odds(0.999) / odds(0.75) > 300
    assert odds(1.0) == odds(0.99999) * (1.0 / 0.99999) < math.inf


def test_screening_asks_about_every_principle():
    rules = constitution(tests=lambda _: ())
    p_broken = asyncio.run(
        screen((), response="I like jam", principles=rules.principles, judge=Keyword())
    )
    assert set(p_broken) == {"ham", "jam"}
    assert p_broken["ham"] < 0.1 < 0.9 < p_broken["jam"]


def test_the_threshold_is_fitted_on_the_principles_tests():
    rules = constitution(
        tests=lambda word: [{"prompt": "Say it.", "breaks": f"Sure, {word}!", "keeps": "No."}]
    )
    fitted = asyncio.run(fit_threshold(rules, judge=Keyword()))
    assert (fitted.recall, fitted.specificity, fitted.tests) == (1.0, 1.0, 2)
    assert not fitted.tells_nothing


@pytest.mark.parametrize(
    ("broken", "kept"),
    [
        ([0.2, 0.2], [0.2, 0.2]),
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.1, 0.2], [0.8, 0.9]),
        ([0.9, 0.9], [0.9, 0.9]),
    ],
    ids=["sees nothing", "tosses a coin", "inverted", "sees it everywhere"],
)
def test_a_screen_that_tells_nothing_says_so(broken, kept):
    assert best_threshold(broken, kept).tells_nothing


def test_without_tests_it_is_not_known_that_a_screen_tells_nothing():
    assert not Threshold(value=0.5).tells_nothing


def test_without_tests_the_threshold_is_a_half_and_a_warning(caplog):
    fitted = asyncio.run(fit_threshold(constitution(tests=lambda _: ()), judge=Keyword()))
    assert (fitted.value, fitted.recall) == (0.5, None)
    assert "no principle has tests" in caplog.text
