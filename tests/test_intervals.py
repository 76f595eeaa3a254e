import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.intervals import (
    difference_interval,
    mean_interval,
    rate_interval,
    win_interval,
)

cluster = st.integers(1, 8).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
clusters = st.lists(cluster, min_size=1, max_size=60)
unanimous = st.lists(st.sampled_from([0, 1]), min_size=2, max_size=60)
outcome = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)).flatmap(
    lambda split: st.just((split[0], split[1], max(1, sum(split))))
)
pairs = st.lists(st.tuples(cluster, cluster), min_size=1, max_size=60)


def width(estimate) -> float:
    return estimate.high - estimate.low


@given(clusters)
def test_a_rate_lies_inside_its_interval_and_the_interval_inside_zero_to_one(given_clusters):
    found = rate_interval(given_clusters)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert width(found) > 0


@given(clusters)
def test_failures_have_the_complementary_interval(given_clusters):
    found = rate_interval(given_clusters)
    failed = rate_interval([(size - successes, size) for successes, size in given_clusters])
    assert (failed.low, failed.value, failed.high) == pytest.approx(
        (1 - found.high, 1 - found.value, 1 - found.low)
    )


@given(st.lists(cluster, min_size=2, max_size=40), st.integers(2, 4))
def test_more_prompts_of_the_same_sort_narrow_the_interval(given_clusters, times):
    assert width(rate_interval(given_clusters * times)) < width(rate_interval(given_clusters))


@given(clusters, st.randoms())
def test_the_order_of_prompts_does_not_matter(given_clusters, random):
    shuffled = random.sample(given_clusters, len(given_clusters))
    assert rate_interval(shuffled) == pytest.approx(rate_interval(given_clusters))


@given(unanimous, st.integers(2, 10))
def test_repeating_what_a_prompt_always_gives_does_not_narrow_the_interval(outcomes, times):
    once = rate_interval([(outcome, 1) for outcome in outcomes])
    often = rate_interval([(outcome * times, times) for outcome in outcomes])
    assert often == pytest.approx(once)


def test_answers_that_vary_within_prompts_are_worth_more_than_one_a_prompt():
    within = rate_interval([(2, 4)] * 30)
    between = rate_interval([(4, 4), (0, 4)] * 15)
    assert width(within) < 0.6 * width(between)


def test_no_violation_seen_is_not_no_violation_possible():
    found = rate_interval([(0, 4)] * 30)
    assert (found.value, found.low) == (0, 0)
    assert 0.08 < found.high < 0.15


def test_one_prompt_says_nothing_about_others():
    assert rate_interval([(3, 4)]) == (0.75, 0.0, 1.0)
    assert difference_interval([((3, 4), (1, 4))]) == (0.5, -1.0, 1.0)


def test_nothing_scored_has_no_interval():
    assert rate_interval([]) is None
    assert difference_interval([]) is None
    assert mean_interval([]) is None
    assert win_interval([]) is None


@given(pairs)
def test_a_difference_lies_inside_its_interval_and_swaps_sign_with_the_sides(given_pairs):
    found = difference_interval(given_pairs)
    swapped = difference_interval([(second, first) for first, second in given_pairs])
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (swapped.low, swapped.value, swapped.high) == pytest.approx(
        (-found.high, -found.value, -found.low)
    )


def test_pairing_narrows_a_difference_between_columns_that_fail_on_the_same_prompts():
    hard = [((4, 4), (3, 4))] * 20 + [((1, 4), (0, 4))] * 20
    mixed = [((4, 4), (0, 4)), ((1, 4), (3, 4))] * 20
    same_rates = [sum(side) for side in zip(*((a[0], b[0]) for a, b in hard), strict=True)]
    assert same_rates == [sum(s) for s in zip(*((a[0], b[0]) for a, b in mixed), strict=True)]
    assert width(difference_interval(hard)) < 0.5 * width(difference_interval(mixed))


def test_equal_answers_everywhere_leave_a_difference_uncertain():
    found = difference_interval([((4, 4), (4, 4))] * 50)
    assert found.value == 0
    assert 0.02 < found.high < 0.1
    assert found.low == pytest.approx(-found.high)


@given(st.lists(outcome, min_size=1, max_size=40))
def test_a_win_rate_lies_inside_its_interval_and_the_losers_is_the_rest(outcomes):
    found = win_interval(outcomes)
    assert 0 <= found.low <= found.value <= found.high <= 1
    lost = win_interval([(losses, wins, n) for wins, losses, n in outcomes])
    assert (lost.low, lost.value, lost.high) == pytest.approx(
        (1 - found.high, 1 - found.value, 1 - found.low)
    )


def test_ties_count_half_and_narrow_a_win_rate():
    decided = win_interval([(1, 0, 1)] * 30 + [(0, 1, 1)] * 10)
    tied = win_interval([(1, 0, 1)] * 20 + [(0, 0, 1)] * 20)
    assert decided.value == tied.value == 0.75
    assert width(tied) < 0.8 * width(decided)


def test_a_mean_has_students_interval():
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.value == pytest.approx(2.0)
    assert found.high - found.value == pytest.approx(4.302653 / np.sqrt(3))


@pytest.mark.parametrize("rate", [0.03, 0.3, 0.85])
@pytest.mark.parametrize("prompts_alike", [0.2, 5.0])
def test_intervals_cover_the_truth_as_often_as_they_say(rate, prompts_alike):
    random = np.random.default_rng(7)
    other = min(1.0, rate + 0.1)
    covered = {"rate": 0, "difference": 0}
    rounds, prompts, samples = 300, 60, 4
    for _ in range(rounds):
        first, second = (
            random.binomial(
                samples, random.beta(p * prompts_alike, (1 - p) * prompts_alike, prompts)
            )
            for p in (rate, other)
        )
        found = rate_interval([(int(k), samples) for k in first])
        covered["rate"] += found.low <= rate <= found.high
        gap = difference_interval(
            [((int(a), samples), (int(b), samples)) for a, b in zip(first, second, strict=True)]
        )
        covered["difference"] += gap.low <= rate - other <= gap.high
    assert min(covered.values()) / rounds >= 0.92
