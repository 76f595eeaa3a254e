"""What became of every record, stage by stage."""

from __future__ import annotations

from charter.console import Grid
from charter.console import Section as GridSection
from charter.report.blocks import Cell, Row, Rows, Section, Table
from charter.report.reading import Found
from charter.run import Manifest, Tally


def accounts(manifest: Manifest) -> Grid:
    """One row per finished stage: in = done + failed + filtered."""
    return Grid(
        title="What became of every record",
        header=("", "in", "done", "failed", "filtered", "calls", "tokens", "seconds", "why"),
        sections=(GridSection("", tuple(_account(*item) for item in manifest.stages.items())),),
    )


def accounts_section(found: Found) -> Section | None:
    """The accounts; None before the first stage is finished."""
    if not found.manifest.stages:
        return None
    grid = accounts(found.manifest)
    rows = (
        Row(name, tuple(map(Cell, cells)))
        for section in grid.sections
        for name, *cells in section.rows
    )
    table = Table(
        caption="in = done + failed + filtered; a reason for every record that did not come out",
        header=grid.header,
        sections=(Rows("", tuple(rows)),),
        text=(len(grid.header) - 2,),
    )
    return Section(anchor="accounts", title=grid.title, blocks=(table,))


def _account(stage: str, tally: Tally) -> tuple[str, ...]:
    counts = (tally.entered, tally.done, tally.failed, tally.filtered, tally.calls, tally.tokens)
    why = ", ".join(f"{reason} {n}" for reason, n in tally.reasons.items()) or "-"
    return (stage, *(f"{n:,}" for n in counts), f"{tally.seconds:,.0f}", why)
