"""Reads the records that a run wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from charter.errors import RunError
from charter.records import Record

Row = TypeVar("Row", bound=Record)


def read_jsonl(path: Path, kind: type[Row], *, what: str, made_by: str) -> Iterator[Row]:
    """The records in a JSONL file, one record's JSON a line.

    Args:
        path: The file.
        kind: What each line is.
        what: The same in a user's words, for messages.
        made_by: The stage that writes the file.

    Raises:
        RunError: The file cannot be read, or a line is no such record.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield _record_in(line, kind, what=what, made_by=made_by, place=f"{path}:{number}")
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read: {error.strerror}. Run `charter {made_by}` first."
        ) from error


def _record_in(line: str, kind: type[Row], *, what: str, made_by: str, place: str) -> Row:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise RunError(
            f"{place}: not a {what}: {error.errors()[0]['msg']}. "
            f"Run `charter {made_by}` again to write the file anew."
        ) from error
