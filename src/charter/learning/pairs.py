"""The tasks of comparisons: a reward model's, and a policy's under DPO.

Both read a comparison as one group, its prompt once, and learn from the same soft labels. They
differ in what a response is worth: what the scalar head says, or log(policy / reference).

Axes: C comparisons, 2 their responses, the chosen one first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from charter.config import TrainingConfig
from charter.errors import GuardError
from charter.launch import from_main
from charter.learning.measured import Values
from charter.learning.objectives import dpo_loss, preference_loss
from charter.learning.task import Loss, Task
from charter.learning.tree import (
    Group,
    Layout,
    completion_logprobs,
    completion_rewards,
    fitting_layout,
    summed_by_completion,
)
from charter.records import content_hash


@dataclass(frozen=True)
class Pair:
    """A comparison as ids, with its soft label."""

    group: Group
    """The prompt, the chosen response, the rejected one."""
    p_chosen: float
    """Probability that the chosen response is better."""

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longer response."""
        return len(self.group.prompt) + max(map(len, self.group.completions))


def pair_layout(
    model: PreTrainedModel, pairs: Mapping[str, Pair], *, section: TrainingConfig, stage: str
) -> Layout:
    """The cheapest layout for comparisons like these.

    Args:
        model: As it will be trained.
        pairs: What it is to learn from.
        section: How it is trained.
        stage: The name of that section, for messages.

    Raises:
        GuardError: There is no comparison, or none that says which response is better.
    """
    if all(pair.p_chosen == 0.5 for pair in pairs.values()):
        raise GuardError(
            f"there is nothing to learn: of {len(pairs)} comparisons to train on none says which "
            f"response is better. Look at metrics/compare.json, and at `{stage}.max_length`, for "
            "where they went"
        )
    probe = [pair.group for pair in pairs.values()]
    # One for all processes: batches are planned by it. Those that share the weights of a model must
    # call it as often as each other, whatever each reads.
    return from_main(lambda: fitting_layout(model, probe=probe, in_one_pass=section.shard))


def reward_task(
    pairs: Mapping[str, Pair], *, layout: Layout, margin: float, centre: float, stage: str
) -> Task:
    """The task of giving the better response the higher reward.

    Args:
        pairs: What to learn from, by name.
        layout: How they are read.
        margin: See `objectives.preference_loss`.
        centre: See there too.
        stage: The section of the configuration, for messages.
    """

    def loss(model: nn.Module, names: Sequence[str]) -> Tensor:
        groups = [pairs[name].group for name in names]
        rewards_C2 = completion_rewards(model, groups, layout=layout).view(-1, 2)
        return preference_loss(
            rewards_C2[:, 0],
            rewards_C2[:, 1],
            _labels_of(pairs, names, like=rewards_C2),
            margin=margin,
            centre=centre,
        )

    return _task(pairs, loss, layout=layout, stage=stage, settings=[margin, centre])


def dpo_task(
    pairs: Mapping[str, Pair],
    *,
    layout: Layout,
    reference: Values,
    beta: float,
    stage: str,
) -> Task:
    """The task of making the better response likelier, against a frozen reference.

    Args:
        pairs: What to learn from, by name.
        layout: How they are read.
        reference: The reference's log-probabilities of both responses; see
            `measured.py`.
        beta: See `objectives.dpo_loss`.
        stage: The section of the configuration, for messages.
    """

    def loss(model: nn.Module, names: Sequence[str]) -> Tensor:
        groups = [pairs[name].group for name in names]
        logprobs_S = completion_logprobs(model, groups, layout=layout)
        policy_C2 = summed_by_completion(logprobs_S, groups).view(-1, 2)
        reference_C2 = torch.tensor([reference[name] for name in names]).to(policy_C2)
        log_ratio_C2 = policy_C2 - reference_C2
        return dpo_loss(
            log_ratio_C2[:, 0],
            log_ratio_C2[:, 1],
            _labels_of(pairs, names, like=policy_C2),
            beta=beta,
        )

    return _task(pairs, loss, layout=layout, stage=stage, settings=[beta])


def _task(
    pairs: Mapping[str, Pair], loss: Loss, *, layout: Layout, stage: str, settings: list[float]
) -> Task:
    """A comparison counts one, however long it is."""
    return Task(
        stage=stage,
        lengths={name: pair.group.tokens_in(layout) for name, pair in pairs.items()},
        units=dict.fromkeys(pairs, 1),
        digest=content_hash(
            [
                layout,
                settings,
                {
                    name: [pair.group.prompt, pair.group.completions, pair.p_chosen]
                    for name, pair in pairs.items()
                },
            ]
        ),
        loss=loss,
        unit="comparison",
    )


def _labels_of(pairs: Mapping[str, Pair], names: Sequence[str], *, like: Tensor) -> Tensor:
    return torch.tensor([pairs[name].p_chosen for name in names]).to(like)
