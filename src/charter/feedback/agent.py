"""From a loaded SFT model to an agent: what learns, what speaks, and what both are kept near."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from charter.config import ReinforceConfig
from charter.feedback.training import Agent, Reference
from charter.learning.policy import logprobs_by_group
from charter.learning.pretrained import made_trainable
from charter.learning.tree import Group, Layout
from charter.models.loading import Loaded
from charter.models.local import LocalModel


class Spoken(LocalModel):
    """Speaks for a model that learns in another precision: by a copy, brought up to date.

    Weights that learn are kept in float32. To write by them, a GPU would read twice the memory for
    each token, and round all of them anew.
    """

    def __init__(self, copied: Loaded, *, learns: PreTrainedModel, capacity: int) -> None:
        super().__init__(copied, capacity=capacity)
        self._copy = copied.model
        self._learns = learns

    @torch.no_grad()
    def weights_changed(self) -> None:
        """See `LocalModel.weights_changed`; nothing may be asked meanwhile."""
        for spoken, learnt in zip(self._copy.parameters(), self._learns.parameters(), strict=True):
            spoken.copy_(learnt)
        super().weights_changed()


def prepare_agent(loaded: Loaded, *, section: ReinforceConfig, capacity: int, seed: int) -> Agent:
    """The agent that starts from a loaded model, which is changed in place; close its sampler.

    The reference is a frozen copy of the weights; with LoRA it is the model with its adapters off,
    and takes no memory. All weights of a model in half precision learn in float32, and another copy
    speaks for them as it was loaded.

    Raises:
        ConfigError: LoRA is asked for and peft is not installed, or a target is no layer.
    """
    bare = loaded.model
    frozen = speaks = None
    if section.lora is None:
        frozen = copy.deepcopy(bare).requires_grad_(requires_grad=False)
        if bare.dtype != torch.float32:
            speaks = copy.deepcopy(frozen)
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
    if speaks is None:
        # Adapters live inside the layers of the bare model, so that is what the engine runs.
        sampler = LocalModel(replace(loaded, model=bare), capacity=capacity)
    else:
        sampler = Spoken(replace(loaded, model=speaks), learns=model, capacity=capacity)
    return Agent(
        model=model,
        sampler=sampler,
        encoder=loaded.encoder,
        reference=reference,
    )


def _frozen(model: PreTrainedModel, *, section: ReinforceConfig) -> Reference:
    def logprobs(groups: Sequence[Group], layout: Layout) -> list[Tensor]:
        return logprobs_by_group(
            model,
            groups,
            layout=layout,
            temperature=section.temperature,
            tokens_per_batch=section.tokens_per_batch,
        )

    return logprobs


def _adapters_off(model: PreTrainedModel, *, section: ReinforceConfig) -> Reference:
    as_frozen = _frozen(model, section=section)

    def logprobs(groups: Sequence[Group], layout: Layout) -> list[Tensor]:
        with cast("Any", model).disable_adapter():
            return as_frozen(groups, layout)

    return logprobs
