"""One ending for all processes of a launcher: what ends one ends all, and is told once.

A process that waits for another in the midst of a computation hears of no exception. So whoever
fails first leaves word at the launcher's store, where a thread of every process looks.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from torch import distributed
from torch.distributed import (  # documented as public, and not typed so
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)

from charter.console import Progress
from charter.errors import exit_code_of

_LOOK_EVERY_S = 0.5
_GRACE_S = 1.0
"""What a process has to end by itself, and its journal to be written, after word of a failure."""
_FAREWELL_S = 10.0
"""How long the one that failed first waits for the others, at most."""
_CODE, _GONE = "code", "gone"


@contextmanager
def one_ending(progress: Progress) -> Generator[None]:
    """Inside, a failure of any process ends this one too, with the same exit code.

    The processes must have met. The first to fail raises its error, to be told to the user; the
    others end in silence.

    Args:
        progress: Is stopped where the process has to be ended from outside.

    Raises:
        SystemExit: Another process failed first.
    """
    board, over = _Board(), threading.Event()
    watch = threading.Thread(
        target=_watch, args=(board, over, progress), name="ending", daemon=True
    )
    watch.start()
    try:
        yield
    except BaseException as error:
        over.set()
        code = _end(board, error)
        if code is None:
            raise
        raise SystemExit(code) from error
    over.set()
    atexit.register(_part)


def _part() -> None:
    """Ends the connections, which libraries would warn of."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _end(board: _Board, error: BaseException) -> int | None:
    """Leaves word of an error; the exit code of what failed first, None if it is this one."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a launcher ends the rest when one has ended
    first = board.leave_word(exit_code_of(error))
    if first.is_ours:
        board.see_others_go()
        return None
    board.go()
    # A key pressed in the terminal is heard by all, and the main process speaks of it.
    return None if isinstance(error, KeyboardInterrupt) else first.code


def _watch(board: _Board, over: threading.Event, progress: Progress) -> None:
    """Ends this process where another has failed and this one cannot know: a thread."""
    while not over.wait(_LOOK_EVERY_S):
        code = board.word()
        if code is None:
            continue
        if over.wait(_GRACE_S):
            return
        progress.stop()
        board.go()
        os._exit(code)


class _First(NamedTuple):
    """The first failure."""

    code: int
    is_ours: bool


class _Board:
    """Where the processes of a launcher leave word: the store by which they met."""

    def __init__(self) -> None:
        own = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        # A launcher that starts all anew may keep its store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"charter/ending/{attempt}", own)
        self._rank = distributed.get_rank()
        self._others = distributed.get_world_size() - 1

    def leave_word(self, code: int) -> _First:
        """Says that this process fails with an exit code, unless another has failed before."""
        try:
            told = self._store.compare_set(_CODE, "", f"{self._rank} {code}").decode()
        except RuntimeError:  # whoever held the store is gone: all else is, too
            return _First(code, is_ours=True)
        rank, _, first = told.partition(" ")
        return _First(int(first), is_ours=int(rank) == self._rank)

    def word(self) -> int | None:
        """The exit code of what failed first; None: nothing has."""
        try:
            if not self._store.check([_CODE]):
                return None
            return int(self._store.get(_CODE).decode().partition(" ")[2])
        except RuntimeError:
            return 1

    def go(self) -> None:
        """Says that this process is about to end."""
        try:
            self._store.add(_GONE, 1)
        except RuntimeError:
            return

    def see_others_go(self) -> None:
        """Waits until all others are about to end: the last one speaks."""
        until = time.monotonic() + _FAREWELL_S
        try:
            while self._store.add(_GONE, 0) < self._others and time.monotonic() < until:
                time.sleep(0.05)
        except RuntimeError:
            return
