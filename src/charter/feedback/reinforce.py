"""Reward + SFT model -> RL model: sample, reward, compare with the group, move, stay near.

A step is a function of (seed, step, weights): its prompts, samples and draws are all derived from
names. So an interrupted training goes on bit for bit from its last checkpoint, on a CPU; the
rollouts of a step that was cut short are sampled again, and are the same.

Source: Bai et al. 2022, sec. 4.2 and 4.3. PPO with a value model is replaced by a baseline from
the response's own group (GRPO, Shao et al. 2024; RLOO, Ahmadian et al. 2024), and the KL term is
a part of the loss, not of the reward.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charter.config import ReinforceConfig
from charter.console import Progress, Silent, under_way
from charter.errors import GuardError, RunError
from charter.feedback.monitors import Seen, best_look, has_fallen, look, too_far
from charter.feedback.rewards import wins_over
from charter.feedback.rollouts import Rollouts, roll_out
from charter.feedback.round import take_round
from charter.feedback.training import Agent, Aims, Training
from charter.launch import from_main, joined, share
from charter.learning.checkpoints import (
    Cadence,
    Checkpoint,
    TrainingState,
    discard_after,
    load_best,
    load_step,
    save_best,
    save_step,
)
from charter.learning.learner import finish, moments, prepare, set_moments, set_weights, weights
from charter.learning.memory import memory_for
from charter.learning.metrics import LookRow, Row, append_row
from charter.learning.train import Keeping
from charter.learning.tree import Group, Layout, fitting_layout
from charter.records import Prompt
from charter.run import write_jsonl
from charter.seeding import derive

_IDLE_STEPS = 5
"""Steps in a row that taught nothing before that is taken for the end of learning."""
_log = logging.getLogger(__name__)


class Stop(NamedTuple):
    """Why training ended early."""

    reason: str
    too_far: bool
    """Whether the policy was better before; else there is nothing left to learn."""


@dataclass(frozen=True)
class Trail:
    """How an RL training went."""

    rows: tuple[Row, ...]
    steps: int
    """Taken."""
    planned_steps: int
    kept_step: int
    """Whose weights the model has."""
    stopped: Stop | None
    """Why training ended before its last step; None: it did not."""


async def reinforce(
    prompts: Sequence[Prompt],
    *,
    watched: Sequence[Prompt],
    agent: Agent,
    aims: Aims,
    section: ReinforceConfig,
    lr: float,
    seed: int,
    identity: str,
    keeping: Keeping,
    progress: Progress,
) -> Trail:
    """Trains the agent's model in place, and leaves it with the weights that are to be kept.

    Args:
        prompts: What it answers and learns from.
        watched: Prompts of their own for the monitors; at least one.
        agent: What learns.
        aims: What for.
        section: How.
        lr: Highest learning rate.
        seed: Of the run.
        identity: Names model, rewards and settings: what may not change between two starts.
        keeping: Where checkpoints and metrics go.
        progress: Hears each step.

    Raises:
        GuardError: No response is better than another, or the loss is no number any more.
        RunError: The checkpoints belong to another training, or memory ran out.
        BackendError: The policy or a judge could not answer.
    """
    longest = max(len(agent.encoder.prompt_ids(prompt.messages)) for prompt in prompts)
    rehearsed = aims.rehearsal.task.lengths.values() if aims.rehearsal else ()
    with memory_for("the start of RL", stage="reinforce"):
        learner = prepare(
            agent.model,
            weight_decay=section.weight_decay,
            longest=max([longest + section.max_new_tokens, *rehearsed]),
        )
    training = Training(
        agent=agent,
        aims=aims,
        section=section,
        prompts=prompts,
        watched=watched,
        lr=lr,
        seed=seed,
        identity=identity,
        learner=learner,
    )
    told = progress if learner.processes.is_main_process else Silent()
    with under_way(told, "reinforce", total=section.steps):
        await _start(training, keeping)
        stopped = await _learn(training, keeping, told)
        trail = _end(training, keeping, stopped=stopped)
        told.finish(_summary(trail))
    return trail


async def _start(training: Training, keeping: Keeping) -> None:
    """Begins, or goes on from a checkpoint; either way the reference speaks first."""
    training.references = await _watched_rollouts(training)
    # One for all processes: batches are planned by it.
    training.layout = from_main(lambda: _layout(training))
    found = load_step(keeping.checkpoints)
    if found is not None and found.state.identity != training.identity:
        raise RunError(
            f"{keeping.checkpoints} holds checkpoints of another training (other prompts, rewards, "
            "settings or model). Use another run directory, or remove that one to start anew"
        )
    if found is None:
        training.rows.append(await _look(training, step=0, rollouts=training.references))
    else:
        _log.info("going on from step %d", found.state.step)
        set_weights(training.learner, found.weights)
        set_moments(training.learner, found.moments)
        training.agent.sampler.weights_changed()
        training.rows.extend(found.state.rows)
    training.learner.processes.wait_for_everyone()
    if training.learner.processes.is_main_process:
        discard_after(keeping.checkpoints, step=found.state.step if found else -1)
        write_jsonl(keeping.metrics, training.rows)
        if found is None:
            save_best(keeping.checkpoints, 0, weights=weights(training.learner))


async def _learn(training: Training, keeping: Keeping, told: Progress) -> Stop | None:
    """Takes the steps that are left; gives back why they ended early."""
    section, taken = training.section, len(training.steps)
    told.advance(taken)
    cadence = Cadence(keeping.checkpoint_every_s)
    stopped = _reason(training) if taken else None
    for step in range(taken + 1, section.steps + 1):
        if stopped is not None:
            return stopped
        with memory_for(f"step {step} of RL", stage="reinforce"):
            new: list[Row] = [await take_round(training, step)]
        training.rows.extend(new)
        if step % section.monitor_every == 0 or step == section.steps:
            seen = await _look(training, step=step, rollouts=await _watched_rollouts(training))
            training.rows.append(seen)
            new.append(seen)
        stopped = _reason(training)
        if training.learner.processes.is_main_process:
            _keep(training, keeping, new)
        cadence.save_if_due(lambda step=step: _save(training, step, keeping))
        told.advance(note=_note(training))
    return stopped


def _reason(training: Training) -> Stop | None:
    """Why training should end here, if it should.

    Raises:
        GuardError: No group of the first steps had two responses of different worth.
    """
    steps = training.steps
    recent = steps[-_IDLE_STEPS:]
    if len(recent) == _IDLE_STEPS and all(row.idle_share == 1.0 for row in recent):
        if all(row.idle_share == 1.0 for row in steps):
            raise GuardError(
                f"all responses to a prompt got one and the same reward in all {len(steps)} steps: "
                "there is nothing to learn. Look at the reward, or raise `reinforce.group`"
            )
        return Stop("settled: all responses to a prompt get one and the same reward", False)
    reason = too_far(training.looks, section=training.section)
    return None if reason is None else Stop(reason, too_far=True)


async def _watched_rollouts(training: Training) -> list[Rollouts]:
    """One response to every watched prompt, always under the same seeds; processes share them.

    At temperature 1, as evaluation asks, whatever the policy learns at.
    """
    training.learner.model.eval()
    mine = await roll_out(
        share(training.watched),
        policy=training.agent.sampler,
        group=1,
        temperature=1.0,
        max_new_tokens=training.section.max_new_tokens,
        seed=derive(training.seed, "look"),
    )
    return joined(mine)


def _layout(training: Training) -> Layout:
    """The way to lay out groups that suits responses like the reference's."""
    agent = training.agent
    probe = [
        Group(
            prompt=tuple(agent.encoder.prompt_ids(one.prompt.messages)),
            completions=(one.responses[0].token_ids,) * training.section.group,
        )
        for one in training.references
    ]
    return fitting_layout(agent.model, probe=probe)


async def _look(training: Training, *, step: int, rollouts: Sequence[Rollouts]) -> LookRow:
    """What the watched prompts show of the policy as it is, to the main process: one look."""
    seen = None
    if training.learner.processes.is_main_process:
        seen = look(step, await _seen(training, rollouts))
    shown = from_main(lambda: seen)
    assert shown is not None
    return shown


async def _seen(training: Training, rollouts: Sequence[Rollouts]) -> list[Seen]:
    """The watched prompts' responses, rewarded and compared with the reference's."""
    rewards = await training.aims.reward(rollouts)
    wins = await wins_over(
        [
            (ours.prompt, ours.texts[0], theirs.texts[0])
            for ours, theirs in zip(rollouts, training.references, strict=True)
        ],
        versus=training.aims.versus,
    )
    return [
        Seen(
            text=ours.texts[0],
            reference=theirs.texts[0],
            tokens=len(ours.responses[0].token_ids),
            reward=reward[0],
            win=win,
        )
        for ours, theirs, reward, win in zip(
            rollouts, training.references, rewards, wins, strict=True
        )
    ]


def _keep(training: Training, keeping: Keeping, new: Sequence[Row]) -> None:
    """Writes new rows, and the weights of a look that may be the one to keep."""
    for row in new:
        append_row(keeping.metrics, row)
    last = new[-1]
    if isinstance(last, LookRow) and last == best_look(training.looks, section=training.section):
        save_best(keeping.checkpoints, last.step, weights=weights(training.learner))


def _save(training: Training, step: int, keeping: Keeping) -> None:
    """Has the main process save a checkpoint."""
    learner = training.learner
    if not learner.processes.is_main_process:
        return
    state = TrainingState(
        identity=training.identity,
        step=step,
        rows=tuple(training.rows),
        best_step=best_look(training.looks, section=training.section).step,
    )
    checkpoint = Checkpoint(state, weights=weights(learner), moments=moments(learner))
    save_step(keeping.checkpoints, checkpoint)


def _end(training: Training, keeping: Keeping, *, stopped: Stop | None) -> Trail:
    """What came of it, with the weights that are kept in the model.

    Those of the last step, or of the best look where training went too far.
    """
    training.learner.processes.wait_for_everyone()
    kept = len(training.steps)
    best = best_look(training.looks, section=training.section)
    went_too_far = stopped is not None and stopped.too_far
    if went_too_far or has_fallen(training.looks[-1], best=best):
        kept = best.step
        finish(training.learner, training.agent.model, kept=load_best(keeping.checkpoints, kept))
        training.agent.sampler.weights_changed()
    else:
        finish(training.learner, training.agent.model, kept=None)
    if stopped is not None:
        _log.warning("RL stopped after step %d: %s", len(training.steps), stopped.reason)
    return Trail(
        rows=tuple(training.rows),
        steps=len(training.steps),
        planned_steps=training.section.steps,
        kept_step=kept,
        stopped=stopped,
    )


def _note(training: Training) -> str:
    step, last = training.steps[-1], training.looks[-1]
    return f"reward {step.reward:+.3f}, KL {step.kl_nats:.3f}, judge {last.judge:.2f}"


def _summary(trail: Trail) -> str:
    ending = "" if trail.stopped is None else f" ({trail.stopped.reason})"
    return f"{trail.steps} steps, kept step {trail.kept_step}{ending}"
