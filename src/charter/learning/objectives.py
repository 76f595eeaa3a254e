"""Losses: pure functions of tensors, in nats.

Axes: S supervised positions, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it


def token_loss(logits_SV: Tensor, targets_S: Tensor) -> Tensor:
    """Cross-entropy of the response tokens: the sum over s of -log p(target_s).

    A sum, not a mean: who knows how many tokens one optimizer step supervises divides by that, so
    that every token counts the same in however many batches it came.

    Args:
        logits_SV: Scores of the next token where it is supervised.
        targets_S: Those next tokens.

    Returns:
        A scalar, in nats; zero where nothing is supervised.
    """
    # float(): in bfloat16 a log-sum-exp over a vocabulary keeps two digits.
    return F.cross_entropy(logits_SV.float(), targets_S, reduction="sum")
