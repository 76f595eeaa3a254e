"""One round of RL: rollouts, their rewards, and what is learnt from them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from charter.errors import GuardError
from charter.feedback.rollouts import Rollouts, prompts_of_step, roll_out
from charter.feedback.training import Training
from charter.launch import joined, share
from charter.learning.batches import plan_step
from charter.learning.learner import apply_gradients, gradients
from charter.learning.metrics import StepRow
from charter.learning.objectives import SPREAD_FLOOR, group_advantages, leave_one_out
from charter.learning.policy import (
    Rated,
    Watch,
    logprobs_by_group,
    policy_task,
    seen_by_all,
)
from charter.learning.processes import seed_draws
from charter.learning.recipe import lr_at
from charter.learning.tree import Group
from charter.seeding import derive, shuffled

_KL_GAIN = 0.1
_KL_REACH = 0.2
"""How fast an adaptive KL weight moves: by at most `gain x reach` a step (Ziegler et al. 2019)."""


class _Rewarded(NamedTuple):
    """A prompt's responses and what they are worth."""

    rollouts: Rollouts
    rewards: Sequence[float]
    bounds: Sequence[float]
    """The second reward, which is to stay above a level; zeros where there is none."""


class _Moved(NamedTuple):
    """What the last optimizer step of a round was."""

    loss: float
    grad_norm: float
    lr: float
    rehearsed: float | None
    """Loss of demonstrations per token; None where none are rehearsed."""


async def take_round(training: Training, step: int) -> StepRow:
    """Samples, rewards and learns; leaves the weights after the step, and says how it went.

    Raises:
        GuardError: The loss is no number any more.
        BackendError: The policy or a judge could not answer.
    """
    began = time.monotonic()
    section = training.section
    rewarded = await _sampled(training, step)
    rollouts = [one.rollouts for one in rewarded]
    rewards = torch.tensor([one.rewards for one in rewarded])
    bounds = torch.tensor([one.bounds for one in rewarded])
    worth = rewards + training.multiplier * bounds
    over = group_advantages if section.algorithm == "grpo" else leave_one_out
    rated = _rated(training, rollouts, over(worth))
    watch = Watch()
    moved = _update(training, rated, step=step, watch=watch)
    watch = seen_by_all(watch)
    training.agent.sampler.weights_changed()
    responses = [response for one in rollouts for response in one.responses]
    constraint = None if training.aims.constraint is None else float(bounds.mean())
    per_token = watch.kl / watch.tokens
    per_response = per_token * fmean(len(response.token_ids) for response in responses)
    spreads = worth.std(dim=1)
    return StepRow(
        step=step,
        loss=moved.loss,
        lr=moved.lr,
        grad_norm=moved.grad_norm,
        reward=float(rewards.mean()),
        reward_spread=float(spreads.mean()),
        idle_share=float((spreads <= SPREAD_FLOOR).float().mean()),
        kl_nats=per_token,
        kl_nats_per_response=per_response,
        entropy_nats=watch.surprise / watch.tokens,
        length_tokens=fmean(len(response.token_ids) for response in responses),
        truncated_share=fmean(response.finish == "length" for response in responses),
        clipped_share=watch.clipped / watch.tokens,
        sampler_gap_nats=watch.gap / watch.tokens,
        kl_weight=_next_kl_weight(training, per_response),
        multiplier=_next_multiplier(training, constraint),
        constraint=constraint,
        rehearsed=moved.rehearsed,
        seconds=time.monotonic() - began,
    )


def _next_kl_weight(training: Training, kl_per_response: float) -> float:
    """The weight that brings KL nearer to its budget; as it is where there is none."""
    budget, weight = training.section.kl_budget, training.kl_weight
    if budget is None:
        return weight
    error = max(-_KL_REACH, min(_KL_REACH, kl_per_response / budget - 1))
    return weight * (1 + _KL_GAIN * error)


def _next_multiplier(training: Training, constraint: float | None) -> float:
    """The constraint's multiplier: it rises while the second reward is below its level.

    Source: Dai et al. 2023 (safe-rlhf, arXiv 2310.12773), eq. 11: gradient ascent on the dual.
    """
    section = training.section.constraint
    if constraint is None or section is None:
        return 0.0
    raised = training.multiplier + section.lr * (section.level - constraint)
    return min(section.max_multiplier, max(0.0, raised))


async def _sampled(training: Training, step: int) -> list[_Rewarded]:
    """The step's rollouts; each process samples for its prompts, and all get all."""
    section = training.section
    chosen = prompts_of_step(
        training.prompts, step=step, count=section.prompts_per_step, seed=training.seed
    )
    training.learner.model.eval()
    mine = await roll_out(
        share(chosen),
        policy=training.agent.sampler,
        group=section.group,
        temperature=section.temperature,
        max_new_tokens=section.max_new_tokens,
        seed=derive(training.seed, "rollout", step),
    )
    # There may be fewer prompts than processes.
    rewards = await training.aims.reward(mine) if mine else []
    bounds = [[0.0] * len(one.responses) for one in mine]
    if mine and training.aims.constraint is not None:
        bounds = await training.aims.constraint(mine)
    return joined([_Rewarded(*each) for each in zip(mine, rewards, bounds, strict=True)])


def _rated(
    training: Training, rollouts: Sequence[Rollouts], advantages: Tensor
) -> dict[str, Rated]:
    """The rollouts as ids, with what the update needs to know of each."""
    agent, section = training.agent, training.section
    groups = [
        Group(
            prompt=tuple(agent.encoder.prompt_ids(one.prompt.messages)),
            completions=tuple(response.token_ids for response in one.responses),
        )
        for one in rollouts
    ]
    before: Sequence[Tensor | None] = [None] * len(groups)
    if section.passes * section.updates > 1:
        before = logprobs_by_group(
            training.learner.model,
            groups,
            layout=training.layout,
            temperature=section.temperature,
            tokens_per_batch=section.tokens_per_batch,
        )
    return {
        one.prompt.id: Rated(
            group,
            advantages=own,
            sampled_S=torch.tensor([p for r in one.responses for p in r.logprobs]),
            reference_S=reference_S,
            before_S=before_S,
        )
        for one, group, own, reference_S, before_S in zip(
            rollouts,
            groups,
            advantages,
            agent.reference(groups, training.layout),
            before,
            strict=True,
        )
    }


def _update(training: Training, rated: dict[str, Rated], *, step: int, watch: Watch) -> _Moved:
    """Learns from the rollouts, in all passes and updates."""
    section, learner = training.section, training.learner
    task = policy_task(
        rated,
        clip=section.clip,
        kl_weight=training.kl_weight,
        temperature=section.temperature,
        layout=training.layout,
        watch=watch,
    )
    total = section.steps * section.passes * section.updates
    taken = (step - 1) * section.passes * section.updates
    moved = _Moved(0.0, 0.0, 0.0, None)
    for turn in range(section.passes):
        order = shuffled(rated, training.seed, "update", step, turn)
        for part in range(section.updates):
            seed_draws(derive(training.seed, "update", step, turn, part))
            lengths = {name: task.lengths[name] for name in order[part :: section.updates]}
            if not lengths:
                continue
            batches = plan_step(
                lengths,
                tokens_per_batch=section.tokens_per_batch,
                seed=training.seed,
                epoch=step,
            )
            at = taken + turn * section.updates + part
            lr = lr_at(at, peak=training.lr, steps=total, warmup_share=section.warmup_share)
            loss, rehearsed = gradients(learner, task, batches), None
            if training.aims.rehearsal is not None:
                rehearsed = training.aims.rehearsal.add_gradients(
                    learner,
                    seed=training.seed,
                    at=at,
                    tokens_per_batch=section.tokens_per_batch,
                )
            _require_finite(loss, "loss", step=step, lr=lr)
            norm = apply_gradients(learner, lr=lr, max_grad_norm=section.max_grad_norm)
            _require_finite(norm, "gradient norm", step=step, lr=lr)
            moved = _Moved(loss, norm, lr, rehearsed)
    return moved


def _require_finite(value: float, what: str, *, step: int, lr: float) -> None:
    if not math.isfinite(value):
        raise GuardError(
            f"{what} is {value} at step {step} of RL (learning rate {lr:.2g}). Training stopped "
            "before the weights were changed by it. Lower `reinforce.lr`, or load the model in "
            "float32"
        )
