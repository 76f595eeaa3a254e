"""What RL came to: a result for a rerun and the report, a card for people, a picture of it."""

from __future__ import annotations

from charter.config import ReinforceConfig
from charter.constitution import Constitution
from charter.feedback.reinforce import Trail
from charter.learning.card import SPEAKS, CardFacts
from charter.learning.metrics import LookRow, StepRow
from charter.records import Record


class ReinforceResult(Record):
    """What RL came to: `models/rl/training.json`."""

    prompts: int
    watched_prompts: int
    """Held out for the monitors."""
    parameters: int
    trained_parameters: int
    lr: float
    planned_steps: int
    steps: int
    """Taken."""
    kept_step: int
    """Whose weights these are."""
    stopped: str | None
    """Why training ended before its last step."""
    rollouts: int
    tokens: int
    """Sampled."""
    reward_before: float
    reward: float
    """At the last look: mean over the watched prompts."""
    judge: float
    """The judge's probability, then, that the policy's response beats the SFT model's."""
    kl_nats: float
    """KL(policy || SFT model) per response token in the step whose weights these are."""
    constraint: float | None = None
    """Mean of the second reward over that step's rollouts; None: there is no constraint."""
    multiplier: float | None = None
    """Of the constraint, after that step."""
    overlong_prompts: int = 0
    """Left out: with a response of `max_new_tokens` they do not fit the model."""


def reinforce_result(
    trail: Trail,
    *,
    prompts: int,
    watched: int,
    overlong: int,
    section: ReinforceConfig,
    lr: float,
    parameters: tuple[int, int],
) -> ReinforceResult:
    """What a training came to.

    Args:
        trail: How it went.
        prompts: That it learnt from.
        watched: That it was watched on.
        overlong: Prompts that were left out for their length.
        section: How it was trained.
        lr: Its highest learning rate.
        parameters: All of the model's, and those that changed.
    """
    steps = [row for row in trail.rows if isinstance(row, StepRow)]
    looks = [row for row in trail.rows if isinstance(row, LookRow)]
    per_step = min(section.prompts_per_step, prompts) * section.group
    last = next((row for row in looks if row.step == trail.kept_step), looks[-1])
    # The first step's rollouts are those of the weights before it.
    bounded = next((row for row in steps if row.step == max(trail.kept_step, 1)), None)
    return ReinforceResult(
        prompts=prompts,
        watched_prompts=watched,
        parameters=parameters[0],
        trained_parameters=parameters[1],
        lr=lr,
        planned_steps=trail.planned_steps,
        steps=trail.steps,
        kept_step=trail.kept_step,
        stopped=trail.stopped.reason if trail.stopped else None,
        rollouts=per_step * trail.steps,
        tokens=round(sum(row.length_tokens * per_step for row in steps)),
        reward_before=looks[0].reward,
        reward=last.reward,
        judge=last.judge,
        kl_nats=next((row.kl_nats for row in steps if row.step == trail.kept_step), 0.0),
        constraint=bounded.constraint if bounded else None,
        multiplier=bounded.multiplier if bounded and section.constraint else None,
        overlong_prompts=overlong,
    )


def reinforce_card(
    result: ReinforceResult, *, source: str, section: ReinforceConfig, constitution: Constitution
) -> CardFacts:
    """The model card's facts."""
    lora = section.lora
    return CardFacts(
        title=f"{source}, taught by feedback under the constitution {constitution.name}",
        base_model=source,
        method=(
            "Trained by charter with reinforcement learning from AI feedback under a constitution "
            "(Bai et al. 2022, arXiv 2212.08073, sec. 4), near the fine-tuned model."
        ),
        constitution=constitution,
        data={
            "Prompts": f"{result.prompts:,}",
            "Prompts for the monitors alone": f"{result.watched_prompts:,}",
            "Responses sampled": f"{result.rollouts:,}",
        },
        training={
            "Weights changed": f"{result.trained_parameters:,} of {result.parameters:,}"
            + (f" (LoRA, rank {lora.rank}, alpha {lora.alpha:g})" if lora else ""),
            "Algorithm": f"{section.algorithm.upper()}, {section.group} responses a prompt, "
            f"clip {section.clip:g}",
            "Reward": section.reward,
            "Weight of KL to the fine-tuned model": f"{section.kl_weight:g}"
            + (f", adapted to {section.kl_budget:g} nats a response" if section.kl_budget else ""),
            **_beside(section),
            "Highest learning rate": f"{result.lr:.3g}",
            "Steps": f"{result.steps:,} of {result.planned_steps:,}, kept {result.kept_step:,}"
            + (f"; stopped: {result.stopped}" if result.stopped else ""),
        },
        results={
            "Reward on the monitors' prompts before": f"{result.reward_before:.3f}",
            "Reward after": f"{result.reward:.3f}",
            "Judge's preference for it over the fine-tuned model": f"{result.judge:.2f}",
            "KL to the fine-tuned model": f"{result.kl_nats:.4f} nats per token",
            **_bounded(result, section),
        },
        limits=(
            SPEAKS,
            "A higher reward says that it pleases the reward more, not that it is better: read the "
            "figures of the evaluation beside it.",
        ),
    )


def _bounded(result: ReinforceResult, section: ReinforceConfig) -> dict[str, str]:
    """Whether the constraint was met in the end."""
    bound = section.constraint
    if bound is None or result.constraint is None or result.multiplier is None:
        return {}
    met = "met" if result.constraint >= bound.level else "not met"
    return {
        "Reward of the constraint in the kept step": f"{result.constraint:.3f}, so that the level "
        f"{bound.level:g} is {met}",
        "Multiplier of the constraint": f"{result.multiplier:.3g}",
    }


def _beside(section: ReinforceConfig) -> dict[str, str]:
    """What else the training had to reach."""
    facts: dict[str, str] = {}
    if (bound := section.constraint) is not None:
        facts["Constraint"] = f"{bound.reward} above {bound.level:g}"
    if section.sft_weight:
        facts["Weight of rehearsed demonstrations"] = f"{section.sft_weight:g}"
    return facts
