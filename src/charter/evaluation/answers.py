"""The columns of an evaluation: ways to answer a prompt, each one async function.

`base` answers as it is, `base+rules` reads the constitution first, `base+revise` criticises and
revises at inference, `sft` was trained. All draw a prompt's first answer from the same seed, so
that columns differ by what they are and not by luck.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from charter.config import EvaluateConfig
from charter.constitution import Constitution
from charter.model import Model
from charter.records import (
    Completion,
    Dialogue,
    Finish,
    Prompt,
    Revision,
    Sampling,
    Usage,
    content_hash,
    system,
    with_system_turn,
)
from charter.seeding import derive
from charter.supervised.revise import Reviser, revise_response
from charter.wording import rules_turn


class Answer(NamedTuple):
    """What a column says to a prompt, and what it spent on it."""

    text: str
    finish: Finish
    usage: Usage
    """Tokens of all texts read and written for it; asking for probabilities hides its own."""
    calls: int
    """Calls of models, those for probabilities included."""


Answerer = Callable[[Prompt, int], Awaitable[Answer]]
"""The answer to a prompt under a seed."""


class Respondent(NamedTuple):
    """Who answers in a column, and what its answers depend on."""

    answer: Answerer
    context: str
    """A hash of all that shapes an answer besides prompt and seed. Each column has its own, so
    that one more column, or another model in one of them, leaves the others' answers as they are.
    """


def answering(model: Model, *, section: EvaluateConfig, rules: Constitution | None) -> Respondent:
    """A column that asks a model once; `rules` stand in its system turn."""

    async def answer(prompt: Prompt, seed: int) -> Answer:
        dialogue = with_system_turn(prompt.messages, section.system)
        if rules is not None:
            dialogue = with_rules(dialogue, rules)
        completion = await _respond(model, dialogue, prompt, section=section, seed=seed)
        return Answer(completion.text, completion.finish, completion.usage, calls=1)

    shaping = {
        "model": model.fingerprint,
        "drawn": _drawn(section),
        "rules": rules and rules_turn(rules),
    }
    return Respondent(answer, content_hash(shaping))


def revising(model: Model, *, section: EvaluateConfig, reviser: Reviser) -> Respondent:
    """A column that asks a model once and then criticises and revises what it said.

    All its texts are written under the evaluation's system turn and length, like other columns'.
    """
    shared = {"system": section.system, "max_new_tokens": section.max_new_tokens}
    aligned = reviser.section.model_copy(update=shared)

    async def answer(prompt: Prompt, seed: int) -> Answer:
        bill = _Bill()
        dialogue = with_system_turn(prompt.messages, section.system)
        first = await _respond(
            _Metered(model, bill=bill), dialogue, prompt, section=section, seed=seed
        )
        metered = replace(
            reviser,
            section=aligned,
            critic=_Metered(reviser.critic, bill=bill),
            reviser=_Metered(reviser.reviser, bill=bill),
        )
        rounds = await revise_response(prompt, response=first.text, reviser=metered, seed=seed)
        revision = Revision(prompt=prompt, response=first, rounds=rounds)
        return Answer(revision.final, revision.finish, bill.usage, bill.calls)

    shaping = {
        "models": [each.fingerprint for each in (model, reviser.critic, reviser.reviser)],
        "drawn": _drawn(section),
        "section": aligned.model_dump(mode="json", exclude={"gates", "train_on", "max_failed"}),
        "threshold": reviser.threshold,
        "constitution": reviser.constitution.hash,
    }
    return Respondent(answer, content_hash(shaping))


def with_rules(dialogue: Dialogue, constitution: Constitution) -> Dialogue:
    """The dialogue with the constitution in its system turn, after what stands there already."""
    rules = rules_turn(constitution)
    if dialogue[0].role != "system":
        return (system(rules), *dialogue)
    return (system(dialogue[0].content + "\n\n" + rules), *dialogue[1:])


def _drawn(section: EvaluateConfig) -> dict[str, Any]:
    """The settings that shape what a model says."""
    return section.model_dump(mode="json", include={"system", "temperature", "max_new_tokens"})


async def _respond(
    model: Model, dialogue: Dialogue, prompt: Prompt, *, section: EvaluateConfig, seed: int
) -> Completion:
    return await model.generate(
        dialogue,
        sampling=Sampling(temperature=section.temperature, max_new_tokens=section.max_new_tokens),
        seed=derive(seed, "response", prompt.id),
    )


class _Bill:
    """What has been asked for one answer so far."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.calls = 0


class _Metered:
    """A model that writes every call to a bill."""

    def __init__(self, model: Model, *, bill: _Bill) -> None:
        self._model = model
        self._bill = bill

    @property
    def fingerprint(self) -> str:
        return self._model.fingerprint

    @property
    def capacity(self) -> int:
        return self._model.capacity

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:
        completion = await self._model.generate(dialogue, sampling=sampling, seed=seed)
        spent = completion.usage
        self._bill.calls += 1
        self._bill.usage = Usage(
            prompt_tokens=self._bill.usage.prompt_tokens + spent.prompt_tokens,
            completion_tokens=self._bill.usage.completion_tokens + spent.completion_tokens,
        )
        return completion

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:
        self._bill.calls += 1
        return await self._model.choose(dialogue, choices=choices)

    async def aclose(self) -> None:
        await self._model.aclose()
