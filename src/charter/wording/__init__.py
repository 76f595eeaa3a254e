"""The words charter puts to models: requests, questions and the rules as a system turn.

User and model text enters these as a value, by concatenation, never as a format string.
"""

from charter.wording.comparisons import (
    CHOICES,
    HELPFULNESS_COMPARISON,
    VERDICT_REQUEST,
    comparison_request,
    harmlessness_question,
    reasoning_request,
    verdict_in,
)
from charter.wording.questions import HELPFUL_QUESTION, YES_NO, broken_question
from charter.wording.requests import (
    critique_request,
    direct_revision_request,
    finds_fault,
    revision_request,
)
from charter.wording.rules import rules_turn

__all__ = [
    "CHOICES",
    "HELPFULNESS_COMPARISON",
    "HELPFUL_QUESTION",
    "VERDICT_REQUEST",
    "YES_NO",
    "broken_question",
    "comparison_request",
    "critique_request",
    "direct_revision_request",
    "finds_fault",
    "harmlessness_question",
    "reasoning_request",
    "revision_request",
    "rules_turn",
    "verdict_in",
]
