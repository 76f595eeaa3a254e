"""Phrasings that stand for thousands of wordings, compared with texts."""

from charter.similarity import Shingles, shingles
from tools.starter.content import Turns
from tools.starter.templates import fewest_words, runs_of_words


def last_turns(phrasings: list[Turns]) -> list[str]:
    return [one if isinstance(one, str) else one[-1] for one in phrasings]


def near_wordings(
    texts: list[str], templates: list[str], *, threshold: float
) -> list[tuple[str, str]]:
    """The texts of whose 3-grams some wording of a template may have this share.

    A bound over all wordings, thousands a template, from the 3-grams that some wording has and the
    words that each has at least: no wording is more similar than that.
    """
    grams = {text: shingles(text) for text in texts}
    found = []
    for template in templates:
        possible = {" ".join(run) for run in runs_of_words(template, length=3)}
        least = fewest_words(template) - 2
        found += [
            (text, template)
            for text, own in grams.items()
            if bound(own, possible, least=least) >= threshold
        ]
    return found


def bound(own: Shingles, possible: set[str], *, least: int) -> float:
    """The largest Jaccard similarity to a text of `possible` 3-grams that has so many at least."""
    shared = len(own & possible)
    return shared / (max(shared, least) + len(own) - shared)
