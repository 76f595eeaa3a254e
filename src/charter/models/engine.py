"""One thread that works for a model: takes jobs from a queue, and settles their futures.

A unit of work is all that has one padded length: endings to weigh, or rows to write up to the next
multiple of the grid. The oldest job says which unit comes next, and all that fits joins it.
"""

from __future__ import annotations

import itertools
import logging
import queue
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch

from charter.errors import BackendError
from charter.models.batching import Cohort, Weighing, Writing, begin, weigh
from charter.models.network import Network
from charter.models.reproducible import round_threads_down

_log = logging.getLogger(__name__)

_LINGER_S = 0.001
"""Callers answer one result with the next call: a unit waits for what still comes in this fast."""
_MODEL_FAILURES = (RuntimeError, MemoryError, BackendError)
"""What is raised where a computation fails; torch's out of memory is a `RuntimeError`."""

Job = TypeVar("Job", Writing, Weighing)


class Engine:
    """Works off jobs in its own thread, from construction until `close`."""

    def __init__(self, network: Network, *, capacity: int, name: str) -> None:
        """`capacity` is the most rows that a unit holds; `name` is for messages."""
        self._network = network
        self._capacity = capacity
        self._name = name
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[Writing | Weighing | None] = queue.SimpleQueue()
        self._writings: _Line[Writing] = _Line()
        self._weighings: _Line[Weighing] = _Line()
        self._cohorts: list[Cohort] = []
        self._open: set[Writing | Weighing] = set()
        self._failing = threading.Lock()
        self._stopped = threading.Event()
        self._cause: BaseException | None = None
        """What the thread broke down with."""
        self._thread = threading.Thread(target=self._run, name=f"model {name}", daemon=True)
        self._thread.start()

    def submit(self, job: Writing | Weighing) -> None:
        """Queue a job; the engine's thread settles its `result`, or the caller cancels it.

        Raises:
            BackendError: The engine has stopped.
        """
        if self._stopped.is_set():
            raise self._stopped_error()
        job.number = next(self._numbers)
        self._open.add(job)
        job.result.add_done_callback(lambda _: self._open.discard(job))
        self._inbox.put(job)
        if self._stopped.is_set():  # just now: the thread may not have seen the job any more
            self._fail([job], self._stopped_error())

    def close(self) -> None:
        """Stop after the current step and join the thread; jobs that are still open fail."""
        self._stopped.set()
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._network.on_cpu:
                round_threads_down()
            with torch.inference_mode():
                while not self._stopped.is_set():
                    self._take_in()
                    self._work()
        finally:
            self._cause = sys.exception()  # None where it was closed
            self._stopped.set()
            self._fail(list(self._open), self._stopped_error())

    def _take_in(self) -> None:
        """Sort new jobs in; wait for one where there is nothing else to do."""
        busy = self._cohorts or self._writings or self._weighings
        try:
            job = self._inbox.get(timeout=_LINGER_S if busy else None)
            while job is not None:
                match job:
                    case Writing():
                        self._writings.add(job)
                    case Weighing():
                        self._weighings.add(job)
                job = self._inbox.get(timeout=_LINGER_S)
        except queue.Empty:
            pass

    def _work(self) -> None:
        """Work off the unit of the oldest job."""
        room = self._capacity - sum(len(cohort.rows) for cohort in self._cohorts)
        weighing = self._weighings.oldest()
        writing = min(
            self._writings.oldest() if room > 0 else _NOTHING,
            *((cohort.oldest, cohort.length) for cohort in self._cohorts),
            _NOTHING,
        )
        if weighing < writing:
            self._weigh(self._weighings.take(weighing[1], at_most=self._capacity))
        elif writing < _NOTHING:
            length = writing[1]
            self._write(length, newcomers=self._writings.take(length, at_most=max(0, room)))

    def _weigh(self, jobs: list[Weighing]) -> None:
        try:
            weigh(self._network, jobs)
        except _MODEL_FAILURES as error:
            self._fail(jobs, self._model_error(error))

    def _write(self, length: int, *, newcomers: list[Writing]) -> None:
        cohorts = [cohort for cohort in self._cohorts if cohort.length == length]
        self._cohorts = [cohort for cohort in self._cohorts if cohort.length != length]
        jobs = [*newcomers, *(row for cohort in cohorts for row in cohort.rows)]
        try:
            cohorts = _joined([*cohorts, *begin(self._network, newcomers)])
            for cohort in cohorts:
                cohort.advance(stop=self._stopped)
        except _MODEL_FAILURES as error:
            self._fail(jobs, self._model_error(error))
        else:
            self._cohorts += [cohort for cohort in cohorts if cohort.rows]

    def _fail(self, jobs: Iterable[Writing | Weighing], error: BackendError) -> None:
        with self._failing:  # the thread that stops and one that submits may meet here
            for job in jobs:
                if not job.result.done() and job.result.set_running_or_notify_cancel():
                    job.result.set_exception(error)

    def _model_error(self, error: Exception) -> BackendError:
        _log.debug("model %s failed", self._name, exc_info=error)
        if isinstance(error, BackendError):
            return BackendError(f"model {self._name} failed: {error}")
        return BackendError(
            f"model {self._name} failed: {str(error) or type(error).__name__}. If memory ran out, "
            f"lower its `capacity` (now {self._capacity})."
        )

    def _stopped_error(self) -> BackendError:
        if self._cause is None:
            return BackendError(f"model {self._name} is closed and answers no more calls")
        broken = BackendError(
            f"model {self._name} broke down and answers no more calls: {_described(self._cause)}. "
            "Run again; if that comes back, report it with its traceback."
        )
        broken.__cause__ = self._cause
        return broken


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


_NOTHING = (2**63, 0)
"""Older than this is every job."""


class _Line(Generic[Job]):
    """Jobs that wait, by padded length, each in order of arrival."""

    def __init__(self) -> None:
        self._jobs: defaultdict[int, list[Job]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs[job.length].append(job)

    def oldest(self) -> tuple[int, int]:
        """The number of the job that came first, and its length."""
        return min(
            ((jobs[0].number, length) for length, jobs in self._jobs.items()), default=_NOTHING
        )

    def take(self, length: int, *, at_most: int) -> list[Job]:
        """Jobs of this length in order of arrival; those that were cancelled fall away."""
        wanted = [job for job in self._jobs.pop(length, []) if not job.result.cancelled()]
        if wanted[at_most:]:
            self._jobs[length] = wanted[at_most:]
        return wanted[:at_most]


def _joined(cohorts: list[Cohort]) -> list[Cohort]:
    """The cohorts, which have one length, as one where that is possible."""
    if len(cohorts) < 2 or not all(cohort.takes_others for cohort in cohorts):
        return cohorts
    cohorts[0].join(cohorts[1:])
    return cohorts[:1]
