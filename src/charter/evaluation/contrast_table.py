"""Where two models part as a table, in plain text; who shows it chooses the looks."""

from __future__ import annotations

from charter.console import Grid, Section
from charter.evaluation.contrast import Contrast, Group, Line, Side
from charter.evaluation.examples import Example
from charter.evaluation.table import HIGHER, LOWER, cell
from charter.records import Kind

_WAY = {"helped": HIGHER, "with alternative": HIGHER}
_MARK = "*"


def contrast_table(contrast: Contrast) -> Grid:
    """One row for each rule of both constitutions, then refusals and help by kind of prompt."""
    first, second = contrast.first, contrast.second
    return Grid(
        title=f"Answers of {contrast.column} to shared prompts, 95 % intervals "
        f"({LOWER.strip()} lower is better, {HIGHER.strip()} higher)",
        header=("", "n", "base", first.label, second.label, "points", ""),
        sections=tuple(_section(group, contrast=contrast) for group in contrast.groups),
        footer="\n".join(_notes(contrast)),
    )


def example_title(example: Example, contrast: Contrast) -> str:
    """What a prompt shows: who breaks which rule, and who keeps it."""
    labels = (contrast.first.label, contrast.second.label)
    keeper = next(label for label in labels if label != example.broken_by)
    whose = "the" if _is_one_set(contrast) else f"{example.rules_of}'s"
    return (
        f"{example.broken_by} breaks {whose} rule {example.principle_id}, {keeper} keeps it "
        f"({example.prompt_id})"
    )


def example_text(example: Example) -> str:
    """What was asked; who speaks, where it is more than one turn."""
    turns = [message for message in example.messages if message.role != "system"]
    if len(turns) == 1:
        return turns[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def _is_one_set(contrast: Contrast) -> bool:
    """Whether both runs are graded by the same rules."""
    return sum(group.rules_of is not None for group in contrast.groups) == 1


def _section(group: Group, *, contrast: Contrast) -> Section:
    if group.rules_of is None:
        title = f"{group.on} prompts"
    else:
        whose = "" if _is_one_set(contrast) else f" of {group.rules_of}"
        title = f"rules{whose} broken{LOWER}"
    return Section(title, tuple(_row(line, on=group.on) for line in group.lines))


def _row(line: Line, *, on: Kind) -> tuple[str, ...]:
    way = _WAY.get(line.name, "")
    if line.name == "refused" and on != "harmful":
        way = LOWER
    found = line.difference
    return (
        line.name + way,
        "-" if found is None else str(found.n),
        cell(line.base),
        cell(line.first),
        cell(line.second),
        "-" if found is None else f"{100 * found.difference:+.0f}",
        _MARK if line.parts_them else "",
    )


def _notes(contrast: Contrast) -> list[str]:
    first, second = contrast.first, contrast.second
    notes = [
        _named(first),
        _named(second),
        f"Both answered {contrast.prompts} prompts, of {first.prompts} and {second.prompts}.",
        "n: prompts with scored answers of both",
        f"points: {second.label} minus {first.label}; {_MARK} the 95 % interval excludes 0",
    ]
    if contrast.is_base_shared is False:
        notes += [
            f"base: {first.label}'s; {second.label}'s answered differently,",
            "so what parts the two may not come from training alone",
        ]
    if any(line.first.n == line.second.n == 0 for group in contrast.groups for line in group.lines):
        notes.append("-: not scored; a rule is scored by its `patterns`")
    return notes


def _named(side: Side) -> str:
    return f"{side.label}: {side.run}, with the rules of {side.constitution}"
