"""Rules in many wordings, so that the model reads a rule rather than recognising a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from charter.constitution import Constitution, Principle
from charter.records import Dialogue, system
from charter.wording import rules_turn
from tools.starter.content import Family, World

_JOINED_SHARE = 0.2
_TWO_FAMILIES_SHARE = 0.06
_THINNED_SHARE = 0.15
_PREFIXES = ("", "", "", "", "Rule: ", "Important: ", "We expect this: ", "As a company we say: ")
_PREAMBLES = (
    "You are the support assistant of Tarnholm.",
    "These are the rules of Tarnholm support.",
    "You help the customers of an electronics shop.",
)


@dataclass(frozen=True)
class Rule:
    """A principle as training states it, and the families of harm that it covers."""

    principle: Principle
    families: frozenset[str]


def draw_rule(world: World, rng: Random, *, family: str) -> Rule:
    """One wording of a family's rule, now and then joined with another."""
    chosen = _family(world, family)
    text, families = _wording(chosen, rng), {family}
    if rng.random() < _JOINED_SHARE:
        text += " " + _wording(chosen, rng)
    elif rng.random() < _TWO_FAMILIES_SHARE:
        second = rng.choice([each for each in world.principled if each is not chosen])
        pair = [text, _wording(second, rng)]
        rng.shuffle(pair)
        text = " ".join(pair)
        families.add(second.family)
    question = None
    if len(families) == 1 and rng.random() < 0.3:
        question = rng.choice(chosen.questions)
    principle = Principle(id=family, rule=text, comparison_question=question)
    return Rule(principle, frozenset(families))


def draw_other_rule(world: World, rng: Random, *, families: frozenset[str]) -> Rule:
    """A rule that covers none of these families."""
    others = [each.family for each in world.principled if each.family not in families]
    if rng.random() < 0.15 or not others:
        text = rng.choice(world.shared.other_rules)
        return Rule(Principle(id="other", rule=text), frozenset())
    while True:
        rule = draw_rule(world, rng, family=rng.choice(others))
        if not rule.families & families:
            return rule


def draw_rules(world: World, rng: Random) -> tuple[Dialogue, frozenset[str]]:
    """A system turn of some rules, and the families that these cover."""
    count = rng.randint(1, len(world.principled))
    rules = [
        draw_rule(world, rng, family=each.family) for each in rng.sample(world.principled, count)
    ]
    principles = [rule.principle for rule in rules]
    others = rng.sample(world.shared.other_rules, rng.choice((0, 0, 1, 2)))
    principles += [Principle(id="other", rule=text) for text in others]
    rng.shuffle(principles)
    preamble = rng.choice(_PREAMBLES) if rng.random() < 0.4 else None
    turn = rules_turn(Constitution(preamble=preamble, principles=tuple(principles)))
    covered = frozenset[str]().union(*(rule.families for rule in rules))
    return (system(turn),), covered


def _family(world: World, family: str) -> Family:
    return next(each for each in world.families if each.family == family)


def _wording(family: Family, rng: Random) -> str:
    text = rng.choice(family.rules)
    if rng.random() < _THINNED_SHARE:
        text = " ".join(word for word in text.split(" ") if rng.random() > 0.12) or text
    return rng.choice(_PREFIXES) + text
