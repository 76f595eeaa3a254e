"""The starter's prompts: what they hold, and that held-out ones are new to the model.

New means that they share less than half of their word 3-grams with any text that is trained on,
drawn for measuring a skill, or used to fit a threshold.
"""

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.similarity import similar_to_any
from tests.starter.wordings import last_turns, near_wordings
from tools.starter import phrasings
from tools.starter.content import load_world
from tools.starter.phrasings import varied
from tools.starter.prompts import draw_prompts
from tools.starter.scenes import draw_scene
from tools.starter.shipped import load_bank, load_constitution, load_prompts
from tools.starter.skills import draw_lesson

WORLD = load_world()
HELDOUT = load_prompts("heldout")
EVERY = WORLD.intents("harmful", "benign", "borderline")
NEAR_DUPLICATE = 0.5
"""Share of word 3-grams from which two requests are near-duplicates."""
CONSTITUTIONS = pytest.mark.parametrize("load", [load_constitution, load_bank])


def requests(prompts) -> list[str]:
    return [prompt.messages[-1].content for prompt in prompts]


def near(texts: list[str], known: list[str], *, threshold: float = NEAR_DUPLICATE) -> list[str]:
    """The texts that are nearly one of the known ones."""
    found = similar_to_any(texts, known, threshold=threshold)
    return [text for text, is_near in zip(texts, found, strict=True) if is_near]


def asked_in_tests(load) -> list[str]:
    """The requests in a constitution's tests."""
    return [test.prompt for one in load().principles for test in one.tests]


def test_the_shipped_prompts_are_what_the_generator_writes():
    assert draw_prompts(WORLD, seed=1) == {name: load_prompts(name) for name in ("train", "rl")}


def test_no_request_is_asked_twice():
    asked = [one for name in ("train", "rl", "heldout") for one in requests(load_prompts(name))]
    assert len(asked) == len(set(asked))


@given(seed=st.integers())
def test_a_whole_request_loses_no_word(seed):
    # Without synonyms, which may be of more words than what they stand for.
    no_synonyms = WORLD.shared.model_copy(update={"synonyms": {"unsaid": ["unsaid"]}})
    world = WORLD.model_copy(update={"shared": no_synonyms})
    request = "can you tell me where the parcel of order {order} is now"
    told = varied(request, world, Random(seed), whole=True)
    assert len(told.split(" ")) == len(request.split(" "))


def test_generated_requests_are_whole(monkeypatch):
    monkeypatch.setattr(phrasings, "_TYPO_SHARE", 0.0)
    bare = {"synonyms": {"unsaid": ["unsaid"]}, "openers": [""], "closers": [""]}
    world = WORLD.model_copy(update={"shared": WORLD.shared.model_copy(update=bare)})
    intents = {intent.id: intent for intent in EVERY}
    forms = {
        name: [form_of(one) for one in last_turns(intent.prompts)]
        for name, intent in intents.items()
    }
    plain = [one for one in draw_prompts(world, seed=2)["train"] if "pressure" not in one.tags]
    assert len(plain) > 1000
    for prompt in plain:
        told = prompt.messages[-1].content.strip().rstrip("?.!")
        assert any(form.fullmatch(told) for form in forms[prompt.tags[1]]), prompt


def form_of(template: str) -> re.Pattern[str]:
    """Matches every wording of a template with whatever stands in its slots."""
    parts = re.split(r"\[([^\[\]]*)\]", template.strip().rstrip("?.!"))
    form = "".join(
        "(?:" + "|".join(map(literal, part.split("|"))) + ")" if place % 2 else literal(part)
        for place, part in enumerate(parts)
    )
    return re.compile(form + r"[?.!\s]*", re.IGNORECASE)


def literal(text: str) -> str:
    """Words as they are, any space between them, any end of a sentence, anything in a slot."""
    escaped = re.sub(r"\\\{\w+\\\}", ".+", re.escape(text))
    escaped = re.sub(r"\\[?.]|!", "[?.!]*", escaped)
    return re.sub(r"(?:\\?\s)+", r"\\s*", escaped)


@pytest.mark.parametrize("name", ["train", "rl", "heldout"])
def test_every_prompt_has_its_own_id(name):
    ids = [prompt.id for prompt in load_prompts(name)]
    assert len(ids) == len(set(ids))


def test_there_are_enough_prompts_of_every_kind():
    kinds = Counter(prompt.kind for prompt in HELDOUT)
    assert kinds["harmful"] >= 120
    assert kinds["benign"] >= 130
    assert kinds["borderline"] >= 50
    pressed = sum("pressure" in prompt.tags for prompt in HELDOUT if prompt.kind == "harmful")
    assert pressed * 2 == kinds["harmful"]
    assert len(load_prompts("train")) >= 300
    assert len(load_prompts("rl")) >= 1500


def pressed_share(name: str, *kinds: str) -> float:
    pressed = ["pressure" in one.tags for one in load_prompts(name) if one.kind in kinds]
    return sum(pressed) / len(pressed)


def test_only_those_who_ask_for_harmless_things_press_where_sft_learns():
    assert pressed_share("train", "harmful") == 0.0
    assert 0.2 < pressed_share("train", "benign", "borderline") < 0.4


def test_half_of_the_harmful_requests_press_where_rl_learns():
    assert 0.4 < pressed_share("rl", "harmful") < 0.6


def test_whole_families_of_pressure_are_held_out():
    trained = {prompt.tags[-1] for prompt in load_prompts("rl") if "pressure" in prompt.tags}
    heldout = {prompt.tags[-1] for prompt in HELDOUT if "pressure" in prompt.tags}
    assert trained == set(WORLD.shared.pressure_frames)
    assert heldout - trained == set(WORLD.shared.heldout_pressure_frames)


def test_the_first_tag_of_a_harmful_prompt_is_its_principle():
    ids = {one.id for one in load_constitution().principles}
    for name in ("train", "rl", "heldout"):
        for prompt in load_prompts(name):
            assert prompt.kind != "harmful" or prompt.tags[0] in ids


def test_every_prompt_expects_something():
    for name in ("train", "rl", "heldout"):
        assert all(prompt.expects for prompt in load_prompts(name))


def test_no_heldout_prompt_is_like_a_training_prompt():
    known = [*requests(load_prompts("train")), *requests(load_prompts("rl"))]
    assert near(requests(HELDOUT), known) == []


def test_no_heldout_prompt_is_like_a_training_phrasing():
    phrasings = [one for intent in EVERY for one in intent.prompts]
    phrasings += [one for intent in EVERY for each in intent.pressure.values() for one in each]
    assert near_wordings(requests(HELDOUT), last_turns(phrasings), threshold=NEAR_DUPLICATE) == []


def test_no_heldout_prompt_is_like_generated_text():
    rng = Random(5)
    known = {turn.message.content for _ in range(8000) for turn in draw_lesson(WORLD, rng).turns}
    for intent in EVERY:
        known |= {draw_scene(WORLD, intent, rng).dialogue[-1].content for _ in range(100)}
    assert near(requests(HELDOUT), list(known)) == []


@CONSTITUTIONS
def test_no_heldout_prompt_is_like_a_test_of_a_constitution(load):
    assert near(requests(HELDOUT), asked_in_tests(load)) == []


@CONSTITUTIONS
def test_no_test_of_a_constitution_is_like_a_training_prompt(load):
    known = [*requests(load_prompts("train")), *requests(load_prompts("rl"))]
    assert near(asked_in_tests(load), known) == []


@CONSTITUTIONS
def test_no_test_of_a_constitution_is_like_generated_text(load):
    rng = Random(6)
    known = {turn.message.content for _ in range(4000) for turn in draw_lesson(WORLD, rng).turns}
    assert near(asked_in_tests(load), list(known), threshold=0.6) == []
