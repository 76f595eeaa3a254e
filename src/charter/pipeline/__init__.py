"""The stages in their order; what is done is skipped.

The only place that knows the order: stages speak to each other through the run directory.
"""

from __future__ import annotations

import asyncio
from typing import Literal, get_args

from charter.console import Progress
from charter.errors import ConfigError
from charter.pipeline.outcome import Outcome, outcome
from charter.pipeline.workspace import Request, Workspace, open_workspace
from charter.run import Tally

__all__ = ["Outcome", "Request", "run_pipeline"]

Stage = Literal["revise", "finetune", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
_RESULTS: dict[Stage, tuple[str, ...]] = {
    "revise": ("data/revisions.jsonl", "data/demonstrations.jsonl", "data/revision_pairs.jsonl"),
    "finetune": ("models/sft/training.json", "models/sft/*.safetensors"),
    "evaluate": ("evaluation.json", "data/answers.jsonl", "data/heldout.jsonl"),
}
"""What a stage is done for, as patterns: where one matches nothing, the stage is made again."""


def run_pipeline(request: Request, *, progress: Progress) -> Outcome:
    """Runs the stages that a request names and are not done.

    Raises:
        CharterError: See the stages; what is finished is kept, so the same request resumes.
    """
    stages = _stages(request)
    with open_workspace(request, progress=progress) as workspace:
        for stage in stages:
            if not _is_done(stage, workspace):
                workspace.directory.record_stage(stage, _run_stage(stage, workspace))
        return outcome(workspace)


def _is_done(stage: Stage, workspace: Workspace) -> bool:
    """Whether a stage is accounted for and its results are still there."""
    run = workspace.directory.path
    return workspace.directory.stage_done(stage) and all(
        any(run.glob(pattern)) for pattern in _RESULTS[stage]
    )


def _stages(request: Request) -> tuple[Stage, ...]:
    for name in (request.until, request.only):
        if name is not None and name not in STAGES:
            raise ConfigError(f"there is no stage `{name}`; the stages are {', '.join(STAGES)}")
    if request.only is not None:
        return tuple(stage for stage in STAGES if stage == request.only)
    last = STAGES.index(request.until) if request.until in STAGES else len(STAGES) - 1
    return STAGES[: last + 1]


def _run_stage(stage: Stage, workspace: Workspace) -> Tally:
    # Imported here: each brings its own heavy libraries.
    match stage:
        case "revise":
            from charter.pipeline.revising import revise_stage

            return asyncio.run(revise_stage(workspace))
        case "finetune":
            from charter.pipeline.finetuning import finetune_stage

            return finetune_stage(workspace)
        case "evaluate":
            from charter.pipeline.evaluating import evaluate_stage

            return asyncio.run(evaluate_stage(workspace))
