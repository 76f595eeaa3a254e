"""The terminal: progress with rate and time left, tables, errors. The only module with rich.

Results go to stdout, everything else to stderr. Model and user text is printed as text: rich's
markup is off and terminal escapes are taken out.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
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


class Silent:
    """Progress that nobody watches."""

    def start(self, task: str, *, total: int | None = None) -> None:
        """See `Progress.start`."""

    def advance(self, steps: int = 1, *, note: str | None = None) -> None:
        """See `Progress.advance`."""

    def finish(self, summary: str | None = None) -> None:
        """See `Progress.finish`."""


class Lines:
    """Progress as a line now and then: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task = ""
        self._total: int | None = None
        self._done = 0
        self._started = self._said = 0.0

    def start(self, task: str, *, total: int | None = None) -> None:
        """See `Progress.start`."""
        self._task, self._total, self._done = task, total, 0
        self._started = self._said = time.monotonic()
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
        elapsed = _duration(time.monotonic() - self._started)
        self._console.print(Text(f"{self._task}: {summary or 'done'} ({elapsed})"))


class Bar:
    """Progress as a bar that moves, with rate and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._task = TaskID(0)
        self._name = ""
        self._done = 0
        self._started = 0.0

    def start(self, task: str, *, total: int | None = None) -> None:
        """See `Progress.start`."""
        self._close()
        self._name, self._done, self._started = task, 0, time.monotonic()
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
        self._close()
        elapsed = _duration(time.monotonic() - self._started)
        line = Text.assemble(
            ("✓ ", "green"),
            (f"{self._name:<10}", "bold"),
            f" {summary or 'done'} ",
            (elapsed, "dim"),
        )
        self._console.print(line)

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
    """A table as plain cells."""

    title: str
    header: tuple[str, ...]
    sections: tuple[Section, ...]
    footer: str = ""


class Terminal:
    """What charter says to a person: results on stdout, everything else on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._out = Console(highlight=False, markup=False)
        self._err = Console(stderr=True, highlight=False, markup=False)
        self._quiet = quiet

    def progress(self) -> Progress:
        """Progress that fits where it is shown: a bar, lines for a log, or nothing."""
        if self._quiet:
            return Silent()
        return Bar(self._err) if self._err.is_terminal else Lines(self._err)

    def log_warnings(self) -> None:
        """Shows the warnings of charter's own modules on stderr."""
        handler = RichHandler(
            console=self._err, show_time=False, show_path=False, markup=False, highlighter=None
        )
        logger = logging.getLogger("charter")
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING)
        logger.propagate = False

    def say(self, text: str = "", *, style: str = "") -> None:
        """One message about what is going on."""
        if not self._quiet:
            self._err.print(Text(visible(text), style=style))

    def error(self, message: str) -> None:
        """Why the command ends here."""
        self._err.print(Text.assemble(("error: ", "bold red"), visible(message)), soft_wrap=True)

    def result(self, text: str) -> None:
        """A result for machines or pipes, exactly as it is."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def table(self, grid: Grid) -> None:
        """A table of results."""
        table = Table(title=grid.title, title_justify="left", title_style="bold", box=None)
        for i, name in enumerate(grid.header):
            table.add_column(visible(name), justify="left" if i == 0 else "right")
        for section in grid.sections:
            if section.title:
                table.add_row(Text(visible(section.title), style="bold"))
            for name, *cells in section.rows:
                indented = "  " * bool(section.title) + name
                table.add_row(*(Text(visible(cell)) for cell in (indented, *cells)))
        self._out.print()
        self._out.print(table)
        if grid.footer:
            self._out.print(Text(grid.footer, style="italic"))

    def ask(self, prompt: str) -> str | None:
        """A line from the user; None where there is no more to come."""
        try:
            return self._err.input(Text(prompt, style="bold"))
        except EOFError:
            return None

    def side_by_side(self, columns: Sequence[tuple[str, str]]) -> None:
        """Texts beside each other, each under its title."""
        table = Table(box=None, expand=True, pad_edge=False, title_justify="left")
        for title, _ in columns:
            table.add_column(Text(visible(title), style="bold cyan"), ratio=1)
        table.add_row(*(Text(visible(text)) for _, text in columns))
        self._out.print(table)
        self._out.print()

    def spans(self, title: str, spans: Sequence[tuple[str, str]]) -> None:
        """Pieces of text side by side, each in a style of rich's ("green", "dim")."""
        self._out.print(Text(title, style="bold"))
        self._out.print(
            Text.assemble(*((visible(text), style) for text, style in spans)), soft_wrap=True
        )
        self._out.print()


def visible(text: str) -> str:
    """The text with control characters replaced, so that it cannot drive the terminal."""
    return _CONTROL.sub("�", text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
