import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from charter.learning.objectives import (
    dpo_loss,
    group_advantages,
    kl_k3,
    leave_one_out,
    policy_loss,
    preference_loss,
    token_loss,
)


def test_the_token_loss_is_the_summed_surprise_of_the_targets():
    logits = torch.randn(5, 7)
    targets = torch.tensor([0, 6, 3, 3, 1])
    by_hand = -sum(
        functional.log_softmax(row, dim=-1)[target]
        for row, target in zip(logits, targets, strict=True)
    )
    assert token_loss(logits, targets).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_uniform_logits_cost_the_log_of_the_vocabulary_a_token():
    assert token_loss(torch.zeros(3, 50), torch.tensor([1, 2, 3])).item() == pytest.approx(
        3 * math.log(50)
    )


def test_nothing_supervised_costs_nothing_and_still_has_a_gradient():
    logits = torch.zeros(0, 7, requires_grad=True)
    loss = token_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0


def test_bfloat16_logits_lose_nothing_more_than_they_have_lost():
    logits = (10 * torch.randn(4, 100)).bfloat16()
    targets = torch.tensor([0, 1, 2, 3])
    assert token_loss(logits, targets) == token_loss(logits.float(), targets)


reward = st.floats(-20.0, 20.0)
probability = st.floats(0.0, 1.0)


def tensors(*values):
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@given(first=reward, second=reward, p=probability, margin=st.floats(0.0, 3.0))
def test_swapping_a_comparison_changes_no_preference_loss(first, second, p, margin):
    options = {"margin": margin, "centre": 0.1}
    one = preference_loss(*tensors(first, second, p), **options)
    other = preference_loss(*tensors(second, first, 1.0 - p), **options)
    assert one.item() == pytest.approx(other.item(), abs=1e-9)


@given(first=reward, second=reward, p=probability)
def test_a_soft_label_costs_what_its_two_verdicts_cost_on_average(first, second, p):
    soft = preference_loss(*tensors(first, second, p)).item()
    right = preference_loss(*tensors(first, second, 1.0)).item()
    wrong = preference_loss(*tensors(first, second, 0.0)).item()
    assert soft == pytest.approx(p * right + (1.0 - p) * wrong, abs=1e-9)
    beta = 0.3
    soft = dpo_loss(*tensors(first, second, p), beta=beta).item()
    right = -functional.logsigmoid(torch.tensor(beta * (first - second), dtype=torch.float64))
    wrong = -functional.logsigmoid(torch.tensor(beta * (second - first), dtype=torch.float64))
    assert soft == pytest.approx((p * right + (1.0 - p) * wrong).item(), abs=1e-9)


@given(p=st.floats(0.05, 0.95), margin=st.floats(0.0, 2.0))
def test_the_best_gap_is_the_labels_log_odds_and_the_margin_as_far_as_it_is_certain(p, margin):
    gap = math.log(p / (1 - p)) + margin * (2 * p - 1)
    first, second, label = tensors(gap, 0.0, p)
    first.requires_grad_()
    preference_loss(first, second, label, margin=margin).backward()
    assert first.grad.item() == pytest.approx(0.0, abs=1e-9)


def test_losses_are_sums_so_that_comparisons_may_come_in_any_batches():
    first, second, p = torch.randn(6), torch.randn(6), torch.rand(6)
    whole = preference_loss(first, second, p, margin=0.5, centre=0.1)
    parts = [
        preference_loss(first[a], second[a], p[a], margin=0.5, centre=0.1)
        for a in (slice(0, 2), slice(2, 6))
    ]
    assert whole.item() == pytest.approx(sum(parts).item(), rel=1e-5)


def test_centring_pulls_the_level_and_leaves_the_gap():
    first, second = torch.tensor([3.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    loss = preference_loss(first, second, torch.tensor([1.0]), centre=0.01)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) + 0.01 * 25, rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.0, 2.0, -2.0, True),
        (1.5, 2.0, -2.4, False),  # has moved far enough up
        (0.5, 2.0, -1.0, True),
        (0.5, -2.0, 1.6, False),  # has moved far enough down
        (1.5, -2.0, 3.0, True),
    ],
)
def test_the_policy_is_moved_to_an_advantage_as_far_as_the_clip(ratio, advantage, loss, moves):
    logprobs = torch.tensor([math.log(ratio) - 3.0], requires_grad=True)
    value = policy_loss(logprobs, torch.tensor([-3.0]), torch.tensor([advantage]), clip=0.2)
    value.backward()
    assert value.item() == pytest.approx(loss, rel=1e-5)
    assert (logprobs.grad.item() != 0.0) == moves


def test_the_kl_estimate_is_right_in_the_mean_and_so_is_its_gradient_when_weighted():
    torch.manual_seed(0)
    scores = torch.randn(5, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(5, dtype=torch.float64).log_softmax(dim=0)
    policy = scores.log_softmax(dim=0)
    exact = (policy.exp() * (policy - reference)).sum()
    (expected,) = torch.autograd.grad(exact, scores, retain_graph=True)
    # The mean over samples, without drawing any: each token as often as the policy says.
    often = policy.detach().exp()
    plain = (often * kl_k3(policy, reference)).sum()
    weighted = (often * kl_k3(policy, reference, sampled_S=policy.detach())).sum()
    assert plain.item() == pytest.approx(exact.item())
    assert weighted.item() == pytest.approx(exact.item())
    (gradient,) = torch.autograd.grad(weighted, scores, retain_graph=True)
    assert torch.allclose(gradient, expected)
    (biased,) = torch.autograd.grad(plain, scores)
    assert not torch.allclose(biased, expected, atol=1e-3)


groups = st.integers(2, 6).flatmap(
    lambda size: st.lists(st.lists(reward, min_size=size, max_size=size), min_size=1, max_size=4)
)


@given(rewards=groups, shift=reward)
def test_advantages_sum_to_zero_and_do_not_know_the_level_of_rewards(rewards, shift):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    for advantages_of in (group_advantages, leave_one_out):
        advantages = advantages_of(rewards)
        assert advantages.sum(dim=1).abs().max().item() < 1e-6
        assert torch.allclose(advantages_of(rewards + shift), advantages, atol=1e-6)


def test_leave_one_out_compares_with_the_others():
    assert leave_one_out(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[-3.0, -1.5, 4.5]]


def test_equal_rewards_teach_nothing():
    assert group_advantages(torch.full((1, 4), 0.3)).abs().max().item() < 1e-3
    assert leave_one_out(torch.full((1, 4), 0.5)).tolist() == [[0.0] * 4]


def test_a_group_of_one_has_nothing_to_be_compared_with():
    for advantages_of in (group_advantages, leave_one_out):
        with pytest.raises(ValueError, match="two or more"):
            advantages_of(torch.zeros(3, 1))
