"""From a loaded model to a trainable one, and back to a directory that loads anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from charter.config import LoraConfig
from charter.encoding import Encoder
from charter.errors import ConfigError
from charter.learning.processes import seed_draws
from charter.learning.tree import SCALAR_HEAD
from charter.seeding import derive

ADAPTER = "adapter"
"""Where the low-rank adapters lie, beside the weights they are merged into."""


def made_trainable(
    model: PreTrainedModel,
    *,
    lora: LoraConfig | None,
    seed: int,
    stage: str = "finetune",
    gradient_checkpointing: bool = False,
    dropout: bool = True,
) -> PreTrainedModel:
    """The model with what is to change in float32: small steps vanish in half precision.

    With LoRA everything else is frozen, and keeps the precision it was loaded in; the head of a
    reward model, which is new, is trained as a whole.

    Args:
        model: What is to learn: a causal language model, or one for sequence classification.
        lora: Train adapters; None: all weights.
        seed: Of the run; adapters are drawn from it.
        stage: The section of the configuration, for messages.
        gradient_checkpointing: Whether activations are computed twice rather than kept.
        dropout: Whether the model's own dropout stays on. What compares log-probabilities with
            those of a reference or a sampler must not draw a network of its own for one of them.

    Raises:
        ConfigError: LoRA is asked for and peft is not installed, or a target is no layer; or the
            model cannot checkpoint gradients.
    """
    if gradient_checkpointing:
        _checkpoint_gradients(model, stage=stage)
    if not dropout:
        _end_dropout(model)
    if lora is None:
        return cast("Any", model).float()
    return _adapted(model, lora=lora, seed=seed, stage=stage)


def _end_dropout(model: PreTrainedModel) -> None:
    """In the modules alone: the configuration, which is saved, stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _checkpoint_gradients(model: PreTrainedModel, *, stage: str) -> None:
    trained: Any = model
    if not trained.supports_gradient_checkpointing:
        raise ConfigError(
            f"`{stage}.gradient_checkpointing`: {type(model).__name__} cannot. Remove it, and "
            f"lower `{stage}.tokens_per_batch` if memory is short"
        )
    # transformers is about to give it another name.
    enable = getattr(
        trained, "activation_checkpointing_enable", trained.gradient_checkpointing_enable
    )
    # The other, reentrant kind finds no gradient to start from where embeddings are frozen.
    enable({"use_reentrant": False})


def _adapted(model: PreTrainedModel, *, lora: LoraConfig, seed: int, stage: str) -> PreTrainedModel:
    try:
        import peft  # an extra, and slow to import
    except ImportError as error:
        raise ConfigError(
            f"`{stage}.lora` needs peft: install `charter[lora]`, or remove that section"
        ) from error
    head = getattr(model, SCALAR_HEAD, None)
    if head is not None:
        head.float()
    seed_draws(derive(seed, "lora"))
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=cast("int", lora.alpha),  # any number will do; peft's annotation is narrower
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        # peft trains the head of a classifier as a whole, and saves it with the adapters.
        task_type="CAUSAL_LM" if model.can_generate() else "SEQ_CLS",
    )
    try:
        adapted = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(f"`{stage}.lora` does not fit this model: {error}") from error
    return cast("PreTrainedModel", adapted)


def save_trained(
    model: PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    directory: Path,
    dtype: torch.dtype,
) -> None:
    """Weights in `dtype`, configurations, tokenizer, and the template and stops it learnt.

    Adapters are saved by themselves and merged: the directory loads without peft.
    """
    saved: Any = model  # Any: transformers and peft leave much of what follows untyped
    if hasattr(model, "peft_config"):
        saved.save_pretrained(directory / ADAPTER)
        # peft's own card is all blanks; the card of the whole directory says what there is to say.
        (directory / ADAPTER / "README.md").unlink(missing_ok=True)
        saved = saved.merge_and_unload()
    if saved.can_generate():
        saved.generation_config.eos_token_id = sorted(encoder.eos_ids)
    else:  # a reward model has no generation config, and scores what ends with one of these
        saved.config.eos_token_id = sorted(encoder.eos_ids)
    saved.to(dtype).save_pretrained(directory)
    vocabulary: Any = tokenizer
    vocabulary.chat_template = encoder.template
    vocabulary.save_pretrained(directory)
