"""Calls that wait for a slot, and how their tokens begin."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from charter.models.calls import Call

_COLUMNS = 512
"""First tokens of each call that are kept side by side; what comes behind is compared call by call,
which takes longer, and is rare."""
_NOTHING = -1
"""No token: behind the end of a call, and where there is none."""


class Waiting:
    """The calls in the order in which they came."""

    def __init__(self) -> None:
        """None waits."""
        self._ids: dict[Call, np.ndarray] = {}
        self._rows: dict[Call, int] = {}
        self._free: list[int] = []
        self._tokens = np.full((64, _COLUMNS), _NOTHING, dtype=np.int32)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._ids)

    def __iter__(self) -> Iterator[Call]:
        """The calls."""
        return iter(self._ids)

    def items(self) -> Iterator[tuple[Call, np.ndarray]]:
        """The calls and their tokens."""
        return iter(self._ids.items())

    def add(self, call: Call) -> None:
        """One more call, the last in line."""
        row = self._free.pop() if self._free else len(self._rows)
        if row == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.full_like(self._tokens, _NOTHING)])
        ids = np.array(call.ids)
        self._ids[call], self._rows[call] = ids, row
        first = ids[:_COLUMNS]
        self._tokens[row, : len(first)] = first
        self._tokens[row, len(first) :] = _NOTHING

    def remove(self, call: Call) -> None:
        """The call waits no longer."""
        del self._ids[call]
        self._free.append(self._rows.pop(call))

    def common(self, ids: np.ndarray) -> np.ndarray:
        """How many tokens each call has in common with these, from the first one on, in order."""
        width = min(len(ids), _COLUMNS)
        rows = np.fromiter(self._rows.values(), dtype=np.intp, count=len(self._rows))
        differs = self._tokens[rows, :width] != ids[:width].astype(np.int32)
        counts = np.where(differs.any(1), differs.argmax(1), width)
        if len(ids) > width:
            waiting = list(self._ids.values())
            for at in np.flatnonzero(counts == width):
                counts[at] = _common(waiting[at], ids)
        return counts


def _common(first: np.ndarray, second: np.ndarray) -> int:
    length = min(len(first), len(second))
    differs = first[:length] != second[:length]
    return int(differs.argmax()) if differs.any() else length
