"""Figures, and how they are come by: two sides in turn, the median and the spread."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """One measured figure; higher is better."""

    figure: str
    value: float
    """The median of the repeats."""
    unit: str
    low: float
    """The worst repeat."""
    high: float
    """The best repeat."""
    goal: float | None
    """What the project promises; None: nothing, the figure is there to compare."""
    against: str
    """What was measured beside it."""

    def line(self) -> str:
        """The figure as one line of JSON."""
        return json.dumps(
            {key: _rounded(value) for key, value in asdict(self).items()}, ensure_ascii=False
        )


def summary(
    figure: str, values: Sequence[float], *, unit: str, goal: float | None, against: str
) -> Figure:
    """The figure that repeated measurements amount to."""
    return Figure(
        figure=figure,
        value=median(values),
        unit=unit,
        low=min(values),
        high=max(values),
        goal=goal,
        against=against,
    )


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], *, repeats: int
) -> Iterator[tuple[float, float]]:
    """What both sides cost, pair by pair, so that a busy machine slows both down.

    Before several repeats, a pair warms up and is thrown away.
    """
    if repeats > 1:
        ours()
        theirs()
    for _ in range(repeats):
        yield ours(), theirs()


def speedup(
    figure: str,
    *,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    repeats: int,
    goal: float | None,
    against: str,
    unit: str = "x",
) -> Figure:
    """How many times our cost theirs is: the ratio of each pair, then their median."""
    ratios = [other / own for own, other in in_turn(ours, theirs, repeats=repeats)]
    return summary(figure, ratios, unit=unit, goal=goal, against=against)


def best_s(
    work: Callable[[], object],
    *,
    times: int,
    bursts: int,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Seconds that `work` takes: in the best of several bursts, each of it so many times.

    What else runs on the machine only ever adds to a burst, so the best one has least of it.
    """
    best = float("inf")
    for _ in range(bursts):
        began = clock()
        for _ in range(times):
            work()
        best = min(best, (clock() - began) / times)
    return best


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this process, in all its threads: what others do matters little."""
    began = time.process_time()
    work()
    return time.process_time() - began


def wall_s(work: Callable[[], object]) -> float:
    """Seconds by the clock: where waiting is what is measured."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
