"""What the engine works off: completions to write and continuations to weigh, many rows at once.

A row's numbers are a function of the row alone: of its padded length, and from there of the number
of keys at every step. Rows with equal lengths share a batch; who shares it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event
from typing import TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from charter.models.cache import can_join, join_rows, keep_rows
from charter.models.network import GRID, Network, grid_length
from charter.models.sampling import draw, uniforms
from charter.records import Sampling

_CPU_TOKENS, _GPU_TOKENS = 1024, 32768
"""Tokens that are read at once. On a CPU fewer stay in its caches: measured 1.2 times as fast."""

T = TypeVar("T")
Job = TypeVar("Job", "Writing", "Weighing")


@dataclass(eq=False)
class Writing:
    """A completion that is being written."""

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    limit: int
    """The most ids to write."""
    eos_ids: frozenset[int]
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    number: int = -1
    """Jobs are numbered in order of arrival."""
    near_draws: int = 0
    """How many draws fell so close to a boundary that another machine may draw otherwise."""
    result: Future[None] = field(default_factory=lambda: Future[None]())

    @property
    def length(self) -> int:
        """What its prompt is padded to."""
        return grid_length(len(self.prompt))

    @property
    def stopped(self) -> bool:
        """Whether it ended by itself."""
        return bool(self.token_ids) and self.token_ids[-1] in self.eos_ids

    @property
    def finished(self) -> bool:
        """Whether nothing is left to write."""
        return self.stopped or len(self.token_ids) >= self.limit

    def take(self, id_: int, logprob: float, *, near: bool) -> None:
        """Write one more id."""
        self.token_ids.append(id_)
        self.logprobs.append(logprob)
        self.near_draws += near


@dataclass(eq=False)
class Weighing:
    """Endings that are weighed behind the same ids."""

    ids: Sequence[int]
    """All that precedes the endings, and all of an ending's ids but the last."""
    endings: Sequence[Sequence[int]]
    """Equal but for their last ids."""
    number: int = -1
    result: Future[list[float]] = field(default_factory=lambda: Future[list[float]]())
    """Natural log-probability of each ending."""

    @property
    def length(self) -> int:
        """What its ids are padded to."""
        return grid_length(len(self.ids))


def settle(result: Future[T], value: T) -> None:
    """Answer whoever waits, unless nobody does any more."""
    if result.set_running_or_notify_cancel():
        result.set_result(value)


def weigh(network: Network, jobs: Sequence[Weighing]) -> None:
    """Weigh endings whose ids have one grid length, and settle them."""
    for batch in _batches(network, jobs):
        keep = max(len(job.endings[0]) for job in batch)
        logits, _ = network.read(_filled(network, [job.ids for job in batch]), keep=keep)
        logprobs = logits.double().log_softmax(-1)
        for row, job in enumerate(batch):
            settle(job.result, [_sum_at_end(logprobs[row], ending) for ending in job.endings])


def begin(network: Network, rows: Sequence[Writing]) -> list[Cohort]:
    """Rows whose prompts have one grid length, read and ready to be written."""
    return [Cohort.begun(network, batch) for batch in _batches(network, rows)]


class Cohort:
    """Rows that are written in step: they have the same number of keys.

    The tensors' first rows are `rows`; what may follow only fills up the smallest batch.
    """

    def __init__(
        self,
        network: Network,
        rows: list[Writing],
        *,
        cache: DynamicCache,
        mask: Tensor,
        logits: Tensor,
    ) -> None:
        self.rows = rows
        self._network = network
        self._cache = cache
        self._mask = mask
        self._logits = logits
        """Of the ids to be drawn next."""

    @classmethod
    def begun(cls, network: Network, rows: Sequence[Writing]) -> Cohort:
        """Rows with their prompts read."""
        cache = network.empty_cache()
        prompts = _filled(network, [row.prompt for row in rows])
        logits, mask = network.read(prompts, keep=1, cache=cache)
        return cls(network, list(rows), cache=cache, mask=mask, logits=logits[:, -1])

    @property
    def length(self) -> int:
        """Keys of each row; between two calls of `advance` a multiple of the grid."""
        return self._mask.shape[1]

    @property
    def oldest(self) -> int:
        """The number of the row that came first."""
        return min(row.number for row in self.rows)

    @property
    def takes_others(self) -> bool:
        """Whether `join` is possible."""
        return can_join(self._cache)

    def join(self, others: Sequence[Cohort]) -> None:
        """Take in the rows of other cohorts of the same length."""
        places: list[int] = []
        rows: list[Writing] = []
        start = 0
        for cohort in (self, *others):
            places += range(start, start + len(cohort.rows))
            rows += cohort.rows
            start += cohort._mask.shape[0]
        join_rows(self._cache, [other._cache for other in others])
        self._mask = torch.cat([self._mask, *(other._mask for other in others)])
        self._logits = torch.cat([self._logits, *(other._logits for other in others)])
        self._keep(places, rows)

    def advance(self, *, stop: Event) -> None:
        """Write until the length is the next multiple of the grid, or no rows are left.

        Rows leave as they finish, or when nobody waits for them any more.
        """
        while not stop.is_set():
            self._draw()
            self._drop_finished()
            if not self.rows:
                return
            self._feed()
            if self.length % GRID == 0:
                return

    def _draw(self) -> None:
        drawn = draw(
            self._logits[: len(self.rows)],
            uniforms=uniforms(
                [row.seed for row in self.rows], [len(row.token_ids) for row in self.rows]
            ),
            temperatures=[row.sampling.temperature for row in self.rows],
            top_ps=[row.sampling.top_p for row in self.rows],
        )
        for row, id_, logprob, near in zip(
            self.rows, drawn.ids, drawn.logprobs, drawn.near, strict=True
        ):
            row.take(id_, logprob, near=near)

    def _drop_finished(self) -> None:
        staying: list[int] = []
        for place, row in enumerate(self.rows):
            if row.finished:
                settle(row.result, None)
            elif not row.result.cancelled():
                staying.append(place)
        if len(staying) < len(self.rows):
            self._keep(staying, [self.rows[place] for place in staying])

    def _feed(self) -> None:
        ids = [row.token_ids[-1] for row in self.rows]
        ids += ids[-1:] * (self._mask.shape[0] - len(ids))
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        self._logits = self._network.step(ids, mask=self._mask, cache=self._cache)

    def _keep(self, places: Sequence[int], rows: Sequence[Writing]) -> None:
        """Only these rows stay, which stand at `places`; the last ones fill the gaps."""
        count = len(places)
        at = dict(zip(places, rows, strict=True))
        from_behind = (place for place in reversed(places) if place >= count)
        order = [place if place in at else next(from_behind) for place in range(count)]
        self.rows = [at[place] for place in order]
        order += range(count, max(count, self._network.smallest_batch))
        keep_rows(self._cache, order)
        self._mask = self._mask[order]
        self._logits = self._logits[order]


def _batches(network: Network, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """The jobs, which have one grid length, as many at a time as are read at once."""
    if not jobs:
        return
    size = max(1, (_CPU_TOKENS if network.on_cpu else _GPU_TOKENS) // jobs[0].length)
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _filled(network: Network, rows: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """The rows, and the last one again for as often as the smallest batch needs."""
    return [*rows, *[rows[-1]] * (network.smallest_batch - len(rows))]


def _sum_at_end(logprobs: Tensor, ending: Sequence[int]) -> float:
    last = logprobs[-len(ending) :]
    return sum(float(last[position, id_]) for position, id_ in enumerate(ending))
