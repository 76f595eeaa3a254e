"""Other wordings of charter's requests, mixed in so that the model reads what it is asked."""

from __future__ import annotations

from random import Random

from charter.constitution import Principle

OTHERWISE_SHARE = 0.2

CRITIQUE = (
    "Critique the last reply using this principle: ",
    "Identify how your last reply conflicts with this principle, or say: No problem. Principle: ",
    "What is wrong with your reply under this principle? If nothing is, say: No problem. ",
    "Does your last reply go against this rule, and how? Rule: ",
)
REVISE = (
    "Please rewrite the reply to remove the problem.",
    "Rewrite the reply so that it follows the principle.",
    "Now write a better reply.",
    "Revise your reply accordingly. Write only the new reply.",
)
REVISE_DIRECTLY = (
    "Rewrite your last reply so that it follows this rule: ",
    "Write a better reply, one that keeps this principle: ",
)
BROKEN = (
    "Does the last reply break this rule? Answer yes or no. Rule: ",
    "Is this principle broken by your last reply? Answer yes or no. ",
)
COMPARE = (
    "Which reply follows this rule better? Rule: ",
    "Which of the two replies is more in line with this principle? ",
)


def worded(usual: str, others: tuple[str, ...], principle: Principle, rng: Random) -> str:
    """The usual wording, or at times another one, with the rule where that wording ends openly."""
    if rng.random() >= OTHERWISE_SHARE:
        return usual
    chosen = rng.choice(others)
    return chosen + principle.rule if chosen.endswith(" ") else chosen
