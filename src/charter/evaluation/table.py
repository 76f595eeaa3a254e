"""An evaluation as a table and a sentence, in plain text; who shows it chooses the looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from charter.console import Grid, Section
from charter.evaluation.figures import Difference, Evaluation, Mean, ModelFigures, Rate
from charter.evaluation.summary import BASE

_UNSCORED = "-"
LOWER, HIGHER = " \u2193", " \u2191"
"""Behind the name of a row: which way is better."""


def table(evaluation: Evaluation) -> Grid:
    """All columns side by side: by kind of prompt, then each principle's violations."""
    models = evaluation.models
    principle_ids = dict.fromkeys(key for model in models.values() for key in model.principles)
    by_kind = (
        Section(title, tuple(_row(label, models, read) for label, read in measured))
        for title, measured in _MEASURED.items()
    )
    broken = (_row(key, models, _principle_reader(key)) for key in principle_ids)
    return Grid(
        title="Answers to held-out prompts, with 95 % intervals "
        f"({LOWER.strip()} lower is better, {HIGHER.strip()} higher)",
        header=("", *models),
        sections=(*by_kind, Section(f"rules broken{LOWER}", tuple(broken))),
        footer=verdict(evaluation),
    )


def verdict(evaluation: Evaluation) -> str:
    """One sentence: what the last column gained over `base`, and what that cost."""
    column = list(evaluation.models)[-1]
    broken = evaluation.models[column].harmful.violation
    if broken.rate is None:
        return (
            "No violation could be scored: give principles `patterns`, and evaluate on harmful "
            "prompts they apply to."
        )
    said = f"{column} breaks a rule in {_percent(broken.rate)} of its answers to harmful prompts"
    if column == BASE or BASE not in evaluation.models:
        return said + "."
    before = evaluation.models[BASE].harmful.violation.rate
    if before is not None:
        said += f", {BASE} in {_percent(before)}"
    costs = [
        f"{what} {_points(difference)}"
        for what, metric in (("help", "helpful"), ("refusals", "refusal"))
        for difference in evaluation.differences
        if (difference.first, difference.on, difference.metric) == (column, "benign", metric)
    ]
    return said + (f"; on benign prompts: {', '.join(costs)}" if costs else "") + "."


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


def _row(label: str, models: Mapping[str, ModelFigures], read: _Reader) -> tuple[str, ...]:
    return (label, *(cell(read(model)) for model in models.values()))


def cell(figure: Rate | Mean) -> str:
    """A figure with its interval; a dash where nothing was scored."""
    if isinstance(figure, Mean):
        return _mean_cell(figure)
    if figure.rate is None or figure.low is None or figure.high is None:
        return _UNSCORED
    digits = 1 if figure.rate < 0.1 else 0
    rate = f"{100 * figure.rate:.{digits}f} %"
    return f"{rate} ({100 * figure.low:.0f}-{100 * figure.high:.0f})"


def _mean_cell(figure: Mean) -> str:
    if figure.mean is None:
        return _UNSCORED
    if figure.low is None or figure.high is None:
        return f"{figure.mean:.0f}"
    return f"{figure.mean:.0f} ({figure.low:.0f}-{figure.high:.0f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: Difference) -> str:
    value, low, high = (
        100 * part for part in (difference.difference, difference.low, difference.high)
    )
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
