"""Keeps calls and records: reads see them at once, one writer thread commits them in groups."""

from __future__ import annotations

import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from charter.journal.database import connect, explained, fetch, open_finished, open_own

GROUP_ROWS = 64
"""Rows that are committed together at most."""
GROUP_S = 0.2
"""Seconds that a row waits at most for others to be committed with."""

# What is committed never changes: a second answer is counted in `times`, and the first stays.
_KEEP_CALL = """
INSERT INTO calls (key, stage, tokens, times, answer) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET times = times + excluded.times
"""
_KEEP_RECORD = """
INSERT INTO records (stage, context, id, times, result) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET times = times + excluded.times
"""
_GET_CALL = "SELECT answer FROM calls WHERE key = ?"
_GET_RECORD = "SELECT result FROM records WHERE stage = ? AND context = ? AND id = ?"

_Slot = tuple[str, ...]
"""What identifies a row: the parameters of its look-up."""


class _Row(NamedTuple):
    """A row on its way to the disk."""

    slot: _Slot
    statement: str
    values: tuple[str | int, ...]


class _Signal(NamedTuple):
    """Asks the writer to commit at once, then perhaps to stop."""

    committed: threading.Event
    stops: bool


class Journal:
    """A run's finished calls and records; a context manager.

    Any thread may read and keep. `times` counts how often a row was kept: 1 where all is well, 0
    where it was taken over from a reused journal.
    """

    def __init__(self, path: Path, *, reuse: Sequence[Path] = ()) -> None:
        """Open the journal at `path`, or begin one.

        Args:
            path: The SQLite file.
            reuse: Other runs' journals, read only. What is found there is taken over, so that this
                run is complete without them.

        Raises:
            RunError: A journal is missing, damaged, or cannot be opened.
        """
        self._path = path
        with ExitStack() as opened:
            # Opened first, closed last: that folds the write-ahead log into the file.
            self._written = opened.enter_context(closing(open_own(path)))
            self._read = opened.enter_context(closing(connect(path)))
            self._reused = [
                (other, opened.enter_context(closing(open_finished(other)))) for other in reuse
            ]
            self._connections = opened.pop_all()
        self._unsaved: dict[_Slot, str] = {}
        self._queue: queue.SimpleQueue[_Row | _Signal] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def call(self, key: str) -> str | None:
        """The answer kept under `key`, or None."""
        answer = self._get(_GET_CALL, (key,))
        if answer is None and (answer := self._get_reused(_GET_CALL, (key,))) is not None:
            self._keep((key,), answer, _KEEP_CALL, (key, "", 0, 0))
        return answer

    def keep_call(self, key: str, answer: str, *, stage: str = "", tokens: int = 0) -> None:
        """Keep a call's answer, and what it cost which stage.

        Raises:
            RunError: An earlier row could not be written.
        """
        self._keep((key,), answer, _KEEP_CALL, (key, stage, tokens, 1))

    def records(self, stage: str, *, context: str) -> Records:
        """The results of a stage under `context`: a hash of all that shapes them."""
        return Records(self, stage=stage, context=context)

    def record(self, stage: str, context: str, record_id: str) -> str | None:
        """A record's result, or None; see `records`."""
        slot = (stage, context, record_id)
        result = self._get(_GET_RECORD, slot)
        if result is None and (result := self._get_reused(_GET_RECORD, slot)) is not None:
            self._keep(slot, result, _KEEP_RECORD, (*slot, 0))
        return result

    def keep_record(self, stage: str, context: str, record_id: str, value: str) -> None:
        """Keep a record's result; see `records`.

        Raises:
            RunError: An earlier row could not be written.
        """
        slot = (stage, context, record_id)
        self._keep(slot, value, _KEEP_RECORD, (*slot, 1))

    def spent(self, stage: str) -> tuple[int, int]:
        """Calls that a stage made in this run, and their tokens; what was reused is free."""
        return self._count(
            "SELECT coalesce(sum(times), 0), coalesce(sum(times * tokens), 0) FROM calls "
            "WHERE stage = ?",
            (stage,),
        )

    def repeated(self) -> tuple[int, int]:
        """How many calls, and how many records, were made although they were already kept."""
        return self._count(
            "SELECT (SELECT count(*) FROM calls WHERE times > 1), "
            "(SELECT count(*) FROM records WHERE times > 1)"
        )

    def flush(self) -> None:
        """Wait until all that was kept is on the disk.

        Raises:
            RunError: It could not be written.
        """
        self._signal(stops=False)

    def close(self) -> None:
        """Write what is left and let go of the files; a closed journal is of no more use.

        Raises:
            RunError: Something could not be written.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._signal(stops=True)
        finally:
            self._writer.join()
            self._connections.close()

    def _keep(self, slot: _Slot, value: str, statement: str, cells: tuple[str | int, ...]) -> None:
        if self._failure is not None:
            raise explained(self._failure, self._path) from self._failure
        # A lone surrogate fails here, at the record it belongs to, and not in the writer thread.
        "".join((*slot, value)).encode("utf-8")
        self._unsaved[slot] = value
        self._queue.put(_Row(slot, statement, (*cells, value)))

    def _get(self, query: str, slot: _Slot) -> str | None:
        # A row leaves the unsaved ones only after its commit, so this order never misses it.
        if (value := self._unsaved.get(slot)) is not None:
            return value
        row = fetch(self._read, query, values=slot, path=self._path)
        return None if row is None else row[0]

    def _get_reused(self, query: str, slot: _Slot) -> str | None:
        for path, connection in self._reused:
            if (row := fetch(connection, query, values=slot, path=path)) is not None:
                return row[0]
        return None

    def _count(self, query: str, values: _Slot = ()) -> tuple[int, int]:
        self.flush()
        return fetch(self._read, query, values=values, path=self._path) or (0, 0)

    def _signal(self, *, stops: bool) -> None:
        signal = _Signal(threading.Event(), stops)
        self._queue.put(signal)
        # A writer that broke down answers no signal any more.
        while self._writer.is_alive() and not signal.committed.wait(timeout=GROUP_S):
            pass
        if self._failure is not None:
            raise explained(self._failure, self._path) from self._failure

    def _write(self) -> None:
        """Commit group after group until told to stop: the writer thread.

        What fails is raised in the thread that next keeps or flushes.
        """
        stops = False
        try:
            while not stops:
                rows, signal = _next_group(self._queue)
                self._commit(rows)
                if signal is not None:
                    stops = signal.stops
                    signal.committed.set()
        finally:
            self._failure = self._failure or sys.exception()

    def _commit(self, rows: Sequence[_Row]) -> None:
        if not rows or self._failure is not None:
            return  # After a failure nothing more is written: no row may overtake a lost one.
        try:
            with self._written:
                for row in rows:
                    self._written.execute(row.statement, row.values)
        except sqlite3.Error as error:
            self._failure = error
            return
        for row in rows:
            self._unsaved.pop(row.slot, None)


class Records:
    """One stage's results in a journal: what `schedule.run_records` stores into."""

    def __init__(self, journal: Journal, *, stage: str, context: str) -> None:
        self._journal = journal
        self._stage = stage
        self._context = context

    def get(self, record_id: str) -> str | None:
        """The record's result, or None where it is not finished."""
        return self._journal.record(self._stage, self._context, record_id)

    def keep(self, record_id: str, value: str) -> None:
        """Keep a finished record's result."""
        self._journal.keep_record(self._stage, self._context, record_id, value)

    def flush(self) -> None:
        """Wait until all that was kept is on the disk."""
        self._journal.flush()

    def spent(self) -> tuple[int, int]:
        """Calls that the stage made in this run, and their tokens."""
        return self._journal.spent(self._stage)


def _next_group(
    arrivals: queue.SimpleQueue[_Row | _Signal],
) -> tuple[list[_Row], _Signal | None]:
    """The rows to commit next, and the signal that cut the wait for more of them short."""
    rows: list[_Row] = []
    arrived = arrivals.get()
    until = time.monotonic() + GROUP_S
    while isinstance(arrived, _Row):
        rows.append(arrived)
        if len(rows) == GROUP_ROWS:
            return rows, None
        try:
            arrived = arrivals.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return rows, None
    return rows, arrived
