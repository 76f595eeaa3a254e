"""How weights change: what all trainings have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from charter.config.section import Fraction, Section


class LoraConfig(Section):
    """Train low-rank adapters instead of all weights."""

    rank: int = Field(default=16, gt=0)
    alpha: float = Field(default=32.0, gt=0.0)
    """Adapters are scaled by `alpha / rank`."""
    dropout: Fraction = 0.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of layers that get adapters."""


class TrainingConfig(Section):
    """A training on examples that are known before it begins."""

    epochs: float = Field(default=3.0, gt=0.0)
    tokens_per_batch: int = Field(default=4096, gt=0)
    """Tokens that go through the model at once: what memory allows."""
    accumulate: int = Field(default=1, ge=1)
    """Batches per optimizer step."""
    max_length: int = Field(default=2048, gt=1)
    """Longer examples are left out and counted."""
    lr: Annotated[float, Field(gt=0.0)] | Literal["auto"] = "auto"
    """`auto`: by model size, and higher for LoRA."""
    warmup_share: Fraction = 0.05
    """Of the steps, in which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    lora: LoraConfig | None = None
    """Train adapters instead of all weights: a mapping, such as `{rank: 16}`."""
    gradient_checkpointing: bool = False
    """Computes activations twice rather than keep them: slower, and less memory."""
    shard: bool = False
    """Spreads weights, gradients and moments over the processes of a launcher (FSDP), for a model
    that one device cannot hold in training. Before and after, each holds the weights alone, whole,
    in float32."""
    validate_every: int | None = Field(default=None, gt=0)
    """Optimizer steps between validations; None: four times an epoch."""
    patience: int = Field(default=3, ge=1)
    """Validations without improvement before training stops."""
    min_delta: float = Field(default=0.001, ge=0.0)
    """Smallest fall of validation loss, in nats, that counts as an improvement."""
    checkpoint_every_s: float = Field(default=120.0, ge=0.0)
    """At least so many seconds lie between two checkpoints."""
