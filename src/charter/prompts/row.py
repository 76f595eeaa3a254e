"""One row of a file: JSON in, a prompt or a pair of answers out, or the reason for neither."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
from typing import NoReturn, TypeGuard, cast

from pydantic import ValidationError

from charter.config import PromptSource
from charter.records import Prompt, Record, content_hash

_DIALOGUE_KEYS = ("prompt", "messages", "transcript", "chosen", "rejected")
_KEYS = ("id", "kind", "tags", "expects", "system", *_DIALOGUE_KEYS)
_NEAR_MISS = 0.85
"""Similarity from which a strange key counts as a misspelt one: "expect", but not "prompt_id"."""

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_HALF_A_CHARACTER = "a lone surrogate (half of a \\u pair) is no text; repair the escape"


def prompt_of(line: bytes, *, source: PromptSource) -> Prompt:
    """The prompt in a line of JSON.

    Raises:
        ValueError: There is none; `reason_for` says why.
    """
    row = _fields(line)
    _reject_misspelt(row)
    given_id = _given_id(row)
    prompt = Prompt.model_validate(
        {
            "id": "unnamed" if given_id is None else given_id,
            "messages": _with_system(_messages(row), row.get("system")),
            "kind": row.get("kind", source.kind),
            "tags": _texts(row.get("tags", source.tags)),
            "expects": _texts(row.get("expects", ())),
        }
    )
    _reject_unusable(prompt)
    return prompt if given_id else prompt.model_copy(update={"id": messages_hash(prompt)})


class AnswerPair(Record):
    """Two answers to a prompt, of which people chose one."""

    prompt: Prompt
    chosen: str
    rejected: str


def pair_of(line: bytes, *, source: PromptSource) -> AnswerPair:
    """The pair in a line of JSON, whose `chosen` and `rejected` are whole dialogues.

    Raises:
        ValueError: There is none; `reason_for` says why.
    """
    row = _fields(line)
    if extra := [key for key in _DIALOGUE_KEYS[:3] if key in row]:
        raise ValueError(f"{extra[0]}: leave it out; `chosen` and `rejected` are whole dialogues")
    chosen, rejected = _answered(row, "chosen"), _answered(row, "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("`chosen` and `rejected` differ before their last turn")
    answers = [str(turns[-1]["content"]).strip() for turns in (chosen, rejected)]
    if answers[0] == answers[1]:
        raise ValueError("`chosen` and `rejected` give the same answer")
    if any(_LONE_SURROGATE.search(answer) for answer in answers):
        raise ValueError(_HALF_A_CHARACTER)
    return AnswerPair(prompt=prompt_of(line, source=source), chosen=answers[0], rejected=answers[1])


def messages_hash(prompt: Prompt) -> str:
    """Identifies what is asked, whatever the row says about it."""
    return content_hash([[message.role, message.content] for message in prompt.messages])


def reason_for(error: ValueError) -> str:
    """What is wrong with a row, said to the person who wrote it."""
    match error:
        case ValidationError():
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            return f"{place}: {message}" if place else message
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} (column {error.colno})"
        case UnicodeDecodeError():
            return f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start + 1}"
        case _:
            return str(error)


def _fields(line: bytes) -> dict[str, object]:
    """The row's keys that have a value; null is no value."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_reject_constant)
    except RecursionError:
        raise ValueError("not a prompt: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError('not a JSON object, such as {"prompt": "What the user asks"}')
    return {key: value for key, value in cast(dict[str, object], row).items() if value is not None}


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is no JSON value; write null or leave the key out")


def _reject_misspelt(row: dict[str, object]) -> None:
    """Refuses a key that is nearly one of ours: `expect` must not be lost in silence."""
    for key in row:
        meant = _meant(key)
        if meant is not None and meant not in row:
            raise ValueError(f"unknown key {key!r}; did you mean {meant!r}?")


@functools.lru_cache(maxsize=256)
def _meant(key: str) -> str | None:
    """Our key that is nearest to this one; remembered, as rows mostly have the same keys."""
    return next(iter(difflib.get_close_matches(key, _KEYS, n=1, cutoff=_NEAR_MISS)), None)


def _given_id(row: dict[str, object]) -> str | None:
    match row.get("id"):
        case None:
            return None
        case bool() | float() | dict() | list():
            raise ValueError("id: must be a text or a whole number")
        case value:
            return str(value)


def _texts(value: object) -> object:
    """A single text as a tuple of one; validation sees to the rest."""
    return (value,) if isinstance(value, str) else value


def _messages(row: dict[str, object]) -> object:
    """The turns of the row, whichever way it gives them."""
    match row:
        case {"prompt": str(text)} if not _is_transcript(text):
            return [{"role": "user", "content": text}]
        case {"prompt": str(text)} | {"transcript": str(text)}:
            return _up_to_last_user(_transcript(text))
        case {"prompt": turns} | {"messages": turns}:
            return _turns(turns)
        case {"chosen": str(text)} | {"rejected": str(text)}:
            return _up_to_last_user(_transcript(text))
        case {"chosen": turns} | {"rejected": turns}:
            return _up_to_last_user(_turns(turns))
        case {"transcript": _}:
            raise ValueError("transcript: must be a text")
        case _:
            found = ", ".join(repr(key) for key in itertools.islice(row, 8)) or "none"
            raise ValueError(f"none of the keys {', '.join(_DIALOGUE_KEYS)}; got {found}")


def _answered(row: dict[str, object], key: str) -> list[dict[str, object]]:
    """The turns of a dialogue that ends with an answer."""
    value = row.get(key)
    if value is None:
        raise ValueError(f"no `{key}`")
    turns = _transcript(value) if isinstance(value, str) else _turns(value)
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in cast(list[object], turns)):
        raise ValueError(f"{key}: must be a transcript or a list of turns")
    dialogue = cast(list[dict[str, object]], turns)
    if not dialogue or dialogue[-1].get("role") != "assistant":
        raise ValueError(f"`{key}` does not end with an answer of the assistant")
    answer = dialogue[-1].get("content")
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(f"the answer of `{key}` is empty")
    return dialogue


def _with_system(turns: object, system: object) -> object:
    if system is None or not isinstance(turns, list):
        return turns
    return [{"role": "system", "content": system}, *cast(list[object], turns)]


def _turns(value: object) -> object:
    """Turns with what makes them one, role and content; what else they hold is not ours."""
    if not isinstance(value, list):
        return value
    return [
        {key: turn[key] for key in ("role", "content") if key in turn} if _is_turn(turn) else turn
        for turn in cast(list[object], value)
    ]


def _is_turn(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _is_transcript(text: str) -> bool:
    """Whether a `prompt` is a transcript that waits for the assistant, not a single turn."""
    return text.startswith("\n\nHuman:") and text.rstrip().endswith("\n\nAssistant:")


def _transcript(text: str) -> list[dict[str, str]]:
    """The turns of a transcript; turns of one speaker in a row become one, a blank line between."""
    preamble, *parts = _SPEAKER.split(text)
    if not parts:
        raise ValueError('no turn in the transcript; turns begin with "\\n\\nHuman:"')
    if preamble.strip():
        raise ValueError('the transcript does not begin with "\\n\\nHuman:"')
    turns: list[dict[str, str]] = []
    for speaker, spoken in zip(parts[::2], parts[1::2], strict=True):
        role, content = _ROLES[speaker], spoken.strip()
        if turns and turns[-1]["role"] == role:
            content = "\n\n".join(filter(None, (turns.pop()["content"], content)))
        turns.append({"role": role, "content": content})
    return turns


def _up_to_last_user(turns: object) -> object:
    """The turns without the answer at the end."""
    if not isinstance(turns, list):
        return turns
    kept = list(cast(list[object], turns))
    while kept and not (_is_turn(kept[-1]) and kept[-1].get("role") == "user"):
        kept.pop()
    if not kept:
        raise ValueError("no turn of the user")
    return kept


def _reject_unusable(prompt: Prompt) -> None:
    """Refuses what is well-formed but cannot be asked, stored or graded."""
    for number, message in enumerate(prompt.messages, start=1):
        if not message.content.strip():
            raise ValueError(f"turn {number} ({message.role}) is empty")
    contents = [message.content for message in prompt.messages]
    for text in (prompt.id, *prompt.tags, *prompt.expects, *contents):
        if _LONE_SURROGATE.search(text):
            raise ValueError(_HALF_A_CHARACTER)
    for pattern in prompt.expects:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"expects: {pattern!r} is no regular expression: {error}") from None
