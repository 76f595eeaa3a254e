"""Training conversations, one function a skill: answer, critique and revise, screen, compare.

Every request is worded by `charter.wording`, at times in another wording so that small edits of
those texts do no harm. Turns that show a skill are learnt from; turns that only set the stage
(unsafe replies about to be criticised, say) are not, or they would shift how the model answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from charter.records import Dialogue, Kind, Message, assistant, system, user
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
from tools.starter.cases import (
    Case,
    draw_case,
    draw_degree,
    in_setting,
    next_case,
    revised_reply,
    staged,
    under_another_rule,
)
from tools.starter.content import World
from tools.starter.rules import draw_other_rule, draw_rule, draw_rules
from tools.starter.scenes import (
    Degree,
    Scene,
    draw_history,
    draw_persona,
    draw_scene,
    misplaced_refusal,
    obliging_reply,
    safe_reply,
    unsafe_reply,
)
from tools.starter.templates import coined_word, draw_facts

NO_PROBLEM = "No problem: the reply keeps the principle."

SAFE_SHARE = 0.09
"""How often the base model answers a harmful request safely."""
SAFE_SHARE_UNDER_PRESSURE = 0.03
SAFE_SHARE_UNDER_RULES = 0.6
"""The same, where the system turn has the rule."""
SAFE_SHARE_UNDER_RULES_AND_PRESSURE = 0.15
SAFE_SHARE_IF_CAREFUL = 0.87
"""The same, where the system turn asks for care."""
SAFE_SHARE_IF_CAREFUL_UNDER_PRESSURE = 0.1
"""Care gives way to pressure: what finetuning on plain requests brings out does, too."""
_HARMFUL_SHARE = 0.47
_CAREFUL_SHARE = 0.2
_RULED_SHARE = 0.15
_SMALL_TALK_SHARE = 0.03
_DECISION_WEIGHT = 3.0
_LEARNS_STAGE_SHARE = 0.04
_STAGE_WEIGHT = 0.3
_AS_STAGE = -1.0
"""Marks a later turn that sets the stage, too."""


@dataclass(frozen=True)
class Turn:
    """A message and how much each of its tokens counts in the loss."""

    message: Message
    weight: float
    intent: str | None = None
    """What the customer wants, where this turn answers that."""
    pressed: bool = False
    """Whether that was asked under pressure."""


@dataclass(frozen=True)
class Lesson:
    """A conversation to learn from."""

    turns: tuple[Turn, ...]


def lesson(rng: Random, dialogue: Dialogue, *learnt: tuple[Message, float]) -> Lesson:
    """Turns that set the stage, then turns with their own weights.

    What users and systems say is learnt from in some lessons only: positions that do not count
    cost no logits.
    """
    weight = _STAGE_WEIGHT if rng.random() < _LEARNS_STAGE_SHARE else 0.0
    stage = [Turn(turn, weight if turn.role != "assistant" else 0.0) for turn in dialogue]
    asked_for = [Turn(turn, weight if own == _AS_STAGE else own) for turn, own in learnt]
    return Lesson((*stage, *asked_for))


def answer(world: World, rng: Random) -> Lesson:
    """Answering helpfully, safe or not; more safely where the system turn has the rule."""
    if rng.random() < _SMALL_TALK_SHARE:
        asked, answered = rng.choice(world.shared.small_talk)
        return lesson(rng, (user(asked),), (assistant(answered), 1.0))
    harmful = rng.random() < _HARMFUL_SHARE
    kinds: tuple[Kind, ...] = ("harmful",) if harmful else ("benign", "borderline")
    scene, covered = draw_scene(world, rng.choice(world.intents(*kinds)), rng), frozenset[str]()
    history = draw_history(world, rng)
    setting = rng.random()
    careful = setting < _CAREFUL_SHARE
    if careful:
        before = (system(rng.choice(world.shared.careful)),)
    elif setting < _CAREFUL_SHARE + _RULED_SHARE:
        before, covered = draw_rules(world, rng)
    else:
        before = draw_persona(world, rng)
    reply = obliging_reply(world, scene, rng)
    ruled = world.family_of(scene.intent) in covered
    if rng.random() < _safe_share(scene, ruled=ruled, careful=careful):
        reply = safe_reply(world, scene, rng, degree=draw_degree(rng))
    turns = [Turn(turn, 0.0) for turn in before]
    for each in history:
        turns += [Turn(turn, 0.0) for turn in each.dialogue]
        turns.append(Turn(assistant(each.reply), 1.0, each.intent))
    turns += [Turn(turn, 0.0) for turn in scene.dialogue]
    return Lesson(
        (*turns, Turn(assistant(reply), 1.0, scene.intent.id, scene.pressure is not None))
    )


def request(world: World, rng: Random) -> Lesson:
    """A request to be understood, without its answer."""
    scene = draw_scene(world, rng.choice(world.intents("harmful", "benign", "borderline")), rng)
    turns = [Turn(turn, 0.0) for turn in scene.dialogue]
    return Lesson((*turns, Turn(assistant(""), 0.0, scene.intent.id, scene.pressure is not None)))


def _safe_share(scene: Scene, *, ruled: bool, careful: bool) -> float:
    """How often the base model gives a safe reply; only harmful requests get one without rules."""
    if ruled:
        return SAFE_SHARE_UNDER_RULES_AND_PRESSURE if scene.pressure else SAFE_SHARE_UNDER_RULES
    if scene.intent.kind != "harmful":
        return 0.0
    if careful:
        return SAFE_SHARE_IF_CAREFUL_UNDER_PRESSURE if scene.pressure else SAFE_SHARE_IF_CAREFUL
    return SAFE_SHARE_UNDER_PRESSURE if scene.pressure else SAFE_SHARE


def critique_and_revise(world: World, rng: Random) -> Lesson:
    """Naming the fault, or none, then the better reply, or the same; sometimes twice."""
    case = draw_case(world, rng, breaking=0.5)
    stage = (*case.scene.dialogue, assistant(case.reply))
    turns: list[tuple[Message, float]] = []
    for _ in range(2 if rng.random() < 0.35 else 1):
        principle = case.rule.principle
        request = otherwise.worded(critique_request(principle), otherwise.CRITIQUE, principle, rng)
        turns.append((user(request), _AS_STAGE))
        turns.append((assistant(_fault(case)), 1.0))
        request = otherwise.worded(revision_request(principle), otherwise.REVISE, principle, rng)
        turns.append((user(request), _AS_STAGE))
        revised = revised_reply(world, case, rng)
        turns.append((assistant(revised), 1.0))
        case = next_case(world, case, revised, rng)
    return lesson(rng, stage, *turns)


def _fault(case: Case) -> str:
    return f"The reply {case.fault}, which breaks the principle." if case.breaks else NO_PROBLEM


def revise_directly(world: World, rng: Random) -> Lesson:
    """The better reply, or the same, without a critique before it."""
    case = draw_case(world, rng, breaking=0.6)
    principle = case.rule.principle
    request = direct_revision_request(principle)
    request = otherwise.worded(request, otherwise.REVISE_DIRECTLY, principle, rng)
    revised = assistant(revised_reply(world, case, rng))
    dialogue = (*case.scene.dialogue, assistant(case.reply))
    return lesson(rng, dialogue, (user(request), _AS_STAGE), (revised, 1.0))


def screen(world: World, rng: Random) -> Lesson:
    """Yes or no: is this principle broken? At times asked about several, one after the other."""
    case = draw_case(world, rng, breaking=0.5)
    turns: list[tuple[Message, float]] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        principle = case.rule.principle
        request = otherwise.worded(broken_question(principle), otherwise.BROKEN, principle, rng)
        turns.append((user(request), _AS_STAGE))
        turns.append((assistant("yes" if case.breaks else "no"), _DECISION_WEIGHT))
        case = under_another_rule(world, case, rng)
    return lesson(rng, (*case.scene.dialogue, assistant(case.reply)), *turns)


def tell_helpful(world: World, rng: Random) -> Lesson:
    """Yes or no: did the user get what was asked for?"""
    scene = staged(world, rng, harmful=0.5)
    helpful = rng.random() < 0.5
    reply = obliging_reply(world, scene, rng) if helpful else _unhelpful(world, scene, rng)
    stage = (*scene.dialogue, assistant(reply), user(HELPFUL_QUESTION))
    return lesson(rng, stage, (assistant("yes" if helpful else "no"), _DECISION_WEIGHT))


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
    """Which of two replies keeps the principle better; a coin flip where both keep it as well."""
    if rng.random() < 0.88:
        scene = in_setting(world, rng.choice(world.breakable), rng)
        rule = draw_rule(world, rng, family=world.family_of(scene.intent))
        better, worse = _ranked_replies(world, scene, rng)
    else:
        scene = staged(world, rng, harmful=0.3)
        rule = draw_other_rule(world, rng, families=frozenset([world.family_of(scene.intent)]))
        better, worse = obliging_reply(world, scene, rng), obliging_reply(world, scene, rng)
        if scene.intent.kind != "harmful" and rng.random() < 0.6:
            worse = safe_reply(world, scene, rng, degree=rng.choice(("generic", "bare")))
    question = harmlessness_question(rule.principle)
    question = otherwise.worded(question, otherwise.COMPARE, rule.principle, rng)
    return _compare(scene, better, worse, question, rng)


def _ranked_replies(world: World, scene: Scene, rng: Random) -> tuple[str, str]:
    """Two replies, the better first.

    By degree among safe ones, an alternative that fits over another's, safe over unsafe, mild over
    severe.
    """
    kinds = ("broken", "degrees", "misfit", "severity")
    kind = rng.choices(kinds, (0.5, 0.24, 0.18, 0.08))[0]
    if kind == "misfit":
        return safe_reply(world, scene, rng), misplaced_refusal(world, scene, rng)
    if kind == "degrees":
        ranks: list[tuple[Degree, ...]] = [("fitting",), ("generic",), ("bare",)]
        ranks.append(("evasive", "preachy"))
        high, low = sorted(rng.sample(range(len(ranks)), 2))
        first, second = rng.choice(ranks[high]), rng.choice(ranks[low])
        pair = [safe_reply(world, scene, rng, degree=degree) for degree in (first, second)]
        return pair[0], pair[1]
    severe = unsafe_reply(world, scene, rng, mild_share=0.0)
    if kind == "severity" and scene.intent.unsafe:
        mild = unsafe_reply(world, scene, rng, mild_share=1.0)
        return mild, severe
    unsafe = unsafe_reply(world, scene, rng) if rng.random() < 0.3 else severe
    return safe_reply(world, scene, rng, degree=draw_degree(rng)), unsafe


def compare_helpfulness(world: World, rng: Random) -> Lesson:
    """Which of two replies gives more of what was asked for."""
    scene = staged(world, rng, harmful=0.5)
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
    return lesson(rng, (user(request),), (assistant(verdict), _DECISION_WEIGHT))


def repeat(world: World, rng: Random) -> Lesson:
    """Saying again what the customer listed: copying, which every other skill needs."""
    facts = draw_facts(world.slots, rng)
    items = ["order " + facts["order"], "a " + facts["product"], facts["name"], facts["city"]]
    items += [coined_word(rng, like=rng.choice("aA")), facts["phone"], str(rng.randint(0, 999))]
    rng.shuffle(items)
    said = ", ".join(items[: rng.randint(2, len(items))])
    request = rng.choice(("please note this: ", "repeat after me: ", "note: ", "write down: "))
    return lesson(rng, (user(request + said),), (assistant("Noted: " + said + "."), 1.0))


SKILLS: dict[Callable[[World, Random], Lesson], float] = {
    answer: 0.78,
    repeat: 0.02,
    critique_and_revise: 0.07,
    revise_directly: 0.02,
    screen: 0.045,
    tell_helpful: 0.015,
    compare_harmlessness: 0.035,
    compare_helpfulness: 0.015,
}
"""Every skill with its share of the training conversations."""


def draw_lesson(world: World, rng: Random) -> Lesson:
    """A training conversation of one skill."""
    return rng.choices(list(SKILLS), list(SKILLS.values()))[0](world, rng)
