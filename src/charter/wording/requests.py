"""What a critic and a reviser are asked, and how a critique is read."""

from __future__ import annotations

import re

from charter.constitution import Principle

_NO_FAULT = re.compile(
    r"^\W*(no (problem|fault|issue|violation|conflict)s?\b|nothing\b|none\b)", re.IGNORECASE
)


def critique_request(principle: Principle | None) -> str:
    """Asks what is wrong with the last reply, under one principle or in general."""
    if principle is None:
        return "Critique your last reply. Say what is wrong with it, or say: No problem."
    return principle.critique_request or (
        "Critique your last reply. Say how it breaks this principle, or say: No problem. "
        "Principle: " + principle.rule
    )


def revision_request(principle: Principle | None) -> str:
    """Asks for a better reply, after a critique."""
    if principle is None:
        return "Rewrite your reply so that nothing is wrong with it. Write only the new reply."
    return principle.revision_request or (
        "Rewrite your reply so that it keeps the principle. Write only the new reply."
    )


def direct_revision_request(principle: Principle | None) -> str:
    """Asks for a better reply without a critique before it."""
    if principle is None:
        return "Rewrite your last reply so that nothing is wrong with it. Write only the new reply."
    return principle.revision_request or (
        "Rewrite your last reply so that it keeps this principle. Write only the new reply. "
        "Principle: " + principle.rule
    )


def finds_fault(critique: str) -> bool:
    """Whether a critique names a fault, rather than saying that there is none."""
    return not _NO_FAULT.match(critique)
