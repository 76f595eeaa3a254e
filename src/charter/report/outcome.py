"""The evaluation: every column side by side, head to head, and what parts them from the base."""

from __future__ import annotations

from collections.abc import Iterator

from charter.evaluation.columns import last_trained
from charter.evaluation.figures import Evaluation
from charter.evaluation.table import TITLE, UNSCORED, measured
from charter.report.blocks import Block, Cell, Row, Rows, Section, Table, Words
from charter.report.cells import of_difference, of_figure, of_win
from charter.report.reading import Found

_COLUMNS = {
    "base": "the model as it was",
    "base+rules": "the constitution in its system turn",
    "base+revise": "it criticises and revises itself at inference",
    "sft": "fine-tuned",
    "rl": "reinforced",
    "dpo": "trained on preferences directly",
}


def outcome_section(found: Found) -> Section | None:
    """All figures; None where nothing was evaluated."""
    evaluation = found.evaluation
    if evaluation is None or not evaluation.models:
        return None
    names = [f"{name}: {_COLUMNS[name]}" for name in evaluation.models if name in _COLUMNS]
    return Section(
        anchor="outcome",
        title="Did it work?",
        lead=f"Every column answered the same held-out prompts. {'; '.join(names)}. Bars run from "
        "0 to 100 %, whiskers are 95 % intervals, clustered by prompt.",
        blocks=tuple(_blocks(evaluation)),
    )


def _blocks(evaluation: Evaluation) -> Iterator[Block]:
    yield _figures(evaluation)
    if unscored := evaluation.graders.patterns.unscored:
        yield Words(
            "Not counted as broken by anyone, for want of `patterns`: " + ", ".join(unscored) + ".",
            tone="warning",
        )
    if evaluation.comparisons:
        yield _head_to_head(evaluation)
    if evaluation.differences:
        yield _differences(evaluation)


def _figures(evaluation: Evaluation) -> Table:
    groups = (
        Rows(title, tuple(Row(line.label, tuple(map(of_figure, line.figures))) for line in lines))
        for title, lines in measured(evaluation)
    )
    columns = list(evaluation.models)
    return Table(
        caption=TITLE,
        header=("", *columns),
        sections=tuple(group for group in map(_scored, groups) if group.rows),
        strong=columns.index(last_trained(columns)),
    )


def _scored(group: Rows) -> Rows:
    """The rows that say something of at least one column."""
    return group._replace(
        rows=tuple(row for row in group.rows if any(cell.value != UNSCORED for cell in row.cells))
    )


def _head_to_head(evaluation: Evaluation) -> Table:
    rows = (
        Row(
            f"{found.first} over {found.second}",
            (Cell(found.on), of_win(found), Cell(f"{found.n:,}")),
        )
        for found in evaluation.comparisons
    )
    return Table(
        caption="Head to head: how often the judge prefers the first answer, asked in both orders "
        "(50 %: no preference)",
        header=("", "prompts", "preferred", "pairs"),
        sections=(Rows("", tuple(rows)),),
        text=(0,),
    )


def _differences(evaluation: Evaluation) -> Table:
    rows = (
        Row(
            f"{found.first} minus {found.second}",
            (
                Cell(found.on),
                Cell(_METRICS.get(found.metric, found.metric)),
                of_difference(found),
                Cell(f"{found.n:,}"),
            ),
        )
        for found in evaluation.differences
    )
    return Table(
        caption="Differences in percentage points, paired by prompt, with 95 % intervals",
        header=("", "prompts", "share of answers", "difference", "pairs"),
        sections=(Rows("", tuple(rows)),),
        text=(0, 1),
        fold=f"All {len(evaluation.differences)} paired differences",
    )


_METRICS = {
    "violation": "breaking a rule",
    "helpful": "helping",
    "refusal": "refusing",
    "alternative": "refusing with an alternative",
}
