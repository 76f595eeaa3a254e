"""The reinforce stage: the SFT model and a reward, into models/rl."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from charter.config import ReinforceConfig
from charter.errors import ConfigError, JudgementError, OverlongError, PromptError
from charter.feedback.agent import prepare_agent
from charter.feedback.judge import judge_comparison
from charter.feedback.rehearsal import Rehearsal, rehearsal
from charter.feedback.reinforce import reinforce
from charter.feedback.results import ReinforceResult, reinforce_card, reinforce_result
from charter.feedback.rewards import (
    PYTHON,
    Reward,
    Versus,
    by_function,
    by_judge,
    by_scores,
    with_penalties,
)
from charter.feedback.scoring import RewardScorer
from charter.feedback.training import Agent, Aims
from charter.launch import from_main, is_follower
from charter.learning.lesson import Places, Trained, finished, keep
from charter.learning.recipe import auto_lr
from charter.learning.train import Keeping
from charter.models.loading import Loaded, load
from charter.pipeline.gathering import feedback_prompts
from charter.pipeline.judging import SHAPES_VERDICTS, open_judge
from charter.pipeline.rewarding import require_accurate_reward, reward_scorer
from charter.pipeline.roles import open_frozen
from charter.pipeline.teaching import places_in, pupil_of, sft_source
from charter.pipeline.workspace import Workspace
from charter.records import Comparison, Demonstration, Prompt, content_hash
from charter.run import Tally, file_hash, read_jsonl
from charter.seeding import shuffled
from charter.splitting import dialogue_text, validation_prompts

_log = logging.getLogger(__name__)

_GENTLER = 0.1
"""RL's learning rate, of fine-tuning's: each step is a guess at a direction, not a known answer."""
_NAMED = 3
"""Comparisons without a verdict that are named; the rest are counted."""


async def reinforce_stage(workspace: Workspace) -> Tally:
    """Trains the RL model; an interrupted training goes on from its last checkpoint.

    Raises:
        RunError: There is no SFT model or no reward model yet.
        GuardError: The reward model is not good enough, or training has gone wrong.
        ConfigError: The reward that is named cannot be used.
    """
    began = time.monotonic()
    section = workspace.config.reinforce
    places = places_in(workspace.directory, model="rl", stage="reinforce")
    chosen = from_main(lambda: feedback_prompts(workspace))
    result = finished(places, ReinforceResult)
    if result is None:
        if "model" in section.rewards:
            require_accurate_reward(workspace)
        result = await _train(workspace, chosen.prompts, places=places)
    reasons = dict(chosen.dropped)
    if result.overlong_prompts:
        reasons["overlong"] = result.overlong_prompts
    used, dropped = result.prompts + result.watched_prompts, sum(reasons.values())
    return Tally(
        entered=used + dropped,
        done=used,
        filtered=dropped,
        reasons=reasons,
        seconds=round(time.monotonic() - began, 3),
        tokens=result.tokens,
    )


class Parts(NamedTuple):
    """The prompts of RL."""

    learnt_from: list[Prompt]
    watched: list[Prompt]
    """For the monitors: never learnt from."""


def divided_prompts(
    prompts: Sequence[Prompt],
    *,
    section: ReinforceConfig,
    near_duplicate: float,
    seed: int,
    overlong: int = 0,
) -> Parts:
    """Which prompts are learnt from and which watch: near-identical ones are on one side.

    Args:
        prompts: Those that leave room for a response.
        section: Says how many watch.
        near_duplicate: Prompts this similar are near-identical.
        seed: Of the run.
        overlong: How many others leave no room.

    Raises:
        PromptError: There are too few for both.
    """
    if len(prompts) < 2:
        raise PromptError(_too_few(len(prompts), overlong=overlong, section=section))
    # At most half: a monitor that takes most prompts leaves nothing to learn from.
    count = min(section.monitor_prompts, len(prompts) // 2)
    watching = validation_prompts(
        ((prompt.id, dialogue_text(prompt.messages)) for prompt in prompts),
        share=count / len(prompts),
        near_duplicate=near_duplicate,
        seed=seed,
    )
    if watching is None:  # all alike: no draw keeps them apart
        watching = {*shuffled((prompt.id for prompt in prompts), seed, "watched")[:count]}
    return Parts(
        learnt_from=[prompt for prompt in prompts if prompt.id not in watching],
        watched=[prompt for prompt in prompts if prompt.id in watching],
    )


def _too_few(count: int, *, overlong: int, section: ReinforceConfig) -> str:
    """Why so many prompts are too few, and what to do."""
    needs = f"RL has {count} prompts, and needs some to learn from and others to watch"
    if not overlong:
        return f"{needs}. Name more in `prompts.rl`."
    return (
        f"{needs}; {overlong} more are left out, since the model has no room for "
        f"`reinforce.max_new_tokens` = {section.max_new_tokens} behind them. Lower that, or name "
        "more and shorter prompts in `prompts.rl`."
    )


async def _train(
    workspace: Workspace, prompts: Sequence[Prompt], *, places: Places
) -> ReinforceResult:
    """Trains, and saves what comes of it."""
    config, section = workspace.config, workspace.config.reinforce
    source = sft_source(workspace)
    loaded = load(source)
    scorers = _scorers(workspace)
    readers = (loaded, *scorers.values())
    room = [prompt for prompt in prompts if _has_room(prompt, readers, section=section)]
    overlong = len(prompts) - len(room)
    parts = divided_prompts(
        room,
        section=section,
        near_duplicate=config.reward.near_duplicate,
        seed=config.seed,
        overlong=overlong,
    )
    lr = section.lr
    if lr == "auto":
        lr = _GENTLER * auto_lr(loaded.model.num_parameters(), lora=section.lora is not None)
    pupil, dtype = pupil_of(loaded), loaded.model.dtype
    async with _referee(workspace) as (versus, judging):
        agent = prepare_agent(loaded, section=section, capacity=source.capacity, seed=config.seed)
        try:
            rehearsal = _rehearsal(workspace, agent, longest=pupil.longest(config.finetune))
            aims = _aims(section, scorers=scorers, versus=versus, rehearsal=rehearsal)
            identity = from_main(
                lambda: _identity(workspace, parts, loaded=loaded, judging=judging)
            )
            trail = await reinforce(
                parts.learnt_from,
                watched=parts.watched,
                agent=agent,
                aims=aims,
                section=section,
                lr=lr,
                seed=config.seed,
                identity=identity,
                keeping=Keeping(places.checkpoints, places.metrics, section.checkpoint_every_s),
                progress=workspace.progress,
            )
        finally:
            await agent.sampler.aclose()
    counts = [(value.numel(), value.requires_grad) for value in agent.model.parameters()]
    result = reinforce_result(
        trail,
        prompts=len(parts.learnt_from),
        watched=len(parts.watched),
        overlong=overlong,
        section=section,
        lr=lr,
        parameters=(sum(n for n, _ in counts), sum(n for n, trained in counts if trained)),
    )
    card = reinforce_card(
        result, source=source.source, section=section, constitution=workspace.constitution
    )
    keep(Trained(agent.model, dtype), pupil=pupil, result=result, card=card, places=places)
    return result


def _has_room(
    prompt: Prompt, readers: Iterable[Loaded | RewardScorer], *, section: ReinforceConfig
) -> bool:
    """Whether the longest response and its end fit each model that reads it behind the prompt."""
    return all(
        reader.context is None
        or len(reader.encoder.prompt_ids(prompt.messages)) + section.max_new_tokens + 1
        <= reader.context
        for reader in readers
    )


def _identity(workspace: Workspace, parts: Parts, *, loaded: Loaded, judging: str) -> str:
    """Names all that shapes the training: resuming with anything else is refused."""
    config = workspace.config
    section = config.reinforce.model_dump(mode="json", exclude={"checkpoint_every_s"})
    directories = [_directory(source, workspace) for source in config.reinforce.rewards]
    return content_hash(
        {
            "model": loaded.fingerprint,
            "section": section,
            "judging": judging,
            "constitution": workspace.constitution.hash,
            "rewards": [
                [file_hash(path) for path in sorted(directory.glob("*.safetensors"))]
                for directory in directories
                if directory is not None
            ],
            "rehearsed": file_hash(_taught(workspace)) if config.reinforce.sft_weight else None,
            "prompts": [[prompt.model_dump(mode="json") for prompt in part] for part in parts],
            "seed": config.seed,
        }
    )


class _Referee(NamedTuple):
    """The run's judge as one who says how likely the first of two responses is the better."""

    versus: Versus
    identity: str
    """Names all that shapes what it says."""


@asynccontextmanager
async def _referee(workspace: Workspace) -> AsyncGenerator[_Referee]:
    """Where it cannot say, as where no principle speaks, neither response is the better one.

    A process that nothing will ask for a verdict, since it takes no looks, opens no judge.
    """
    config = workspace.config
    if is_follower() and "judge" not in config.reinforce.rewards:
        yield _Referee(_unasked, "")
        return
    judging = config.models.judge or config.models.policy
    async with open_frozen(judging, journal=workspace.journal, stage="reinforce") as model:
        judge, _ = await open_judge(workspace, model, constitution=workspace.constitution)
        undecided = 0

        async def versus(comparison: Comparison) -> float:
            try:
                verdict = await judge_comparison(comparison, judge=judge)
            except (JudgementError, OverlongError) as error:
                nonlocal undecided
                undecided += 1
                if undecided <= _NAMED:
                    _log.warning("comparison %s counts as even: %s", comparison.id, error)
                return 0.5
            return 0.5 if verdict is None else verdict.preference.p_first

        section = config.compare.model_dump(mode="json", include=SHAPES_VERDICTS)
        try:
            yield _Referee(versus, content_hash([model.fingerprint, judge.threshold, section]))
        finally:
            if undecided > _NAMED:
                _log.warning(
                    "%d comparisons in all count as even, since the judge did not decide them: see "
                    "the first ones above. Name another `models.judge` if they are many",
                    undecided,
                )


async def _unasked(comparison: Comparison) -> float:
    raise AssertionError(f"comparison {comparison.id} is the main process's to judge")


def _rehearsal(workspace: Workspace, agent: Agent, *, longest: int) -> Rehearsal | None:
    """What the SFT model was taught of harmless prompts, if that is to be rehearsed.

    Raises:
        RunError: Fine-tuning has left no demonstrations.
        GuardError: None is on a harmless prompt.
    """
    config = workspace.config
    if not config.reinforce.sft_weight:
        return None
    return rehearsal(
        read_jsonl(_taught(workspace), Demonstration, what="demonstration", made_by="finetune"),
        model=agent.model,
        encoder=agent.encoder,
        system=config.finetune.system,
        longest=longest,
        weight=config.reinforce.sft_weight,
        count=config.reinforce.prompts_per_step,
    )


def _taught(workspace: Workspace) -> Path:
    return workspace.directory.data / "sft_train.jsonl"


def _aims(
    section: ReinforceConfig,
    *,
    scorers: Mapping[str, RewardScorer],
    versus: Versus,
    rehearsal: Rehearsal | None,
) -> Aims:
    def reward(source: str) -> Reward:
        if source in scorers:
            return by_scores(scorers[source].rewards_of_all)
        return by_judge(versus) if source == "judge" else by_function(source)

    constraint = section.constraint
    return Aims(
        reward=with_penalties(reward(section.reward), section=section),
        constraint=None if constraint is None else reward(constraint.reward),
        versus=versus,
        rehearsal=rehearsal,
    )


def _scorers(workspace: Workspace) -> dict[str, RewardScorer]:
    """The reward models among the rewards, by what the configuration calls them.

    Raises:
        ConfigError: One is not there.
        BackendError: One cannot be loaded.
        EncodingError: The tokenizer or chat template of one cannot be used faithfully.
    """
    found: dict[str, RewardScorer] = {}
    for source in dict.fromkeys(workspace.config.reinforce.rewards):
        directory = _directory(source, workspace)
        if directory is None:
            continue
        if not directory.is_dir():
            raise ConfigError(
                f"reward {source}: {directory} is no directory. Name `model` (after "
                "`charter reward`), `judge`, a reward model's directory, or "
                "`python:MODULE:FUNCTION`."
            )
        found[source] = reward_scorer(workspace, directory)
    return found


def _directory(source: str, workspace: Workspace) -> Path | None:
    """Where the reward model lies that the configuration names; None: it names no model."""
    if source == "judge" or source.startswith(PYTHON):
        return None
    return workspace.directory.models / "reward" if source == "model" else Path(source)
