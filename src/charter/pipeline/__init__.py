"""The stages in their order; what is done is skipped.

The only place that knows the order: stages speak to each other through the run directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from charter.config import Config, Learning, load_config
from charter.console import Progress
from charter.errors import ConfigError
from charter.launch import free_memory, from_main, is_follower, is_launched, refuse_shards
from charter.pipeline.outcome import Outcome, outcome
from charter.pipeline.reporting import write_report
from charter.pipeline.workspace import Request, Workspace, open_workspace
from charter.run import Tally

__all__ = ["Outcome", "Request", "run_pipeline", "stages_of"]

Stage = Literal["revise", "finetune", "compare", "reward", "reinforce", "dpo", "evaluate"]
_NEEDED_FOR: Mapping[Stage, frozenset[Learning]] = {
    "compare": frozenset({"rl", "dpo"}),
    "reward": frozenset({"rl"}),
    "reinforce": frozenset({"rl"}),
    "dpo": frozenset({"dpo"}),
}
"""What a stage is run for; the others are run for everything."""
_LEARNT: tuple[Learning, ...] = get_args(Learning)
_SHARED: frozenset[Stage] = frozenset({"finetune", "reward", "reinforce", "dpo"})
"""The stages that train: all processes of a launcher take part."""
_RESULTS: dict[Stage, tuple[str, ...]] = {
    "revise": ("data/revisions.jsonl", "data/demonstrations.jsonl", "data/revision_pairs.jsonl"),
    "finetune": ("models/sft/training.json", "models/sft/*.safetensors"),
    "compare": ("data/preferences.jsonl", "metrics/compare.json"),
    "reward": ("models/reward/training.json", "models/reward/*.safetensors", "metrics/reward.json"),
    "reinforce": ("models/rl/training.json", "models/rl/*.safetensors"),
    "dpo": ("models/dpo/training.json", "models/dpo/*.safetensors", "metrics/dpo.json"),
    "evaluate": ("evaluation.json", "data/answers.jsonl", "data/heldout.jsonl"),
}
"""What a stage is done for, as patterns: where one matches nothing, the stage is made again."""


def stages_of(config: Config) -> tuple[Stage, ...]:
    """The stages that a run of this configuration needs, in their order."""
    every: tuple[Stage, ...] = get_args(Stage)
    return tuple(stage for stage in every if _why_not(stage, config) is None)


class _Unneeded(NamedTuple):
    """Why a run does without a stage."""

    reason: str
    remedy: str
    """The setting with which a run would need it."""


def _why_not(stage: Stage, config: Config) -> _Unneeded | None:
    """What says that a run does without a stage; None: it needs the stage."""
    learn = config.learn
    if stage in _NEEDED_FOR and not _NEEDED_FOR[stage] & {*learn}:
        return _Unneeded(
            f"`learn` is {', '.join(learn)}, which needs no stage `{stage}`",
            f"'learn=[sft, {min(_NEEDED_FOR[stage], key=_LEARNT.index)}]'",
        )
    needs_a_model = stage == "reward" or (stage == "compare" and not config.compares)
    if needs_a_model and "model" not in config.reinforce.rewards:
        return _Unneeded(
            f"`reinforce.reward` is {config.reinforce.reward}, which needs no stage `{stage}`",
            "reinforce.reward=model",
        )
    return None


def run_pipeline(request: Request, *, progress: Progress) -> Outcome:
    """Runs the stages that a request names and are not done.

    Processes of a launcher train together; all else is done by the main one, and the others wait.

    Raises:
        CharterError: See the stages; what is finished is kept, so the same request resumes.
        SystemExit: Another process failed, and says why.
    """
    if not is_launched():
        return _run(request, progress=progress)
    # torch, which takes seconds; a launcher means that there is something to train.
    from charter.launch.ending import one_ending
    from charter.learning.processes import join_processes

    join_processes()
    with one_ending(progress):
        return _run(request, progress=progress)


def _run(request: Request, *, progress: Progress) -> Outcome:
    stages = _asked_for(request)
    refuse_shards(_SHARED & {*stages})
    with open_workspace(request, progress=progress) as workspace:
        for stage in stages:
            if not from_main(lambda stage=stage: _is_done(stage, workspace)):
                _do(stage, workspace)
        return from_main(lambda: _concluded(workspace))


def _do(stage: Stage, workspace: Workspace) -> None:
    """Runs a stage, or this process's share of it, and accounts for it."""
    if not is_follower():
        workspace.directory.record_stage(stage, _run_stage(stage, workspace))
    elif stage in _SHARED:
        _run_stage(stage, workspace)
    free_memory()


def _concluded(workspace: Workspace) -> Outcome:
    write_report(workspace.directory.path)
    return outcome(workspace)


def _is_done(stage: Stage, workspace: Workspace) -> bool:
    """Whether a stage is accounted for and its results are still there."""
    run = workspace.directory.path
    return workspace.directory.stage_done(stage) and all(
        any(run.glob(pattern)) for pattern in _RESULTS[stage]
    )


def _asked_for(request: Request) -> tuple[Stage, ...]:
    """The stages that a request names.

    Raises:
        ConfigError: There is no such stage, or the run does not need it.
    """
    config = load_config(request.config, overrides=request.overrides)
    stages = stages_of(config)
    for name in (request.until, request.only):
        if name is None or name in stages:
            continue
        known = [stage for stage in get_args(Stage) if stage == name]
        if not known:
            raise ConfigError(f"there is no stage `{name}`; the stages are {', '.join(stages)}")
        unneeded = _why_not(known[0], config)
        assert unneeded is not None
        raise ConfigError(f"{unneeded.reason}. {_with(unneeded.remedy, run=request.run)}.")
    if request.only is not None:
        return tuple(stage for stage in stages if stage == request.only)
    last = stages.index(request.until) if request.until in stages else len(stages) - 1
    return stages[: last + 1]


def _with(setting: str, *, run: Path) -> str:
    """How to have a run with another setting, which a run that exists does not take."""
    if not (run / "manifest.json").exists():
        return f"Set it in the configuration, or with --set {setting}"
    return (
        f"{run} keeps its settings, so begin another run: charter run CONFIG --run NEW "
        f"--reuse {run} --set {setting}"
    )


def _run_stage(stage: Stage, workspace: Workspace) -> Tally:
    # Imported here: each brings its own heavy libraries.
    match stage:
        case "revise":
            from charter.pipeline.revising import revise_stage

            return asyncio.run(revise_stage(workspace))
        case "finetune":
            from charter.pipeline.finetuning import finetune_stage

            return finetune_stage(workspace)
        case "compare":
            from charter.pipeline.comparing import compare_stage

            return asyncio.run(compare_stage(workspace))
        case "reward":
            from charter.pipeline.rewarding import reward_stage

            return reward_stage(workspace)
        case "reinforce":
            from charter.pipeline.reinforcing import reinforce_stage

            return asyncio.run(reinforce_stage(workspace))
        case "dpo":
            from charter.pipeline.preferring import dpo_stage

            return dpo_stage(workspace)
        case "evaluate":
            from charter.pipeline.evaluating import evaluate_stage

            return asyncio.run(evaluate_stage(workspace))
