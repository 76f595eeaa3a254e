"""Everything that can go wrong, sorted by whose it is to fix.

A message says what happened, to which record or line, and what to do. `exit_code` is what the
command line ends with, so that scripts can tell a typo from a full disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERRUPTED = 130
NO_DISK_OR_MEMORY = 5


class CharterError(Exception):
    """Base of every error that charter raises on purpose."""

    exit_code = 1


class ConfigError(CharterError):
    """The configuration is wrong: the user edits `charter.yaml` or a flag."""

    exit_code = 2


class ConstitutionError(CharterError):
    """The constitution is wrong: the user edits it."""

    exit_code = 2


class PromptError(CharterError):
    """The prompts as a whole are unusable (single bad rows are quarantined instead)."""

    exit_code = 2


class EncodingError(CharterError):
    """A tokenizer or chat template cannot be used faithfully."""

    exit_code = 2


class BackendError(CharterError):
    """A model could not be loaded, or stopped answering."""

    exit_code = 1


class OverlongError(BackendError):
    """A dialogue does not fit the model: its record is left out and counted, not failed."""


class JudgementError(CharterError):
    """A model's answer could not be read as what it was asked for."""

    exit_code = 3


class FailureLimitError(CharterError):
    """More records of a stage failed than the configuration allows."""

    exit_code = 3


class RunError(CharterError):
    """The run directory cannot be used as asked: the disk, or what is already there."""

    exit_code = 5


class LockedError(RunError):
    """Another process works in the run directory."""

    exit_code = 4


class GuardError(CharterError):
    """A guard stopped training because going on would waste compute or ruin the model."""

    exit_code = 6


def exit_code_of(error: BaseException) -> int:
    """What the command line ends with where an error ends it."""
    if isinstance(error, CharterError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return NO_DISK_OR_MEMORY if isinstance(error, MemoryError | OSError) else 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a user's file, and where.

    `line` and `column` count from 1; None where the file has no such position.
    """

    path: Path
    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.path, self.line, self.column) if part)
        return f"{place}: {self.message}"


def listed(problems: Sequence[Problem]) -> str:
    """The problems, one a line: what an error about a whole file says."""
    return "\n".join(str(problem) for problem in problems)
