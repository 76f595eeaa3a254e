"""What a page is made of: sections of blocks, each block one way of showing something.

Plain values, so that what a page says can be tested without looking at markup. All texts are
values: rendering escapes them. Only pictures are markup already, and only `charts` makes those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from markupsafe import Markup

Tone = Literal["plain", "good", "bad"]


class Cell(NamedTuple):
    """One value of a table or a card."""

    value: str
    interval: str = ""
    """Shown behind the value, in brackets."""
    picture: Markup | None = None


class Row(NamedTuple):
    """A line of a table."""

    name: str
    cells: tuple[Cell, ...]


class Rows(NamedTuple):
    """Lines of a table under a heading of their own."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """Values in rows and columns."""

    form: ClassVar = "table"
    caption: str
    header: tuple[str, ...]
    """The first cell stands above the rows' names."""
    sections: tuple[Rows, ...]
    strong: int | None = None
    """The column that matters most, counted from 0 without the names; so are those of `text`."""
    text: tuple[int, ...] = ()
    """Columns of words, not figures."""
    fold: str | None = None
    """Shown only when this is clicked; None: shown at once."""


class KeyFigure(NamedTuple):
    """One thing to remember, and what it is made of."""

    label: str
    value: str
    note: str
    rows: tuple[Row, ...]
    """One cell each."""


@dataclass(frozen=True)
class KeyFigures:
    """The few figures that matter most."""

    form: ClassVar = "key_figures"
    figures: tuple[KeyFigure, ...]


class Chart(NamedTuple):
    """A picture under its title."""

    title: str
    picture: Markup
    caption: str = ""


class Fact(NamedTuple):
    """A named value."""

    name: str
    value: str


class Facts(NamedTuple):
    """Named values that belong together."""

    title: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Panel:
    """Charts and facts beside each other, or below each other where there is no room."""

    form: ClassVar = "panel"
    charts: tuple[Chart, ...] = ()
    facts: tuple[Facts, ...] = ()


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    form: ClassVar = "words"
    text: str
    tone: Literal["plain", "verdict", "warning"] = "plain"


class Piece(NamedTuple):
    """A part of a text."""

    text: str
    is_marked: bool = False


class Badge(NamedTuple):
    """What was found out about an answer, in a word or two."""

    text: str
    tone: Tone


class Said(NamedTuple):
    """A column's answer."""

    column: str
    pieces: tuple[Piece, ...]
    badges: tuple[Badge, ...]


class Exchange(NamedTuple):
    """One prompt, and what a model said to it before and after training."""

    id: str
    turns: tuple[tuple[str, str], ...]
    """Role and text of each."""
    before: Said
    after: Said


class Drawn(NamedTuple):
    """Some exchanges, and how they were chosen."""

    how: str
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True)
class Exchanges:
    """Examples of one rule or kind of prompt, folded."""

    form: ClassVar = "exchanges"
    title: str
    summary: str
    drawn: tuple[Drawn, ...]


@dataclass(frozen=True)
class Source:
    """A text as it stands in its file, folded."""

    form: ClassVar = "source"
    title: str
    text: str


Block = Table | KeyFigures | Panel | Words | Exchanges | Source


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""
    """What is seen here and how to read it."""


@dataclass(frozen=True)
class Page:
    """The whole report."""

    eyebrow: str
    title: str
    top: tuple[Block, ...]
    sections: tuple[Section, ...] = field(default=())
