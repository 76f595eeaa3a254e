"""The picture of a training: both losses over the steps, and the turning point, as one SVG file.

It needs nothing but itself, and reads on light and on dark ground.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from charter.learning.metrics import Row, ValidationRow

Point = tuple[float, float]

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 96, 64, 52
_MAX_POINTS = 150
"""More would be a smear: neighbours are averaged."""
_LINE_HEIGHT = 16

_LIGHT = {
    "ground": "#ffffff",
    "ink": "#1f2328",
    "quiet": "#636c76",
    "grid": "#e4e7eb",
    "training": "#2f6fbf",
    "validation": "#c2410c",
}
_DARK = {
    "ground": "#14171c",
    "ink": "#e6e9ee",
    "quiet": "#9aa4b0",
    "grid": "#2b3038",
    "training": "#7db1f0",
    "validation": "#fb923c",
}


def _style() -> str:
    """Shapes first, then the colours of both grounds.

    Colours are written out, not held in CSS variables, which most viewers besides browsers do not
    know and paint black. Each rule is held to this picture: it may stand in a page beside others.
    """
    return (
        '.loss-curve { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; }\n'
        ".loss-curve .title { font-size: 15px; font-weight: 600; }\n"
        ".loss-curve polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }\n"
        ".loss-curve .turn { stroke-dasharray: 5 4; }\n"
        ".loss-curve .best { stroke-width: 2; }\n"
        + _colours(_LIGHT)
        + "@media (prefers-color-scheme: dark) {\n"
        + _colours(_DARK)
        + "}\n"
    )


def _colours(of: Mapping[str, str]) -> str:
    rules = {
        "rect.ground": f"fill: {of['ground']}",
        "text": f"fill: {of['quiet']}",
        "text.title, .loss-curve text.turned": f"fill: {of['ink']}",
        "line.grid": f"stroke: {of['grid']}",
        "polyline.training": f"stroke: {of['training']}",
        "polyline.validation": f"stroke: {of['validation']}",
        "text.training": f"fill: {of['training']}",
        "text.validation": f"fill: {of['validation']}",
        "line.turn": f"stroke: {of['quiet']}",
        "circle.best": f"fill: {of['validation']}; stroke: {of['ground']}",
    }
    return "".join(f".loss-curve {selector} {{ {rule}; }}\n" for selector, rule in rules.items())


@dataclass(frozen=True)
class Scale:
    """A straight line from values to pixels."""

    low: float
    high: float
    start: float
    """Where `low` is drawn."""
    end: float

    def __call__(self, value: float) -> float:
        """Where the value is drawn."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, *, at_most: int) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within `low` and `high`.

    As many as there can be up to `at_most`, which is at least two.
    """
    exponent = math.floor(math.log10((high - low) / at_most))
    for step in (
        factor * 10.0**power for power in (exponent, exponent + 1) for factor in (1, 2, 5)
    ):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first < at_most:
            return [number * step for number in range(first, last + 1)]
    raise AssertionError("ten times the finest step always fits")


def thinned(points: Sequence[Point], *, at_most: int) -> list[Point]:
    """At most so many points: each the mean of a run of neighbours, runs being alike in length."""
    size = math.ceil(len(points) / at_most) or 1
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def apart(first: float, second: float, *, distance: float) -> tuple[float, float]:
    """Two positions moved from their middle until they are `distance` apart, in their order."""
    if abs(first - second) >= distance:
        return first, second
    middle = (first + second) / 2
    half = math.copysign(distance / 2, first - second)
    return middle + half, middle - half


def loss_curve(
    rows: Sequence[Row], *, best: ValidationRow | None, title: str, unit: str = "token"
) -> str:
    """The SVG text; `unit` is what the loss is a mean over."""
    training = thinned(
        [(row.step, row.loss) for row in rows if row.kind == "train"], at_most=_MAX_POINTS
    )
    validation = [(float(row.step), row.loss) for row in rows if row.kind == "validation"]
    x = Scale(0, max(1.0, *(row.step for row in rows)), _LEFT, _WIDTH - _RIGHT)
    y = Scale(*_padded([loss for _, loss in training + validation]), _HEIGHT - _BOTTOM, _TOP)
    parts = [
        *_axes(x, y, unit=unit),
        _line(training, x, y, name="training"),
        _line(validation, x, y, name="validation"),
        *_labels(training, validation, x, y),
        *(_turn(best, x, y) if best else []),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'class="loss-curve" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">\n'
        f"<style>\n{_style()}</style>\n"
        f'<rect class="ground" width="{_WIDTH}" height="{_HEIGHT}"/>\n'
        f'<text class="title" x="{_LEFT}" y="22">{escape(title)}</text>\n'
        f"{body}\n</svg>\n"
    )


def _padded(losses: Sequence[float]) -> tuple[float, float]:
    low, high = min(losses), max(losses)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin


def _axes(x: Scale, y: Scale, *, unit: str) -> list[str]:
    losses = ticks(y.low, y.high, at_most=6)
    # Rounded, since a step of 0.1 may come out as 0.09999.
    gap = round(losses[1] - losses[0], 9) if len(losses) > 1 else 0.01
    decimals = max(0, -math.floor(math.log10(gap)))
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(loss):.1f}" '
        f'y2="{y(loss):.1f}"/>\n<text x="{_LEFT - 10}" y="{y(loss) + 4:.1f}" '
        f'text-anchor="end">{loss:.{decimals}f}</text>'
        for loss in losses
    ]
    parts += [
        f'<text x="{x(step):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">'
        f"{step:,.0f}</text>"
        for step in ticks(x.low, x.high, at_most=7)
        if step == round(step)
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [
        *parts,
        f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">optimizer step</text>',
        f'<text transform="translate(16 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">loss, nats a {unit}</text>',
    ]


def _line(points: Sequence[Point], x: Scale, y: Scale, *, name: str) -> str:
    if not points:
        return ""
    path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
    return f'<polyline class="{name}" points="{path}"/>'


def _labels(
    training: Sequence[Point], validation: Sequence[Point], x: Scale, y: Scale
) -> list[str]:
    """Each curve's name where it ends, so that no legend has to be looked up."""
    ends = {"training": y(training[-1][1])}
    if validation:
        ends["validation"] = y(validation[-1][1])
        ends["training"], ends["validation"] = apart(*ends.values(), distance=_LINE_HEIGHT)
    return [
        f'<text class="{name}" x="{x.end + 8}" y="{end + 4:.1f}">{name}</text>'
        for name, end in ends.items()
    ]


def _turn(best: ValidationRow, x: Scale, y: Scale) -> list[str]:
    """A dashed line at the turning point; its words stand above the plot, clear of the curves."""
    place = x(best.step)
    anchor = "start" if place < (x.start + x.end) / 2 else "end"
    return [
        f'<line class="turn" x1="{place:.1f}" x2="{place:.1f}" y1="{y.end}" y2="{y.start}"/>',
        f'<circle class="best" cx="{place:.1f}" cy="{y(best.loss):.1f}" r="5"/>',
        f'<text class="turned" x="{place:.1f}" y="{y.end - 8}" text-anchor="{anchor}">'
        f"best: step {best.step:,}, val {best.loss:.2f}</text>",
    ]
