"""Which of two replies is better: what a judge is asked, answered by the probability of a choice.

The conversation and the replies come first and the question last, so that several questions about
one comparison share a prefix.
"""

from __future__ import annotations

from charter.constitution import Principle
from charter.records import Dialogue

CHOICES = ("(A)", "(B)")

HELPFULNESS_COMPARISON = "Which reply gives the user more of what was asked for?"

VERDICT_REQUEST = "So which reply is it? Answer " + " or ".join(CHOICES) + "."

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


def harmlessness_question(principle: Principle) -> str:
    """Asks which reply keeps one principle better."""
    return principle.comparison_question or (
        "Which reply keeps this principle better? Principle: " + principle.rule
    )


def comparison_request(dialogue: Dialogue, first: str, second: str, question: str) -> str:
    """A transcript, two replies to its last turn, and a question about them: one user turn."""
    return _shown(dialogue, first, second) + question + " Answer " + " or ".join(CHOICES) + "."


def reasoning_request(dialogue: Dialogue, first: str, second: str, question: str) -> str:
    """The same, asking for the reasons before the answer; `VERDICT_REQUEST` then asks for it."""
    return _shown(dialogue, first, second) + question + " Give your reasons in a few sentences."


def verdict_in(answer: str) -> str | None:
    """The choice that an answer makes; None where it makes none, or names both.

    Only a choice as it was put to the judge counts: the article "A" is no verdict.
    """
    named = {choice for choice in CHOICES if choice in answer}
    return named.pop() if len(named) == 1 else None


def _shown(dialogue: Dialogue, first: str, second: str) -> str:
    turns = "\n".join(_SPEAKERS[turn.role] + ": " + turn.content for turn in dialogue)
    replies = CHOICES[0] + " " + first + "\n" + CHOICES[1] + " " + second
    return "Compare two replies to this conversation.\n" + turns + "\n\n" + replies + "\n\n"
