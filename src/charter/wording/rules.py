"""The constitution as a system turn: what a model is told that is not trained on it."""

from __future__ import annotations

from charter.constitution import Constitution


def rules_turn(constitution: Constitution) -> str:
    """The preamble, if any, and every rule, one a line."""
    opening = (constitution.preamble or "").strip()
    rules = "\n".join("- " + principle.rule for principle in constitution.principles)
    return (opening + "\n\n" if opening else "") + "Always follow these rules:\n" + rules
