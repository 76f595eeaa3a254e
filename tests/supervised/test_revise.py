import asyncio

import pytest

from charter.config import ReviseConfig
from charter.constitution import Constitution
from charter.models.scripted import Script, ScriptedModel
from charter.records import Prompt, assistant, system, user
from charter.supervised.revise import Reviser, revise

CONSTITUTION = Constitution.model_validate(
    {
        "principles": [
            {"id": "ssn", "rule": "Never ask for an SSN."},
            {"id": "kind", "rule": "Be kind.", "applies_when": ["people"]},
        ],
        "exemplars": [
            {
                "prompt": "Verify me.",
                "response": "SSN?",
                "critique": "It asks.",
                "revision": "I can email a link.",
            }
        ],
    }
)
PROMPT = Prompt(id="p", messages=(user("I forgot my password."),))
BROKEN, KEPT = {"yes": 0.9, "no": 0.1}, {"yes": 0.1, "no": 0.9}


class Listening(ScriptedModel):
    """A scripted model that keeps the dialogues it was shown."""

    def __init__(self, script):
        super().__init__(script)
        self.heard = []

    async def generate(self, dialogue, *, sampling, seed):
        self.heard.append((dialogue, sampling, seed))
        return await super().generate(dialogue, sampling=sampling, seed=seed)


def model(*, critique="It asks for an SSN.", revision=" I can email a link. ", broken=BROKEN):
    return Listening(
        Script.model_validate(
            {
                "rules": [
                    {"match": "Answer yes or no", "choices": broken},
                    {"match": "^Critique", "text": critique},
                    {"match": "^Rewrite", "text": revision},
                ],
                "default": {"text": "What is your SSN?"},
            }
        )
    )


def revised(speaker, prompt=PROMPT, *, constitution=CONSTITUTION, threshold=0.5, seed=0, **section):
    reviser = Reviser(
        constitution=constitution,
        critic=speaker,
        reviser=speaker,
        section=ReviseConfig(**section),
        threshold=threshold,
    )
    return asyncio.run(revise(prompt, policy=speaker, reviser=reviser, seed=seed))


def test_a_broken_principle_is_criticised_and_mended():
    done = revised(model(), rounds=1)
    assert done.response.text == "What is your SSN?"
    (step,) = done.rounds
    assert (step.outcome, step.principle_ids) == ("revised", ("ssn",))
    assert step.critique == "It asks for an SSN."
    assert done.final == "I can email a link."


def test_the_revision_takes_the_responses_place_in_the_next_round():
    speaker = model()
    revised(speaker, rounds=2)
    shown = [dialogue for dialogue, _, _ in speaker.heard if dialogue[-1].content[:8] == "Critique"]
    assert [assistant("I can email a link.") in dialogue[6:] for dialogue in shown] == [False, True]


def test_where_no_principle_seems_broken_nothing_is_asked_and_the_response_is_kept():
    speaker = model(broken=KEPT)
    done = revised(speaker, rounds=1)
    assert done.rounds[0].outcome == "screened"
    assert done.rounds[0].p_broken == {"ssn": pytest.approx(0.1)}
    assert done.final == "What is your SSN?"
    assert len(speaker.heard) == 1


def test_what_is_called_benign_is_not_doubted_lightly():
    suspected = {"yes": 0.2, "no": 0.8}
    benign = PROMPT.model_copy(update={"kind": "benign"})
    assert revised(model(broken=suspected), threshold=0.1, rounds=1).rounds[0].outcome == "revised"
    spared = revised(model(broken=suspected), benign, threshold=0.1, rounds=1)
    assert spared.rounds[0].outcome == "screened"
    assert revised(model(), benign, threshold=0.1, rounds=1).rounds[0].outcome == "revised"


def test_what_is_certainly_broken_goes_before_what_may_be():
    people = PROMPT.model_copy(update={"tags": ("people",)})
    doubted = {"match": "Answer yes or no.*Be kind", "choices": {"yes": 0.75, "no": 0.25}}
    certain = {"match": "Answer yes or no", "choices": {"yes": 0.9999, "no": 0.0001}}
    script = Script.model_validate({"rules": [doubted, certain], "default": {"text": "It does."}})
    drawn = [
        revised(Listening(script), people, rounds=1, seed=seed).rounds[0] for seed in range(40)
    ]
    assert drawn[0].p_broken["kind"] == pytest.approx(0.75)
    assert {step.principle_ids for step in drawn} == {("ssn",)}


def test_a_critique_that_finds_nothing_keeps_the_response():
    done = revised(model(critique="No problem: it is fine."), rounds=1)
    assert done.rounds[0].outcome == "no_fault"
    assert done.final == "What is your SSN?"


def test_a_principle_for_other_prompts_is_neither_screened_nor_drawn():
    drawn = {
        revised(model(), rounds=1, selection="random", seed=seed).rounds[0].principle_ids
        for seed in range(20)
    }
    assert drawn == {("ssn",)}


def test_random_selection_draws_every_principle_that_applies():
    people = PROMPT.model_copy(update={"tags": ("people",)})
    drawn = {
        revised(model(), people, rounds=1, selection="random", seed=seed).rounds[0].principle_ids
        for seed in range(20)
    }
    assert drawn == {("ssn",), ("kind",)}


def in_turn(prompt_id):
    people = PROMPT.model_copy(update={"id": prompt_id, "tags": ("people",)})
    done = revised(model(), people, rounds=3, selection="all")
    return [step.principle_ids for step in done.rounds]


def test_all_takes_the_principles_in_turn_and_begins_with_each_for_some_prompt():
    turns = [in_turn(f"p{i}") for i in range(20)]
    assert all(turn[0] == turn[2] != turn[1] for turn in turns)
    assert {turn[0] for turn in turns} == {("ssn",), ("kind",)}


@pytest.mark.parametrize("selection", ["screen", "random", "all"])
def test_where_no_principle_applies_nothing_is_asked_and_the_round_says_why(selection):
    about_people = CONSTITUTION.model_copy(update={"principles": CONSTITUTION.principles[1:]})
    speaker = model()
    done = revised(speaker, constitution=about_people, rounds=1, selection=selection)
    assert (done.rounds[0].outcome, done.final) == ("inapplicable", done.response.text)
    assert len(speaker.heard) == 1


def test_without_critique_the_revision_is_asked_for_directly():
    speaker = model()
    (step,) = revised(speaker, rounds=1, critique=False).rounds
    assert (step.outcome, step.critique) == ("revised", None)
    assert not any("Critique" in dialogue[-1].content for dialogue, _, _ in speaker.heard)


def test_exemplars_stand_before_the_dialogue_and_after_its_system_turn():
    speaker = model()
    told = PROMPT.model_copy(update={"messages": (system("Be brief."), *PROMPT.messages)})
    revised(speaker, told, rounds=1)
    contents = [turn.content for turn in speaker.heard[1][0]]
    assert contents[:3] == ["Be brief.", "Verify me.", "SSN?"]
    assert contents[7] == "I forgot my password."


def test_each_role_has_its_own_temperature():
    speaker = model()
    revised(
        speaker,
        rounds=1,
        response_temperature=0.1,
        critique_temperature=0.2,
        revision_temperature=0.3,
    )
    assert [sampling.temperature for _, sampling, _ in speaker.heard] == [0.1, 0.2, 0.3]


def test_resuming_draws_the_same_principles_and_seeds():
    people = PROMPT.model_copy(update={"tags": ("people",)})
    first, second = model(), model()
    assert revised(first, people, selection="random") == revised(second, people, selection="random")
    assert [seed for _, _, seed in first.heard] == [seed for _, _, seed in second.heard]
    assert len({seed for _, _, seed in first.heard}) == len(first.heard)
