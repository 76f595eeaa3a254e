"""A model that answers from a table: for tests, documentation and dry runs.

```yaml
rules:
  - match: social security          # a regular expression, in the last message
    text: Please tell me your SSN.
  - match: Answer yes or no
    search: dialogue                # in all messages
    choices: {yes: 0.9, no: 0.1}
  - match: teapot
    fails: the server is a teapot
default:
  text: How can I help?
```
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from charter.documents import read_yaml, validate
from charter.errors import BackendError, ConfigError, JudgementError
from charter.records import Completion, Dialogue, Finish, Record, Sampling, Usage, content_hash

_SHOWN_CHARACTERS = 80


class Reply(Record):
    """What a scripted model does: answer with a text, weigh choices, or fail."""

    text: str | None = None
    """The answer of `generate`, word for word."""
    choices: Mapping[str, float] | None = None
    """The probabilities that `choose` answers with, each in (0, 1]."""
    fails: str | None = None
    """Fail with this message instead."""
    finish: Finish = "stop"
    latency_s: float = Field(default=0.0, ge=0.0)

    @field_validator("choices")
    @classmethod
    def _probabilities(cls, choices: Mapping[str, float] | None) -> Mapping[str, float] | None:
        if wrong := [choice for choice, p in (choices or {}).items() if not 0.0 < p <= 1.0]:
            raise ValueError(f"the probability of {wrong[0]!r} must be in (0, 1]")
        return choices


class Rule(Reply):
    """A reply, and the messages that it answers."""

    match: str
    """A regular expression."""
    search: Literal["last", "dialogue"] = "last"
    """Where it is searched: in the last message, or in all of them, one a line."""

    @field_validator("match")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    def matches(self, dialogue: Dialogue) -> bool:
        """Whether this rule speaks to a dialogue."""
        messages = dialogue[-1:] if self.search == "last" else dialogue
        return bool(re.search(self.match, "\n".join(message.content for message in messages)))


class Script(Record):
    """Rules in order, the first that matches and has an answer of the kind asked for counts."""

    rules: tuple[Rule, ...] = ()
    default: Reply | None = None
    """Where no rule does."""


def read_script(path: Path) -> Script:
    """The script in a YAML file.

    Raises:
        ConfigError: It is not there, or something in it is wrong; says the line.
    """
    return validate(read_yaml(path, error=ConfigError), Script, error=ConfigError)


class ScriptedModel:
    """Answers by a script behind the `Model` protocol, whatever the sampling and the seed."""

    def __init__(self, script: Script, *, capacity: int = 64) -> None:
        self._script = script
        self._capacity = capacity
        self.calls = 0
        """How often it was asked, failures included."""

    @property
    def fingerprint(self) -> str:
        """See `Model.fingerprint`."""
        return content_hash(self._script.model_dump(mode="json"))

    @property
    def capacity(self) -> int:
        """See `Model.capacity`."""
        return self._capacity

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:  # noqa: ARG002
        """See `Model.generate`; a word counts as a token.

        Raises:
            BackendError: The script says so, or has no text for this dialogue.
        """
        reply = await self._reply(dialogue, kind="text")
        assert reply.text is not None
        return Completion(
            text=reply.text,
            finish=reply.finish,
            usage=Usage(
                prompt_tokens=sum(len(message.content.split()) for message in dialogue),
                completion_tokens=len(reply.text.split()),
            ),
        )

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:
        """See `Model.choose`.

        Raises:
            BackendError: The script says so, or has no choices for this dialogue.
            JudgementError: The script has no probability for a choice.
        """
        reply = await self._reply(dialogue, kind="choices")
        assert reply.choices is not None
        if missing := [choice for choice in choices if choice not in reply.choices]:
            raise JudgementError(
                f"the script gives no probability to choice {', '.join(missing)}, only to "
                f"{', '.join(reply.choices)}. Add it to that rule."
            )
        return {choice: math.log(reply.choices[choice]) for choice in choices}

    async def aclose(self) -> None:
        """See `Model.aclose`; there is nothing to release."""

    async def _reply(self, dialogue: Dialogue, *, kind: Literal["text", "choices"]) -> Reply:
        self.calls += 1
        reply = _reply_to(dialogue, script=self._script, kind=kind)
        await asyncio.sleep(reply.latency_s)
        if reply.fails is not None:
            raise BackendError(reply.fails)
        return reply


def _reply_to(dialogue: Dialogue, *, script: Script, kind: Literal["text", "choices"]) -> Reply:
    replies = [rule for rule in script.rules if rule.matches(dialogue)]
    for reply in (*replies, script.default):
        if reply is not None and (reply.fails is not None or getattr(reply, kind) is not None):
            return reply
    message = dialogue[-1].content
    shown = message[:_SHOWN_CHARACTERS] + "..." * (len(message) > _SHOWN_CHARACTERS)
    raise BackendError(
        f"the script has no {kind} for the message {shown!r}. Add a rule that matches it, or a "
        "default."
    )
