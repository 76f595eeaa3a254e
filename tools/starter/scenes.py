"""Scenes: a customer with an intent says something, and replies that would suit it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from charter.records import Dialogue, Message, assistant, system, user
from tools.starter.content import Intent, Safe, Turns, World
from tools.starter.templates import Facts, draw_facts, fill, settle, slots_of

Degree = Literal["fitting", "generic", "bare", "evasive", "preachy"]

_TYPO_SHARE = 0.08
_DROPPED_SHARE = 0.12
_LOWER_SHARE = 0.3
_BARE_END_SHARE = 0.25


@dataclass(frozen=True)
class Scene:
    """A conversation up to the customer's request, and what is true in it."""

    intent: Intent
    dialogue: Dialogue
    facts: Facts
    said: frozenset[str]
    """The slots that the request mentions: those that replies may use."""

    def after(self, *turns: Message) -> Scene:
        """The same scene with turns (a system turn, earlier small talk) put before it."""
        return Scene(self.intent, (*turns, *self.dialogue), self.facts, self.said)


def draw_scene(
    world: World,
    intent: Intent,
    rng: Random,
    *,
    phrasings: list[Turns] | None = None,
    heldout: bool = False,
    whole: bool = False,
) -> Scene:
    """A scene of this intent, in one of its training phrasings unless others are given.

    Lessons may lose a word of the request; a prompt that is to be answered stays `whole`.
    """
    facts = draw_facts(world.slots, rng, heldout=heldout)
    chosen = rng.choice(phrasings or intent.trained)
    templates = [settle(each, rng) for each in ([chosen] if isinstance(chosen, str) else chosen)]
    said = frozenset[str]().union(*(slots_of(each) for each in templates))
    turns: list[Message] = []
    for number, template in enumerate(templates):
        if number % 2:
            turns.append(assistant(fill(template, facts)))
        else:
            turns.append(user(fill(_dress(template, world, rng, whole=whole), facts)))
    return Scene(intent, tuple(turns), facts, said)


def _dress(template: str, world: World, rng: Random, *, whole: bool) -> str:
    """The request as people type it: greetings, no full stop, lower case, a typo."""
    text = template
    if rng.random() < _DROPPED_SHARE and not whole:
        text = _without_a_word(text, rng)
    if rng.random() < _TYPO_SHARE:
        text = _typo(text, rng)
    if rng.random() < _BARE_END_SHARE:
        text = text.rstrip("?.!")
    if rng.random() < 0.4:
        text = rng.choice(world.shared.openers) + " " + text
    elif rng.random() < _LOWER_SHARE:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.15:
        text += " " + rng.choice(world.shared.closers)
    return text


def _without_a_word(text: str, rng: Random) -> str:
    """The request with one word left out, so that no single word decides; slots stay."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if "{" not in word]
    if len(words) > 4 and places:
        del words[rng.choice(places)]
    return " ".join(words)


def _typo(text: str, rng: Random) -> str:
    """Two neighbouring letters of one word swapped, or one left out; slots stay whole."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not places:
        return text
    place = rng.choice(places)
    word, at = words[place], rng.randrange(1, len(words[place]) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    words[place] = rng.choice((swapped, word[:at] + word[at + 1 :]))
    return " ".join(words)


def eligible(world: World, scene: Scene, templates: list[str]) -> list[str]:
    """The templates whose slots the customer said or the reply may make up."""
    invented = {name for name, kind in world.slots.items() if kind.invented}
    return [each for each in templates if slots_of(each) <= scene.said | invented]


def _say(world: World, scene: Scene, templates: list[str], rng: Random) -> str:
    choices = eligible(world, scene, templates)
    if not choices:
        raise ValueError(
            f"intent {scene.intent.id}: no reply of {templates} fits {scene.dialogue[-1].content!r}"
        )
    return fill(settle(rng.choice(choices), rng), scene.facts)


def unsafe_reply(world: World, scene: Scene, rng: Random, *, mild_share: float = 0.25) -> str:
    """A reply that does what a harmful request asks for."""
    assert scene.intent.unsafe is not None
    mild = eligible(world, scene, scene.intent.unsafe.mild)
    if mild and rng.random() < mild_share:
        return _say(world, scene, mild, rng)
    return _say(world, scene, scene.intent.unsafe.severe, rng)


def safe_reply(world: World, scene: Scene, rng: Random, *, degree: Degree = "fitting") -> str:
    """A reply that keeps the rules, of one degree of quality."""
    own: Safe | None = scene.intent.safe
    templates: list[str] = getattr(own, degree) if own else []
    if not templates:
        templates = getattr(world.shared, degree)
    return _say(world, scene, templates, rng)


def helpful_reply(world: World, scene: Scene, rng: Random) -> str:
    """The good reply to a benign or borderline request."""
    return _say(world, scene, scene.intent.helpful, rng)


def obliging_reply(world: World, scene: Scene, rng: Random) -> str:
    """What the customer asked for, safe or not."""
    if scene.intent.kind == "harmful":
        return unsafe_reply(world, scene, rng)
    return helpful_reply(world, scene, rng)


def with_history(world: World, scene: Scene, rng: Random, *, share: float = 0.25) -> Scene:
    """Sometimes puts small talk or earlier benign exchanges before the scene, at times several."""
    while rng.random() < share:
        if rng.random() < 0.4:
            asked, answered = rng.choice(world.shared.small_talk)
            scene = scene.after(user(asked), assistant(answered))
        else:
            earlier = draw_scene(world, rng.choice(world.intents("benign")), rng)
            reply = helpful_reply(world, earlier, rng)
            scene = scene.after(*earlier.dialogue, assistant(reply))
        share = 0.4
    return scene


def with_persona(world: World, scene: Scene, rng: Random, *, share: float = 0.15) -> Scene:
    """Sometimes puts a system turn that states no rule before the scene."""
    if rng.random() >= share:
        return scene
    return scene.after(system(rng.choice(world.shared.personas)))
