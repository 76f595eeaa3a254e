"""A user's project: a configuration and the files it names, written by init and read by check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from charter.config import Config, PromptSource, load_config
from charter.constitution import Constitution, load_constitution
from charter.errors import ConfigError, ConstitutionError
from charter.prompts import PromptCounts, check_prompts

STARTER_PROJECT = Path(str(files("charter"))) / "starter"
DEMO_CONFIG = STARTER_PROJECT / "charter.yaml"
_PROJECT_FILES = (
    "charter.yaml",
    "constitution.yaml",
    "prompts/train.jsonl",
    "prompts/heldout.jsonl",
)


def init_project(directory: Path) -> list[Path]:
    """Writes a small project on the starter model; returns the files written.

    Raises:
        ConfigError: One of the files is there already; none is overwritten.
    """
    targets = [directory / name for name in _PROJECT_FILES]
    taken = [str(path) for path in targets if path.exists()]
    if taken:
        raise ConfigError(f"{', '.join(taken)}: already there. Choose another folder.")
    for name, target in zip(_PROJECT_FILES, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((STARTER_PROJECT / name).read_bytes())
    return targets


@dataclass
class CheckReport:
    """What `charter check` found."""

    config: Config
    constitution: Constitution | None = None
    graded: Constitution | None = None
    """The constitution that evaluation grades by, where it is another one."""
    prompts: dict[str, PromptCounts] = field(default_factory=dict[str, PromptCounts])
    problems: list[str] = field(default_factory=list[str])
    """Every mistake with file, line and remedy."""

    def lines(self) -> list[str]:
        """The findings for a person, errors left out."""
        found: list[str] = []
        for role, constitution in (("constitution", self.constitution), ("graded by", self.graded)):
            if constitution is not None:
                tests = sum(len(item.tests) for item in constitution.principles)
                found.append(
                    f"{role}: {constitution.name}, {len(constitution.principles)} principles, "
                    f"{tests} tests, hash {constitution.hash}"
                )
        for name, counts in self.prompts.items():
            found.append(
                f"{name} prompts: {counts.valid} usable, {counts.quarantined} quarantined, "
                f"{counts.duplicates} duplicates left out"
            )
        if not self.problems:
            found.append(f"cost: {self._cost()}")
            found.append("all good")
        return found

    def _cost(self) -> str:
        """An upper bound of the calls that a run makes."""
        assert self.constitution is not None
        revise, evaluate = self.config.revise, self.config.evaluate
        principles = len(self.constitution.principles)
        screened = principles if revise.selection == "screen" else 0
        written = 1 + revise.rounds * (2 if revise.critique else 1)
        asked = self.prompts["train"].valid
        answers = self.prompts["heldout"].valid * evaluate.samples * len(evaluate.columns)
        return (
            f"at most {asked * written:,} texts and {asked * revise.rounds * screened:,} yes-or-no "
            f"questions to revise, {answers:,} answers to evaluate"
        )

    def summary(self) -> dict[str, Any]:
        """The findings for machines."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "constitution": self.constitution and self.constitution.hash,
            "prompts": {name: counts.model_dump() for name, counts in self.prompts.items()},
        }


def check_project(path: Path, *, overrides: Sequence[str] = ()) -> CheckReport:
    """Validates a configuration and every file it names, without loading a model.

    Raises:
        ConfigError: The configuration itself is wrong, so that nothing else can be checked.
    """
    report = CheckReport(config=load_config(path, overrides=overrides))
    config = report.config
    report.constitution = _checked_constitution(config.constitution, report)
    if config.evaluate.constitution is not None:
        report.graded = _checked_constitution(config.evaluate.constitution, report)
    _check_sources("train", config.prompts.train, report)
    _check_sources("heldout", config.prompts.heldout, report)
    _check_models(config, report)
    return report


def _checked_constitution(path: Path, report: CheckReport) -> Constitution | None:
    try:
        return load_constitution(path)
    except ConstitutionError as error:
        report.problems.extend(str(error).splitlines())
        return None


def _check_sources(name: str, sources: Sequence[PromptSource], report: CheckReport) -> None:
    counts, problems = check_prompts(sources)
    report.prompts[name] = counts
    report.problems.extend(str(problem) for problem in problems)


def _check_models(config: Config, report: CheckReport) -> None:
    """Looks whether models given as files are there; hub ids cannot be looked up offline."""
    for role in type(config.models).model_fields:
        model = getattr(config.models, role)
        if model is None:
            continue
        path = Path(model.source.removeprefix("scripted:"))
        if path.is_absolute() and not path.exists():
            report.problems.append(
                f"models.{role}: {path}: no such file or directory. Correct it, or name a hub id."
            )
