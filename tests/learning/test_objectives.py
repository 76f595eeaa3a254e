import math

import pytest
import torch
from torch.nn import functional

from charter.learning.objectives import token_loss


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
