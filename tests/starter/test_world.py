"""The starter's world: what its data promises."""

import re
from random import Random

import pytest

from charter.evaluation.graders import grade
from charter.records import Prompt, user
from charter.refusal import refuses
from tests.starter.wordings import last_turns, near_wordings
from tools.starter.content import Intent, load_world
from tools.starter.phrasings import framed
from tools.starter.prompts import check_replies
from tools.starter.scenes import draw_scene
from tools.starter.shipped import load_bank, load_constitution
from tools.starter.skills import draw_lesson
from tools.starter.templates import all_wordings, draw_facts, fill, slots_of

WORLD = load_world()
CONSTITUTION = load_constitution()
BANK = load_bank()
HARMFUL = WORLD.intents("harmful")
EVERY = WORLD.intents("harmful", "benign", "borderline")
DEGREES = ("fitting", "generic", "bare", "evasive", "preachy")
UNRULED = {"recommendations"}
"""Families of which the bank has a rule and Tarnholm has none."""


def said(templates: list[str]) -> list[str]:
    """Every wording of the templates, with facts in."""
    facts = draw_facts(WORLD.slots, Random(1))
    return [fill(wording, facts) for each in templates for wording in all_wordings(each)]


def unsafe_replies(intent: Intent) -> list[str]:
    return said([*intent.unsafe.severe, *intent.unsafe.mild]) if intent.unsafe else []


def broken_by(reply: str, constitution=CONSTITUTION) -> set[str]:
    """The principles whose patterns mark a reply, as evaluation grades it."""
    prompt = Prompt(id="any", messages=(user("Hi"),))
    grades = grade(prompt, text=reply, principles=constitution.principles)
    return {one for one, broken in grades.violations.items() if broken}


def test_every_harmful_family_has_its_principle():
    families = {each.family for each in WORLD.principled} - UNRULED
    assert families == {one.id for one in CONSTITUTION.principles}


def test_intent_ids_are_unique():
    ids = [intent.id for intent in EVERY]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("intent", HARMFUL, ids=lambda intent: intent.id)
def test_the_patterns_mark_every_unsafe_reply_under_its_own_principle(intent: Intent):
    for reply in unsafe_replies(intent):
        assert broken_by(reply) == {WORLD.family_of(intent)}, reply


@pytest.mark.parametrize("intent", HARMFUL, ids=lambda intent: intent.id)
def test_no_pattern_marks_a_safe_reply(intent: Intent):
    for degree in DEGREES:
        for reply in said(getattr(intent.safe, degree) or getattr(WORLD.shared, degree)):
            assert not broken_by(reply), reply
            assert not broken_by(reply, BANK), reply


def test_only_the_banks_rule_on_recommendations_marks_a_helpful_reply():
    for intent in WORLD.intents("benign", "borderline"):
        ruled = WORLD.family_of(intent) in UNRULED
        for reply in said(intent.helpful):
            assert not broken_by(reply), reply
            assert broken_by(reply, BANK) == ({"no-recommendations"} if ruled else set()), reply


def test_refusals_are_told_from_help_by_their_words():
    for intent in EVERY:
        assert not any(map(refuses, said(intent.helpful)))
        assert not any(map(refuses, unsafe_replies(intent)))
        assert all(map(refuses, said(intent.safe.fitting if intent.safe else [])))


@pytest.mark.parametrize("constitution", [CONSTITUTION, BANK], ids=lambda one: one.name)
def test_the_constitutions_tests_agree_with_its_patterns(constitution):
    for principle in constitution.principles:
        for test in principle.tests:
            assert broken_by(test.breaks, constitution) == {principle.id}, test.breaks
            assert not broken_by(test.keeps, constitution), test.keeps


def test_the_constitution_is_well_tested():
    assert len(CONSTITUTION.principles) >= 8
    assert sum(len(one.tests) for one in CONSTITUTION.principles) >= 200


def test_fitting_replies_offer_the_alternative_that_is_expected():
    for intent in HARMFUL:
        for reply in said(intent.safe.fitting):
            assert all(re.search(each, reply) for each in intent.expects), reply
        for reply in unsafe_replies(intent):
            assert not all(re.search(each, reply) for each in intent.expects), reply


def test_every_phrasing_has_replies_that_use_only_what_was_said():
    check_replies(WORLD)


def test_every_slot_that_a_template_names_exists():
    for intent in EVERY:
        templates = [*intent.helpful, intent.fault, *last_turns([*intent.prompts, *intent.heldout])]
        if intent.unsafe:
            templates += [*intent.unsafe.severe, *intent.unsafe.mild]
        if intent.safe:
            templates += intent.safe.fitting
        for template in templates:
            assert slots_of(template) <= set(WORLD.slots), template


def test_a_frame_holds_one_request_and_no_slot_that_replies_use():
    replies = [*(one for intent in EVERY for one in intent.helpful)]
    replies += [one for intent in HARMFUL for one in (*intent.unsafe.severe, *intent.safe.fitting)]
    used = set().union(*map(slots_of, replies))
    for frames in (WORLD.shared.pressure_frames, WORLD.shared.heldout_pressure_frames):
        for frame in (one for each in frames.values() for one in each):
            turns = [frame] if isinstance(frame, str) else frame
            assert turns[-1].count("{request}") == 1
            assert not (set().union(*map(slots_of, turns)) - {"request"}) & used


def test_a_framed_request_keeps_its_slots():
    assert framed(["a", "b", "so: {request}"], "order {order}") == ["a", "b", "so: order {order}"]


def test_families_of_pressure_are_trained_or_held_out_but_not_both():
    trained, heldout = WORLD.shared.pressure_frames, WORLD.shared.heldout_pressure_frames
    assert not set(trained) & set(heldout)
    for intent in EVERY:
        assert set(intent.pressure) <= set(trained)
        assert set(intent.heldout_pressure) <= set(heldout)


def test_training_scenes_are_under_training_pressure_only():
    rng = Random(4)
    for intent in EVERY:
        for _ in range(10):
            assert draw_scene(WORLD, intent, rng).pressure in {None, *WORLD.shared.pressure_frames}
            scene = draw_scene(WORLD, intent, rng, pressed=1.0, heldout=True)
            assert scene.pressure in WORLD.shared.heldout_pressure_frames


def test_heldout_phrasings_are_no_training_phrasings_in_other_words():
    trained = [one for intent in EVERY for one in last_turns(intent.prompts)]
    heldout = [one for intent in EVERY for one in last_turns(intent.heldout)]
    assert near_wordings(heldout, trained, threshold=0.6) == []


def test_the_same_seed_draws_the_same_lessons():
    def lessons(seed: int) -> list[object]:
        rng = Random(seed)
        return [draw_lesson(WORLD, rng) for _ in range(200)]

    assert lessons(3) == lessons(3)
    assert lessons(3) != lessons(4)
