"""Cases: a reply in a scene, under a rule that it breaks or keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from charter.records import Kind
from tools.starter.content import Intent, World
from tools.starter.rules import Rule, draw_other_rule, draw_rule
from tools.starter.scenes import (
    Degree,
    Scene,
    draw_scene,
    helpful_reply,
    obliging_reply,
    safe_reply,
    unsafe_reply,
    with_history,
    with_persona,
)
from tools.starter.templates import fill

_STRAY_SHARE = 0.12
"""How often an unsafe reply answers another request, so that the reply is what is judged."""
_REVISED_DEGREES: tuple[Degree, ...] = ("fitting", "generic", "bare")
_REVISED_SHARES = (0.72, 0.16, 0.12)


@dataclass(frozen=True)
class Case:
    """A reply under a rule."""

    scene: Scene
    reply: str
    source: Scene | None
    """The scene whose rule the reply would break: mostly `scene` itself; None for a safe reply."""
    family: str
    """The family that an unsafe reply is of, or else the scene."""
    rule: Rule

    @property
    def breaks(self) -> bool:
        """Whether the reply breaks the rule."""
        return self.source is not None and self.family in self.rule.families

    @property
    def fault(self) -> str:
        """What a reply that breaks the rule does."""
        assert self.source is not None
        return fill(self.source.intent.fault, self.source.facts)


def draw_degree(rng: Random) -> Degree:
    """How a reply that is safe by chance is made: often poorer than a revision."""
    degrees: tuple[Degree, ...] = ("fitting", "generic", "bare", "evasive", "preachy")
    return rng.choices(degrees, (0.4, 0.2, 0.2, 0.12, 0.08))[0]


def staged(world: World, rng: Random, *, harmful: float) -> Scene:
    """A scene with a history and a system turn at times; harmful with this probability."""
    kinds: tuple[Kind, ...] = ("harmful",) if rng.random() < harmful else ("benign", "borderline")
    return in_setting(world, rng.choice(world.intents(*kinds)), rng)


def in_setting(world: World, intent: Intent, rng: Random) -> Scene:
    """A scene of this intent with a history and a system turn at times."""
    scene = with_history(world, draw_scene(world, intent, rng), rng)
    return with_persona(world, scene, rng)


def draw_case(world: World, rng: Random, *, breaking: float) -> Case:
    """A reply that breaks its rule with this probability.

    Else one that does not: a safe reply, a rule about other things, or a harmless request.
    """
    if rng.random() < breaking:
        return _broken_case(world, rng)
    scene = staged(world, rng, harmful=0.65)
    family = world.family_of(scene.intent)
    if rng.random() < (0.5 if scene.intent.kind == "harmful" else 0.15):
        reply, source = _safe_or_empty(world, scene, rng), None
    else:
        reply = obliging_reply(world, scene, rng)
        source = scene if scene.intent.can_break else None
    if source is None and scene.intent.can_break and rng.random() < 0.85:
        rule = draw_rule(world, rng, family=family)
    else:
        rule = draw_other_rule(world, rng, families=frozenset([family]))
    return Case(scene, reply, source, family, rule)


def _broken_case(world: World, rng: Random) -> Case:
    source = in_setting(world, rng.choice(world.breakable), rng)
    scene = staged(world, rng, harmful=0.3) if rng.random() < _STRAY_SHARE else source
    family = world.family_of(source.intent)
    reply = unsafe_reply(world, source, rng)
    return Case(scene, reply, source, family, draw_rule(world, rng, family=family))


def _safe_or_empty(world: World, scene: Scene, rng: Random) -> str:
    if rng.random() < 0.1:
        return rng.choice(world.shared.empty)
    degree = draw_degree(rng)
    if degree == "fitting" and not scene.intent.can_break:
        degree = "generic"
    return safe_reply(world, scene, rng, degree=degree)


def revised_reply(world: World, case: Case, rng: Random) -> str:
    """The reply itself if it keeps the rule, else a better one: mostly one that fits."""
    if not case.breaks:
        return case.reply
    harmful = case.scene.intent.kind == "harmful"
    if harmful or (case.scene.intent.can_break and case.scene is case.source):
        degree = rng.choices(_REVISED_DEGREES, _REVISED_SHARES)[0]
        return safe_reply(world, case.scene, rng, degree=degree)
    return helpful_reply(world, case.scene, rng)


def next_case(world: World, case: Case, revised: str, rng: Random) -> Case:
    """The revised reply under another rule: often the one that the first round missed."""
    source = None if case.breaks else case.source
    return under_another_rule(world, replace(case, reply=revised, source=source), rng)


def under_another_rule(world: World, case: Case, rng: Random) -> Case:
    """The same reply under a new rule, of its own family more often than not."""
    if case.family in {each.family for each in world.principled} and rng.random() < 0.6:
        rule = draw_rule(world, rng, family=case.family)
    else:
        rule = draw_other_rule(world, rng, families=frozenset([case.family]))
    return replace(case, rule=rule)
