"""Which columns are set against each other: where training began, and the untrained model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

BASE = "base"
"""The column that all others are compared with."""

STARTED_FROM: Mapping[str, str] = {"sft": BASE, "rl": "sft", "dpo": "sft"}
"""Trained columns, each with the one whose model its training started from."""


def opponents(column: str, columns: Collection[str]) -> tuple[str, ...]:
    """Those of `columns` that a column is compared with: what it started from, then `base`."""
    met = dict.fromkeys((STARTED_FROM.get(column, BASE), BASE))
    return tuple(other for other in met if other in columns and other != column)


def last_trained(columns: Collection[str]) -> str:
    """The last column of a trained model, or simply the last one; there is one at least."""
    names = list(columns)
    return next((name for name in reversed(names) if name in STARTED_FROM), names[-1])
