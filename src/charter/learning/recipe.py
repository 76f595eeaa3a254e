"""How fast to learn: the numbers of one training, and the learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from charter.config import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a training, besides the model, the examples and the seed."""

    lr: float
    """Highest learning rate."""
    epochs: float
    tokens_per_batch: int
    accumulate: int
    """Batches per optimizer step."""
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    validate_every: int | None
    """Optimizer steps between validations; None: four times an epoch."""
    patience: int
    min_delta: float
    """In nats."""


def recipe_of(section: TrainingConfig, *, parameters: int) -> Recipe:
    """The recipe that a section of the configuration gives for a model of this size."""
    lr = section.lr
    return Recipe(
        lr=auto_lr(parameters, lora=section.lora is not None) if lr == "auto" else lr,
        epochs=section.epochs,
        tokens_per_batch=section.tokens_per_batch,
        accumulate=section.accumulate,
        warmup_share=section.warmup_share,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        validate_every=section.validate_every,
        patience=section.patience,
        min_delta=section.min_delta,
    )


def auto_lr(parameters: int, *, lora: bool) -> float:
    """A learning rate for a model of this size.

    A power law, 1e-4 x (parameters / 1e8) ** -0.36. It runs through what works in practice: about
    3.5e-4 at 3 million parameters, 1e-4 at 100 million, 2e-5 at 7 billion. Larger models take
    smaller steps since each step moves more weights together. Adapters start from zero and are
    few, so they take ten times that, between 2e-4 and 1e-3.
    """
    full = 1e-4 * (max(1, parameters) / 1e8) ** -0.36
    if lora:
        return min(1e-3, max(2e-4, 10 * full))
    return min(1e-3, full)


def lr_at(step: int, *, peak: float, steps: int, warmup_share: float) -> float:
    """The learning rate of one optimizer step, from 0: a linear rise, then half a cosine to zero.

    The first step already moves, and so does the last.
    """
    warmup = round(steps * warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
