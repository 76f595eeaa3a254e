"""As many of each sort as stated shares allow, drawn by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from charter.seeding import shuffled

Sort = TypeVar("Sort", bound=str)

_ROUNDING = 1e-9


def within_shares(counts: Mapping[Sort, int], shares: Mapping[Sort, float]) -> dict[Sort, int]:
    """How many of each sort to take: as many as can be had, none above its share of all taken.

    A share is met to the nearest whole number.

    Args:
        counts: How many there are of each sort.
        shares: The largest share of each sort; a sort without one may make up everything.
    """
    limited: set[Sort] = set()
    while True:
        # What is not limited is taken whole, and is all that the limited shares leave over.
        whole = sum(count for sort, count in counts.items() if sort not in limited)
        total = whole / (1.0 - sum(shares[sort] for sort in limited))
        excessive = {
            sort
            for sort, count in counts.items()
            if sort not in limited and count > shares.get(sort, 1.0) * total + _ROUNDING
        }
        if not excessive:
            break
        limited |= excessive  # the total only falls, so they stay so
    return {
        sort: round(shares[sort] * total) if sort in limited else count
        for sort, count in counts.items()
    }


def drawn(ids: Collection[str], count: int, *, seed: int, purpose: str) -> frozenset[str]:
    """So many of the ids, whatever their order; a new id displaces one at most."""
    return frozenset(shuffled(ids, seed, purpose)[:count])
