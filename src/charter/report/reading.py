"""Reads whatever a run directory holds so far; what is not there yet is None or empty.

A page must still be written for a run that another version began, so summaries are read for what
the page shows and for nothing else: keys that it does not know are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from charter.config import Config, load_config
from charter.constitution import Constitution, load_constitution
from charter.errors import RunError
from charter.evaluation.figures import Evaluation, GradedAnswer
from charter.learning.metrics import LookRow, StepRow, TrainingRow
from charter.records import Prompt
from charter.report.metrics import (
    Comparing,
    Ordering,
    Reinforced,
    Screened,
    TrainingResult,
)
from charter.run import Manifest

_Shape = TypeVar("_Shape", bound=BaseModel)
_Line = TypeVar("_Line")

_CURVE: TypeAdapter[TrainingRow] = TypeAdapter(TrainingRow)
_COURSE: TypeAdapter[StepRow | LookRow] = TypeAdapter(StepRow | LookRow)
_ANSWER: TypeAdapter[GradedAnswer] = TypeAdapter(GradedAnswer)
_PROMPT: TypeAdapter[Prompt] = TypeAdapter(Prompt)


class Training(NamedTuple):
    """A training on known examples: its course, and what it came to once it is over."""

    rows: tuple[TrainingRow, ...]
    result: TrainingResult | None


@dataclass(frozen=True)
class Found:
    """All that a page is made of."""

    name: str
    """Of the run directory."""
    manifest: Manifest
    config: Config | None = None
    constitution: Constitution | None = None
    graded: Constitution | None = None
    """What answers were graded by."""
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Input files as they stand, by name."""
    evaluation: Evaluation | None = None
    answers: tuple[GradedAnswer, ...] = ()
    prompts: Mapping[str, Prompt] = field(default_factory=dict[str, Prompt])
    """The held-out ones, by id."""
    screened: Screened | None = None
    finetuning: Training | None = None
    comparing: Comparing | None = None
    reward_training: Training | None = None
    reward: Ordering | None = None
    dpo_training: Training | None = None
    dpo: Ordering | None = None
    """How the trained policy's implied rewards order pairs."""
    course: tuple[StepRow | LookRow, ...] = ()
    """Of reinforcement learning."""
    reinforced: Reinforced | None = None


def read_run(run: Path) -> Found:
    """What lies in a run directory, which may be in the middle of its work.

    Raises:
        RunError: There is no run, or a file of it cannot be read.
    """
    manifest = _shape(run / "manifest.json", Manifest)
    if manifest is None:
        raise RunError(
            f"{run}: no run there. Name a run directory, such as runs/main after `charter run`."
        )
    constitution = _constitution(run / "constitution.yaml")
    names = ("config.yaml", "constitution.yaml", "evaluate.constitution.yaml")
    return Found(
        name=run.resolve().name,
        manifest=manifest,
        config=load_config(run / "config.yaml") if (run / "config.yaml").exists() else None,
        constitution=constitution,
        graded=_constitution(run / "evaluate.constitution.yaml") or constitution,
        texts={name: _text(run / name) for name in names if (run / name).exists()},
        evaluation=_shape(run / "evaluation.json", Evaluation),
        answers=tuple(_lines(run / "data" / "answers.jsonl", _ANSWER)),
        prompts={row.id: row for row in _lines(run / "data" / "heldout.jsonl", _PROMPT)},
        screened=_shape(run / "metrics" / "screening.json", Screened),
        finetuning=_training(run, stage="finetune", model="sft"),
        comparing=_shape(run / "metrics" / "compare.json", Comparing),
        reward_training=_training(run, stage="reward", model="reward"),
        reward=_shape(run / "metrics" / "reward.json", Ordering),
        dpo_training=_training(run, stage="dpo", model="dpo"),
        dpo=_shape(run / "metrics" / "dpo.json", Ordering),
        course=tuple(_lines(run / "metrics" / "reinforce.jsonl", _COURSE)),
        reinforced=_shape(run / "models" / "rl" / "training.json", Reinforced),
    )


def _training(run: Path, *, stage: str, model: str) -> Training | None:
    """None before its first step."""
    rows = tuple(_lines(run / "metrics" / f"{stage}.jsonl", _CURVE))
    result = _shape(run / "models" / model / "training.json", TrainingResult)
    return Training(rows, result) if rows else None


def _constitution(path: Path) -> Constitution | None:
    return load_constitution(path) if path.exists() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _shape(path: Path, kind: type[_Shape]) -> _Shape | None:
    if not path.exists():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise _unreadable(str(path), error) from error


def _lines(path: Path, kind: TypeAdapter[_Line]) -> Iterator[_Line]:
    """The rows of a JSONL file; none where it is missing."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield kind.validate_json(line)
            except ValidationError as error:
                raise _unreadable(f"{path}:{number}", error) from error


def _unreadable(place: str, error: ValidationError) -> RunError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ".".join(map(str, first["loc"]))
    return RunError(
        f"{place}: cannot be read for the report: {f'`{key}`: ' if key else ''}{first['msg']}. "
        "Delete the file and run the same command again: what is journaled is kept."
    )
