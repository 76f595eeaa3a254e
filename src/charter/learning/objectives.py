"""Losses and advantages: pure functions of tensors, in nats.

A loss is a sum, not a mean: who knows how many units one optimizer step holds (tokens,
comparisons) divides by that, so that each counts the same in however many batches it came.

Axes: S supervised or sampled tokens, V vocabulary, C comparisons, P prompts, G samples of a prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

SPREAD_FLOOR = 1e-4
"""Added to a group's standard deviation, as TRL does: equal rewards give no advantage, not NaN."""


def token_loss(logits_SV: Tensor, targets_S: Tensor) -> Tensor:
    """Cross-entropy of the response tokens: the sum over s of -log p(target_s).

    Args:
        logits_SV: Scores of the next token where it is supervised.
        targets_S: Those next tokens.

    Returns:
        A scalar, in nats; zero where nothing is supervised.
    """
    # float(): in bfloat16 a log-sum-exp over a vocabulary keeps two digits.
    return F.cross_entropy(logits_SV.float(), targets_S, reduction="sum")


def preference_loss(
    first_C: Tensor,
    second_C: Tensor,
    p_first_C: Tensor,
    *,
    margin: float = 0.0,
    centre: float = 0.0,
) -> Tensor:
    """Cross-entropy of a reward model's preferences against soft labels.

    The Bradley-Terry model reads a reward gap as log-odds, so rewards are in nats. With the gap
    d = first - second, the sum over comparisons of

        -p log sigmoid(d - m) - (1 - p) log sigmoid(m - d) + centre * (first + second)^2,

    where m = margin * (2p - 1): a certain preference asks for the whole margin, an undecided one
    for none.

    Args:
        first_C: Reward of each comparison's first response.
        second_C: Reward of each comparison's second response.
        p_first_C: Target probability, in [0, 1], that the first is better.
        margin: Gap, in nats, that a certain preference asks for beyond being right.
        centre: Weight of the squared sum of both rewards, which keeps them around zero: their
            difference alone leaves the level free.

    Returns:
        A scalar, in nats.

    Source: Bai et al. 2022, sec. 4.1 (soft targets). At p = 1 it is TRL's `RewardTrainer`: margin
    and `center_rewards_coefficient` included (Eisenstein et al. 2023, arXiv 2312.09244).
    """
    log_odds_C = first_C - second_C - margin * (2.0 * p_first_C - 1.0)
    loss = F.binary_cross_entropy_with_logits(log_odds_C, p_first_C, reduction="sum")
    return loss + centre * (first_C + second_C).square().sum()


def dpo_loss(first_C: Tensor, second_C: Tensor, p_first_C: Tensor, *, beta: float) -> Tensor:
    """The preference loss of the rewards that a policy implies: beta log(policy / reference).

    With d = beta * (first - second), the sum over comparisons of

        -p log sigmoid(d) - (1 - p) log sigmoid(-d),

    which is the expected DPO loss when the label is drawn with probability p.

    Args:
        first_C: log(policy / reference) of each comparison's first response, summed over its
            tokens.
        second_C: The same of its second response.
        p_first_C: Target probability, in [0, 1], that the first is better.
        beta: How strongly the policy is held to the reference.

    Returns:
        A scalar, in nats.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; at p = 1 it is TRL's `DPOTrainer` with
    `loss_type="sigmoid"`.
    """
    return preference_loss(beta * first_C, beta * second_C, p_first_C)


def policy_loss(
    logprobs_S: Tensor, sampled_S: Tensor, advantages_S: Tensor, *, clip: float
) -> Tensor:
    """The clipped policy gradient loss of sampled tokens.

    With the ratio r = exp(logprob - sampled), the sum over tokens of

        -min(r * A, clamp(r, 1 - clip, 1 + clip) * A).

    Divided by all tokens of an optimizer step it is normalised by tokens: a long response weighs
    more than a short one, and no response is favoured for its length.

    Args:
        logprobs_S: Of each token under the policy as it is; gradients flow through them.
        sampled_S: The same under the policy that sampled the tokens.
        advantages_S: Of the response that each token belongs to.
        clip: How far a ratio may move to its advantage.

    Returns:
        A scalar.

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7, per token. Divided by the step's tokens
    it is TRL's `GRPOTrainer` with `loss_type="dapo"` (Yu et al. 2025, arXiv 2503.14476); divided by
    a batch's tokens, `loss_type="bnpo"`.
    """
    ratio_S = (logprobs_S - sampled_S.detach()).exp()
    clipped_S = ratio_S.clamp(1.0 - clip, 1.0 + clip)
    return -torch.minimum(ratio_S * advantages_S, clipped_S * advantages_S).sum()


def kl_k3(logprobs_S: Tensor, reference_S: Tensor, *, sampled_S: Tensor | None = None) -> Tensor:
    """An estimate of KL(policy || reference) from each sampled token.

    With q = log(reference / policy) of the token: exp(q) - q - 1. Its mean over what the policy
    samples is right, it is never negative, and it varies less than -q.

    Args:
        logprobs_S: Of each token under the policy as it is.
        reference_S: The same under the reference.
        sampled_S: The same under the policy that sampled the tokens. Given, the estimate is
            weighted by the ratio r = exp(logprob - sampled), through which gradients flow too: as
            a loss it needs that, since without it even its gradient where r = 1 is not that of
            the KL.

    Returns:
        `kl_S`, in nats.

    Source: Schulman 2020, "Approximating KL divergence"; weighted as in DeepSeek-V3.2 (arXiv
    2512.02556) and, by default, in TRL's `GRPOTrainer`, which adds it to the loss times `beta`.
    """
    log_ratio_S = reference_S - logprobs_S
    kl_S = log_ratio_S.exp() - log_ratio_S - 1.0
    return kl_S if sampled_S is None else kl_S * (logprobs_S - sampled_S.detach()).exp()


def group_advantages(rewards_PG: Tensor) -> Tensor:
    """What each sample's reward is above its group's mean, in standard deviations of the group.

        (r - mean) / (std + 1e-4), with the unbiased standard deviation.

    Returns:
        `advantages_PG`; zero in a group whose rewards are equal, which teaches nothing.

    Raises:
        ValueError: A group has fewer than two samples.

    Source: Shao et al. 2024 (arXiv 2402.03300), sec. 4.1.2, as in TRL's `GRPOTrainer` with
    `scale_rewards="group"`.
    """
    _require_others(rewards_PG)
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    return centred_PG / (rewards_PG.std(dim=1, keepdim=True) + SPREAD_FLOOR)


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """What each sample's reward is above the mean of the *others* in its group.

    Returns:
        `advantages_PG`.

    Raises:
        ValueError: A group has fewer than two samples.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740), eq. 8, as in TRL's `RLOOTrainer`.
    """
    _require_others(rewards_PG)
    others = rewards_PG.shape[1] - 1
    return rewards_PG - (rewards_PG.sum(dim=1, keepdim=True) - rewards_PG) / others


def _require_others(rewards_PG: Tensor) -> None:
    if rewards_PG.shape[1] < 2:
        raise ValueError("an advantage is over other samples: a group needs two or more")
