"""A user's project: a configuration and the files it names, written by init and read by check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from charter.config import STARTER, Config, PromptSource, load_config
from charter.constitution import Constitution, load_constitution
from charter.errors import ConfigError, ConstitutionError
from charter.evaluation.columns import STARTED_FROM, opponents
from charter.prompts import PromptCounts, check_pairs, check_prompts

STARTER_PROJECT = Path(str(files("charter"))) / "starter"
DEMO_CONFIG = STARTER_PROJECT / "charter.yaml"
_PROJECT_FILES = (
    "charter.yaml",
    "constitution.yaml",
    "prompts/train.jsonl",
    "prompts/rl.jsonl",
    "prompts/heldout.jsonl",
)
_STARTER_FILES = ("bank.yaml",)
"""What a project on another model does without."""
_MARK = "[starter]"
"""Stands in the lines of the starter's configuration that suit no other model."""
_STARTER_POLICY = f"  policy: {STARTER}                   "
"""With the space before the comment."""
_EXAMPLES = """\
# constitution.yaml and prompts/ hold the rules and prompts of an invented shop: examples of the
# form, to be replaced by yours.
"""


def init_project(directory: Path, *, model: str = STARTER) -> list[Path]:
    """Writes a small project; returns the files written.

    Args:
        directory: Where to.
        model: The policy: `starter`, a directory, or a hub id.

    Raises:
        ConfigError: One of the files is there already; none is overwritten. Or the folder cannot
            be written to, or there is no such model directory.
    """
    names = _PROJECT_FILES + (_STARTER_FILES if model == STARTER else ())
    contents = {name: (STARTER_PROJECT / name).read_bytes() for name in names}
    if model != STARTER:
        text = _on_model(contents["charter.yaml"].decode(), policy=_policy(model))
        contents["charter.yaml"] = text.encode()
    targets = [directory / name for name in names]
    try:
        taken = [str(path) for path in targets if path.exists()]
        if taken:
            raise ConfigError(f"{', '.join(taken)}: already there. Choose another folder.")
        for content, target in zip(contents.values(), targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"{directory}: no project can be written there ({error}). Choose another folder."
        ) from error
    return targets


def _policy(model: str) -> str:
    """What a configuration in another folder calls the model: an absolute path, or a hub id."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(
            f"--model {model}: no such directory. Name the directory of a Hugging Face causal "
            "language model, or a hub id such as org/name."
        )
    return model


def _on_model(configuration: str, *, policy: str) -> str:
    """The starter's configuration for another model: with defaults where it says `[starter]`."""
    kept = [line for line in configuration.splitlines(keepends=True) if _MARK not in line]
    # JSON's quotes are YAML's too, and a path may hold anything.
    named = f"  policy: {json.dumps(policy, ensure_ascii=False)} ".ljust(len(_STARTER_POLICY))
    return _EXAMPLES + "".join(kept).replace(_STARTER_POLICY, named)


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
        config, graded = self.config, self.graded or self.constitution
        to_revise = _to_revise(config, self.constitution, prompts=self.prompts["train"].valid)
        to_evaluate = _to_evaluate(
            config, self.constitution, graded=graded, prompts=self.prompts["heldout"].valid
        )
        costs = [f"{to_revise} to revise"]
        if len(config.learn) > 1:  # all but `sft` is learnt from preferences
            asked = self.prompts["rl" if config.prompts.rl else "train"].valid
            limit = config.compare.prompts or asked
            to_compare = _to_compare(config, self.constitution, prompts=min(asked, limit))
            costs.append(f"{to_compare} to compare")
        costs.append(f"{to_evaluate} to evaluate")
        to_choose = _to_choose(config, graded, prompts=self.prompts["heldout"].valid)
        if to_choose:
            costs.append(f"{to_choose:,} choices between answers")
        return f"at most {', '.join(costs)}"

    def summary(self) -> dict[str, Any]:
        """The findings for machines."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "constitution": self.constitution and self.constitution.hash,
            "prompts": {name: counts.model_dump() for name, counts in self.prompts.items()},
        }


class _Calls(NamedTuple):
    """How often models are asked at most."""

    texts: int
    questions: int
    """Those answered by the probability of a word: yes or no, (A) or (B)."""
    kind: str = "yes-or-no questions"

    def __str__(self) -> str:
        return f"{self.texts:,} texts and {self.questions:,} {self.kind}"


def _to_mend(config: Config, constitution: Constitution) -> _Calls:
    """For all rounds of critique and revision over one response."""
    section = config.revise
    screened = len(constitution.principles) if section.selection == "screen" else 0
    return _Calls(section.rounds * (2 if section.critique else 1), section.rounds * screened)


def _to_fit(constitution: Constitution) -> int:
    """Questions to fit a threshold: each test has a reply that breaks and one that keeps."""
    return 2 * sum(len(principle.tests) for principle in constitution.principles)


def _to_revise(config: Config, constitution: Constitution, *, prompts: int) -> _Calls:
    mending = _to_mend(config, constitution)
    is_fitted = config.revise.selection == "screen" and config.revise.threshold == "fit"
    fitting = _to_fit(constitution) if is_fitted else 0
    return _Calls(prompts * (1 + mending.texts), prompts * mending.questions + fitting)


def _to_compare(config: Config, constitution: Constitution, *, prompts: int) -> _Calls:
    """For all pairs of responses, and for the principles' tests that the judge is measured on."""
    section, tests = config.compare, _to_fit(constitution) // 2
    pairs = prompts * section.responses * (section.responses - 1) // 2 + tests
    screened = (prompts * section.responses + 2 * tests) * len(constitution.principles)
    # Under the drawn principles, and which reply helps more: each in both orders.
    weighed = pairs * 2 * (min(section.principles, len(constitution.principles)) + 1)
    reasons = weighed * max(section.votes, 1) if section.chain_of_thought else 0
    return _Calls(
        prompts * section.responses + reasons + weighed * section.votes,
        screened + _to_fit(constitution) + (0 if section.votes else weighed),
        kind="questions",
    )


def _to_evaluate(
    config: Config, constitution: Constitution, *, graded: Constitution, prompts: int
) -> _Calls:
    section = config.evaluate
    answers = prompts * section.samples
    mending = _to_mend(config, constitution) if "base+revise" in config.columns else _Calls(0, 0)
    judged = prompts * min(section.judged_samples, section.samples) * len(config.columns)
    # Besides every principle, a judge is asked whether the answer helps.
    judging = judged * (len(graded.principles) + 1) + (_to_fit(graded) if judged else 0)
    return _Calls(
        answers * (len(config.columns) + mending.texts), answers * mending.questions + judging
    )


def _to_choose(config: Config, graded: Constitution, *, prompts: int) -> int:
    """Calls to compare the columns' answers head to head; screening them is grading already."""
    section, asked = config.compare, config.evaluate
    if asked.head_to_head == 0.0:
        return 0
    pairs = sum(
        len(opponents(column, config.columns))
        for column in config.columns
        if column in STARTED_FROM
    )
    # Under the drawn principles, and which reply helps more: each in both orders.
    questions = 2 * (min(section.principles, len(graded.principles)) + 1)
    calls = max(section.votes, 1) * (2 if section.chain_of_thought else 1)
    return prompts * min(asked.judged_samples, asked.samples) * pairs * questions * calls


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
    if config.prompts.rl is not None:
        _check_sources("rl", config.prompts.rl, report)
    if config.compare.human is not None:
        report.problems.extend(str(problem) for problem in check_pairs(config.compare.human.path))
    _check_models(config, report)
    return report


def _checked_constitution(path: Path, report: CheckReport) -> Constitution | None:
    try:
        return load_constitution(path)
    except ConstitutionError as error:
        report.problems.extend(str(error).splitlines())
        return None


def _check_sources(name: str, sources: Sequence[PromptSource], report: CheckReport) -> None:
    counts, problems = check_prompts(sources, system=report.config.prompts.system)
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
