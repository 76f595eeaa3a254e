"""The evaluate stage: the columns answer the held-out prompts, and evaluation.json says how."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from charter.config import Column
from charter.errors import PromptError, RunError
from charter.evaluation.answers import Respondent, answering, revising
from charter.evaluation.evaluate import Evaluated, evaluate, in_order
from charter.evaluation.figures import GradedAnswer, HeadToHead, RewardFigures
from charter.evaluation.head_to_head import Referee, head_to_head
from charter.evaluation.judging import Judge
from charter.evaluation.rewarded import reward_figures
from charter.evaluation.summary import summarise
from charter.feedback.judge import judge_comparison
from charter.journal import Records
from charter.model import Model
from charter.pipeline.fitting import settled_reviser
from charter.pipeline.judging import SHAPES_VERDICTS, open_judge
from charter.pipeline.outcome import evaluation_path
from charter.pipeline.rewarding import reward_scorer
from charter.pipeline.roles import Roles, open_frozen, open_roles, trained_source
from charter.pipeline.workspace import Workspace
from charter.prompts import read_prompts
from charter.records import Comparison, Preference, Prompt, content_hash, with_system_turn
from charter.run import Tally, write_atomically, write_jsonl
from charter.screening import fit_threshold

log = logging.getLogger(__name__)

TRAINED_BY: Mapping[Column, str] = {"sft": "finetune", "rl": "reinforce", "dpo": "dpo"}
"""The stage that trains a column's model, which lies in the run's `models/` under that name."""


async def evaluate_stage(workspace: Workspace) -> Tally:
    """Answers, grades and compares; writes evaluation.json and all that it was made of.

    Raises:
        RunError: A column's model is not trained yet.
        FailureLimitError: Too many answers failed, or too many comparisons of them.
    """
    config, data = workspace.config, workspace.directory.data
    prompts = tuple(read_prompts(config.prompts.heldout, system=config.prompts.system))
    if not prompts:
        raise PromptError("no usable held-out prompt; `charter check` says why")
    _warn_of_empty_groups(prompts, tags=config.evaluate.groups)
    trained_at = _trained_models(workspace)
    roles_of_stage = open_roles(config.models, journal=workspace.journal, stage="evaluate")
    async with roles_of_stage as roles:
        judge = await _judge(workspace, roles)
        answers, tally = await _answers(
            workspace, prompts, trained_at=trained_at, roles=roles, judge=judge
        )
        comparisons: tuple[HeadToHead, ...] = ()
        if trained_at and (referee := await _referee(workspace, roles.judge)) is not None:
            comparisons, compared = await head_to_head(
                prompts,
                answers=answers,
                constitution=workspace.graded,
                referee=referee,
                section=config.evaluate,
                seed=config.seed,
                store=_store(workspace),
                width=roles.width,
                progress=workspace.progress,
            )
            tally = tally.followed_by(compared)
            write_jsonl(data / "head_to_head.jsonl", comparisons)
    write_jsonl(data / "answers.jsonl", answers)
    write_jsonl(data / "heldout.jsonl", prompts)
    figures = summarise(
        answers,
        comparisons=comparisons,
        constitution=workspace.graded,
        groups=config.evaluate.groups,
        judge=judge,
        reward=_rewarded(workspace, prompts, answers),
    )
    path = evaluation_path(workspace.directory.path)
    write_atomically(path, figures.model_dump_json(indent=2) + "\n")
    return tally


def _rewarded(
    workspace: Workspace, prompts: Iterable[Prompt], answers: Iterable[GradedAnswer]
) -> RewardFigures | None:
    """What the patterns say of the run's reward model, if it has one."""
    config, at = workspace.config, workspace.directory.models / "reward"
    if "rl" not in config.learn or not at.exists():
        return None
    dialogues = {
        prompt.id: with_system_turn(prompt.messages, config.evaluate.system) for prompt in prompts
    }
    scorer = reward_scorer(workspace, at)
    return reward_figures(
        answers, dialogues=dialogues, score=scorer.rewards_of_all, fits=scorer.fits
    )


def _warn_of_empty_groups(prompts: Iterable[Prompt], *, tags: Iterable[str]) -> None:
    known = {tag for prompt in prompts if prompt.kind == "harmful" for tag in prompt.tags}
    for tag in tags:
        if tag not in known:
            log.warning(
                "evaluate.groups: no harmful held-out prompt is tagged %r, so nothing will be "
                "said of that group",
                tag,
            )


def _store(workspace: Workspace) -> Records:
    """Answers and verdicts; what else shapes one is in its key: models, prompt and texts."""
    shaping = {"constitution": workspace.graded.hash, "seed": workspace.config.seed}
    return workspace.journal.records("evaluate", context=content_hash(shaping))


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


async def _answers(
    workspace: Workspace,
    prompts: Collection[Prompt],
    *,
    trained_at: Mapping[Column, Path],
    roles: Roles,
    judge: Judge | None,
) -> Evaluated:
    """All columns' answers, in the columns' order.

    The trained models answer one after another: memory must hold one of them beside the frozen
    ones, and not all.
    """
    config = workspace.config

    async def asked(columns: Mapping[str, Respondent]) -> Evaluated:
        return await evaluate(
            prompts,
            columns=columns,
            constitution=workspace.graded,
            judge=judge,
            section=config.evaluate,
            seed=config.seed,
            store=_store(workspace),
            width=roles.width,
            progress=workspace.progress,
        )

    parts: list[Evaluated] = []
    if frozen := await _frozen_columns(workspace, roles):
        parts.append(await asked(frozen))
    for name, path in trained_at.items():
        source = trained_source(config.models, at=path)
        opened = open_frozen(source, journal=workspace.journal, stage="evaluate")
        async with opened as model:
            answerer = answering(model, section=config.evaluate, rules=None)
            parts.append(await asked({name: answerer}))
    return in_order(parts, columns=config.columns)


async def _frozen_columns(workspace: Workspace, roles: Roles) -> dict[str, Respondent]:
    """The columns that need no training, of those asked for."""
    config, policy = workspace.config, roles.policy
    found: dict[str, Respondent] = {}
    if "base" in config.columns:
        found["base"] = answering(policy, section=config.evaluate, rules=None)
    if "base+rules" in config.columns:
        rules = workspace.constitution
        found["base+rules"] = answering(policy, section=config.evaluate, rules=rules)
    if "base+revise" in config.columns:
        reviser, _ = await settled_reviser(workspace, roles=roles)
        found["base+revise"] = revising(policy, section=config.evaluate, reviser=reviser)
    return found


async def _judge(workspace: Workspace, roles: Roles) -> Judge | None:
    if workspace.config.evaluate.judged_samples == 0:
        return None
    threshold = await fit_threshold(workspace.graded, judge=roles.judge)
    taught = {roles.critic.fingerprint, roles.reviser.fingerprint}
    if not {"rl", "dpo"}.isdisjoint(workspace.config.learn):
        taught.add(roles.judge.fingerprint)  # the preferences are its own
    return Judge(
        model=roles.judge,
        threshold=threshold.value,
        same_as_training=roles.judge.fingerprint in taught,
    )


async def _referee(workspace: Workspace, model: Model) -> Referee | None:
    """Compares answers as `compare` does, by the rules that grade."""
    config = workspace.config
    if config.evaluate.head_to_head == 0.0 or config.evaluate.judged_samples == 0:
        return None
    judge, _ = await open_judge(workspace, model, constitution=workspace.graded)

    async def prefer(comparison: Comparison) -> Preference:
        verdict = await judge_comparison(comparison, judge=judge)
        assert verdict is not None  # prompts that no principle speaks to are left out
        return verdict.preference

    section = config.compare.model_dump(mode="json", include=SHAPES_VERDICTS)
    return Referee(prefer, content_hash({"judge": model.fingerprint, "section": section}))
