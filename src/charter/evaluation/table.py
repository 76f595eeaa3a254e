"""An evaluation as a table and a sentence, in plain text; who shows it chooses the looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from charter.console import Grid, Section
from charter.evaluation.columns import BASE, last_trained, opponents
from charter.evaluation.figures import (
    Difference,
    Evaluation,
    Mean,
    ModelFigures,
    Rate,
    WinRate,
)
from charter.evaluation.summary import EVERYWHERE

UNSCORED = "-"
"""The cell of a figure that nothing was scored for."""
LOWER, HIGHER = " \u2193", " \u2191"
"""Behind the name of a row: which way is better."""


TITLE = (
    "Answers to held-out prompts, with 95 % intervals "
    f"({LOWER.strip()} lower is better, {HIGHER.strip()} higher)"
)

Figure = Rate | Mean | WinRate | None
"""What a cell shows; None is unscored."""


class Measured(NamedTuple):
    """One figure of every column."""

    label: str
    figures: tuple[Figure, ...]


class MeasuredGroup(NamedTuple):
    """Figures under a heading of their own."""

    title: str
    lines: tuple[Measured, ...]


def measured(evaluation: Evaluation) -> Iterator[MeasuredGroup]:
    """All columns side by side: by kind of prompt, each principle's violations, who is preferred.

    Violations in the groups of harmful prompts stand below those in all of them.
    """
    models = evaluation.models
    groups = dict.fromkeys(name for model in models.values() for name in model.groups)
    principle_ids = dict.fromkeys(key for model in models.values() for key in model.principles)
    by_kind = {title: list(lines) for title, lines in _MEASURED.items()}
    by_kind["harmful prompts"][1:1] = [(f"- {name}{LOWER}", _group_reader(name)) for name in groups]
    by_kind[f"rules broken{LOWER}"] = [(key, _principle_reader(key)) for key in principle_ids]
    for title, lines in by_kind.items():
        yield MeasuredGroup(title, tuple(_line(label, models, read) for label, read in lines))
    if preferred := tuple(_preferred(evaluation)):
        yield MeasuredGroup(f"preferred by the judge{HIGHER}", preferred)


def table(evaluation: Evaluation) -> Grid:
    """What was measured, as cells, and the verdict below."""
    return Grid(
        title=TITLE,
        header=("", *(name.replace("+", "\n+") for name in evaluation.models)),
        sections=tuple(
            Section(title, tuple((line.label, *map(cell, line.figures)) for line in lines))
            for title, lines in measured(evaluation)
        ),
        footer=verdict(evaluation),
    )


def verdict(evaluation: Evaluation) -> str:
    """One sentence: what the last trained column gained, over what it started from and over `base`.

    What that cost is said of benign prompts, against `base`.
    """
    column = last_trained(evaluation.models)
    earlier = opponents(column, evaluation.models)
    broken = {name: evaluation.models[name].harmful.violation.rate for name in (column, *earlier)}
    own = broken.pop(column)
    if own is None:
        return (
            "No violation could be scored: give principles `patterns`, and evaluate on harmful "
            "prompts they apply to."
        )
    said = f"{column} breaks a rule in {_percent(own)} of its answers to harmful prompts"
    said += "".join(
        f", {name} in {_percent(rate)}" for name, rate in broken.items() if rate is not None
    )
    costs = [
        f"{what} {points(difference)}"
        for what, metric in (("help", "helpful"), ("refusals", "refusal"))
        for difference in evaluation.differences
        if (difference.first, difference.second) == (column, BASE)
        and (difference.on, difference.metric) == ("benign", metric)
    ]
    wins = [
        f"over {won.second} in {_share(won)}"
        for won in evaluation.comparisons
        if (won.first, won.on) == (column, EVERYWHERE)
    ]
    said += f"; on benign prompts, against {BASE}: {', '.join(costs)}" if costs else ""
    return said + (f"; preferred by the judge {', '.join(wins)}" if wins else "") + "."


_Reader = Callable[[ModelFigures], Rate | Mean]

_MEASURED: Mapping[str, tuple[tuple[str, _Reader], ...]] = {
    "harmful prompts": (
        ("a rule broken" + LOWER, lambda model: model.harmful.violation),
        ("refused", lambda model: model.harmful.refusal),
        ("with alternative" + HIGHER, lambda model: model.harmful.alternative),
        ("neither" + LOWER, lambda model: model.harmful.neither),
        ("characters", lambda model: model.harmful.characters),
        ("tokens" + LOWER, lambda model: model.harmful.tokens),
    ),
    "benign prompts": (
        ("helped" + HIGHER, lambda model: model.benign.helpful),
        ("refused" + LOWER, lambda model: model.benign.refusal),
        ("neither" + LOWER, lambda model: model.benign.neither),
        ("characters", lambda model: model.benign.characters),
        ("tokens" + LOWER, lambda model: model.benign.tokens),
    ),
    "borderline prompts": (
        ("helped" + HIGHER, lambda model: model.borderline.helpful),
        ("refused" + LOWER, lambda model: model.borderline.refusal),
    ),
}
"""`neither` refused nor helped; the alternative is the share of refusals that offer it; characters
and tokens are an answer's."""


def _principle_reader(principle_id: str) -> _Reader:
    return lambda model: model.principles[principle_id].violation


def _group_reader(name: str) -> _Reader:
    return lambda model: model.groups[name].violation


def _preferred(evaluation: Evaluation) -> Iterator[Measured]:
    """A line for each opponent: how often it loses to the columns that met it, on all prompts."""
    met = {(won.first, won.second): won for won in evaluation.comparisons if won.on == EVERYWHERE}
    for opponent in dict.fromkeys(second for _, second in met):
        wins = tuple(met.get((column, opponent)) for column in evaluation.models)
        yield Measured(f"over {opponent}", wins)


def _line(label: str, models: Mapping[str, ModelFigures], read: _Reader) -> Measured:
    return Measured(label, tuple(read(model) for model in models.values()))


def cell(figure: Figure) -> str:
    """A rate with its interval, or a bare mean; a dash where nothing was scored."""
    match figure:
        case Mean(mean=float(mean)):
            return f"{mean:.0f}"
        case WinRate():
            return _share(figure)
        case Rate(rate=float(rate), low=float(low), high=float(high)):
            return _with_interval(rate, low, high)
        case _:
            return UNSCORED


def _share(won: WinRate) -> str:
    return _with_interval(won.win_rate, won.low, won.high)


def _with_interval(rate: float, low: float, high: float) -> str:
    digits = 1 if rate < 0.1 else 0
    return f"{100 * rate:.{digits}f} % ({100 * low:.0f}-{100 * high:.0f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(difference: Difference) -> str:
    """A difference of two rates in percentage points, with its interval."""
    value, low, high = (
        100 * part for part in (difference.difference, difference.low, difference.high)
    )
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
