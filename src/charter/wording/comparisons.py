"""Which of two replies is better: what a judge is asked, answered by the probability of a choice.

The conversation and the replies come first and the question last, so that several questions about
one comparison share a prefix.
"""

from __future__ import annotations

from charter.constitution import Principle
from charter.records import Dialogue

CHOICES = ("(A)", "(B)")

HELPFULNESS_COMPARISON = "Which reply gives the user more of what was asked for?"

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


def harmlessness_question(principle: Principle) -> str:
    """Asks which reply keeps one principle better."""
    return principle.comparison_question or (
        "Which reply keeps this principle better? Principle: " + principle.rule
    )


def comparison_request(dialogue: Dialogue, first: str, second: str, question: str) -> str:
    """A transcript, two replies to its last turn, and a question about them: one user turn."""
    turns = "\n".join(_SPEAKERS[turn.role] + ": " + turn.content for turn in dialogue)
    replies = CHOICES[0] + " " + first + "\n" + CHOICES[1] + " " + second
    return (
        "Compare two replies to this conversation.\n"
        + turns
        + "\n\n"
        + replies
        + "\n\n"
        + question
        + " Answer "
        + " or ".join(CHOICES)
        + "."
    )
