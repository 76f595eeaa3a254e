"""The evaluate stage: the columns answer the held-out prompts, and evaluation.json says how."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from charter.config import Column
from charter.errors import PromptError, RunError
from charter.evaluation.answers import Answerer, answering, revising
from charter.evaluation.evaluate import evaluate, graded_answers
from charter.evaluation.judging import Judge
from charter.journal import JournaledModel
from charter.model import Model
from charter.models.sources import open_model
from charter.pipeline.outcome import evaluation_path
from charter.pipeline.revising import fitted_reviser
from charter.pipeline.roles import Roles, open_roles
from charter.pipeline.workspace import Workspace
from charter.prompts import read_prompts
from charter.records import content_hash
from charter.run import Tally, write_atomically, write_jsonl
from charter.screening import fit_threshold
from charter.supervised.revise import Reviser


async def evaluate_stage(workspace: Workspace) -> Tally:
    """Answers and grades; writes evaluation.json and every answer.

    Raises:
        RunError: A column's model is not trained yet.
        FailureLimitError: Too many answers failed.
    """
    config, directory = workspace.config, workspace.directory
    section = config.evaluate
    prompts = tuple(read_prompts(config.prompts.heldout))
    if not prompts:
        raise PromptError("no usable held-out prompt; `charter check` says why")
    async with AsyncExitStack() as stack:
        roles = await stack.enter_async_context(
            open_roles(config.models, journal=workspace.journal, stage="evaluate")
        )
        reviser, _ = await fitted_reviser(workspace, roles=roles)
        trained: Model | None = None
        if "sft" in section.columns:
            trained = await stack.enter_async_context(_trained(workspace))
        columns = {
            name: _column(name, workspace, roles=roles, reviser=reviser, trained=trained)
            for name in section.columns
        }
        judge = await _judge(workspace, roles)
        shaping = {
            "section": section.model_dump(mode="json", exclude={"constitution", "max_failed"}),
            "constitutions": [workspace.constitution.hash, workspace.graded.hash],
            "models": [
                model.fingerprint
                for model in (roles.policy, roles.critic, roles.reviser, roles.judge, trained)
                if model is not None
            ],
            "revise": [reviser.section.model_dump(mode="json"), reviser.threshold],
            "prompts": content_hash([prompt.model_dump(mode="json") for prompt in prompts]),
            "seed": config.seed,
        }
        store = workspace.journal.records("evaluate", context=content_hash(shaping))
        evaluated = await evaluate(
            prompts,
            columns=columns,
            constitution=workspace.graded,
            judge=judge,
            section=section,
            seed=config.seed,
            store=store,
            width=roles.width,
            progress=workspace.progress,
        )
    answers = graded_answers(prompts, columns=columns, section=section, store=store)
    write_jsonl(directory.data / "answers.jsonl", answers)
    write_atomically(
        evaluation_path(directory.path), evaluated.evaluation.model_dump_json(indent=2) + "\n"
    )
    return evaluated.tally


@asynccontextmanager
async def _trained(workspace: Workspace) -> AsyncGenerator[Model]:
    path = workspace.directory.models / "sft"
    if not path.exists():
        raise RunError(f"{path}: no SFT model yet. Run `charter finetune` first.")
    models = workspace.config.models
    source = models.train_from or models.policy
    update = {"source": str(path), "revision": None}
    model = await open_model(source.model_copy(update=update))
    try:
        yield JournaledModel(model, journal=workspace.journal, stage="evaluate")
    finally:
        await model.aclose()


def _column(
    name: Column, workspace: Workspace, *, roles: Roles, reviser: Reviser, trained: Model | None
) -> Answerer:
    section = workspace.config.evaluate
    match name:
        case "base":
            return answering(roles.policy, section=section, rules=None)
        case "base+rules":
            return answering(roles.policy, section=section, rules=workspace.constitution)
        case "base+revise":
            return revising(roles.policy, section=section, reviser=reviser)
        case "sft":
            assert trained is not None
            return answering(trained, section=section, rules=None)


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
