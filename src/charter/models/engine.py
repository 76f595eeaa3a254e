"""One thread that works for a model: takes calls from a queue, and settles their futures."""

from __future__ import annotations

import itertools
import logging
import queue
import sys
import threading
from collections.abc import Iterable
from typing import Protocol

import torch

from charter.errors import BackendError
from charter.models.calls import Call
from charter.models.reproducible import power_of_two, use_threads

_log = logging.getLogger(__name__)

_LINGER_S = 0.001
"""Callers answer one result with the next call: this long it is waited for, or a step goes by."""
_MODEL_FAILURES = (RuntimeError, MemoryError, BackendError)
"""What is raised where a computation fails; torch's out of memory is a `RuntimeError`."""


class Worker(Protocol):
    """What does the work: a `Scheduler` over slots, or the plain loop."""

    @property
    def capacity(self) -> int:
        """How many calls are worked on at once."""
        ...

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        ...

    def add(self, call: Call) -> None:
        """One more call."""
        ...

    def step(self) -> int:
        """Brings all calls on by one pass of the model; gives for how many others it made room."""
        ...

    def restart(self, *, capacity: int) -> None:
        """Forgets what was computed, not what was written; begins again with this capacity."""
        ...

    def drop_all(self) -> None:
        """Forgets all calls."""
        ...


class Engine:
    """Works off calls in its own thread, from construction until `close`."""

    def __init__(self, worker: Worker, *, name: str) -> None:
        """`name` is the model's, for messages."""
        self._worker = worker
        self._name = name
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._open: set[Call] = set()
        self._failing = threading.Lock()
        self._stale = threading.Event()
        self._stopped = threading.Event()
        self._room = 0
        """For how many calls the last step made room."""
        self._cause: BaseException | None = None
        """What the thread broke down with."""
        self._thread = threading.Thread(target=self._run, name=f"model {name}", daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        """Queue a call; the engine's thread settles its `result`, or the caller cancels it.

        Raises:
            BackendError: The engine has stopped.
        """
        if self._stopped.is_set():
            raise self._stopped_error()
        call.number = next(self._numbers)
        self._open.add(call)
        call.result.add_done_callback(lambda _: self._open.discard(call))
        self._inbox.put(call)
        if self._stopped.is_set():  # just now: the thread may not have seen the call any more
            self._fail([call], self._stopped_error())

    def forget(self) -> None:
        """Drop keys and values, now or before the next step: the weights have changed."""
        self._stale.set()
        self._inbox.put(None)  # or a training would begin beside keys that nobody needs

    def close(self) -> None:
        """Stop after the current step and join the thread; calls that are still open fail."""
        self._stopped.set()
        self._inbox.put(None)
        self._thread.join()
        self._worker.drop_all()

    def _run(self) -> None:
        try:
            use_threads(power_of_two(torch.get_num_threads()))
            with torch.inference_mode():
                while not self._stopped.is_set():
                    self._take_in()
                    self._work()
        finally:
            self._cause = sys.exception()  # None where it was closed
            self._stopped.set()
            self._fail(list(self._open), self._stopped_error())

    def _take_in(self) -> None:
        """Hand new calls on; wait for one where there is nothing else to do.

        As long as there is room, wait a moment for others: those that come with the first one, and
        the next calls of those who were just answered.
        """
        idle = not self._worker.busy
        room = self._worker.capacity if idle else self._room
        waiting_s = None if idle else _LINGER_S * (room > 0)
        try:
            while (call := self._inbox.get(waiting_s != 0.0, waiting_s or None)) is not None:
                self._worker.add(call)
                room -= 1
                waiting_s = _LINGER_S * (room > 0)
        except queue.Empty:
            pass

    def _work(self) -> None:
        if self._stale.is_set():
            self._stale.clear()
            self._worker.restart(capacity=self._worker.capacity)
        if not self._worker.busy:
            return
        try:
            self._room = 0
            self._room = self._worker.step()
        except torch.OutOfMemoryError as error:
            half = self._worker.capacity // 2
            if half == 0:
                self._fail_all(error)
                return
            _log.warning("model %s: memory ran out; going on with %d slots", self._name, half)
            self._worker.restart(capacity=half)
            torch.cuda.empty_cache()
        except _MODEL_FAILURES as error:
            self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        """Every call in work fails: what was computed may be damaged."""
        self._worker.drop_all()
        self._fail(list(self._open), self._model_error(error))

    def _fail(self, calls: Iterable[Call], error: BackendError) -> None:
        with self._failing:  # the thread that stops and one that submits may meet here
            for call in calls:
                if not call.result.done() and call.result.set_running_or_notify_cancel():
                    call.result.set_exception(error)

    def _model_error(self, error: Exception) -> BackendError:
        _log.debug("model %s failed", self._name, exc_info=error)
        if isinstance(error, BackendError):
            return BackendError(f"model {self._name} failed: {error}")
        return BackendError(
            f"model {self._name} failed: {str(error) or type(error).__name__}. If memory ran out, "
            f"lower its `capacity` (now {self._worker.capacity})."
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
