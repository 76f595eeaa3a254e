"""A user's project: a configuration and the files it names, written by init and read by check."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from charter.config import STARTER, Config, PromptSource, load_config
from charter.constitution import Constitution, load_constitution
from charter.cost import cost
from charter.errors import ConfigError, ConstitutionError, PromptError
from charter.feedback.compare import require_mix
from charter.feedback.rewards import PYTHON, named_function
from charter.prompts import PromptCounts, check_pairs, check_prompts, read_prompts

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
            assert self.constitution is not None
            at_most = cost(self.config, self.constitution, graded=self.graded, prompts=self.prompts)
            found.extend((f"cost: {at_most}", "all good"))
        return found

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
    if config.prompts.rl is not None:
        _check_sources("rl", config.prompts.rl, report)
    if config.compare.human is not None:
        report.problems.extend(str(problem) for problem in check_pairs(config.compare.human.path))
    _check_mix(config, report)
    _check_models(config, report)
    _check_rewards(config, report)
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


def _check_mix(config: Config, report: CheckReport) -> None:
    """Looks whether the prompts of the feedback half can be brought to the stated mix of kinds."""
    mix = config.compare.mix
    if mix is None or not {"rl", "dpo"} & set(config.learn):
        return
    try:
        sources = config.prompts.rl or config.prompts.train
        prompts = read_prompts(sources, system=config.prompts.system)
        require_mix(Counter(prompt.kind for prompt in prompts), mix=mix)
    except PromptError:
        return  # a missing file is a problem of its own
    except ConfigError as error:
        report.problems.append(str(error))


def _check_models(config: Config, report: CheckReport) -> None:
    """Looks whether models given as files are there; hub ids cannot be looked up offline."""
    named = {f"models.{role}": model for role, model in config.models}
    for setting, model in {**named, "reward.base": config.reward.base}.items():
        if model is None:
            continue
        path = Path(model.source.removeprefix("scripted:"))
        if path.is_absolute() and not path.exists():
            report.problems.append(
                f"{setting}: {path}: no such file or directory. Correct it, or name a hub id."
            )


def _check_rewards(config: Config, report: CheckReport) -> None:
    """Looks whether the rewards that RL names are there."""
    if "rl" not in config.learn:
        return
    settings = ("reinforce.reward", "reinforce.constraint.reward")
    for setting, source in zip(settings, config.reinforce.rewards, strict=False):
        if source.startswith(PYTHON):
            try:
                named_function(source)
            except ConfigError as error:
                report.problems.append(f"{setting}: {error}")
        elif source not in ("model", "judge") and not Path(source).is_dir():
            report.problems.append(
                f"{setting}: {source}: no such directory. Name `model`, `judge`, a reward model's "
                "directory, or `python:MODULE:FUNCTION`."
            )
