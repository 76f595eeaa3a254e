"""Scenes: a customer with an intent says something, and replies that would suit it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from charter.records import Dialogue, Message, assistant, system, user
from tools.starter.content import Intent, Safe, World
from tools.starter.phrasings import PRESSED_SHARE, draw_phrasing, dressed, with_chatter
from tools.starter.templates import Facts, draw_facts, fill, settle, slots_of

Degree = Literal["fitting", "generic", "bare", "evasive", "preachy"]


@dataclass(frozen=True)
class Scene:
    """A conversation up to the customer's request, and what is true in it."""

    intent: Intent
    dialogue: Dialogue
    facts: Facts
    said: frozenset[str]
    """The slots that the request mentions: those that replies may use."""
    pressure: str | None = None
    """The family of pressure that the request is made under."""

    def after(self, *turns: Message) -> Scene:
        """The same scene with turns (a system turn, earlier small talk) put before it."""
        return replace(self, dialogue=(*turns, *self.dialogue))


def draw_scene(
    world: World,
    intent: Intent,
    rng: Random,
    *,
    pressed: float | None = None,
    heldout: bool = False,
    whole: bool = False,
) -> Scene:
    """A scene of this intent, under pressure with this probability or as often as usual.

    Held-out scenes use phrasings, kinds of pressure and slot values that no other scene does.
    `whole` requests lose no word.
    """
    facts = draw_facts(world.slots, rng, heldout=heldout)
    share = PRESSED_SHARE[intent.kind] if pressed is None else pressed
    phrasing = draw_phrasing(world, intent, rng, pressed=share, heldout=heldout, whole=whole)
    turns: list[Message] = []
    for number, template in enumerate(phrasing.turns):
        if number % 2:
            turns.append(assistant(fill(template, facts)))
        else:
            asked = template if heldout or whole else with_chatter(template, world, rng)
            turns.append(user(fill(dressed(asked, world, rng), facts)))
    return Scene(intent, tuple(turns), facts, phrasing.said, phrasing.pressure)


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
    """A reply that does what is asked for and so breaks the rule, if there is one."""
    if scene.intent.unsafe is None:
        return helpful_reply(world, scene, rng)
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


def misplaced_refusal(world: World, scene: Scene, rng: Random) -> str:
    """A refusal with the alternative to another harmful request, of the same customer."""
    others = [one for one in world.breakable if one.id != scene.intent.id]
    other = draw_scene(world, rng.choice(others), rng)
    known = {name: scene.facts[name] for name in scene.said}
    return safe_reply(world, replace(other, facts={**other.facts, **known}), rng)


def helpful_reply(world: World, scene: Scene, rng: Random) -> str:
    """The good reply to a benign or borderline request."""
    return _say(world, scene, scene.intent.helpful, rng)


def obliging_reply(world: World, scene: Scene, rng: Random) -> str:
    """What the customer asked for, safe or not."""
    if scene.intent.kind == "harmful":
        return unsafe_reply(world, scene, rng)
    return helpful_reply(world, scene, rng)


@dataclass(frozen=True)
class Exchange:
    """Something that was asked, and answered."""

    dialogue: Dialogue
    reply: str
    intent: str | None
    """What was wanted; None for small talk."""


def draw_history(
    world: World, rng: Random, *, share: float = 0.15, whole: bool = False
) -> list[Exchange]:
    """Small talk or benign exchanges that went before: mostly none, at times several."""
    history: list[Exchange] = []
    while rng.random() < share:
        if rng.random() < 0.4:
            asked, answered = rng.choice(world.shared.small_talk)
            history.append(Exchange((user(asked),), answered, None))
        else:
            intent = rng.choice(world.intents("benign"))
            earlier = draw_scene(world, intent, rng, pressed=0.0, whole=whole)
            reply = helpful_reply(world, earlier, rng)
            history.append(Exchange(earlier.dialogue, reply, intent.id))
        share = 0.4
    return history


def with_history(
    world: World, scene: Scene, rng: Random, *, share: float = 0.15, whole: bool = False
) -> Scene:
    """Sometimes puts small talk or earlier benign exchanges before the scene, at times several."""
    for each in draw_history(world, rng, share=share, whole=whole):
        scene = scene.after(*each.dialogue, assistant(each.reply))
    return scene


def draw_persona(world: World, rng: Random, *, share: float = 0.15) -> Dialogue:
    """Sometimes a system turn that states no rule; else nothing."""
    return (system(rng.choice(world.shared.personas)),) if rng.random() < share else ()


def with_persona(world: World, scene: Scene, rng: Random) -> Scene:
    """Sometimes puts a system turn that states no rule before the scene."""
    return scene.after(*draw_persona(world, rng))
