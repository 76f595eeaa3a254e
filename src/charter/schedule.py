"""Works off a stage's records: as many in flight as the model holds, without barriers.

A record's work reads top to bottom like the paper and knows nothing of the other records, of
resuming or of failures: that is here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from charter.console import Progress, under_way
from charter.errors import (
    BackendError,
    CharterError,
    EncodingError,
    FailureLimitError,
    JudgementError,
    OverlongError,
    PromptError,
)
from charter.run import Tally

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

RECORD_ERRORS = (BackendError, EncodingError, JudgementError, PromptError)
"""What one record may fail of while others go on; any other error is the whole run's."""

_SHOWN_FAILURES = 3
_HOPELESS_FAILURES = 20
"""So many failures at least before a stage is given up early: they show what is wrong."""


class Store(Protocol):
    """Where finished records are kept; `journal.Records` is one."""

    def get(self, record_id: str) -> str | None:
        """The record's result, or None where it is not finished."""
        ...

    def keep(self, record_id: str, value: str) -> None:
        """Keep a finished record's result, without waiting for the disk."""
        ...

    def flush(self) -> None:
        """Wait until all that was kept is on the disk."""
        ...

    def spent(self) -> tuple[int, int]:
        """Calls that the stage made so far, and their tokens."""
        ...


async def run_records(
    items: Iterable[T],
    *,
    stage: str,
    work: Callable[[T], Awaitable[R]],
    key: Callable[[T], str],
    dump: Callable[[R], str],
    store: Store,
    width: int,
    max_failed: float,
    progress: Progress,
    total: int | None = None,
    task: str | None = None,
) -> Tally:
    """Finish every record that is not finished yet; gives back the account of all of them.

    `width` workers each see one record through before they take the next, so a record's next call
    goes before a new record, and neither items nor results pile up. A failure is not stored: a
    rerun tries again.

    Args:
        items: The records' inputs; read as they are needed, and never held.
        stage: Its name, as in the config.
        work: Makes one record's result.
        key: The record's id, unique among the items.
        dump: The result as text to store.
        store: Where finished records are found and kept.
        width: Records in flight at once: the model's capacity.
        max_failed: The largest share of records that may fail.
        progress: Hears of every record.
        total: How many items there are, if that is known.
        task: What `progress` hears that is done; default: the stage.

    Raises:
        FailureLimitError: Too many records failed.
        Exception: Whatever else `work` raises, once the other records are cancelled. What was
            finished is stored then too, and so it is on cancellation.
    """
    began = time.monotonic()
    account = _Account(stage=stage, max_failed=max_failed)
    unread = iter(items)

    async def see_through() -> None:
        """One worker: finishes a record before it takes the next."""
        for item in unread:
            failure = await _finish(item, work=work, record_id=key(item), dump=dump, store=store)
            account.book(key(item), failure, total=total)
            progress.advance(note=account.note)

    with under_way(progress, task or stage, total=total):
        try:
            await _all_or_none([asyncio.create_task(see_through()) for _ in range(width)])
            account.check(account.done + account.failed + account.overlong)
        finally:
            store.flush()
        progress.finish(account.summary)
    calls, tokens = store.spent()
    return account.tally(seconds=time.monotonic() - began, calls=calls, tokens=tokens)


async def _finish(
    item: T,
    *,
    work: Callable[[T], Awaitable[R]],
    record_id: str,
    dump: Callable[[R], str],
    store: Store,
) -> CharterError | None:
    """Finishes a record, unless it is finished already; gives back what it failed of."""
    if store.get(record_id) is not None:
        await asyncio.sleep(0)  # A stretch of finished records must not starve the others.
        return None
    try:
        result = await work(item)
    except RECORD_ERRORS as error:
        return error
    store.keep(record_id, dump(result))
    return None


def stored(
    items: Iterable[T], *, key: Callable[[T], str], store: Store, load: Callable[[str], R]
) -> Iterator[tuple[T, R]]:
    """The items that are finished, each with its result, in the order of the items."""
    for item in items:
        if (value := store.get(key(item))) is not None:
            yield item, load(value)


async def _all_or_none(workers: list[asyncio.Task[None]]) -> None:
    """Wait for all workers; when one raises, or the wait is cancelled, end the others first."""
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


@dataclass
class _Account:
    """What has become of a stage's records so far."""

    stage: str
    max_failed: float
    done: int = 0
    overlong: int = 0
    """Records that do not fit the model: left out, which is no failure."""
    reasons: Counter[str] = field(default_factory=Counter[str])
    shown: list[str] = field(default_factory=list[str])
    """The first failures in full."""

    @property
    def failed(self) -> int:
        return self.reasons.total()

    @property
    def note(self) -> str | None:
        counts = {"failed": self.failed, "overlong": self.overlong}
        return ", ".join(f"{n} {what}" for what, n in counts.items() if n) or None

    @property
    def summary(self) -> str:
        return f"{self.done} done" + (f", {self.note}" if self.note else "")

    def book(self, record_id: str, failure: CharterError | None, *, total: int | None) -> None:
        """Count a record as done, left out or failed, by what it failed of."""
        if failure is None:
            self.done += 1
        elif isinstance(failure, OverlongError):
            self.overlong += 1
        else:
            self._fail(record_id, failure, total=total)

    def _fail(self, record_id: str, error: CharterError, *, total: int | None) -> None:
        """Gives the stage up where no later record could save it."""
        self.reasons[type(error).__name__] += 1
        if len(self.shown) < _SHOWN_FAILURES:
            self.shown.append(f"{record_id}: {error}")
            _log.warning("%s: record %s failed: %s", self.stage, record_id, error)
        if total is not None and self.failed >= _HOPELESS_FAILURES:
            self.check(total)

    def check(self, total: int) -> None:
        """Raise `FailureLimitError` when too many of `total` records failed."""
        if self.failed <= self.max_failed * total:
            return
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.reasons.most_common())
        raise FailureLimitError(
            f"{self.stage}: {self.failed} of {total} records failed ({reasons}), more than "
            f"{self.stage}.max_failed = {self.max_failed:g} allows. The first:\n"
            + "".join(f"  {line}\n" for line in self.shown)
            + "Mend the cause and run again: finished records are kept and failed ones tried "
            f"again. Or allow more: --set {self.stage}.max_failed=..."
        )

    def tally(self, *, seconds: float, calls: int, tokens: int) -> Tally:
        overlong = {"overlong": self.overlong} if self.overlong else {}
        return Tally(
            entered=self.done + self.failed + self.overlong,
            done=self.done,
            failed=self.failed,
            filtered=self.overlong,
            reasons=dict(sorted({**self.reasons, **overlong}.items())),
            seconds=round(seconds, 3),
            calls=calls,
            tokens=tokens,
        )
