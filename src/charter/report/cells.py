"""Figures as cells: written as the terminal's table writes them, with a bar where it helps."""

from __future__ import annotations

from charter.evaluation.figures import Difference, Rate, WinRate
from charter.evaluation.table import Figure, cell, points
from charter.report.blocks import Cell
from charter.report.charts import difference_bar, rate_bar
from charter.report.metrics import Share


def of_figure(figure: Figure) -> Cell:
    """Any form of figure."""
    match figure:
        case Rate():
            return of_rate(figure)
        case WinRate():
            return of_win(figure)
        case _:
            return _split(cell(figure))


def of_rate(figure: Rate, *, middle: float | None = None) -> Cell:
    """A share with its interval; `middle` is a share to be compared with."""
    written = _split(cell(figure))
    if figure.rate is None or figure.low is None or figure.high is None:
        return written
    bar = rate_bar(figure.rate, figure.low, figure.high, middle=middle)
    return written._replace(picture=bar)


def of_share(share: Share) -> Cell:
    """A share that a stage measured."""
    return of_rate(Rate(rate=share.rate, low=share.low, high=share.high, n=share.n))


def of_win(found: WinRate) -> Cell:
    """A win rate, beside the line that says that neither side wins."""
    rate = Rate(rate=found.win_rate, low=found.low, high=found.high, n=found.n)
    return of_rate(rate, middle=0.5)


def of_difference(found: Difference) -> Cell:
    """A difference in percentage points, beside the line that says that there is none."""
    bar = difference_bar(found.difference, found.low, found.high)
    return _split(points(found))._replace(picture=bar)


def text_of(share: Share | Rate) -> str:
    """A share with its interval and what it rests on, as words."""
    rate = Rate(rate=share.rate, low=share.low, high=share.high, n=share.n)
    return f"{cell(rate)} of {share.n:,}"


def percent(share: float) -> str:
    """A share without an interval, as precise as in the tables."""
    return f"{100 * share:.{1 if share < 0.1 else 0}f} %"


def _split(written: str) -> Cell:
    value, _, interval = written.partition(" (")
    return Cell(value, interval.removesuffix(")"))
