import asyncio

import pytest

from charter.config import CompareConfig
from charter.errors import ConfigError
from charter.feedback.compare import Chosen, at_most, chosen_prompts, compare, slots
from charter.records import Prompt, user
from tests.feedback.judges import Weighing, logprobs

WORDS = ("alpha", "beta", "gamma", "delta", "omega")


def prompt(number, kind="harmful"):
    return Prompt(id=f"p{number}", messages=(user(f"Question {number}?"),), kind=kind)


def compared(slot, policy, judge, **section):
    return asyncio.run(
        compare(slot, policy=policy, judge=judge, section=CompareConfig(**section), seed=7)
    )


def paired(prompts, **section):
    return list(slots(prompts, section=CompareConfig(**section), seed=7))


def writer(say):
    return Weighing(lambda *_: {}, say=say)


@pytest.fixture
def judge(judging):
    return judging(Weighing(lambda _, choices: logprobs(choices, 0.7)))


def test_all_pairs_of_responses_are_compared():
    found = paired([prompt(1), prompt(2)], responses=3)
    assert [slot.id for slot in found] == [
        "p1:0-1", "p1:0-2", "p1:1-2", "p2:0-1", "p2:0-2", "p2:1-2"
    ]  # fmt: skip


def test_a_response_is_the_same_in_every_pair_and_drawn_by_name(judge):
    policy = writer(lambda _, seed: f"Reply {seed}")
    first, other, _ = (
        compared(slot, policy, judge, temperature=0.8, max_new_tokens=9).comparison
        for slot in paired([prompt(1)], responses=3)
    )
    assert first.first == other.first
    assert len({first.first, first.second, other.second}) == 3
    assert all(
        (sampling.temperature, sampling.max_new_tokens) == (0.8, 9)
        for _, sampling, _ in policy.said
    )


def test_identical_responses_are_counted_and_not_judged(judge):
    policy = writer(lambda _, seed: "Yes." + " " * (seed % 2))
    found = compared(*paired([prompt(1)]), policy, judge)
    assert (found.filtered, found.verdict) == ("identical", None)
    assert judge.model.chosen == []


def test_responses_that_were_cut_off_are_counted(judge):
    policy = writer(lambda _, seed: f"Reply {seed}")
    policy.finish = "length"
    assert compared(*paired([prompt(1)]), policy, judge).comparison.cut_off == (True, True)


def test_a_share_of_what_is_harmless_is_compared_with_responses_to_what_is_harmful(judge):
    asked = [prompt(n, "harmful" if n < 4 else "benign") for n in range(40)]
    found = [slot for slot in paired(asked, negatives=0.5) if slot.negative]
    assert 10 <= len(found) <= 26
    assert all(slot.prompt.kind == "benign" and slot.negative in asked[:4] for slot in found)
    assert len({slot.negative.id for slot in found}) > 1
    fewer = {slot.id for slot in paired(asked, negatives=0.2) if slot.negative}
    assert fewer < {slot.id for slot in found}
    policy = writer(lambda said, _: f"Reply to: {said}")
    made = compared(found[0], policy, judge)
    assert made.negative
    assert made.comparison.first == f"Reply to: {found[0].prompt.messages[-1].content}"
    assert made.comparison.second == f"Reply to: {found[0].negative.messages[-1].content}"


def test_without_harmful_prompts_there_are_no_negatives():
    assert len(paired([prompt(1, "benign")], negatives=1.0)) == 1


def choose(prompts, *, heldout=(), mix=None, seed=0):
    return chosen_prompts(prompts, heldout=heldout, near_duplicate=0.8, mix=mix, seed=seed)


def test_prompts_near_a_heldout_one_are_left_out():
    asked = [
        Prompt(id=word, messages=(user(f"Tell me what {word} of things is"),)) for word in WORDS
    ]
    near = Prompt(id="h", messages=(user("tell me what BETA of things is"),))
    found = choose(asked, heldout=[near])
    assert [each.id for each in found.prompts] == ["alpha", "gamma", "delta", "omega"]
    assert found.dropped == {"heldout": 1}


KINDS = [prompt(i, ("benign", "benign", "harmful", "borderline")[i % 4]) for i in range(80)]


def test_the_mix_is_as_stated_and_the_order_is_kept():
    found = choose(KINDS, mix={"harmful": 0.5, "benign": 0.4, "borderline": 0.1})
    kinds = [each.kind for each in found.prompts]
    assert [kinds.count(kind) for kind in ("harmful", "benign", "borderline")] == [20, 16, 4]
    assert found.dropped == {"mix": 40}
    numbers = [int(each.id[1:]) for each in found.prompts]
    assert numbers == sorted(numbers)


def test_a_kind_without_a_share_may_be_everything():
    found = choose(KINDS, mix={"benign": 0.2})
    assert sum(each.kind == "benign" for each in found.prompts) == 10
    assert len(found.prompts) == 50


def test_the_mix_is_drawn_by_id():
    mix = {"benign": 0.2}
    backwards = choose(KINDS[::-1], mix=mix).prompts
    assert sorted(each.id for each in backwards) == sorted(
        each.id for each in choose(KINDS, mix=mix).prompts
    )
    assert choose(KINDS, mix=mix).prompts != choose(KINDS, mix=mix, seed=1).prompts


def test_a_mix_that_cannot_be_had_says_what_there_is():
    with pytest.raises(ConfigError, match=r"the prompts are 1 benign: .* do not add up to 1"):
        choose([prompt(1, "benign")], mix={"benign": 0.5, "harmful": 0.5})


def test_fewer_prompts_are_drawn_by_id_wherever_they_stand():
    prompts = [Prompt(id=f"p{n}", messages=(user(f"number {n}"),)) for n in range(30)]
    few = at_most(Chosen(tuple(prompts), {"heldout": 2}), 10, seed=1)
    again = at_most(Chosen(tuple(reversed(prompts)), {}), 10, seed=1)
    assert {one.id for one in few.prompts} == {one.id for one in again.prompts}
    assert (len(few.prompts), few.dropped) == (10, {"heldout": 2, "not_drawn": 20})
    assert at_most(few, None, seed=1) == at_most(few, 10, seed=1) == few
