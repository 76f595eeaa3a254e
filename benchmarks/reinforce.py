"""A whole step of RL, rollouts included: our round against TRL's `GRPOTrainer`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from accelerate.state import AcceleratorState
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

from benchmarks import tiny
from benchmarks.generation import loaded_model
from benchmarks.measuring import Figure, cpu_s, speedup
from charter.config import ReinforceConfig
from charter.feedback.agent import prepare_agent
from charter.feedback.rollouts import Rollouts
from charter.feedback.round import take_round
from charter.feedback.training import Aims, Training
from charter.learning.learner import prepare
from charter.learning.tree import Group, fitting_layout
from charter.records import Comparison, Prompt, user

_LR = 1e-4
_CLIP = 0.2
_KL_WEIGHT = 0.05
"""More than zero, so that both sides ask a reference."""
_CONTROL_TOKENS = 3
"""That the template puts around a prompt."""

_TUNED = {"bf16": False, "gradient_checkpointing": False}
_DEFAULTS: dict[str, Any] = {}


@dataclass(frozen=True)
class Work:
    """How much there is to do."""

    steps: int
    prompts: int
    """A step."""
    group: int
    """Responses sampled for a prompt."""
    prompt: int
    """Tokens of each: rows of one length are TRL's best case, with nothing to pad."""
    answer: int
    """Tokens of a response at most; the random model ends one in a hundred before."""


class Spent(NamedTuple):
    """What some steps cost."""

    cpu_s: float
    tokens: int
    """Of all responses."""

    @property
    def cpu_s_a_token(self) -> float:
        """Either side's samples may end early, so that neither writes quite as many tokens."""
        return self.cpu_s / self.tokens


def figures(*, quick: bool) -> Iterator[Figure]:
    """Ratios against a tuned GRPOTrainer, and against its defaults."""
    small = Work(steps=1, prompts=2, group=2, prompt=12, answer=4)
    whole = small if quick else Work(steps=2, prompts=8, group=8, prompt=96, answer=32)
    few = small if quick else Work(steps=1, prompts=8, group=8, prompt=96, answer=32)
    repeats = 1 if quick else 3
    tuned = "GRPOTrainer with bf16=False, gradient_checkpointing=False"
    yield _figure(
        "training.reinforce", whole, settings=_TUNED, repeats=repeats, goal=2.5, against=tuned
    )
    yield _figure(
        "training.reinforce.defaults",
        few,
        settings=_DEFAULTS,
        repeats=repeats,
        against="GRPOTrainer at its defaults (bfloat16, gradient checkpointing)",
    )


def _figure(
    figure: str,
    work: Work,
    *,
    settings: Mapping[str, Any],
    repeats: int,
    against: str,
    goal: float | None = None,
) -> Figure:
    return speedup(
        figure,
        ours=lambda: ours(work).cpu_s_a_token,
        theirs=lambda: theirs(work, settings).cpu_s_a_token,
        repeats=repeats,
        goal=goal,
        against=against,
    )


def prompts(work: Work) -> list[Prompt]:
    """As many as the steps need, each asked once."""
    rng, words = Random(0), work.prompt - _CONTROL_TOKENS
    return [
        Prompt(id=f"prompt-{number}", messages=(user(tiny.words(words, rng=rng)),))
        for number in range(work.steps * work.prompts)
    ]


def worth(ids: Sequence[int]) -> float:
    """The reward: the share of even ids, which costs nothing and differs between samples."""
    return sum(id_ % 2 == 0 for id_ in ids) / len(ids)


def ours(work: Work) -> Spent:
    """What the steps cost us; model, reference and optimizer are made before."""
    # accelerate keeps TRL's precision for the whole process, and would refuse ours.
    AcceleratorState._reset_state(reset_partial_state=True)
    training = _training(work)
    spent_s = cpu_s(lambda: asyncio.run(_take_steps(training)))
    rollouts = work.prompts * work.group
    return Spent(spent_s, round(sum(row.length_tokens * rollouts for row in training.steps)))


async def _take_steps(training: Training) -> None:
    try:
        for step in range(1, training.section.steps + 1):
            training.rows.append(await take_round(training, step))
    finally:
        await training.agent.sampler.aclose()


def _training(work: Work) -> Training:
    """A training that is about to take its first step."""
    section = ReinforceConfig(
        steps=work.steps,
        prompts_per_step=work.prompts,
        group=work.group,
        max_new_tokens=work.answer,
        clip=_CLIP,
        kl_weight=_KL_WEIGHT,
    )
    asked, rollouts = prompts(work), work.prompts * work.group
    agent = prepare_agent(loaded_model(), section=section, capacity=rollouts, seed=0)
    learner = prepare(agent.model, weight_decay=0.0, longest=work.prompt + work.answer)
    responses = ((0,) * work.answer,) * work.group
    probe = [Group(tuple(agent.encoder.prompt_ids(one.messages)), responses) for one in asked]
    return Training(
        agent=agent,
        aims=Aims(reward=_reward, constraint=None, versus=_never_asked),
        section=section,
        prompts=asked,
        watched=(),
        lr=_LR,
        seed=0,
        identity="tiny",
        learner=learner,
        layout=fitting_layout(agent.model, probe=probe[: work.prompts]),
    )


async def _reward(rollouts: Sequence[Rollouts]) -> list[list[float]]:
    return [[worth(response.token_ids) for response in one.responses] for one in rollouts]


async def _never_asked(comparison: Comparison) -> float:
    raise AssertionError(comparison.id)  # only looks ask a judge, and a round takes none


def theirs(work: Work, settings: Mapping[str, Any]) -> Spent:
    """What the steps cost TRL; model, reference, trainer and dataset are made before."""
    lengths: list[int] = []

    def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [worth(ids) for ids in completion_ids]

    with tempfile.TemporaryDirectory() as folder:
        # TRL reads its reference from where the policy came from.
        tiny.model().save_pretrained(folder)
        trainer = GRPOTrainer(
            folder,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=work.steps,
                per_device_train_batch_size=work.prompts * work.group,
                num_generations=work.group,
                max_completion_length=work.answer,
                learning_rate=_LR,
                epsilon=_CLIP,
                beta=_KL_WEIGHT,
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                **settings,
            ),
            train_dataset=Dataset.from_list(
                [
                    {"prompt": [turn.model_dump(mode="json") for turn in prompt.messages]}
                    for prompt in prompts(work)
                ]
            ),
            processing_class=tiny.tokenizer(),
        )
        spent_s = cpu_s(trainer.train)
    return Spent(spent_s, sum(lengths))
