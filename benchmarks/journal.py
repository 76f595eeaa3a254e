"""How fast finished records reach the disk, in groups and one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from benchmarks.measuring import Figure, in_turn, summary, wall_s
from charter.journal import Journal, Records

_RESULT_WORDS = 380
"""About 2 kB: a response with two rounds of critique and revision."""


def figures(*, quick: bool) -> Iterator[Figure]:
    """Rows a second in group commit, and how many times a commit a row that is."""
    grouped, single, repeats = (512, 64, 1) if quick else (16_384, 1024, 5)
    rng = Random(0)
    result = " ".join(f"w{rng.randrange(3000)}" for _ in range(_RESULT_WORDS))
    pairs = [
        (grouped / grouped_s, single / single_s)
        for grouped_s, single_s in in_turn(
            lambda: _seconds(grouped, result, one_by_one=False),
            lambda: _seconds(single, result, one_by_one=True),
            repeats=repeats,
        )
    ]
    alone = "one commit a row"
    rates = [in_groups for in_groups, _ in pairs]
    yield summary("journal.rows", rates, unit="rows/s", goal=10_000.0, against=alone)
    ratios = [in_groups / by_one for in_groups, by_one in pairs]
    yield summary("journal.group_commit", ratios, unit="x", goal=10.0, against=alone)


def _seconds(rows: int, result: str, *, one_by_one: bool) -> float:
    """What it takes until so many records are on the disk, in a fresh journal."""
    # Here and not in /tmp, which may be memory: a run directory lies where one works.
    with (
        tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as folder,
        Journal(Path(folder) / "journal.sqlite") as journal,
    ):
        records = journal.records("revise", context="benchmark")
        return wall_s(lambda: _keep(records, rows, result, one_by_one=one_by_one))


def _keep(records: Records, rows: int, result: str, *, one_by_one: bool) -> None:
    for number in range(rows):
        records.keep(f"record-{number}", result)
        if one_by_one:
            records.flush()
    records.flush()
