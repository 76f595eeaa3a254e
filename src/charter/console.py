"""The terminal: progress with rate and time left, tables, errors. The only module with rich.

Results go to stdout, everything else to stderr. Model and user text is printed as text: rich's
markup is off and terminal escapes are taken out.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LINE_EVERY_S = 15.0
_PIPED_COLUMNS = 120
"""Width of what is not shown on a terminal: a file has no edge to wrap at."""
_UNBOUNDED = 10_000
_FIGURE = 12
"""Characters up to which a cell is a figure, which is not broken into lines."""
_READABLE = 30
"""Characters that a text needs to be read in a column of its own."""
_SHORT_NAME = 32
"""Characters up to which a row's name is not broken into lines."""


class Progress(Protocol):
    """Hears how far a long piece of work has come."""

    def start(self, task: str, *, total: int | None = None) -> None:
        """A piece of work begins; `total` steps, if that is known."""
        ...

    def advance(self, steps: int = 1, *, note: str | None = None) -> None:
        """So many more steps are done; `note` says how it goes ("val 1.02")."""
        ...

    def finish(self, summary: str | None = None) -> None:
        """The piece of work is over; `summary` is one line that stays on the screen."""
        ...

    def stop(self) -> None:
        """The piece of work ends before its time; nothing where `finish` was heard."""
        ...


@contextmanager
def under_way(progress: Progress, task: str, *, total: int | None = None) -> Generator[None]:
    """A piece of work that `progress` hears of; it hears `stop` at the end, come what may.

    A bar that nobody closes goes on moving, and leaves the terminal without its cursor.
    """
    progress.start(task, total=total)
    try:
        yield
    finally:
        progress.stop()


class Silent:
    """Progress that nobody watches."""

    def start(self, task: str, *, total: int | None = None) -> None:
        """See `Progress.start`."""

    def advance(self, steps: int = 1, *, note: str | None = None) -> None:
        """See `Progress.advance`."""

    def finish(self, summary: str | None = None) -> None:
        """See `Progress.finish`."""

    def stop(self) -> None:
        """See `Progress.stop`."""


class Lines:
    """Progress as a line now and then: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task = ""
        self._total: int | None = None
        self._done = 0
        self._started = self._said = 0.0
        self._is_open = False

    def start(self, task: str, *, total: int | None = None) -> None:
        """See `Progress.start`."""
        self._task, self._total, self._done = task, total, 0
        self._started = self._said = time.monotonic()
        self._is_open = True
        self._console.print(Text(f"{task}: started"))

    def advance(self, steps: int = 1, *, note: str | None = None) -> None:
        """See `Progress.advance`."""
        self._done += steps
        now = time.monotonic()
        if now - self._said < _LINE_EVERY_S:
            return
        self._said = now
        rate = self._done / (now - self._started)
        left = (self._total - self._done) / rate if self._total and rate else None
        self._console.print(
            Text(
                f"{self._task}: {self._done}"
                + (f" of {self._total}" if self._total else "")
                + f", {rate:.1f}/s"
                + (f", {_duration(left)} left" if left is not None else "")
                + (f", {note}" if note else "")
            )
        )

    def finish(self, summary: str | None = None) -> None:
        """See `Progress.finish`."""
        self._end(summary or "done")

    def stop(self) -> None:
        """See `Progress.stop`."""
        if self._is_open:
            self._end(f"stopped after {_share(self._done, self._total)}")

    def _end(self, summary: str) -> None:
        self._is_open = False
        elapsed = _duration(time.monotonic() - self._started)
        self._console.print(Text(f"{self._task}: {summary} ({elapsed})"))


class Bar:
    """Progress as a bar that moves, with rate and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._task = TaskID(0)
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._started = 0.0

    def start(self, task: str, *, total: int | None = None) -> None:
        """See `Progress.start`."""
        self._close()
        self._name, self._total, self._done, self._started = task, total, 0, time.monotonic()
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bars.add_task(task, total=total, note="", rate="")
        self._bars.start()

    def advance(self, steps: int = 1, *, note: str | None = None) -> None:
        """See `Progress.advance`."""
        if self._bars is None:
            return
        self._done += steps
        rate = self._done / max(time.monotonic() - self._started, 1e-3)
        self._bars.update(self._task, advance=steps, rate=f"{rate:,.1f}/s")
        if note is not None:
            self._bars.update(self._task, note=note)

    def finish(self, summary: str | None = None) -> None:
        """See `Progress.finish`."""
        self._end(("✓ ", "green"), summary or "done")

    def stop(self) -> None:
        """See `Progress.stop`."""
        if self._bars is not None:
            self._end(("✗ ", "red"), f"stopped after {_share(self._done, self._total)}")

    def _end(self, mark: tuple[str, str], summary: str) -> None:
        self._close()
        elapsed = _duration(time.monotonic() - self._started)
        self._console.print(
            Text.assemble(mark, (f"{self._name:<10}", "bold"), f" {summary} ", (elapsed, "dim"))
        )

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class Section(NamedTuple):
    """Rows of a table under a heading of their own; the first cell names the row."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Grid:
    """A table as plain cells; in a narrow terminal they break before what stands in brackets."""

    title: str
    header: tuple[str, ...]
    sections: tuple[Section, ...]
    footer: str = ""


class Terminal:
    """What charter says to a person: results on stdout, everything else on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._out = Console(highlight=False, markup=False)
        if not self._out.is_terminal:
            self._out.width = max(_PIPED_COLUMNS, self._out.width)
        self._err = Console(stderr=True, highlight=False, markup=False)
        self._quiet = quiet

    def progress(self) -> Progress:
        """Progress that fits where it is shown: a bar, lines for a log, or nothing."""
        if self._quiet:
            return Silent()
        return Bar(self._err) if self._err.is_terminal else Lines(self._err)

    def log_warnings(self, *, shown: bool = True) -> None:
        """Shows the warnings of charter's own modules on stderr; or no warnings at all."""
        handler: logging.Handler = logging.NullHandler()
        if not shown:
            warnings.simplefilter("ignore")
        else:
            handler = RichHandler(
                console=self._err, show_time=False, show_path=False, markup=False, highlighter=None
            )
            handler.setFormatter(_VisibleFormatter())
        logger = logging.getLogger("charter")
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING)
        logger.propagate = False

    def say(self, text: str = "", *, style: str = "") -> None:
        """One message about what is going on."""
        if not self._quiet:
            self._err.print(Text(visible(text), style=style), soft_wrap=True)

    def error(self, message: str) -> None:
        """Why the command ends here."""
        self._err.print(Text.assemble(("error: ", "bold red"), visible(message)), soft_wrap=True)

    def result(self, text: str) -> None:
        """A result for machines or pipes, exactly as it is."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def table(self, grid: Grid) -> None:
        """A table of results."""
        table = _table(grid)
        if not self._fits(table):
            table = _close(table)
        if not self._fits(table):
            table = _narrow_table(grid)
        self._out.print()
        self._out.print(table)
        if grid.footer:
            # A file has no edge to wrap at; a terminal would break words at its own.
            soft_wrap = not self._out.is_terminal
            self._out.print(Text(visible(grid.footer), style="italic"), soft_wrap=soft_wrap)

    def _fits(self, table: Table) -> bool:
        unbounded = self._out.options.update(max_width=_UNBOUNDED)
        return self._out.measure(table, options=unbounded).maximum <= self._out.width

    def ask(self, prompt: str) -> str | None:
        """A line from the user; None where there is no more to come."""
        try:
            return self._err.input(Text(prompt, style="bold"))
        except EOFError:
            self._err.print()  # what comes next is not to stand behind the prompt
            return None

    def side_by_side(self, columns: Sequence[tuple[str, str]]) -> None:
        """Texts beside each other, each under its title; one below the other where it is narrow."""
        is_narrow = len(columns) > 1 and self._out.width < len(columns) * _READABLE
        self._out.print(_stacked(columns) if is_narrow else _beside(columns))
        self._out.print()

    def spans(self, title: str, spans: Sequence[tuple[str, str]]) -> None:
        """Pieces of text side by side, each in a style of rich's ("green", "dim")."""
        self._out.print(Text(visible(title), style="bold"))
        self._out.print(
            Text.assemble(*((visible(text), style) for text, style in spans)), soft_wrap=True
        )
        self._out.print()


def _beside(columns: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, title_justify="left")
    for title, _ in columns:
        table.add_column(Text(visible(title), style="bold cyan"), ratio=1)
    table.add_row(*(Text(visible(text)) for _, text in columns))
    return table


def _stacked(columns: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for title, text in columns:
        table.add_row(Text(visible(title)), Text(visible(text)))
    return table


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left", title_style="bold", box=None)
    names = [name for section in grid.sections for name, *_ in section.rows]
    table.add_column(
        visible(grid.header[0]), no_wrap=all(len(name) <= _SHORT_NAME for name in names)
    )
    for name in grid.header[1:]:
        table.add_column(visible(name), justify="right")
    for section in grid.sections:
        if section.title:
            table.add_row(Text(visible(section.title), style="bold"))
        for name, *cells in section.rows:
            indented = "  " * bool(section.title) + name
            table.add_row(*(Text(visible(cell)) for cell in (indented, *cells)))
    return table


def _close(table: Table) -> Table:
    """The table with less space between its columns."""
    table.collapse_padding, table.pad_edge = True, False
    return table


def _narrow_table(grid: Grid) -> Table:
    """The table with every interval below its figure.

    All of them, or the eye would stumble. Where that does not do, names and longer texts are
    broken into lines before figures are.
    """

    def broken(cells: Sequence[str]) -> tuple[str, ...]:
        return (cells[0], *(cell.replace(" (", "\n(") for cell in cells[1:]))

    sections = tuple(
        Section(section.title, tuple(broken(row) for row in section.rows))
        for section in grid.sections
    )
    table = _close(_table(replace(grid, sections=sections)))
    rows = [row for section in sections for row in section.rows]
    for at, column in enumerate(table.columns):
        lines = [line for row in rows for line in row[at].splitlines()]
        column.no_wrap = at > 0 and all(len(line) <= _FIGURE for line in lines)
        column.overflow = "fold"
    return table


class _VisibleFormatter(logging.Formatter):
    """Messages as text: the ids and answers that they quote cannot drive the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def visible(text: str) -> str:
    """The text with control characters replaced, so that it cannot drive the terminal."""
    return _CONTROL.sub("�", text)


def _share(done: int, total: int | None) -> str:
    return f"{done} of {total}" if total else str(done)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
