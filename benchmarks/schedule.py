"""How close records in flight come to what an endpoint could answer at best."""

from __future__ import annotations

import asyncio
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measuring import Figure, in_turn, summary, wall_s
from charter.console import Silent
from charter.journal import Journal, JournaledModel
from charter.model import Model
from charter.records import Completion, Dialogue, Sampling, user
from charter.schedule import run_records
from charter.seeding import uniform

_WIDTH = 64
_LATENCY_S, _SPREAD = 0.2, 0.6
"""Mean latency, and the standard deviation of its logarithm."""
_CALLS = 3
"""Of each record: response, critique, revision."""


class SlowServer:
    """Answers `_WIDTH` calls at once, each after a latency that belongs to its seed."""

    fingerprint = "slow"
    capacity = _WIDTH

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_WIDTH)

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:  # noqa: ARG002
        """See `Model.generate`."""
        async with self._free:
            await asyncio.sleep(_latency_s(seed))
        return Completion(text="word " * 60, finish="stop")

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:  # noqa: ARG002
        """See `Model.choose`."""
        return dict.fromkeys(choices, -math.log(len(choices)))

    async def aclose(self) -> None:
        """See `Model.aclose`."""


def figures(*, quick: bool) -> Iterator[Figure]:
    """The share of the ideal that streaming reaches, and how much faster than barriers that is."""
    records, repeats = (64, 1) if quick else (512, 5)
    seeds = range(records * _CALLS)
    ideal_s = sum(map(_latency_s, seeds)) / _WIDTH
    pairs = list(
        in_turn(
            lambda: wall_s(lambda: asyncio.run(_stream(records))),
            lambda: wall_s(lambda: asyncio.run(_stage_by_stage(records))),
            repeats=repeats,
        )
    )
    shares = [ideal_s / streaming_s for streaming_s, _ in pairs]
    yield summary(
        "schedule.ideal",
        shares,
        unit="fraction",
        goal=0.90,
        against="no idle server: the sum of all latencies / width",
    )
    ratios = [barriers_s / streaming_s for streaming_s, barriers_s in pairs]
    yield summary(
        "schedule.barriers", ratios, unit="x", goal=0.90 / 0.82, against="a barrier a call"
    )


async def _stream(records: int) -> None:
    """The way of a stage: journaled calls and records, as many in flight as the server holds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder) / "journal.sqlite") as journal,
    ):
        model = JournaledModel(SlowServer(), journal=journal, stage="revise")

        async def chain(number: int) -> str:
            for call in range(_CALLS):
                await _ask(model, number * _CALLS + call)
            return "done"

        await run_records(
            range(records),
            stage="revise",
            work=chain,
            key=str,
            dump=str,
            store=journal.records("revise", context="benchmark"),
            width=model.capacity,
            max_failed=0.0,
            progress=Silent(),
        )


async def _stage_by_stage(records: int) -> None:
    """First calls of all records, then all second ones, then all third ones; nothing is kept."""
    model = SlowServer()
    for call in range(_CALLS):
        await asyncio.gather(*(_ask(model, number * _CALLS + call) for number in range(records)))


async def _ask(model: Model, seed: int) -> None:
    await model.generate((user(f"request {seed}"),), sampling=Sampling(), seed=seed)


def _latency_s(seed: int) -> float:
    """Log-normal, as those of servers are."""
    normal = statistics.NormalDist().inv_cdf(uniform(seed, "latency"))
    return _LATENCY_S * math.exp(_SPREAD * normal - _SPREAD**2 / 2)
