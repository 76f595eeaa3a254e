"""The starter's world: what its data promises."""

import re
from random import Random

import pytest

from tools.starter.content import Intent, World, load_world
from tools.starter.prompts import HELDOUT_COUNTS, TRAIN_COUNTS, check_replies, draw_prompts
from tools.starter.scenes import draw_scene
from tools.starter.shipped import load_constitution, load_prompts
from tools.starter.skills import draw_lesson
from tools.starter.templates import all_wordings, draw_facts, fill, slots_of

WORLD = load_world()
CONSTITUTION = load_constitution()
HARMFUL = WORLD.intents("harmful")
DEGREES = ("fitting", "generic", "bare", "evasive", "preachy")


def said(templates: list[str]) -> list[str]:
    """Every wording of the templates, with facts in."""
    facts = draw_facts(WORLD.slots, Random(1))
    return [fill(wording, facts) for each in templates for wording in all_wordings(each)]


def unsafe_replies(intent: Intent) -> list[str]:
    return said([*intent.unsafe.severe, *intent.unsafe.mild]) if intent.unsafe else []


def broken_by(reply: str) -> set[str]:
    """The principles whose patterns mark a reply."""
    return {
        one.id
        for one in CONSTITUTION.principles
        if any(re.search(pattern, reply) for pattern in one.patterns)
    }


def test_every_harmful_family_has_its_principle():
    assert {each.family for each in WORLD.principled} == {p.id for p in CONSTITUTION.principles}


@pytest.mark.parametrize("intent", HARMFUL, ids=lambda intent: intent.id)
def test_the_patterns_mark_every_unsafe_reply_under_its_own_principle(intent: Intent):
    for reply in unsafe_replies(intent):
        assert broken_by(reply) == {WORLD.family_of(intent)}, reply


@pytest.mark.parametrize("intent", HARMFUL, ids=lambda intent: intent.id)
def test_the_patterns_mark_no_safe_reply(intent: Intent):
    for degree in DEGREES:
        for reply in said(getattr(intent.safe, degree) or getattr(WORLD.shared, degree)):
            assert not broken_by(reply), reply


def test_the_patterns_mark_no_helpful_reply():
    for intent in WORLD.intents("benign", "borderline"):
        for reply in said(intent.helpful):
            assert not broken_by(reply), reply


@pytest.mark.parametrize("principle", CONSTITUTION.principles, ids=lambda one: one.id)
def test_the_constitutions_tests_agree_with_its_patterns(principle):
    for test in principle.tests:
        assert broken_by(test.breaks) == {principle.id}, test.breaks
        assert not broken_by(test.keeps), test.keeps


def test_fitting_replies_offer_the_alternative_that_is_expected():
    for intent in HARMFUL:
        for reply in said(intent.safe.fitting):
            assert all(re.search(each, reply) for each in intent.expects), reply
        for reply in unsafe_replies(intent):
            assert not all(re.search(each, reply) for each in intent.expects), reply


def test_every_phrasing_has_replies_that_use_only_what_was_said():
    check_replies(WORLD)


def test_every_slot_that_a_template_names_exists():
    for intent in WORLD.intents("harmful", "benign", "borderline"):
        replies = [*intent.helpful, intent.fault]
        if intent.unsafe and intent.safe:
            replies += [*intent.unsafe.severe, *intent.unsafe.mild, *intent.safe.fitting]
        for template in replies:
            assert slots_of(template) <= set(WORLD.slots), template


def test_the_same_seed_draws_the_same_lessons():
    def lessons(seed: int) -> list[object]:
        rng = Random(seed)
        return [draw_lesson(WORLD, rng) for _ in range(200)]

    assert lessons(3) == lessons(3)
    assert lessons(3) != lessons(4)


def test_the_shipped_prompts_are_what_the_generator_writes():
    for name, counts in (("train", TRAIN_COUNTS), ("heldout", HELDOUT_COUNTS)):
        rng, heldout = Random(f"1 {name}"), name == "heldout"
        drawn = draw_prompts(WORLD, rng, counts=counts, name=name, heldout=heldout)
        assert list(drawn) == load_prompts(name)


def test_no_heldout_prompt_is_a_training_prompt_in_other_dress():
    trained = {bare(WORLD, prompt.messages[-1].content) for prompt in load_prompts("train")}
    rng = Random(5)
    for intent in WORLD.intents("harmful", "benign", "borderline"):
        for _ in range(100):
            scene = draw_scene(WORLD, intent, rng)
            trained.add(bare(WORLD, scene.dialogue[-1].content))
    heldout = [bare(WORLD, prompt.messages[-1].content) for prompt in load_prompts("heldout")]
    assert not trained.intersection(heldout)


def bare(world: World, text: str) -> str:
    """A request without greeting, ending and slot values: its phrasing alone."""
    text = text.lower()
    for opener in world.shared.openers:
        text = text.removeprefix(opener + " ")
    for closer in world.shared.closers:
        text = text.removesuffix(" " + closer)
    for kind in world.slots.values():
        for value in (*kind.values, *kind.heldout):
            text = re.sub(rf"\b{value.lower()}\b", "*", text)
    return re.sub(r"\d+", "*", text).rstrip("?.! ")


def test_heldout_prompts_expect_something_of_a_helpful_answer():
    assert all(prompt.expects for prompt in load_prompts("heldout"))
