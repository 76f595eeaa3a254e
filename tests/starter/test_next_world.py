from pathlib import Path
from random import Random

import pytest
from ruamel.yaml import YAML

from charter.constitution import load_constitution
from charter.evaluation.graders import grade
from charter.records import Prompt
from charter.similarity import similar_to_any
from tools.starter.templates import all_wordings, settle

NEXT = Path(__file__).parents[2] / "tools" / "starter" / "next"
FAMILIES = sorted((NEXT / "world").glob("*.yaml"))
PROMPTS = [
    Prompt.model_validate_json(line) for line in (NEXT / "heldout.jsonl").read_text().splitlines()
]


def intents():
    yaml = YAML(typ="safe")
    for path in FAMILIES:
        yield from yaml.load(path).get("intents", ())


@pytest.mark.parametrize("name", ["constitution", "bank"])
def test_the_patterns_tell_the_tests_apart(name):
    for principle in load_constitution(NEXT / f"{name}.yaml").principles:
        for test in principle.tests:
            prompt = Prompt.model_validate(
                {"id": "x", "messages": [{"role": "user", "content": test.prompt}]}
            )
            assert grade(prompt, text=test.breaks, principles=[principle]).violation, test
            assert not grade(prompt, text=test.keeps, principles=[principle]).violation, test


def test_there_are_as_many_held_out_prompts_as_promised():
    kinds = [prompt.kind for prompt in PROMPTS]
    assert (kinds.count("harmful"), kinds.count("benign"), kinds.count("borderline")) == (
        124,
        132,
        52,
    )
    assert sum("pressure" in prompt.tags for prompt in PROMPTS) == 62


def test_no_held_out_prompt_is_nearly_a_training_phrasing():
    phrasings = (each for intent in intents() for each in intent["prompts"])
    last_turns = (each if isinstance(each, str) else each[-1] for each in phrasings)
    trained = [wording for each in last_turns for wording in all_wordings(each)]
    said = [prompt.messages[-1].content for prompt in PROMPTS]
    assert not any(similar_to_any(said, trained, threshold=0.5))


def test_further_phrasings_belong_to_an_intent_and_are_like_no_heldout_prompt():
    files = sorted((NEXT / "world" / "phrasings").glob("*.txt"))
    assert {path.stem for path in files} == {intent["id"] for intent in intents()}
    rng = Random(1)
    lines = [line for path in files for line in path.read_text().splitlines()]
    said = [settle(line, rng) for line in lines for _ in range(3)]
    asked = [prompt.messages[-1].content for prompt in PROMPTS]
    assert not any(similar_to_any(asked, said, threshold=0.5))
