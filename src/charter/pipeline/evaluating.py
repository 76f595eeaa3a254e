"""The evaluate stage: the columns answer the held-out prompts, and evaluation.json says how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from charter.config import Column
from charter.errors import PromptError, RunError
from charter.evaluation.answers import Answerer, answering, revising
from charter.evaluation.evaluate import evaluate, graded_answers
from charter.evaluation.judging import Judge
from charter.model import Model
from charter.pipeline.fitting import settled_reviser
from charter.pipeline.outcome import evaluation_path
from charter.pipeline.roles import Roles, open_frozen, open_roles, trained_source
from charter.pipeline.workspace import Workspace
from charter.prompts import read_prompts
from charter.records import Prompt, content_hash
from charter.run import Tally, write_atomically, write_jsonl
from charter.screening import fit_threshold
from charter.supervised.revise import Reviser

TRAINED_BY: Mapping[Column, str] = {"sft": "finetune", "rl": "reinforce", "dpo": "dpo"}
"""The stage that trains a column's model, which lies in the run's `models/` under that name."""


async def evaluate_stage(workspace: Workspace) -> Tally:
    """Answers and grades; writes evaluation.json, every answer and the prompts answered.

    Raises:
        RunError: A column's model is not trained yet.
        FailureLimitError: Too many answers failed.
    """
    config, directory = workspace.config, workspace.directory
    section = config.evaluate
    prompts = tuple(read_prompts(config.prompts.heldout, system=config.prompts.system))
    if not prompts:
        raise PromptError("no usable held-out prompt; `charter check` says why")
    trained_at = _trained_models(workspace)
    async with AsyncExitStack() as stack:
        roles = await stack.enter_async_context(
            open_roles(config.models, journal=workspace.journal, stage="evaluate")
        )
        models = Cast(roles)
        if "base+revise" in config.columns:
            models = replace(models, reviser=(await settled_reviser(workspace, roles=roles))[0])
        trained = {
            name: await stack.enter_async_context(
                open_frozen(
                    trained_source(config.models, at=path),
                    journal=workspace.journal,
                    stage="evaluate",
                )
            )
            for name, path in trained_at.items()
        }
        models = replace(models, trained=trained)
        columns = {name: _column(name, workspace, models=models) for name in config.columns}
        store = workspace.journal.records(
            "evaluate", context=_context(workspace, prompts=prompts, models=models)
        )
        evaluated = await evaluate(
            prompts,
            columns=columns,
            constitution=workspace.graded,
            judge=await _judge(workspace, roles),
            section=section,
            seed=config.seed,
            store=store,
            width=roles.width,
            progress=workspace.progress,
        )
    answers = graded_answers(prompts, columns=columns, section=section, store=store)
    write_jsonl(directory.data / "answers.jsonl", answers)
    write_jsonl(directory.data / "heldout.jsonl", prompts)
    figures = evaluated.evaluation.model_dump_json(indent=2)
    write_atomically(evaluation_path(directory.path), figures + "\n")
    return evaluated.tally


def _trained_models(workspace: Workspace) -> dict[Column, Path]:
    """Where the trained models lie that columns ask for.

    Raises:
        RunError: One is not there yet.
    """
    found: dict[Column, Path] = {}
    for column, stage in TRAINED_BY.items():
        if column in workspace.config.columns:
            found[column] = workspace.directory.models / column
            if not found[column].exists():
                raise RunError(f"{found[column]}: not there yet. Run `charter {stage}` first.")
    return found


@dataclass(frozen=True)
class Cast:
    """Everyone who answers or grades in an evaluation."""

    roles: Roles
    reviser: Reviser | None = None
    """Only where the column `base+revise` is asked for."""
    trained: Mapping[str, Model] = field(default_factory=dict[str, Model])
    """By column: those of the trained models that are asked for."""

    @property
    def fingerprints(self) -> list[str]:
        """Of all models, in a fixed order."""
        roles = self.roles
        models = (roles.policy, roles.critic, roles.reviser, roles.judge, *self.trained.values())
        return [model.fingerprint for model in models]


def _context(workspace: Workspace, *, prompts: Sequence[Prompt], models: Cast) -> str:
    """A hash of all that shapes an answer or its grades."""
    section = workspace.config.evaluate
    reviser = models.reviser
    return content_hash(
        {
            "section": section.model_dump(mode="json", exclude={"constitution", "max_failed"}),
            "constitutions": [workspace.constitution.hash, workspace.graded.hash],
            "models": models.fingerprints,
            "revise": reviser and [reviser.section.model_dump(mode="json"), reviser.threshold],
            "prompts": [prompt.model_dump(mode="json") for prompt in prompts],
            "seed": workspace.config.seed,
        }
    )


def _column(name: Column, workspace: Workspace, *, models: Cast) -> Answerer:
    section, policy = workspace.config.evaluate, models.roles.policy
    match name:
        case "base":
            return answering(policy, section=section, rules=None)
        case "base+rules":
            return answering(policy, section=section, rules=workspace.constitution)
        case "base+revise":
            assert models.reviser is not None
            return revising(policy, section=section, reviser=models.reviser)
        case "sft" | "rl" | "dpo":
            return answering(models.trained[name], section=section, rules=None)


async def _judge(workspace: Workspace, roles: Roles) -> Judge | None:
    if workspace.config.evaluate.judged_samples == 0:
        return None
    threshold = await fit_threshold(workspace.graded, judge=roles.judge)
    taught = (roles.critic.fingerprint, roles.reviser.fingerprint)
    return Judge(
        model=roles.judge,
        threshold=threshold.value,
        same_as_training=roles.judge.fingerprint in taught,
    )
