"""What a customer says: an intent's phrasing, plain or under pressure, as people type it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from charter.records import Kind
from tools.starter.content import Intent, Turns, World
from tools.starter.templates import settle, slots_of

PRESSED_SHARE: dict[Kind, float] = {"harmful": 0.38, "benign": 0.15, "borderline": 0.15}
"""How often a lesson's request is made under pressure; harmless ones too, so a frame is no cue."""
_REQUEST = "{request}"
_OWN_PRESSURE_SHARE = 0.65
"""Of requests under pressure, those in words of the intent's own, where there are any."""
_TYPO_SHARE = 0.08
_DROPPED_SHARE = 0.06
_SYNONYM_SHARE = 0.3
_UPPER_SHARE = 0.3
_BARE_END_SHARE = 0.25
_OPENER_SHARE = 0.35
_CLOSER_SHARE = 0.12
_CHATTER_SHARE = 0.12
_LONG_WORDS = 7
"""Requests of fewer words lose none: each may be the one that says what is wanted."""


@dataclass(frozen=True)
class Phrasing:
    """Settled templates of alternating user and assistant turns, a user turn last."""

    turns: tuple[str, ...]
    said: frozenset[str]
    """The slots that they mention."""
    pressure: str | None = None
    """The family of pressure they are made under."""


def draw_phrasing(
    world: World,
    intent: Intent,
    rng: Random,
    *,
    pressed: float = 0.0,
    heldout: bool = False,
    whole: bool = False,
) -> Phrasing:
    """One way to ask for the intent, under pressure with probability `pressed`.

    A `whole` one has all of its words, so that it says what is wanted.
    """

    def vary(text: str) -> str:
        return text if heldout else varied(text, world, rng, whole=whole)

    plain = intent.heldout if heldout else intent.prompts
    frames = world.shared.heldout_pressure_frames if heldout else world.shared.pressure_frames
    if rng.random() >= pressed:
        chosen = rng.choice(plain)
        return _phrasing(chosen, rng, vary=vary)
    pressure = rng.choice(list(frames))
    own = (intent.heldout_pressure if heldout else intent.pressure).get(pressure, [])
    if own and rng.random() < _OWN_PRESSURE_SHARE:
        return _phrasing(rng.choice(own), rng, vary=vary, pressure=pressure)
    inner = rng.choice([one for one in plain if isinstance(one, str)])
    request = vary(settle(inner, rng))
    return _phrasing(framed(rng.choice(frames[pressure]), request), rng, pressure=pressure)


def framed(frame: Turns, request: str) -> Turns:
    """The frame's words around a request."""
    if isinstance(frame, str):
        return frame.replace(_REQUEST, request)
    return [*frame[:-1], frame[-1].replace(_REQUEST, request)]


def dressed(text: str, world: World, rng: Random) -> str:
    """The request with a greeting, a capital, thanks or no full stop, at times."""
    if rng.random() < _BARE_END_SHARE:
        text = text.rstrip("?.!")
    if rng.random() < _OPENER_SHARE:
        text = rng.choice(world.shared.openers) + " " + text
    elif rng.random() < _UPPER_SHARE:
        text = text[0].upper() + text[1:]
    if rng.random() < _CLOSER_SHARE:
        text += " " + rng.choice(world.shared.closers)
    return text


def with_chatter(text: str, world: World, rng: Random) -> str:
    """The request, at times after or before a sentence that asks for nothing.

    It is about anything, other requests' matters too: what is wanted must be looked for.
    """
    if rng.random() >= _CHATTER_SHARE:
        return text
    said = settle(rng.choice(world.shared.chatter), rng)
    ends = text[-1] in ".?!"
    return f"{said} {text}" if rng.random() < 0.75 or not ends else f"{text} {said}"


def varied(text: str, world: World, rng: Random, *, whole: bool = False) -> str:
    """The request in other words, less a word unless `whole`, with a typo, at times.

    Slots are left as they are.
    """
    if rng.random() < 0.6:
        text = _with_synonyms(text, world, rng)
    if not whole and rng.random() < _DROPPED_SHARE:
        text = _without_a_word(text, rng)
    if rng.random() < _TYPO_SHARE:
        text = _typo(text, rng)
    return text


def _phrasing(
    template: Turns,
    rng: Random,
    *,
    vary: Callable[[str], str] | None = None,
    pressure: str | None = None,
) -> Phrasing:
    turns = [template] if isinstance(template, str) else template
    settled = [settle(each, rng) for each in turns]
    said = frozenset[str]().union(*(slots_of(each) for each in settled))
    if vary:
        settled = [each if i % 2 else vary(each) for i, each in enumerate(settled)]
    return Phrasing(tuple(settled), said, pressure)


def _with_synonyms(text: str, world: World, rng: Random) -> str:
    synonyms = world.shared.synonyms

    def other(found: re.Match[str]) -> str:
        return rng.choice(synonyms[found[0]]) if rng.random() < _SYNONYM_SHARE else found[0]

    return _replaceable(tuple(synonyms)).sub(other, text)


@cache
def _replaceable(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(r"(?<![\w{])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w}])")


def _without_a_word(text: str, rng: Random) -> str:
    """The request with one word left out, so that no single word decides."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if "{" not in word]
    if len(words) >= _LONG_WORDS and places:
        del words[rng.choice(places)]
    return " ".join(words)


def _typo(text: str, rng: Random) -> str:
    """Two neighbouring letters of one word swapped, or one left out."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not places or len(words) < _LONG_WORDS - 2:
        return text
    place = rng.choice(places)
    word, at = words[place], rng.randrange(1, len(words[place]) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    words[place] = rng.choice((swapped, word[:at] + word[at + 1 :]))
    return " ".join(words)
