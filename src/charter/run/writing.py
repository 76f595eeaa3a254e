"""Writes files that are whole or not there, whenever the process is killed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from charter.errors import RunError
from charter.records import Record


def file_hash(path: Path) -> str:
    """A hash of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file, so that at any moment there is the old one or the new one.

    Raises:
        RunError: It cannot be written; the old file is still there.
    """
    with _replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def jsonl_writer(path: Path) -> Generator[Callable[[Record], None]]:
    """Writes records as JSON, one a line, as they come; the file is there once all are.

    The same records give the same bytes.

    Raises:
        RunError: It cannot be written; the old file is still there.
    """
    with _replacing(path) as file:

        def write(row: Record) -> None:
            file.write(row.model_dump_json().encode("utf-8") + b"\n")

        yield write


def write_jsonl(path: Path, rows: Iterable[Record]) -> int:
    """Write records as `jsonl_writer` does; gives back how many.

    Raises:
        RunError: It cannot be written; the old file is still there.
    """
    count = 0
    with jsonl_writer(path) as write:
        for row in rows:
            write(row)
            count += 1
    return count


@contextmanager
def _replacing(path: Path) -> Generator[IO[bytes]]:
    """A file that takes the place of `path` once all is written and on the disk."""
    # One name for all attempts: what a killed one leaves is overwritten by the next.
    beside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error}. Make room or mend permissions and run again: finished "
            "work is kept."
        ) from error


def sync(path: Path) -> None:
    """Bring a file's bytes, or a directory's new names, to the disk, as a rename alone does not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
