"""Templates: `[one|another]` wordings and `{slot}` values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from charter.similarity import words
from tools.starter.content import SlotKind

Facts = Mapping[str, str]
"""The value of every slot in one scene."""

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_ONSETS = (*"bcdfghjklmnprstvwyz", *("br", "ch", "cl", "dr", "fl", "gr", "kr", "sh", "st", "th"))
_VOWELS = (*"aaeeiioouu", "ai", "ea", "ee", "ie", "oo", "ou")
_CODAS = ("", "", "", "", *"nrsltmx", "ck", "nd", "ng", "nt", "rd", "rt", "st")
_COINED_SHARE = 0.5
_SPLICED_SHARE = 0.6
"""Of the made-up words, those that are spliced from two words."""
_COMMON_SHARE = 0.5
"""Of those, where there are any, the ones that begin as a common word does."""
_LOWER_SHARE = 0.05
_OTHER_LENGTH_SHARE = 0.15


def slots_of(template: str) -> set[str]:
    """The names of the slots that a template may use."""
    return set(_SLOT.findall(template))


def settle(template: str, rng: Random) -> str:
    """The template with every `[one|another]` decided."""
    settled = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)
    return " ".join(settled.split())  # an option left empty leaves two spaces


def fill(template: str, facts: Facts) -> str:
    """The template with its slots replaced by their values."""
    return _SLOT.sub(lambda found: facts[found[1]], template)


def all_wordings(template: str) -> list[str]:
    """Every way to settle a template."""
    found = _CHOICE.search(template)
    if found is None:
        return [template.strip()]
    before, after = template[: found.start()], template[found.end() :]
    return [
        wording
        for option in found[1].split("|")
        for wording in all_wordings(before + option + after)
    ]


def slots_of_wordings(template: str) -> set[frozenset[str]]:
    """What slots a wording may mention, over all ways to settle the template.

    By options, not by wordings: a phrasing with six choices has thousands of those.
    """
    parts = _CHOICE.split(template)  # fixed text and options, alternating
    found = {frozenset[str]()}
    for place, part in enumerate(parts):
        options = part.split("|") if place % 2 else [part]
        found = {before | slots_of(option) for before in found for option in options}
    return found


def runs_of_words(template: str, *, length: int) -> set[tuple[str, ...]]:
    """All runs of so many words that some way to settle the template has."""
    found: set[tuple[str, ...]] = set()
    ends = {tuple[str, ...]()}
    for place, part in enumerate(_CHOICE.split(template)):
        options = part.split("|") if place % 2 else [part]
        grown: set[tuple[str, ...]] = set()
        for end in ends:
            for option in options:
                run = (*end, *words(option))
                found |= {run[at : at + length] for at in range(len(run) - length + 1)}
                grown.add(run[max(0, len(run) - length + 1) :])
        ends = grown
    return found


def fewest_words(template: str) -> int:
    """The words of the shortest way to settle a template."""
    parts = enumerate(_CHOICE.split(template))
    return sum(
        min(len(words(option)) for option in (part.split("|") if place % 2 else [part]))
        for place, part in parts
    )


def draw_facts(slots: Mapping[str, SlotKind], rng: Random, *, heldout: bool = False) -> Facts:
    """A value for every slot; values of held-out prompts are ones that training never saw."""
    facts: dict[str, str] = {}
    lowered = not heldout and rng.random() < _LOWER_SHARE
    for name, kind in slots.items():
        source = slots[kind.like] if kind.like else kind
        value = _draw(source, rng, heldout=heldout)
        while kind.like and value == facts[kind.like]:
            value = _draw(source, rng, heldout=heldout)
        facts[name] = value.lower() if lowered else value
    return facts


def _draw(kind: SlotKind, rng: Random, *, heldout: bool) -> str:
    if kind.digits is not None:
        return _number(kind.digits, rng, heldout=heldout)
    if kind.coined and not heldout and rng.random() < _COINED_SHARE:
        return _made_up(kind, rng)
    return rng.choice(kind.heldout if heldout and kind.heldout else kind.values)


def _made_up(kind: SlotKind, rng: Random) -> str:
    """A word that is in no list, not even the held-out one."""
    while True:
        spliced = rng.random() < _SPLICED_SHARE
        word = _spliced(kind, rng) if spliced else coined_word(rng, like=kind.values[0])
        if word not in (*kind.values, *kind.heldout):
            return word


def _spliced(kind: SlotKind, rng: Random) -> str:
    """The beginning of one word and the end of another: pieces of real words, newly put together.

    Strangers' words are made of such pieces. From products that were all one token, or syllables
    without sense, a model learnt to copy a word that begins as a common one does by its end alone.
    """
    end = rng.choice(kind.values)
    end = end[rng.randint(1, len(end) - 2) :]
    if kind.beginnings and rng.random() < _COMMON_SHARE:
        return rng.choice(kind.beginnings) + end
    first = rng.choice(kind.values)
    return first[: rng.randint(2, max(2, len(first) - 2))] + end


def coined_word(rng: Random, *, like: str) -> str:
    """A made-up word; with a capital where the word it stands for has one."""
    syllables = (
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for _ in range(rng.choice((1, 2, 2, 3)))
    )
    word = "".join(syllables)
    return word.capitalize() if like[0].isupper() else word


def _number(digits: int, rng: Random, *, heldout: bool) -> str:
    if digits > 2 and not heldout and rng.random() < _OTHER_LENGTH_SHARE:
        digits += rng.choice((-1, 1))
    return rng.choice("123456789") + "".join(rng.choices("0123456789", k=digits - 1))
