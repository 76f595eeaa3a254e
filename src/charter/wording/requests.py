"""What a critic and a reviser are asked, and how a critique is read."""

from __future__ import annotations

import re

from charter.constitution import Principle

_NO_FAULT = re.compile(
    r"""
    \W* (there\ (is|are)\ )?
    (no\ (problem|fault|issue|violation|conflict)s? | nothing(\ (is\ )?wrong)? | none)
    (\ found)? (\ (with|in)\ (it|(the|this|that|my|your)\ (last\ )?(reply|response|answer)))?
    ["'*_)]* \s* ($ | [.!:;,\n\u2013\u2014-])
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""The whole first clause: "No problem with the tone" is no verdict on the reply."""
_RESERVATION = re.compile(r"\b(but|however|although|though|except)\b", re.IGNORECASE)


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
    """Whether a critique names a fault, rather than saying that there is none.

    One that says so with a reservation counts as naming a fault: a revision that was not needed
    costs less than a broken principle that is kept.
    """
    return not _NO_FAULT.match(critique) or bool(_RESERVATION.search(critique))
