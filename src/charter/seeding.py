"""Randomness as a function of names.

Every draw depends on the run's seed and on what is drawn for whom, never on position, batch,
worker or time. So a resumed, reordered or extended run draws the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

_BITS = 52
"""One fewer than a float's precision, so that adding a half is exact and 1.0 is never reached."""


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that belongs to `names` under `seed`.

    Names are hashed with their lengths, so `("ab", "c")` and `("a", "bc")` differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in (seed, *names):
        text = f"{type(name).__name__}:{name}".encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return int.from_bytes(digest.digest(), "big") >> 1


def uniform(seed: int, *names: str | int) -> float:
    """A number in the open interval (0, 1) that belongs to `names`."""
    return ((derive(seed, *names) >> (63 - _BITS)) + 0.5) / 2**_BITS


def draw(weights: Mapping[str, float], seed: int, *names: str | int) -> str:
    """One key of `weights`, with probability in proportion to its weight.

    An exponential race: every key runs with its own clock, so adding a key changes a draw only
    where the new key wins.

    Raises:
        ValueError: No weight is positive.
    """
    drawn = draw_several(weights, 1, seed, *names)
    if not drawn:
        raise ValueError(f"nothing to draw from: no positive weight in {dict(weights)!r}")
    return drawn[0]


def draw_several(
    weights: Mapping[str, float], count: int, seed: int, *names: str | int
) -> tuple[str, ...]:
    """The first `count` keys of the race that `draw` runs: drawn one by one, none twice.

    Fewer where fewer keys have a positive weight.
    """
    times = {
        key: -math.log(uniform(seed, *names, key)) / weight
        for key, weight in weights.items()
        if weight > 0
    }
    return tuple(sorted(times, key=lambda key: (times[key], key))[:count])


def shuffled(ids: Iterable[str], seed: int, *names: str | int) -> list[str]:
    """The ids in an order that depends on each id alone: inserting one moves no other."""
    return sorted(ids, key=lambda item: (uniform(seed, *names, item), item))
