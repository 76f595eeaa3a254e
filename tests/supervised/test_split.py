import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.config import FinetuneConfig
from charter.errors import ConfigError, PromptError
from charter.records import Demonstration, Prompt, Provenance, assistant, user
from charter.similarity import clusters
from charter.supervised.split import split

WORDS = [f"word{number}" for number in range(15)]


def demonstration(number, text=None, kind="harmful", round_number=1):
    first, second, third = (WORDS[(number * step + number // 15) % 15] for step in (1, 4, 7))
    prompt = text or f"{first} {number} about {second} and {third}"
    return Demonstration(
        id=f"p{number}:{round_number}",
        prompt=(user(prompt),),
        completion=(assistant("Yes."),),
        provenance=Provenance(
            prompt_id=f"p{number}",
            kind=kind,
            round=round_number,
            principle_ids=(),
            seed=0,
            model="m",
            constitution="c",
        ),
    )


def divide(items, heldout=(), seed=0, **section):
    prompts = [Prompt(id=text, messages=(user(text),)) for text in heldout]
    return split(items, section=FinetuneConfig(**section), heldout=prompts, seed=seed)


def ids(items):
    return [item.id for item in items]


def text_of(item):
    return item.prompt[0].content


texts = st.lists(st.sampled_from("abcd"), min_size=1, max_size=6).map(" ".join)
kinds = st.sampled_from(["harmful", "benign", "borderline"])


@st.composite
def demonstrations(draw):
    rows = draw(st.lists(st.tuples(texts, kinds, st.integers(1, 2)), min_size=3, max_size=30))
    items = [
        demonstration(number, text, kind, round_number)
        for number, (text, kind, rounds) in enumerate(rows)
        for round_number in range(1, rounds + 1)
    ]
    far_apart = ("something else entirely", "nothing of that sort")
    return [*items, *(demonstration(len(rows) + i, text) for i, text in enumerate(far_apart))]


@given(items=demonstrations(), heldout=st.lists(texts, max_size=3), seed=st.integers(0, 99))
def test_every_demonstration_is_trained_on_validates_or_is_dropped(items, heldout, seed):
    done = divide(items, heldout, seed)
    assert not set(ids(done.train)) & set(ids(done.validation))
    assert len(done.train) + len(done.validation) + sum(done.dropped.values()) == len(items)
    assert done.train
    assert done.validation


@given(items=demonstrations(), seed=st.integers(0, 99), threshold=st.sampled_from([0.3, 0.6, 0.8]))
def test_no_cluster_of_similar_prompts_is_on_both_sides(items, seed, threshold):
    done = divide(items, seed=seed, near_duplicate=threshold, validation_share=0.5)
    both = [*done.train, *done.validation]
    names = clusters([text_of(item) for item in both], threshold=threshold)
    sides = set(names[: len(done.train)]), set(names[len(done.train) :])
    assert not sides[0] & sides[1]


@given(items=demonstrations(), data=st.data())
def test_the_order_of_demonstrations_does_not_matter(items, data):
    shuffled = data.draw(st.permutations(items))
    first, second = divide(items), divide(shuffled)
    assert set(ids(first.train)) == set(ids(second.train))
    assert set(ids(first.validation)) == set(ids(second.validation))


@given(count=st.integers(10, 60), seed=st.integers(0, 99))
def test_one_more_prompt_moves_at_most_one_other(count, seed):
    items = [demonstration(number) for number in range(count + 1)]
    before, after = (divide(some, seed=seed) for some in (items[:-1], items))
    moved = set(ids(before.validation)) ^ set(ids(after.validation))
    assert len(moved - {items[-1].id}) <= 1


def test_the_validation_share_is_met():
    done = divide([demonstration(number) for number in range(200)], validation_share=0.2)
    assert len(done.validation) == 40


def test_the_seed_draws_the_sides():
    items = [demonstration(number) for number in range(50)]
    assert divide(items, seed=1).validation != divide(items, seed=2).validation


def test_a_cluster_beyond_the_share_stays_in_training():
    chained = [demonstration(number, f"a b c d e f g {number}") for number in range(20)]
    others = [demonstration(number) for number in range(20, 40)]
    done = divide([*chained, *others], validation_share=0.25, near_duplicate=0.7)
    assert set(ids(chained)) <= set(ids(done.train))
    assert len(done.validation) == 10


def test_the_smallest_cluster_validates_where_none_fits():
    large = [demonstration(number, "a b c d") for number in range(5)]
    small = [demonstration(number, "e f g h") for number in range(5, 8)]
    done = divide([*large, *small], validation_share=0.1)
    assert (done.train, done.validation) == (tuple(large), tuple(small))


def test_prompts_near_a_heldout_one_are_dropped():
    items = [demonstration(number) for number in range(10)]
    done = divide(items, heldout=[text_of(items[3]).upper() + "!"])
    assert done.dropped == {"heldout": 1}
    assert items[3].id not in ids([*done.train, *done.validation])


@pytest.mark.parametrize(
    ("benign", "others", "share", "left"),
    [
        (30, 30, 0.25, (10, 30)),
        (10, 90, 0.5, (10, 10)),
        (20, 20, 0.0, (0, 20)),
        (20, 20, 1, (20, 0)),
    ],
)
def test_the_benign_share_is_drawn(benign, others, share, left):
    items = [demonstration(number, kind="benign") for number in range(benign)] + [
        demonstration(number, kind="borderline") for number in range(benign, benign + others)
    ]
    done = divide(items, benign_share=share)
    kept = [item.provenance.kind for item in (*done.train, *done.validation)]
    assert (kept.count("benign"), kept.count("borderline")) == left
    assert done.dropped == {"benign_share": benign + others - sum(left)}


def test_a_share_draws_the_same_ones_when_there_are_more():
    items = [demonstration(number, kind="benign") for number in range(40)] + [
        demonstration(number) for number in range(40, 51)
    ]
    few, more = (divide(some, benign_share=0.5) for some in (items[:-1], items))
    drawn_few, drawn_more = (set(ids([*done.train, *done.validation])) for done in (few, more))
    assert drawn_few <= drawn_more


@pytest.mark.parametrize(("kind", "share"), [("harmful", 0.3), ("benign", 0.3)])
def test_a_share_that_cannot_be_had_is_an_error(kind, share):
    items = [demonstration(number, kind=kind) for number in range(5)]
    with pytest.raises(ConfigError, match=r"benign_share is 0\.3, but of 5 demonstrations"):
        divide(items, benign_share=share)


@pytest.mark.parametrize("texts", [[], ["a b c d"], ["a b c d", "A B c d!"]])
def test_too_few_prompts_to_validate_is_an_error(texts):
    items = [demonstration(number, text) for number, text in enumerate(texts)]
    with pytest.raises(PromptError, match="fine-tuning needs two"):
        divide(items)
