"""From a loaded SFT model to an agent: what learns, what speaks, and what both are kept near."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel

from charter.config import ReinforceConfig
from charter.feedback.training import Agent, Reference
from charter.learning.policy import logprobs_by_group
from charter.learning.pretrained import made_trainable
from charter.learning.tree import Group, Layout
from charter.models.loading import Loaded
from charter.models.local import LocalModel


def prepare_agent(loaded: Loaded, *, section: ReinforceConfig, capacity: int, seed: int) -> Agent:
    """The agent that starts from a loaded model, which is changed in place; close its sampler.

    The reference is a frozen copy of the weights; with LoRA it is the model with its adapters off,
    and takes no memory.

    Raises:
        ConfigError: LoRA is asked for and peft is not installed, or a target is no layer.
    """
    bare = loaded.model
    frozen = None
    if section.lora is None:
        frozen = copy.deepcopy(bare).requires_grad_(requires_grad=False)
    model = made_trainable(
        bare,
        lora=section.lora,
        seed=seed,
        stage="reinforce",
        gradient_checkpointing=section.gradient_checkpointing,
        dropout=False,
    )
    if frozen is None:
        reference = _adapters_off(model, section=section)
    else:
        reference = _frozen(frozen, section=section)
    # Adapters live inside the layers of the bare model, so that is what the engine runs.
    return Agent(
        model=model,
        sampler=LocalModel(replace(loaded, model=bare), capacity=capacity),
        encoder=loaded.encoder,
        reference=reference,
    )


def _frozen(model: PreTrainedModel, *, section: ReinforceConfig) -> Reference:
    def logprobs(groups: Sequence[Group], layout: Layout) -> list[Tensor]:
        return logprobs_by_group(
            model, groups, layout=layout, tokens_per_batch=section.tokens_per_batch
        )

    return logprobs


def _adapters_off(model: PreTrainedModel, *, section: ReinforceConfig) -> Reference:
    def logprobs(groups: Sequence[Group], layout: Layout) -> list[Tensor]:
        with cast("Any", model).disable_adapter():
            return logprobs_by_group(
                model, groups, layout=layout, tokens_per_batch=section.tokens_per_batch
            )

    return logprobs
