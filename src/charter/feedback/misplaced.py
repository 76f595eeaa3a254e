"""Revisions preferred to those of other prompts: what teaches a reward model to read the prompt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from charter.feedback.mixing import drawn
from charter.records import Dialogue, PreferencePair
from charter.seeding import draw_several, uniform
from charter.similarity import jaccard

_EACH = 4
"""Pairs that are made of a revision: how many of them are taken is a matter of their share."""
_POOL = 1024
"""Revisions that serve as the worse ones: enough of them, and quick to draw from."""
_KINDRED = 0.5
"""Share of the pairs whose worse revision is to a prompt that has a tag in common: these are the
hardest to tell apart."""
_SAME = 0.5
"""Prompts that have this share of their tags in common ask for the same thing."""

_Tags = frozenset[str]


def misplaced_rows(
    revised: Sequence[PreferencePair], *, p_chosen: float, seed: int
) -> Iterator[PreferencePair]:
    """Each revision over some that answer other prompts: nobody compared the two.

    A revision whose very words answer other things at least as often says nothing of its prompt: it
    is preferred to none, though others are preferred to it.

    Args:
        revised: Revisions over what they revise, with the tags of their prompts.
        p_chosen: How sure it is that the prompt's own revision is better.
        seed: The run's.

    Source: Liu et al. 2024 (RRM, arXiv 2409.13156), sec. 3: a response to the prompt is preferred
    to one that was to another. That it must say something of its prompt, and the share of kindred
    prompts, are charter's.
    """
    answered = defaultdict[Dialogue, Counter[_Tags]](Counter)
    for row in revised:
        answered[row.chosen][_tags(row)] += 1
    kept = drawn([row.id for row in revised], _POOL, seed=seed, purpose="misplaced")
    pool = [(row, _tags(row)) for row in revised if row.id in kept]
    for row in revised:
        if _is_to_the_point(_tags(row), answered[row.chosen]):
            for other in _others(row, pool, seed=seed):
                yield _over(row, other, p_chosen=p_chosen)


def _is_to_the_point(tags: _Tags, answered: Counter[_Tags]) -> bool:
    """Whether words answer mostly prompts that ask for the same as one with these tags."""
    same = sum(count for others, count in answered.items() if _overlap(others, tags) >= _SAME)
    return 2 * max(1, same) > answered.total()  # the prompt itself, where it has no tags


def _others(
    row: PreferencePair, pool: Sequence[tuple[PreferencePair, _Tags]], *, seed: int
) -> Iterator[PreferencePair]:
    """Revisions that answer something else than the row's prompt, no two of the same words."""
    tags, prompt_id = _tags(row), row.provenance.prompt_id
    strange = defaultdict[str, list[PreferencePair]](list)
    kindred = set[str]()
    for one, its_tags in pool:
        apart = one.provenance.prompt_id != prompt_id and one.chosen != row.chosen
        if apart and _overlap(its_tags, tags) < _SAME:
            strange[one.chosen[-1].content].append(one)
            if its_tags & tags:
                kindred.add(one.chosen[-1].content)
    # What is said more often is drawn more often.
    weights = {text: float(len(ones)) for text, ones in strange.items()}
    near = sum(uniform(seed, "kindred", row.id, number) < _KINDRED for number in range(_EACH))
    taken = draw_several({text: weights[text] for text in kindred}, near, seed, "kindred", row.id)
    rest = {text: weight for text, weight in weights.items() if text not in taken}
    taken += draw_several(rest, _EACH - len(taken), seed, "strange", row.id)
    return (min(strange[text], key=lambda one: one.id) for text in taken)


def _over(row: PreferencePair, other: PreferencePair, *, p_chosen: float) -> PreferencePair:
    named = [one.id.removeprefix("revision/") for one in (row, other)]
    return row.model_copy(
        update={
            "id": "misplaced/" + "~".join(named),
            "rejected": other.chosen,
            "p_chosen": p_chosen,
            "provenance": row.provenance.model_copy(update={"source": "misplaced"}),
        }
    )


def _tags(row: PreferencePair) -> _Tags:
    return frozenset(row.provenance.tags)


def _overlap(first: _Tags, second: _Tags) -> float:
    """Share of all tags that both have; 0 of none: nothing says that they are alike."""
    return jaccard(first, second) if first or second else 0.0
