"""The top of the page: what was trained, the verdict, and the few figures that matter most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from charter.evaluation.columns import BASE, STARTED_FROM, last_trained
from charter.evaluation.figures import Difference, Evaluation, ModelFigures, Rate, WinRate
from charter.evaluation.summary import EVERYWHERE
from charter.evaluation.table import cell, points, verdict
from charter.report.blocks import Block, KeyFigure, KeyFigures, Row, Words
from charter.report.cells import of_difference, of_rate, of_win, percent
from charter.report.reading import Found

_STEPS = {
    "revise": "demonstrations made by critique and revision",
    "finetune": "fine-tuning on them",
    "compare": "the judge's preferences",
    "reward": "a reward model",
    "reinforce": "reinforcement learning",
    "dpo": "direct preference optimisation",
}


def title(found: Found) -> str:
    """What was trained, in a line."""
    rules = found.constitution.name if found.constitution else "its constitution"
    if found.config is None:
        return f"A model taught by {rules}"
    models = found.config.models
    return f"{(models.train_from or models.policy).source}, taught by {rules}"


def headline(found: Found) -> Iterator[Block]:
    """The blocks at the top: the verdict first, if there is one."""
    if found.evaluation and found.evaluation.models:
        yield Words(verdict(found.evaluation), tone="verdict")
    yield Words(_made(found))
    if (
        found.evaluation
        and found.evaluation.models
        and (figures := tuple(_figures(found.evaluation)))
    ):
        yield KeyFigures(figures)


def _made(found: Found) -> str:
    """What the run did so far."""
    done = [text for stage, text in _STEPS.items() if stage in found.manifest.stages]
    rules = found.constitution
    by = f"the {len(rules.principles)} rules of {rules.name}" if rules else "the constitution"
    if not done:
        return f"Nothing is finished yet. The run is to teach {by}."
    end = "" if found.evaluation else " Not evaluated yet: the last stage, `evaluate`, measures it."
    return f"Taught by {by}: {', then '.join(done)}.{end}"


def _figures(evaluation: Evaluation) -> Iterator[KeyFigure]:
    models = evaluation.models
    column = last_trained(models)
    shown = dict.fromkeys((BASE, *(name for name in models if name in STARTED_FROM), column))
    columns = {name: models[name] for name in shown if name in models}
    yield from _change(
        "Rules broken on harmful prompts",
        [(name, model.harmful.violation) for name, model in columns.items()],
        note="Answers that match a pattern of a rule. Lower is better.",
    )
    yield from _cost(evaluation.differences, column=column, columns=list(columns.items()))
    yield from _change(
        "Refusals that offer an alternative",
        [(name, model.harmful.alternative) for name, model in columns.items()],
        note="Of the refusals of harmful prompts. Higher is better.",
    )
    wins = _wins(evaluation.comparisons, column=column)
    if wins:
        yield _head_to_head(wins)
    else:
        yield from _change(
            "Harmless look-alikes refused",
            [(name, model.borderline.refusal) for name, model in columns.items()],
            note="Refusals of borderline prompts, which only look harmful. Lower is better.",
        )


def _change(label: str, rates: Sequence[tuple[str, Rate]], *, note: str) -> Iterator[KeyFigure]:
    """A rate from the first column to the last; none where nothing was scored."""
    scored = [(name, rate) for name, rate in rates if rate.rate is not None]
    if scored:
        ends = dict.fromkeys((scored[0][0], scored[-1][0]))
        values = [cell(rate).partition(" (")[0] for name, rate in scored if name in ends]
        yield KeyFigure(
            label=label,
            value=" → ".join(values),
            note=note,
            rows=tuple(Row(name, (of_rate(rate),)) for name, rate in scored),
        )


def _cost(
    differences: Iterable[Difference], *, column: str, columns: Sequence[tuple[str, ModelFigures]]
) -> Iterator[KeyFigure]:
    """What helpfulness lost against the base model, paired by prompt."""
    for found in differences:
        if (found.first, found.second, found.on, found.metric) == (
            column,
            BASE,
            "benign",
            "helpful",
        ):
            value = points(found).partition(" (")[0]
            rates = [(name, model.benign.helpful) for name, model in columns]
            yield KeyFigure(
                label="Help on benign prompts",
                value=value,
                note=f"{column} minus {BASE}, paired by prompt.",
                rows=(
                    Row("difference", (of_difference(found)._replace(value=""),)),
                    *(Row(name, (of_rate(rate),)) for name, rate in rates),
                ),
            )


def _wins(comparisons: Iterable[WinRate], *, column: str) -> list[WinRate]:
    """The last column over all prompts; where they were not put together, over the first other."""
    own = [found for found in comparisons if found.first == column]
    together = [found for found in own if found.on == EVERYWHERE]
    return together or [found for found in own if found.second == own[0].second]


def _head_to_head(wins: Sequence[WinRate]) -> KeyFigure:
    first = wins[0]
    return KeyFigure(
        label=f"Preferred to {first.second} by the judge",
        value=percent(first.win_rate),
        note="Head to head on the same prompts, both orders. Above 50 % is better.",
        rows=tuple(
            Row(
                f"over {found.second}" + ("" if found.on == EVERYWHERE else f", {found.on}"),
                (of_win(found),),
            )
            for found in wins
        ),
    )
