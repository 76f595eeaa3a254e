"""Pictures as inline SVG: pure functions of numbers, coloured by the page's style sheet.

The only module that makes markup. Texts are escaped where they enter; shapes say what they are by
class, and lines differ in dashes too, so that nothing depends on seeing colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup

from charter.learning.curve import Point, Scale, thinned, ticks

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _BOTTOM = 60, 22, 42
_LINE_HEIGHT = 17
_MAX_POINTS = 120
"""More would be a smear: neighbours are averaged."""
_CHARACTER = 6.6
"""Width of one, roughly: legends are laid out without a browser's help."""
_BAR_HEIGHT = 12
_NOISE = 1e-6

Unit = Literal["number", "percent"]


class Series(NamedTuple):
    """One line of a chart."""

    name: str
    points: Sequence[Point]
    has_dots: bool = False
    """Few measurements, each of them shown; otherwise many, which are averaged and drawn thin."""


class Mark(NamedTuple):
    """A place on the horizontal axis that matters."""

    x: float
    text: str


class Dot(NamedTuple):
    """A measured point; its size says how much it rests on."""

    x: float
    y: float
    n: int
    title: str


def rate_bar(rate: float, low: float, high: float, *, middle: float | None = None) -> Markup:
    """A share between 0 and 1 as a bar, with its interval as a whisker.

    Args:
        rate: The share.
        low: The lower end of its interval.
        high: The upper end.
        middle: A share to be compared with, drawn as a line.
    """
    across = Scale(0.0, 1.0, 0.0, 100.0)
    return _bar(
        Markup('<rect class="track" width="100" height="12" rx="1"/>'),
        Markup('<rect class="fill" y="2" width="{}" height="8"/>').format(_px(across(rate))),
        _whisker(across(low), across(high)),
        _upright(across(middle), "middle") if middle is not None else Markup(),
    )


def difference_bar(value: float, low: float, high: float) -> Markup:
    """A difference of two shares as a whisker around a dot, and where no difference would be."""
    reach = max(0.1, 1.15 * max(abs(low), abs(high), abs(value)))
    across = Scale(-reach, reach, 0.0, 100.0)
    return _bar(
        Markup('<rect class="track" width="100" height="12" rx="1"/>'),
        _upright(50.0, "middle"),
        _whisker(across(low), across(high)),
        Markup('<rect class="fill" x="{}" y="2" width="2.4" height="8"/>').format(
            _px(across(value) - 1.2)
        ),
    )


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    level: float | None = None,
    unit: Unit = "number",
    from_zero: bool = False,
) -> Markup:
    """Values over steps; series without points are left out, and one at least has some.

    Args:
        series: The lines, the one to look at first.
        label: What a reader who cannot see the picture is told.
        x_label: What is on the horizontal axis.
        y_label: What is on the vertical axis, with its unit.
        marks: Places to point out.
        level: A value to compare the lines with, drawn dashed.
        unit: `percent` writes fractions as percentages.
        from_zero: The vertical axis begins at zero.
    """
    lines = [
        line._replace(points=thinned(line.points, at_most=_MAX_POINTS))
        for line in series
        if line.points
    ]
    points = [point for line in lines for point in line.points]
    top = _LINE_HEIGHT * (len(lines) > 1) + _LINE_HEIGHT * len(marks) + 10
    x = Scale(
        0.0,
        max(1.0, *(at for at, _ in points), *(mark.x for mark in marks)),
        _LEFT,
        _WIDTH - _RIGHT,
    )
    values = [value for _, value in points] + ([] if level is None else [level])
    y = Scale(*_padded(values, from_zero=from_zero), _HEIGHT - _BOTTOM, top)
    return _picture(
        label,
        *_y_axis(y, y_label, unit=unit),
        *_x_axis(x, x_label, unit="number"),
        *(_legend(lines) if len(lines) > 1 else ()),
        # The first line is the one to look at: it lies on top.
        *(part for i in reversed(range(len(lines))) for part in _line(lines[i], x, y, number=i)),
        _across(level, x, y) if level is not None else Markup(),
        *_marks(marks, x, y),
    )


def calibration_chart(
    dots: Sequence[Dot], *, label: str, x_label: str, y_label: str, low: float = 0.0
) -> Markup:
    """What was predicted against what came about, as shares from `low` up; the diagonal is ideal.

    What came about less often than `low` widens the vertical axis.
    """
    x = Scale(low, 1.0, _LEFT, _WIDTH - _RIGHT)
    y = Scale(min(low, *(dot.y for dot in dots)), 1.0, _HEIGHT - _BOTTOM, 12)
    most = max(dot.n for dot in dots)
    path = " ".join(f"{_px(x(dot.x))},{_px(y(dot.y))}" for dot in dots)
    return _picture(
        label,
        *_y_axis(y, y_label, unit="percent"),
        *_x_axis(x, x_label, unit="percent"),
        Markup('<line class="middle" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
            *map(_px, (x(low), y(low), x(1), y(1)))
        ),
        Markup('<polyline class="series series-0" points="{}"/>').format(path),
        *(
            Markup(
                '<circle class="dot dot-0" cx="{}" cy="{}" r="{}"><title>{}</title></circle>'
            ).format(_px(x(dot.x)), _px(y(dot.y)), _px(3 + 5 * math.sqrt(dot.n / most)), dot.title)
            for dot in dots
        ),
    )


def _picture(label: str, *parts: Markup) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">\n{}\n</svg>'
    ).format(_WIDTH, _HEIGHT, label, Markup("\n").join(parts))


def _bar(*parts: Markup) -> Markup:
    """A picture beside a number that says the same: not read out."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 {}" preserveAspectRatio="none" aria-hidden="true">'
        "{}</svg>"
    ).format(_BAR_HEIGHT, Markup().join(parts))


def _whisker(low: float, high: float) -> Markup:
    line = Markup('<line class="whisker" x1="{}" x2="{}" y1="6" y2="6"/>')
    return (
        line.format(_px(low), _px(high))
        + _upright(low, "whisker", inset=3)
        + _upright(high, "whisker", inset=3)
    )


def _upright(at: float, name: str, *, inset: float = 0) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        name, _px(at), _px(at), inset, _BAR_HEIGHT - inset
    )


def _padded(values: Sequence[float], *, from_zero: bool) -> tuple[float, float]:
    """The ends of an axis with room for the values; noise around one value is no spread."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    if size < _NOISE:
        margin = 1.0
    elif high - low <= _NOISE * size:
        margin = 0.1 * size
    else:
        margin = 0.08 * (high - low)
    return (0.0 if from_zero and low >= 0 else low - margin), high + margin


def _x_axis(x: Scale, label: str, *, unit: Unit) -> Iterable[Markup]:
    bottom = _HEIGHT - _BOTTOM
    for value, text in _numbers(x, at_most=6, unit=unit, is_whole=unit == "number"):
        yield Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            _px(x(value)), bottom + 17, text
        )
    yield Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        _px((x.start + x.end) / 2), _HEIGHT - 5, label
    )


def _y_axis(y: Scale, label: str, *, unit: Unit) -> Iterable[Markup]:
    for value, text in _numbers(y, at_most=6, unit=unit):
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _LEFT, _WIDTH - _RIGHT, _px(y(value)), _px(y(value))
        )
        yield Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            _LEFT - 7, _px(y(value) + 4), text
        )
    yield Markup(
        '<text class="axis" transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format(_px((y.start + y.end) / 2), label)


def _numbers(
    scale: Scale, *, at_most: int, unit: Unit, is_whole: bool = False
) -> Iterable[tuple[float, str]]:
    """Round values within a scale, as they are written beside it."""
    factor = 100 if unit == "percent" else 1
    values = ticks(factor * scale.low, factor * scale.high, at_most=at_most)
    # Rounded, since a step of 0.1 may come out as 0.09999.
    gap = float(f"{values[1] - values[0]:.3g}") if len(values) > 1 else 0.01
    decimals = 0 if is_whole else max(0, -math.floor(math.log10(gap)))
    for value in values:
        if not is_whole or value == round(value):
            text = f"{value + 0.0:,.{decimals}f}" + (" %" if unit == "percent" else "")
            yield value / factor, text


def _legend(lines: Sequence[Series]) -> Iterable[Markup]:
    left = float(_LEFT)
    for number, line in enumerate(lines):
        yield Markup('<line class="{}" x1="{}" x2="{}" y1="10" y2="10"/>').format(
            _looks(line, number), _px(left), _px(left + 22)
        )
        if line.has_dots:
            yield Markup('<circle class="dot dot-{}" cx="{}" cy="10" r="2.6"/>').format(
                number, _px(left + 11)
            )
        yield Markup('<text class="name" x="{}" y="14">{}</text>').format(_px(left + 27), line.name)
        left += 27 + _CHARACTER * len(line.name) + 16


def _looks(line: Series, number: int) -> str:
    """The classes of a line: its colour, and whether it is drawn thin."""
    return f"series series-{number}" + ("" if line.has_dots else " thin")


def _line(line: Series, x: Scale, y: Scale, *, number: int) -> Iterable[Markup]:
    places = [(_px(x(at)), _px(y(value))) for at, value in line.points]
    yield Markup('<polyline class="{}" points="{}"/>').format(
        _looks(line, number), " ".join(f"{left},{top}" for left, top in places)
    )
    if line.has_dots or len(places) == 1:
        for left, top in places:
            yield Markup('<circle class="dot dot-{}" cx="{}" cy="{}" r="2.6"/>').format(
                number, left, top
            )


def _across(level: float, x: Scale, y: Scale) -> Markup:
    return Markup('<line class="middle" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        _px(x.start), _px(x.end), _px(y(level)), _px(y(level))
    )


def _marks(marks: Sequence[Mark], x: Scale, y: Scale) -> Iterable[Markup]:
    """Dashed lines; their words stand above the plot, clear of the curves, each in its own row.

    Words come after all lines, so that they may cover one that crosses them.
    """
    places = [
        (x(mark.x), y.end - _LINE_HEIGHT * (len(marks) - i) + 11) for i, mark in enumerate(marks)
    ]
    for left, top in places:
        yield Markup('<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _px(left), _px(left), _px(top), y.start
        )
    for mark, (left, top) in zip(marks, places, strict=True):
        is_early = left < (x.start + x.end) / 2
        yield Markup('<text class="marked" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            _px(left + (5 if is_early else -5)),
            _px(top + 5),
            "start" if is_early else "end",
            mark.text,
        )


def _px(value: float) -> str:
    return f"{value:.1f}"
