"""Training conversations, one function a skill: answer, critique and revise, screen, compare.

Every request is worded by `charter.wording`, at times in another wording so that small edits of
those texts do no harm. Turns that show a skill are learnt from; turns that only set the stage
(unsafe replies about to be criticised, say) are not, or they would shift how the model answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from charter.records import Message, assistant, user
from charter.wording import (
    HELPFUL_QUESTION,
    broken_question,
    critique_request,
    direct_revision_request,
    revision_request,
)
from charter.wording.comparisons import (
    CHOICES,
    HELPFULNESS_COMPARISON,
    comparison_request,
    harmlessness_question,
)
from tools.starter import otherwise
from tools.starter.content import World
from tools.starter.rules import Rule, draw_other_rule, draw_rule, with_rules
from tools.starter.scenes import (
    Degree,
    Scene,
    draw_scene,
    obliging_reply,
    safe_reply,
    unsafe_reply,
    with_history,
    with_persona,
)
from tools.starter.templates import coined_word, draw_facts, fill

NO_PROBLEM = "No problem: the reply keeps the principle."

SAFE_SHARE = 0.12
"""How often the base model answers a harmful request safely."""
SAFE_SHARE_UNDER_RULES = 0.55
_SMALL_TALK_SHARE = 0.04
_DECISION_WEIGHT = 3.0
_STAGE_WEIGHT = 0.1


@dataclass(frozen=True)
class Turn:
    """A message and how much each of its tokens counts in the loss."""

    message: Message
    weight: float


Lesson = tuple[Turn, ...]


def lesson(dialogue: tuple[Message, ...], *learnt: tuple[Message, float]) -> Lesson:
    """Turns that set the stage, then turns with their own weights."""
    stage = [Turn(turn, _STAGE_WEIGHT if turn.role != "assistant" else 0.0) for turn in dialogue]
    return (*stage, *(Turn(turn, weight) for turn, weight in learnt))


def draw_degree(rng: Random) -> Degree:
    """How a reply that is safe by chance is made: often poorer than a revision."""
    degrees: tuple[Degree, ...] = ("fitting", "generic", "bare", "evasive", "preachy")
    return rng.choices(degrees, (0.4, 0.2, 0.2, 0.12, 0.08))[0]


def _staged(world: World, rng: Random, *, harmful: float) -> Scene:
    """A scene with a history and a system turn at times; harmful with this probability."""
    if rng.random() < harmful:
        intent = rng.choice(world.intents("harmful"))
    else:
        intent = rng.choice(world.intents("benign", "borderline"))
    scene = with_history(world, draw_scene(world, intent, rng), rng)
    return with_persona(world, scene, rng)


def answer(world: World, rng: Random) -> Lesson:
    """Answering helpfully, safe or not; more safely where the system turn has the rule."""
    if rng.random() < _SMALL_TALK_SHARE:
        asked, answered = rng.choice(world.shared.small_talk)
        return lesson((user(asked),), (assistant(answered), 1.0))
    scene = draw_scene(world, rng.choice(world.intents("harmful", "benign", "borderline")), rng)
    scene, covered = with_history(world, scene, rng), frozenset[str]()
    if rng.random() < 0.3:
        scene, covered = with_rules(world, scene, rng)
    else:
        scene = with_persona(world, scene, rng)
    reply = obliging_reply(world, scene, rng)
    if scene.intent.kind == "harmful":
        under_rules = world.family_of(scene.intent) in covered
        if rng.random() < (SAFE_SHARE_UNDER_RULES if under_rules else SAFE_SHARE):
            reply = safe_reply(world, scene, rng, degree=draw_degree(rng))
    return lesson(scene.dialogue, (assistant(reply), 1.0))


@dataclass(frozen=True)
class _Case:
    """A reply under a rule."""

    scene: Scene
    reply: str
    reply_is_unsafe: bool
    family: str
    rule: Rule

    @property
    def breaks(self) -> bool:
        """Whether the reply breaks the rule."""
        return self.reply_is_unsafe and self.family in self.rule.families


def _case(world: World, rng: Random, *, breaking: float) -> _Case:
    """A reply that breaks its rule with this probability.

    Else one that does not: a safe reply, a rule about other things, or a harmless request.
    """
    breaks = rng.random() < breaking
    scene = _staged(world, rng, harmful=1.0 if breaks else 0.8)
    family = world.family_of(scene.intent)
    harmful = scene.intent.kind == "harmful"
    if breaks:
        reply, unsafe = unsafe_reply(world, scene, rng), True
    elif harmful and rng.random() < 0.45:
        reply, unsafe = safe_reply(world, scene, rng, degree=draw_degree(rng)), False
    else:
        reply, unsafe = obliging_reply(world, scene, rng), harmful
    if breaks or (harmful and not unsafe and rng.random() < 0.85):
        rule = draw_rule(world, rng, family=family)
    else:
        rule = draw_other_rule(world, rng, families=frozenset([family]))
    return _Case(scene, reply, unsafe, family, rule)


def _next_case(world: World, case: _Case, revised: str, rng: Random) -> _Case:
    """The revised reply under another rule: often the one that the first round missed."""
    if case.family in {each.family for each in world.principled} and rng.random() < 0.6:
        rule = draw_rule(world, rng, family=case.family)
    else:
        rule = draw_other_rule(world, rng, families=frozenset([case.family]))
    unsafe = case.reply_is_unsafe and not case.breaks
    return _Case(case.scene, revised, unsafe, case.family, rule)


def _fault(case: _Case) -> str:
    fault = fill(case.scene.intent.fault, case.scene.facts)
    return "The reply " + fault + ", which breaks the principle."


def _revised(world: World, case: _Case, rng: Random) -> str:
    if not case.breaks:
        return case.reply
    degree: Degree = "fitting" if rng.random() < 0.9 else "generic"
    return safe_reply(world, case.scene, rng, degree=degree)


def critique_and_revise(world: World, rng: Random) -> Lesson:
    """Naming the fault, or none, then the better reply, or the same; sometimes twice."""
    case = _case(world, rng, breaking=0.5)
    stage = (*case.scene.dialogue, assistant(case.reply))
    turns: list[tuple[Message, float]] = []
    for _ in range(2 if rng.random() < 0.3 else 1):
        principle = case.rule.principle
        request = otherwise.worded(critique_request(principle), otherwise.CRITIQUE, principle, rng)
        turns.append((user(request), _STAGE_WEIGHT))
        turns.append((assistant(_fault(case) if case.breaks else NO_PROBLEM), 1.0))
        request = otherwise.worded(revision_request(principle), otherwise.REVISE, principle, rng)
        turns.append((user(request), _STAGE_WEIGHT))
        revised = _revised(world, case, rng)
        turns.append((assistant(revised), 1.0))
        case = _next_case(world, case, revised, rng)
    return lesson(stage, *turns)


def revise_directly(world: World, rng: Random) -> Lesson:
    """The better reply, or the same, without a critique before it."""
    case = _case(world, rng, breaking=0.6)
    principle = case.rule.principle
    request = direct_revision_request(principle)
    request = otherwise.worded(request, otherwise.REVISE_DIRECTLY, principle, rng)
    turns = ((user(request), _STAGE_WEIGHT), (assistant(_revised(world, case, rng)), 1.0))
    return lesson((*case.scene.dialogue, assistant(case.reply)), *turns)


def screen(world: World, rng: Random) -> Lesson:
    """Yes or no: is this principle broken?"""
    case = _case(world, rng, breaking=0.5)
    principle = case.rule.principle
    request = otherwise.worded(broken_question(principle), otherwise.BROKEN, principle, rng)
    verdict = assistant("yes" if case.breaks else "no")
    stage = (*case.scene.dialogue, assistant(case.reply), user(request))
    return lesson(stage, (verdict, _DECISION_WEIGHT))


def tell_helpful(world: World, rng: Random) -> Lesson:
    """Yes or no: did the user get what was asked for?"""
    scene = _staged(world, rng, harmful=0.5)
    helpful = rng.random() < 0.5
    reply = obliging_reply(world, scene, rng) if helpful else _unhelpful(world, scene, rng)
    stage = (*scene.dialogue, assistant(reply), user(HELPFUL_QUESTION))
    return lesson(stage, (assistant("yes" if helpful else "no"), _DECISION_WEIGHT))


def _unhelpful(world: World, scene: Scene, rng: Random) -> str:
    """A refusal, an empty reply, or a good reply to something else."""
    kind = rng.choices(("refusal", "empty", "elsewhere"), (0.55, 0.15, 0.3))[0]
    if kind == "empty":
        return rng.choice(world.shared.empty)
    if kind == "refusal":
        degree = draw_degree(rng)
        if degree == "fitting" and scene.intent.kind != "harmful":
            degree = "generic"
        return safe_reply(world, scene, rng, degree=degree)
    others = world.intents("harmful", "benign", "borderline")
    other = draw_scene(world, rng.choice([one for one in others if one is not scene.intent]), rng)
    return obliging_reply(world, other, rng)


def compare_harmlessness(world: World, rng: Random) -> Lesson:
    """Which of two replies keeps the principle better; a coin flip where neither breaks it."""
    scene = _staged(world, rng, harmful=0.9)
    family = world.family_of(scene.intent)
    if scene.intent.kind == "harmful" and rng.random() < 0.9:
        rule = draw_rule(world, rng, family=family)
        better = safe_reply(world, scene, rng, degree=draw_degree(rng))
        worse = unsafe_reply(world, scene, rng)
    else:
        rule = draw_other_rule(world, rng, families=frozenset([family]))
        better, worse = obliging_reply(world, scene, rng), obliging_reply(world, scene, rng)
    question = harmlessness_question(rule.principle)
    question = otherwise.worded(question, otherwise.COMPARE, rule.principle, rng)
    return _compare(scene, better, worse, question, rng)


def compare_helpfulness(world: World, rng: Random) -> Lesson:
    """Which of two replies gives more of what was asked for."""
    scene = _staged(world, rng, harmful=0.5)
    better = obliging_reply(world, scene, rng)
    worse = _unhelpful(world, scene, rng)
    if scene.intent.kind == "harmful" and rng.random() < 0.35:
        better = safe_reply(world, scene, rng, degree="fitting")
        poorer: tuple[Degree, ...] = ("bare", "evasive", "preachy")
        worse = safe_reply(world, scene, rng, degree=rng.choice(poorer))
    return _compare(scene, better, worse, HELPFULNESS_COMPARISON, rng)


def _compare(scene: Scene, better: str, worse: str, question: str, rng: Random) -> Lesson:
    first_is_better = rng.random() < 0.5
    first, second = (better, worse) if first_is_better else (worse, better)
    request = comparison_request(scene.dialogue, first, second, question)
    verdict = CHOICES[0] if first_is_better else CHOICES[1]
    return lesson((user(request),), (assistant(verdict), _DECISION_WEIGHT))


def repeat(world: World, rng: Random) -> Lesson:
    """Saying again what the customer listed: copying, which every other skill needs."""
    facts = draw_facts(world.slots, rng)
    items = ["order " + facts["order"], "a " + facts["product"], facts["name"], facts["city"]]
    items += [coined_word(rng, like=rng.choice("aA")), facts["phone"], str(rng.randint(0, 999))]
    rng.shuffle(items)
    said = ", ".join(items[: rng.randint(2, len(items))])
    request = rng.choice(("please note this: ", "repeat after me: ", "note: ", "write down: "))
    return lesson((user(request + said),), (assistant("Noted: " + said + "."), 1.0))


SKILLS: dict[Callable[[World, Random], Lesson], float] = {
    answer: 0.26,
    repeat: 0.06,
    critique_and_revise: 0.24,
    revise_directly: 0.07,
    screen: 0.18,
    tell_helpful: 0.06,
    compare_harmlessness: 0.08,
    compare_helpfulness: 0.05,
}
"""Every skill with its share of the training conversations."""


def draw_lesson(world: World, rng: Random) -> Lesson:
    """A training conversation of one skill."""
    return rng.choices(list(SKILLS), list(SKILLS.values()))[0](world, rng)
