"""The task of RL: likelier where a response did better than its group, and near the reference.

Axes: S response tokens of some groups (groups, responses and tokens in order).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from charter.launch import joined, share
from charter.learning.batches import device_of
from charter.learning.objectives import kl_k3, policy_loss
from charter.learning.task import Task
from charter.learning.tree import Group, Layout, completion_logprobs


@dataclass(frozen=True)
class Rated:
    """A prompt's sampled responses, with all that an update needs to know of them."""

    group: Group
    advantages: Tensor
    """One a response: how much better than its group it did."""
    sampled_S: Tensor
    """Log-probabilities of all response tokens as the engine sampled them."""
    reference_S: Tensor
    """The same under the reference."""
    before_S: Tensor | None = None
    """The same under the policy that sampled them; None: it is the policy as it is, since each
    response is learnt from once."""


@dataclass
class Watch:
    """What the passes of one update saw, summed over response tokens."""

    tokens: int = 0
    kl: float = 0.0
    surprise: float = 0.0
    """Minus log-probability: its mean is an estimate of the entropy."""
    clipped: int = 0
    gap: float = 0.0
    """Distance between log-probabilities when sampled and when first trained on."""

    def see(
        self,
        *,
        new_S: Tensor,
        before_S: Tensor,
        sampled_S: Tensor,
        reference_S: Tensor,
        clip: float,
    ) -> None:
        """Adds what one batch shows."""
        ratio_S = (new_S - before_S).exp()
        self.gap += float((before_S - sampled_S).abs().sum())
        self.tokens += new_S.numel()
        self.kl += float(kl_k3(new_S, reference_S).sum())
        self.surprise -= float(new_S.sum())
        self.clipped += int(((ratio_S - 1).abs() > clip).sum())

    def add(self, other: Watch) -> None:
        """Adds what another process saw."""
        self.tokens += other.tokens
        self.kl += other.kl
        self.surprise += other.surprise
        self.clipped += other.clipped
        self.gap += other.gap


def seen_by_all(watch: Watch) -> Watch:
    """What this and all other processes saw of one update."""
    total = Watch()
    for each in joined([watch]):
        total.add(each)
    return total


def policy_task(
    rated: Mapping[str, Rated],
    *,
    clip: float,
    kl_weight: float,
    temperature: float,
    layout: Layout,
    watch: Watch,
) -> Task:
    """The task of one step's rollouts.

    The loss of a step is a mean over all its response tokens, so that a long response weighs more
    than a short one but no group more than its tokens do.

    Args:
        rated: The rollouts, by prompt.
        clip: How far a token's probability ratio may move.
        kl_weight: Of KL(policy || reference) per token.
        temperature: Of the policy, as it sampled and as it learns.
        layout: How a group is laid out for the model.
        watch: Hears what each batch shows, as far as it is this process's to learn from.
    """

    def loss(model: nn.Module, names: Sequence[str], *, watch: Watch = watch) -> Tensor:
        batch, device = [rated[name] for name in names], device_of(model)
        groups = [one.group for one in batch]
        new_S = completion_logprobs(model, groups, layout=layout, temperature=temperature)
        reference_S = torch.cat([one.reference_S for one in batch]).to(device)
        before_S = new_S.detach()
        if all(one.before_S is not None for one in batch):
            before_S = torch.cat([one.before_S for one in batch if one.before_S is not None])
            before_S = before_S.to(device)
        advantages_S = torch.cat([_by_token(one) for one in batch]).to(device)
        watch.see(
            new_S=new_S.detach(),
            before_S=before_S,
            sampled_S=torch.cat([one.sampled_S for one in batch]).to(device),
            reference_S=reference_S,
            clip=clip,
        )
        gain = policy_loss(new_S, before_S, advantages_S, clip=clip)
        return gain + kl_weight * kl_k3(new_S, reference_S, sampled_S=before_S).sum()

    return Task(
        stage="reinforce",
        lengths={name: one.group.tokens_in(layout) for name, one in rated.items()},
        units={name: sum(map(len, one.group.completions)) for name, one in rated.items()},
        digest="",  # rollouts are of one step: nothing is resumed by them
        loss=loss,
        stand_in=partial(loss, watch=Watch()),
    )


def _by_token(rated: Rated) -> Tensor:
    """Each response's advantage at each of its tokens."""
    lengths = torch.tensor([len(response) for response in rated.group.completions])
    return rated.advantages.repeat_interleave(lengths)


@torch.no_grad()
def logprobs_by_group(
    model: nn.Module,
    groups: Sequence[Group],
    *,
    layout: Layout,
    temperature: float,
    tokens_per_batch: int,
) -> list[Tensor]:
    """`logprobs_S` of every group under a model as it is, on the CPU, in batches of like length.

    Processes share the work; every one must ask, and for the same.
    """
    was_training = model.training
    model.eval()
    found: dict[int, Tensor] = {}
    mine = share(groups)
    for batch in _batches([group.tokens_in(layout) for group in mine], budget=tokens_per_batch):
        asked = [mine[at] for at in batch]
        logprobs_S = completion_logprobs(model, asked, layout=layout, temperature=temperature).cpu()
        sizes = [sum(map(len, mine[at].completions)) for at in batch]
        # Copies: what is sent of a part of a tensor is all of it.
        parts = (part.clone() for part in torch.split(logprobs_S, sizes))
        found |= zip(batch, parts, strict=True)
    model.train(was_training)
    return joined([found[at] for at in range(len(mine))])


def _batches(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Positions of groups of these lengths that go through the model together."""
    batches: list[list[int]] = [[]]
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[at] > budget:
            batches.append([])
        batches[-1].append(at)
    return [batch for batch in batches if batch]
