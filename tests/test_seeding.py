import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.seeding import derive, draw, draw_several, shuffled, uniform

names = st.lists(st.text(max_size=8), max_size=4)
ids = st.text(alphabet="abcdefgh", min_size=1, max_size=4)
weights = st.dictionaries(ids, st.floats(0.01, 100.0), min_size=1, max_size=6)


def test_a_seed_never_changes_between_releases():
    assert derive(0, "response", "p1") == 6380204490448094765
    assert derive(1, "response", "p1") != derive(0, "response", "p1")


@given(first=names, second=names)
def test_different_names_get_different_seeds(first, second):
    assert (derive(7, *first) == derive(7, *second)) == (first == second)


def test_a_number_and_its_text_are_different_names():
    assert derive(0, 1) != derive(0, "1")


@given(seed=st.integers(), names=names)
def test_uniform_stays_inside_the_open_interval(seed, names):
    assert 0.0 < uniform(seed, *names) < 1.0


@given(weights=weights, seed=st.integers(0, 1000))
def test_the_order_of_the_weights_does_not_matter(weights, seed):
    backwards = dict(reversed(weights.items()))
    assert draw(weights, seed, "x") == draw(backwards, seed, "x")


@given(weights=weights, seed=st.integers(0, 1000), extra=st.floats(0.01, 100.0))
def test_adding_a_key_changes_a_draw_only_to_the_new_key(weights, seed, extra):
    before = draw(weights, seed, "x")
    after = draw({**weights, "new": extra}, seed, "x")
    assert after in (before, "new")


def test_draws_come_in_proportion_to_the_weights():
    n = 4000
    hits = sum(draw({"a": 3.0, "b": 1.0}, seed, "x") == "a" for seed in range(n))
    assert abs(hits / n - 0.75) < 4 * math.sqrt(0.75 * 0.25 / n)


@given(weights=weights, seed=st.integers(0, 1000), count=st.integers(0, 7))
def test_several_are_drawn_without_repeating_any(weights, seed, count):
    drawn = draw_several(weights, count, seed, "x")
    assert len(set(drawn)) == len(drawn) == min(count, len(weights))
    assert drawn[:1] == ((draw(weights, seed, "x"),) if count else ())
    assert draw_several(weights, count + 1, seed, "x")[:count] == drawn


def test_the_second_draw_is_in_proportion_to_what_is_left():
    n, weights = 4000, {"a": 6.0, "b": 3.0, "c": 1.0}
    seconds = [draw_several(weights, 2, seed, "x") for seed in range(n)]
    after_a = [second for first, second in seconds if first == "a"]
    share = after_a.count("b") / len(after_a)
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / len(after_a))


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(ValueError, match="no positive weight"):
        draw({"a": 0.0}, 0, "x")


@given(items=st.sets(ids, min_size=1), new=ids, seed=st.integers(0, 99))
def test_inserting_an_id_moves_no_other(items, new, seed):
    with_new = shuffled(items | {new}, seed)
    assert [item for item in with_new if item in items - {new}] == shuffled(items - {new}, seed)
