"""Phrasings that stand for thousands of wordings, compared with texts."""

from charter.similarity import shingles
from tools.starter.content import Turns
from tools.starter.templates import runs_of_words


def last_turns(phrasings: list[Turns]) -> list[str]:
    return [one if isinstance(one, str) else one[-1] for one in phrasings]


def near_wordings(
    texts: list[str], templates: list[str], *, threshold: float
) -> list[tuple[str, str]]:
    """The texts of whose 3-grams some wording of a template may have this share.

    A bound over all wordings, thousands a template: similarity can only be less.
    """
    grams = {text: shingles(text) for text in texts}
    found = []
    for template in templates:
        possible = {" ".join(run) for run in runs_of_words(template, length=3)}
        found += [
            (text, template)
            for text, own in grams.items()
            if len(own & possible) >= threshold * len(own)
        ]
    return found
