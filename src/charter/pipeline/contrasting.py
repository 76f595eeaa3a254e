"""Compares two runs that answered the same prompts, from the files that their evaluations left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from charter.constitution import load_constitution
from charter.errors import RunError
from charter.evaluation.columns import BASE
from charter.evaluation.contrast import Contrast, contrast
from charter.evaluation.figures import GradedAnswer
from charter.evaluation.pairing import Answered
from charter.records import Prompt, Record

_LONGEST_LABEL = 12
"""Characters: a column of the table has room for so many."""

Row = TypeVar("Row", bound=Record)


def contrast_runs(first: Path, second: Path, *, column: str | None = None) -> Contrast:
    """Where the models of two runs part; asks no model.

    Args:
        first: A run directory.
        second: Another.
        column: Of both models; None: the last trained one that both runs have.

    Raises:
        RunError: One of them is no run, its evaluation is not done, or no trained model's column
            is in both.
        ConfigError: One of them has no answers in the column that is named.
        PromptError: They answered no prompt in common.
    """
    label, other = _labels(first, second)
    answered = _answered(first, label=label), _answered(second, label=other)
    return contrast(*answered, column=column)


def _labels(first: Path, second: Path) -> tuple[str, str]:
    """The folders' names where these are short and tell the runs apart, else letters."""
    names = first.resolve().name, second.resolve().name
    if len({*names, BASE}) == 3 and max(map(len, names)) <= _LONGEST_LABEL:
        return names
    return "A", "B"


def _answered(run: Path, *, label: str) -> Answered:
    if not (run / "manifest.json").is_file():
        raise RunError(
            f"{run}: no run there. Name the directory of a finished run, such as runs/main after "
            "`charter run`."
        )
    prompts, answers = run / "data" / "heldout.jsonl", run / "data" / "answers.jsonl"
    if not (prompts.is_file() and answers.is_file()):
        raise RunError(f"{run}: its evaluation is not done. Run `{_again(run)}` first.")
    graded_by = run / "evaluate.constitution.yaml"
    return Answered(
        label=label,
        run=str(run),
        constitution=load_constitution(
            graded_by if graded_by.exists() else run / "constitution.yaml"
        ),
        prompts=tuple(_rows(prompts, Prompt, run=run)),
        answers=tuple(_rows(answers, GradedAnswer, run=run)),
    )


def _rows(path: Path, kind: type[Row], *, run: Path) -> Iterator[Row]:
    """The records in a JSONL file that the run wrote."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise RunError(
                    f"{path}:{number}: cannot be read: {error.errors()[0]['msg']}. Delete the "
                    f"file and run `{_again(run)}`: the answers are kept."
                ) from error


def _again(run: Path) -> str:
    return f"charter run {run / 'config.yaml'} --run {run}"
