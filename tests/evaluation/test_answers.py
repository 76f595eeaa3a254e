import asyncio
import math

import pytest

from charter.config import EvaluateConfig, ReviseConfig
from charter.constitution import Constitution, Principle
from charter.evaluation.answers import answering, revising
from charter.records import Prompt, system, user
from charter.supervised.revise import Reviser

RULES = Constitution(
    preamble="Be Ada.", principles=(Principle(id="kind", rule="Be kind {always}."),)
)
SECTION = EvaluateConfig(temperature=0.5, max_new_tokens=7)
PROMPT = Prompt(id="p", messages=(user("Roast Bo."),))


def rules_in(system_turn: str | None, messages, spoken_model):
    model = spoken_model()
    section = SECTION.model_copy(update={"system": system_turn})
    prompt = Prompt(id="p", messages=messages)
    asyncio.run(answering(model, section=section, rules=RULES).answer(prompt, 1))
    return model.asked[0][0]


def test_a_plain_column_shows_the_model_the_prompt_alone(spoken_model):
    model = spoken_model(say=lambda *_: "Hi.")
    answer = asyncio.run(answering(model, section=SECTION, rules=None).answer(PROMPT, 1))
    dialogue, sampling, _ = model.asked[0]
    assert dialogue == PROMPT.messages
    assert (sampling.temperature, sampling.max_new_tokens) == (0.5, 7)
    assert (answer.text, answer.calls, answer.usage.prompt_tokens) == ("Hi.", 1, 10)


def test_the_rules_are_a_system_turn(spoken_model):
    dialogue = rules_in(None, PROMPT.messages, spoken_model)
    assert [message.role for message in dialogue] == ["system", "user"]
    assert "Be Ada." in dialogue[0].content
    assert "- Be kind {always}." in dialogue[0].content


def test_the_rules_follow_a_system_turn_that_is_there(spoken_model):
    own = rules_in("unused", (system("You sell cars."), *PROMPT.messages), spoken_model)
    configured = rules_in("You sell cars.", PROMPT.messages, spoken_model)
    assert own == configured
    assert own[0].content.startswith("You sell cars.\n\n")
    assert len(own) == 2


def test_a_plain_columns_answer_says_that_it_was_cut_off(spoken_model):
    model = spoken_model(end=lambda _: "length")
    answer = asyncio.run(answering(model, section=SECTION, rules=None).answer(PROMPT, 1))
    assert answer.finish == "length"


def revised(say, spoken_model, **changes):
    model = spoken_model(say=say, **({"choose": lambda _: {"yes": -0.1, "no": -2.4}} | changes))
    reviser = Reviser(
        constitution=RULES,
        critic=model,
        reviser=model,
        section=ReviseConfig(rounds=1),
        threshold=0.5,
    )
    return model, asyncio.run(revising(model, section=SECTION, reviser=reviser).answer(PROMPT, 1))


def test_a_revising_column_answers_with_the_revision_and_pays_for_all_its_calls(spoken_model):
    texts = {1: "Bo is a fool.", 3: "That is unkind.", 5: "Bo is fine."}
    _, answer = revised(lambda dialogue, _: texts[len(dialogue)], spoken_model)
    assert answer.text == "Bo is fine."
    assert answer.calls == 4
    assert answer.usage.completion_tokens == 15


@pytest.mark.parametrize(
    ("p_broken", "cut_turns", "finish"),
    [(0.9, 5, "length"), (0.9, 1, "stop"), (0.1, 1, "length")],
)
def test_a_revising_columns_answer_ends_as_the_text_that_it_kept(
    spoken_model, p_broken, cut_turns, finish
):
    _, answer = revised(
        lambda *_: "Bo is a fool.",
        spoken_model,
        choose=lambda _: {"yes": math.log(p_broken), "no": math.log(1 - p_broken)},
        end=lambda dialogue: "length" if len(dialogue) == cut_turns else "stop",
    )
    assert answer.finish == finish


def test_a_revising_column_starts_from_the_answer_that_the_plain_column_gives(spoken_model):
    model, _ = revised(lambda *_: "Bo is a fool.", spoken_model)
    plain = spoken_model(say=lambda *_: "Bo is a fool.")
    asyncio.run(answering(plain, section=SECTION, rules=None).answer(PROMPT, 1))
    assert model.asked[0] == plain.asked[0]


def test_a_revising_column_writes_all_its_texts_as_the_other_columns_do(spoken_model):
    model = spoken_model(choose=lambda _: {"yes": -0.1, "no": -2.4})
    trained = ReviseConfig(rounds=1, system="Be curt.", max_new_tokens=99)
    reviser = Reviser(RULES, model, model, trained, threshold=0.5)
    section = SECTION.model_copy(update={"system": "You sell cars."})
    asyncio.run(revising(model, section=section, reviser=reviser).answer(PROMPT, 1))
    assert {dialogue[0].content for dialogue, _, _ in model.asked} == {"You sell cars."}
    lengths = [sampling.max_new_tokens for _, sampling, _ in model.asked if sampling]
    assert lengths == [7, 7, 7]


def test_bills_of_answers_in_flight_at_once_are_kept_apart(spoken_model):
    model = spoken_model(say=lambda *_: "Fine.")
    reviser = Reviser(RULES, model, model, ReviseConfig(rounds=1), threshold=0.5)
    column = revising(model, section=SECTION, reviser=reviser).answer

    async def both():
        return await asyncio.gather(column(PROMPT, 1), column(PROMPT, 2))

    assert {answer.calls for answer in asyncio.run(both())} == {2}
