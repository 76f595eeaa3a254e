import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.records import assistant, system, user
from charter.similarity import (
    clusters,
    dialogue_text,
    jaccard,
    shingles,
    similar_to_any,
    similar_to_earlier,
    words,
)

texts = st.lists(
    st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join), min_size=1, max_size=12
)
thresholds = st.sampled_from([0.3, 0.5, 0.6, 0.7, 0.8, 1.0]) | st.floats(0.01, 1.0)


def partition(names):
    return {frozenset(i for i, name in enumerate(names) if name == other) for other in names}


def similar(first, second, threshold):
    return jaccard(shingles(first), shingles(second)) >= threshold


def by_comparing_all(items, threshold):
    """The clusters, found by joining until nothing changes."""
    names = list(range(len(items)))
    for _ in items:
        for i, first in enumerate(items):
            for j, second in enumerate(items):
                if similar(first, second, threshold):
                    names[i] = names[j] = min(names[i], names[j])
    return names


def test_case_punctuation_and_spacing_do_not_matter():
    assert shingles("Where's my order,  please?") == shingles("where s MY order\nplease!")


def test_few_words_are_compared_as_words_and_none_as_the_text():
    assert shingles("Reset password") == {"reset", "password"}
    assert shingles(" ?! ") == {"?!"}


def test_characters_are_words_where_there_are_no_spaces():
    assert words("パスワードを忘れた now") == [*"パスワードを忘れた", "now"]


def test_template_like_prompts_are_told_apart_by_what_they_ask():
    first = "Please tell me the status of order 1234"
    assert not similar(first, "Please tell me the address of order 1234", 0.5)
    assert similar(first, "Please, tell me the status of order 9999", 0.7)


@given(items=texts, threshold=thresholds)
def test_clusters_are_those_of_comparing_all_pairs(items, threshold):
    assert partition(clusters(items, threshold=threshold)) == partition(
        by_comparing_all(items, threshold)
    )


@given(items=texts, threshold=thresholds)
def test_a_cluster_is_named_by_its_first_text(items, threshold):
    names = clusters(items, threshold=threshold)
    assert all(name == names.index(name) for name in names)


@given(items=texts, threshold=thresholds, data=st.data())
def test_clusters_do_not_depend_on_the_order(items, threshold, data):
    order = data.draw(st.permutations(range(len(items))))
    shuffled = clusters([items[i] for i in order], threshold=threshold)
    expected = partition(clusters(items, threshold=threshold))
    assert {frozenset(order[i] for i in group) for group in partition(shuffled)} == expected


@given(items=texts, against=texts, threshold=thresholds)
def test_similarity_to_any_is_that_of_comparing_all_pairs(items, against, threshold):
    assert similar_to_any(items, against, threshold=threshold) == [
        any(similar(item, other, threshold) for other in against) for item in items
    ]


@given(items=texts, threshold=thresholds)
def test_texts_similar_to_an_earlier_kept_one_are_found(items, threshold):
    kept, expected = [], []
    for item in items:
        expected.append(any(similar(item, other, threshold) for other in kept))
        if not expected[-1]:
            kept.append(item)
    assert similar_to_earlier(items, threshold=threshold) == expected


def test_texts_that_share_nothing_are_never_similar():
    assert clusters(["a b c d", "e f g h"], threshold=0.0) == [0, 1]


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_nothing_is_similar_to_nothing(threshold):
    assert similar_to_any(["a"], [], threshold=threshold) == [False]
    assert clusters([], threshold=threshold) == []


def test_what_was_said_does_not_include_the_system_turn():
    assert dialogue_text((system("Rules."), user("a"), assistant("b"))) == "a\nb"
