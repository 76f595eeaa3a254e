import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.feedback.mixing import drawn, within_shares

counts = st.fixed_dictionaries({name: st.integers(0, 300) for name in "abc"})
shares = st.dictionaries(st.sampled_from("bc"), st.floats(0.0, 1.0))


@given(counts, shares)
def test_no_sort_has_more_than_its_share(there, most):
    taken = within_shares(there, most)
    total = sum(taken.values())
    for name, count in taken.items():
        assert 0 <= count <= there[name]
        assert count <= most.get(name, 1.0) * (total + 1) + 0.5  # rounded to whole numbers


@given(counts, shares)
def test_what_has_no_share_is_taken_whole(there, most):
    assert within_shares(there, most)["a"] == there["a"]


@given(counts, shares, st.sampled_from("bc"))
def test_more_of_a_sort_would_be_too_many(there, most, name):
    taken = within_shares(there, most)
    if taken[name] < there[name]:
        assert taken[name] + 2 > most[name] * (sum(taken.values()) + 1)


@pytest.mark.parametrize(
    ("there", "most", "taken"),
    [
        ([70, 100, 0], {"b": 0.3}, [70, 30, 0]),
        ([50, 900, 900], {"b": 0.2, "c": 0.3}, [50, 20, 30]),
        ([50, 900, 10], {"b": 0.25, "c": 0.3}, [50, 20, 10]),
        ([0, 0, 900], {"c": 1.0}, [0, 0, 900]),
        ([0, 0, 900], {"c": 0.9}, [0, 0, 0]),
        ([20, 40, 20], {"a": 0.5, "b": 0.4, "c": 0.1}, [20, 16, 4]),
        ([100, 100, 100], {"a": 0.28, "b": 0.55, "c": 0.17}, [51, 100, 31]),
    ],
)
def test_shares_are_of_all_that_is_taken(there, most, taken):
    assert list(within_shares(dict(zip("abc", there, strict=True)), most).values()) == taken


@given(st.sets(st.text("abc", min_size=1), min_size=1), st.integers(0, 5), st.data())
def test_draws_depend_on_the_ids_and_not_on_their_order(ids, count, data):
    reordered = data.draw(st.permutations(sorted(ids)))
    once = drawn(sorted(ids), count, seed=0, purpose="mix")
    assert once == drawn(reordered, count, seed=0, purpose="mix")
    assert len(once) == min(count, len(ids))
    assert len(once - drawn([*ids, "new"], count, seed=0, purpose="mix")) <= 1
