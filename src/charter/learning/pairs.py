"""The tasks of comparisons: a reward model's, and a policy's under DPO.

Both learn from the same soft labels. They differ in what a response is worth: what the scalar head
says, or log(policy / reference). A prompt and each of its responses are read once for all the
comparisons that they are in, which meet in one optimizer step.

Source: Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), sec. 3.5: all comparisons of a prompt as
one element of a batch, for speed and against overfitting.

Axes: R responses of some groups (groups and responses in order), C comparisons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

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


class Sides(NamedTuple):
    """A comparison of two responses of a group, by their positions in it."""

    chosen: int
    rejected: int
    p_chosen: float
    """Probability that the chosen response is better."""


@dataclass(frozen=True)
class Compared:
    """Responses to one prompt, each once, and the comparisons between them."""

    group: Group
    sides: Mapping[str, Sides]
    """By the comparison's name."""


def together(
    pairs: Mapping[str, Pair], *, layout: Layout, tokens_per_batch: int
) -> dict[str, Compared]:
    """The comparisons by what is read for them: those of one prompt together.

    A prompt with more than a batch holds is read several times.

    Args:
        pairs: The comparisons, by name.
        layout: How they are read.
        tokens_per_batch: That go through the model at once.

    Returns:
        What is read, under the name of its first comparison.
    """
    by_prompt = defaultdict[tuple[int, ...], list[_Gathering]](list)
    for name, pair in pairs.items():
        gathered = by_prompt[pair.group.prompt]
        if not gathered or gathered[-1].with_these(pair).tokens_in(layout) > tokens_per_batch:
            gathered.append(_Gathering(pair.group.prompt))
        gathered[-1].add(name, pair)
    all_gathered = (one for gathered in by_prompt.values() for one in gathered)
    return {next(iter(one.sides)): Compared(one.group, one.sides) for one in all_gathered}


@dataclass
class _Gathering:
    """A prompt's responses while they come together."""

    prompt: tuple[int, ...]
    places: dict[tuple[int, ...], int] = field(default_factory=dict["tuple[int, ...]", "int"])
    """Of each response."""
    sides: dict[str, Sides] = field(default_factory=dict["str", "Sides"])

    @property
    def group(self) -> Group:
        return Group(self.prompt, tuple(self.places))

    def with_these(self, pair: Pair) -> Group:
        """What the group would be with a comparison more."""
        return Group(self.prompt, tuple(dict.fromkeys([*self.places, *pair.group.completions])))

    def add(self, name: str, pair: Pair) -> None:
        chosen, rejected = (
            self.places.setdefault(ids, len(self.places)) for ids in pair.group.completions
        )
        self.sides[name] = Sides(chosen, rejected, pair.p_chosen)


def by_comparison(compared: Mapping[str, Compared], values: Values) -> Values:
    """What both responses of each comparison have, the chosen one first, by its name.

    Args:
        compared: The responses.
        values: One number for each of them, under the names of `compared`.
    """
    return {
        name: (values[group][sides.chosen], values[group][sides.rejected])
        for group, one in compared.items()
        for name, sides in one.sides.items()
    }


def pair_layout(
    model: PreTrainedModel, pairs: Mapping[str, Pair], *, section: TrainingConfig, stage: str
) -> Layout:
    """The cheapest layout for comparisons like these, once they are `together`.

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
    # One for all processes: batches are planned by it. Those that share the weights of a model must
    # call it as often as each other, whatever each reads.
    return from_main(
        lambda: layout_together(
            model, pairs, tokens_per_batch=section.tokens_per_batch, in_one_pass=section.shard
        )
    )


def layout_together(
    model: PreTrainedModel,
    pairs: Mapping[str, Pair],
    *,
    tokens_per_batch: int,
    in_one_pass: bool = False,
) -> Layout:
    """The cheapest layout for these comparisons once they are `together`; see `fitting_layout`."""
    compared = together(pairs, layout="tree", tokens_per_batch=tokens_per_batch)
    probe = [one.group for one in compared.values()]
    return fitting_layout(model, probe=probe, in_one_pass=in_one_pass)


def reward_task(
    compared: Mapping[str, Compared], *, layout: Layout, margin: float, centre: float, stage: str
) -> Task:
    """The task of giving the better response the higher reward.

    Args:
        compared: What to learn from, by name.
        layout: How it is read.
        margin: See `objectives.preference_loss`.
        centre: See there too.
        stage: The section of the configuration, for messages.
    """

    def loss(model: nn.Module, names: Sequence[str]) -> Tensor:
        batch = [compared[name] for name in names]
        rewards_R = completion_rewards(model, [one.group for one in batch], layout=layout)
        return preference_loss(*_by_side(rewards_R, batch), margin=margin, centre=centre)

    return _task(compared, loss, layout=layout, stage=stage, settings=[margin, centre])


def dpo_task(
    compared: Mapping[str, Compared],
    *,
    layout: Layout,
    reference: Values,
    beta: float,
    stage: str,
) -> Task:
    """The task of making the better response likelier, against a frozen reference.

    Args:
        compared: What to learn from, by name.
        layout: How it is read.
        reference: The reference's log-probabilities of its responses; see `measured.py`.
        beta: See `objectives.dpo_loss`.
        stage: The section of the configuration, for messages.
    """

    def loss(model: nn.Module, names: Sequence[str]) -> Tensor:
        batch = [compared[name] for name in names]
        groups = [one.group for one in batch]
        policy_R = summed_by_completion(completion_logprobs(model, groups, layout=layout), groups)
        reference_R = torch.tensor([value for name in names for value in reference[name]])
        return dpo_loss(*_by_side(policy_R - reference_R.to(policy_R), batch), beta=beta)

    return _task(compared, loss, layout=layout, stage=stage, settings=[beta])


def _task(
    compared: Mapping[str, Compared],
    loss: Loss,
    *,
    layout: Layout,
    stage: str,
    settings: list[float],
) -> Task:
    """A comparison counts one, however long it is."""
    units = {name: len(one.sides) for name, one in compared.items()}
    return Task(
        stage=stage,
        lengths={name: one.group.tokens_in(layout) for name, one in compared.items()},
        units=units,
        digest=content_hash(
            [
                layout,
                settings,
                {
                    name: [one.group.prompt, one.group.completions, list(one.sides.values())]
                    for name, one in compared.items()
                },
            ]
        ),
        loss=loss,
        unit="comparison",
        held=sum(units.values()),
    )


def _by_side(values_R: Tensor, batch: Sequence[Compared]) -> tuple[Tensor, Tensor, Tensor]:
    """`(chosen_C, rejected_C, p_chosen_C)`: every comparison's two values, and its label."""
    starts = accumulate((len(one.group.completions) for one in batch), initial=0)
    sides = [
        Sides(start + side.chosen, start + side.rejected, side.p_chosen)
        for start, one in zip(starts, batch, strict=False)
        for side in one.sides.values()
    ]
    chosen, rejected, p_chosen = zip(*sides, strict=True)
    return values_R[list(chosen)], values_R[list(rejected)], torch.tensor(p_chosen).to(values_R)
